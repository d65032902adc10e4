"""What ``train_speed.py`` compares: ways to train, each in a process of its own that does one iteration when told."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, NamedTuple

import gymnasium as gym

#: SBX is left with the threads that JAX and torch choose.
OWN_CHOICE = 0
_GO, _STOP = "go", "stop"


class Case(NamedTuple):
    """
    What is trained.

    :param env: Gymnasium's id, or a function that makes one environment
    :param n_envs: number of environments
    :param n_steps: steps of each in a rollout
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over a rollout
    :param policy: SB3's name of the policy
    :param native: whether MujocoVecEnv has the task
    """

    env: str | Callable[..., gym.Env]
    n_envs: int = 8
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    policy: str = "MlpPolicy"
    native: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """:return: hyperparameters that are not SB3's defaults in some case"""
        return {"n_steps": self.n_steps, "batch_size": self.batch_size, "n_epochs": self.n_epochs}


class Turn(NamedTuple):
    """
    One iteration: a rollout and its update.

    :param seconds: time that it took; of the first message, time until the first iteration could begin
    :param sections: seconds of each section of the profile, where there is one
    """

    seconds: float
    sections: dict[str, float]


class Stopped(Exception):
    """The iterations were enough."""


class Gate:
    """
    Where a worker stands between iterations, without using a processor.

    :param pipe: connection to the process that says when to go on
    :param born: when this process was started, seconds since the epoch
    """

    def __init__(self, pipe: Connection, born: float) -> None:
        self._pipe = pipe
        self._began = time.perf_counter() - (time.time() - born)
        self._totals: dict[str, float] = {}
        #: clock of the model, where it has one (a ``sb3_ppo_plus.profiling.Profile``)
        self.profile: Any = None

    def wait(self) -> None:
        """
        End an iteration, and begin the next when told.

        :raises Stopped: when told to stop
        """
        seconds = time.perf_counter() - self._began
        before, totals = self._totals, self._read()
        self._pipe.send(Turn(seconds, {name: total - before.get(name, 0.0) for name, total in totals.items()}))
        if self._pipe.recv() == _STOP:
            raise Stopped
        self._totals = self._read()
        self._began = time.perf_counter()

    def _read(self) -> dict[str, float]:
        """Seconds of each section until now; the totals alone end where the section last changed."""
        if self.profile is None:
            return {}
        self.profile.take()
        totals: dict[str, float] = self.profile.totals
        return totals


# ------------------------------------------------ in the worker


def small_images(**kwargs: Any) -> gym.Env:
    """Images without meaning, of the smallest size that SB3's NatureCNN takes."""
    from stable_baselines3.common.envs import FakeImageEnv

    return FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, **kwargs)


def _vec_env(case: Case, kind: str) -> Any:
    """Environments of a kind: dummy, subproc, or native where the task is there, else dummy."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecTransposeImage

    from sb3_ppo_plus.runs.envs import EnvMaker

    if kind == "native" and case.native:
        from sb3_ppo_plus.envs import MujocoVecEnv

        assert isinstance(case.env, str)
        return MujocoVecEnv(case.env, n_envs=case.n_envs, seed=0)
    classes: dict[str, Any] = {"dummy": DummyVecEnv, "native": DummyVecEnv, "subproc": SubprocVecEnv}
    make = EnvMaker(case.env) if isinstance(case.env, str) else case.env
    env = make_vec_env(make, case.n_envs, seed=0, vec_env_cls=classes[kind])
    return VecTransposeImage(env) if case.policy == "CnnPolicy" else env


def _train(algorithm: Any, case: Case, env_kind: str, extras: Mapping[str, Any], gate: Gate) -> None:
    """``learn()`` of SB3, SBX or PPOPlus, which passes the gate at the beginning of each rollout."""
    from common import silenced
    from stable_baselines3.common.callbacks import BaseCallback

    class Turns(BaseCallback):
        def _on_rollout_start(self) -> None:
            gate.wait()

        def _on_step(self) -> bool:
            return True

    env = _vec_env(case, env_kind)
    model = silenced(algorithm(policy=case.policy, env=env, seed=0, device="cpu", **case.sizes, **extras))
    gate.profile = getattr(model, "profile", None)
    if gate.profile is not None:
        gate.profile.detailed = True  # tells what SB3's own rollout loop consists of, for a microsecond a step
    model.learn(10**12, callback=Turns())


def _sb3(case: Case, env_kind: str, extras: Mapping[str, Any], gate: Gate) -> None:
    from stable_baselines3 import PPO

    _train(PPO, case, env_kind, extras, gate)


def _sbx(case: Case, env_kind: str, extras: Mapping[str, Any], gate: Gate) -> None:
    from sbx import PPO

    _train(PPO, case, env_kind, extras, gate)


def _plus(case: Case, env_kind: str, extras: Mapping[str, Any], gate: Gate) -> None:
    from sb3_ppo_plus import PPOPlus

    _train(PPOPlus, case, env_kind, extras, gate)


def _cleanrl(case: Case, env_kind: str, extras: Mapping[str, Any], gate: Gate) -> None:
    from cleanrl_style import Hyperparameters, train_iterations

    iterations = train_iterations(_vec_env(case, env_kind), Hyperparameters(**case.sizes, **extras))
    while True:
        gate.wait()
        next(iterations)


class Variant(NamedTuple):
    """
    A way to train.

    :param label: what it is called in tables
    :param train: trains until the gate stops it
    :param env_kind: ``dummy``, ``subproc``, or ``native`` (which is dummy where a task has no native environment)
    :param extras: arguments beside the hyperparameters of the case
    """

    label: str
    train: Callable[[Case, str, Mapping[str, Any], Gate], None]
    env_kind: str = "dummy"
    extras: Mapping[str, Any] = MappingProxyType({})


VARIANTS = {
    "sb3": Variant("SB3", _sb3),
    "sb3_subproc": Variant("SB3, SubprocVecEnv", _sb3, "subproc"),
    "sbx": Variant("SBX", _sbx),
    "cleanrl": Variant("CleanRL style", _cleanrl),
    "plus": Variant("PPOPlus", _plus, "dummy", {"compile_update": False}),
    "plus_native": Variant("PPOPlus, MujocoVecEnv", _plus, "native", {"compile_update": False}),
    "plus_compiled_dummy": Variant("PPOPlus, compiled", _plus, "dummy", {"compile_update": True}),
    "plus_compiled": Variant("PPOPlus, compiled, MujocoVecEnv", _plus, "native", {"compile_update": True}),
}


def _serve(pipe: Connection, born: float, case: Case, name: str, threads: int) -> None:
    """Train in this process."""
    import torch as th
    from common import set_warnings

    if threads != OWN_CHOICE:
        th.set_num_threads(threads)
    set_warnings()
    variant = VARIANTS[name]
    try:
        variant.train(case, variant.env_kind, variant.extras, Gate(pipe, born))
    except (Stopped, EOFError, KeyboardInterrupt):
        pass


# ------------------------------------------------ in the process that measures


@contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Environment variables for the processes started inside; None for not set."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Worker:
    """
    A process that trains one variant, an iteration at a time; it compiles from scratch.

    :param case: what is trained
    :param name: key of ``VARIANTS``
    :param threads: threads of torch, ``OWN_CHOICE`` to leave them alone
    """

    def __init__(self, case: Case, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self._cache = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        number = None if threads == OWN_CHOICE else str(threads)
        variables = {
            "OMP_NUM_THREADS": number,
            "MKL_NUM_THREADS": number,
            # Threads that wait for work would take a processor away from the worker whose turn it is.
            "OMP_WAIT_POLICY": "PASSIVE",
            "TORCHINDUCTOR_CACHE_DIR": self._cache.name,
        }
        with _environment(variables):
            self._process = context.Process(target=_serve, args=(theirs, time.time(), case, name, threads))
            self._process.start()
        theirs.close()
        #: seconds until the first iteration could begin
        self.seconds_to_start = self._receive().seconds

    def _receive(self) -> Turn:
        try:
            turn: Turn = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.name} ended; what it said stands above") from None
        return turn

    def iterate(self) -> Turn:
        """
        :return: one iteration, of which this process sees the end
        """
        self._pipe.send(_GO)
        return self._receive()

    def close(self) -> None:
        """End the process."""
        try:
            self._pipe.send(_STOP)
        except OSError:
            pass
        self._process.join()
        self._pipe.close()
        self._cache.cleanup()
