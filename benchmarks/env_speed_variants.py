"""What ``env_speed.py`` compares: one class for each way to step the environments of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
import torch as th
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from mujoco.batch import Batch, SimulationError
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.runs.envs import EnvMaker

# Actions that are drawn beforehand, per environment; then they come again.
ACTIONS = 512


class Case(NamedTuple):
    """
    What every variant of one measurement shares.

    :param task: Gymnasium's id
    :param n_envs: number of environments
    :param threads: threads of ours, of EnvPool and of MuJoCo alone
    :param seed: seed of the first environment
    :param actions: what is done, within the action space [ACTIONS, N, A]
    """

    task: str
    n_envs: int
    threads: int
    seed: int
    actions: np.ndarray


class Variant:
    """
    One way to step the environments of a case; made means reset.

    :param case: what all variants share
    """

    #: whether the call after the end of an episode only resets, and thus is no step
    resets_in_next_step = False
    #: steps taken so far by each environment
    index = 0

    def __init__(self, case: Case) -> None:
        self.actions: Sequence[Any] = list(case.actions)
        self.ended = np.zeros(case.n_envs, bool)

    def prepare(self, count: int) -> None:
        """
        Get ready, outside of the time taken.

        :param count: steps that will follow
        """

    def step(self, index: int) -> np.ndarray | None:
        """
        :param index: number of the step
        :return: True where an episode ended; None where it costs time to say so [N]
        """
        raise NotImplementedError

    def close(self) -> None:
        """Free what is held."""


class OursNumpy(Variant):
    """``MujocoVecEnv.step``: SB3's face, infos included."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.env = MujocoVecEnv(case.task, n_envs=case.n_envs, n_threads=case.threads, seed=case.seed)
        self.env.reset()

    def step(self, index: int) -> np.ndarray | None:
        return self.env.step(self.actions[index % ACTIONS])[2]

    def close(self) -> None:
        self.env.close()


class OursTensors(OursNumpy):
    """``MujocoVecEnv.step_tensors``; the episodes are those of ``OursNumpy``."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.actions = list(th.from_numpy(case.actions))

    def step(self, index: int) -> np.ndarray | None:
        self.env.step_tensors(self.actions[index % ACTIONS])
        return None


class Dummy(Variant):
    """SB3's ``DummyVecEnv`` as ``make_vec_env`` builds it, each environment in a Monitor."""

    vec_env: type[DummyVecEnv] | type[SubprocVecEnv] = DummyVecEnv

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.env = make_vec_env(EnvMaker(case.task), case.n_envs, seed=case.seed, vec_env_cls=self.vec_env)
        self.env.reset()

    def step(self, index: int) -> np.ndarray | None:
        return self.env.step(self.actions[index % ACTIONS])[2]

    def close(self) -> None:
        self.env.close()


class Subproc(Dummy):
    """The same with SB3's ``SubprocVecEnv``, one process per environment."""

    vec_env = SubprocVecEnv


class Sync(Variant):
    """Gymnasium's ``SyncVectorEnv``, reset within the same step, with episode statistics."""

    mode = "sync"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        options = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.env = RecordEpisodeStatistics(
            gym.make_vec(case.task, case.n_envs, vectorization_mode=self.mode, vector_kwargs=options)
        )
        self.env.reset(seed=case.seed)

    def step(self, index: int) -> np.ndarray | None:
        _, _, terminated, truncated, _ = self.env.step(self.actions[index % ACTIONS])
        return terminated | truncated

    def close(self) -> None:
        self.env.close()


class Async(Sync):
    """The same with Gymnasium's ``AsyncVectorEnv``, one process per environment."""

    mode = "async"


class EnvPool(Variant):
    """EnvPool with Gymnasium's face; it resets in the step after the end of an episode."""

    resets_in_next_step = True

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import envpool

        self.env = envpool.make(
            case.task, env_type="gymnasium", num_envs=case.n_envs, num_threads=case.threads, seed=case.seed
        )
        self.env.reset()

    def step(self, index: int) -> np.ndarray | None:
        _, _, terminated, truncated, _ = self.env.step(self.actions[index % ACTIONS])
        return terminated | truncated

    def close(self) -> None:
        self.env.close()


class Physics(Variant):
    """
    ``mujoco.batch.Batch`` alone: the simulations of ours, the same controls, restarted when and where ours restarted.

    A second MujocoVecEnv notes the restarts while no time is taken.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.recorder = OursTensors(case)
        env = self.recorder.env
        self.frame_skip = env.task.frame_skip
        self.batch = Batch(env.get_attr("model", 0)[0], case.n_envs, case.threads)
        self.ctrl, self.qpos, self.qvel = (self.batch.bind(name) for name in ("ctrl", "qpos", "qvel"))
        self.restarts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.restart(*self.starts(np.arange(case.n_envs)))

    def starts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where these simulations of ours are now."""
        data = self.recorder.env.data
        return ids, data.qpos[ids], data.qvel[ids]

    def restart(self, ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Begin these simulations anew."""
        self.batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self.qpos[ids] = qpos
        self.qvel[ids] = qvel
        self.batch.forward(ids)

    def prepare(self, count: int) -> None:
        self.restarts = {}
        for index in range(self.index, self.index + count):
            step = self.recorder.env.step_tensors(self.recorder.actions[index % ACTIONS])
            ids = (step.terminated | step.truncated).numpy().nonzero()[0]
            if len(ids):
                self.restarts[index] = self.starts(ids)

    def step(self, index: int) -> np.ndarray | None:
        self.ctrl[...] = self.actions[index % ACTIONS]
        try:
            self.batch.step(nstep=self.frame_skip)
        except SimulationError:
            pass  # ours ends such an episode, so that it is among the restarts
        if index in self.restarts:
            self.restart(*self.restarts[index])
        return None

    def close(self) -> None:
        self.recorder.close()


# In the order in which they are made: processes first, while there are no threads that a fork would cut in half.
VARIANTS: dict[str, type[Variant]] = {
    "subproc": Subproc,
    "async": Async,
    "dummy": Dummy,
    "sync": Sync,
    "envpool": EnvPool,
    "ours_numpy": OursNumpy,
    "ours_tensors": OursTensors,
    "physics": Physics,
}
