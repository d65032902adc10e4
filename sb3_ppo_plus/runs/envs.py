"""Environments of a run, training and evaluation built alike."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import error, spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.normalize import TensorVecNormalize
from sb3_ppo_plus.envs.processes import ProcessVecEnv
from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.normalizer import read_normalizer
from sb3_ppo_plus.plain_policy import has_image
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.ids import check_env_id, is_unity, uses_mujoco
from sb3_ppo_plus.runs.named import import_named
from sb3_ppo_plus.runs.native import choose_vec_env, gymnasium_kwargs, make_native, make_torch, on_the_processor
from sb3_ppo_plus.runs.unity import evaluation_kwargs, make_unity

logger = logging.getLogger(__name__)

# Seconds without any answer after which none is on its way.
_PATIENCE = 0.5
# Words in an entry point or an error, and what to install for them.
_EXTRAS = {
    "mujoco": 'pip install "sb3-ppo-plus[mujoco]"',
    "imageio": 'pip install "sb3-ppo-plus[mujoco]"',
    "box2d": 'pip install "gymnasium[box2d]"',
    "pygame": 'pip install "gymnasium[classic-control]"',
    "ale": "pip install ale-py",
}


@dataclass(frozen=True)
class EnvMaker:
    """
    Makes one environment of Gymnasium; picklable, so that it also works in another process.

    :param env_id: Gymnasium id
    :param in_worker: whether it runs in a process of its own, which then leaves Ctrl-C to the main process
    """

    env_id: str
    in_worker: bool = False

    def __call__(self, **kwargs: Any) -> gym.Env:
        if self.in_worker:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if uses_mujoco(self.env_id):
            _log_mujoco_warnings()
        return gym.make(self.env_id, **kwargs)


class Workers(SubprocVecEnv):
    """SB3's SubprocVecEnv, which can be closed in the middle of a step as well: where Ctrl-C leaves it."""

    def close(self) -> None:
        """End the processes. SB3's method waits for the answer of each, but Ctrl-C may come after some were read."""
        if self.waiting and not self.closed:
            self.waiting = False
            ready = wait(self.remotes, _PATIENCE)
            while ready:
                for remote in self.remotes:
                    if remote in ready:
                        remote.recv()
                ready = wait(self.remotes, _PATIENCE)
        super().close()


def probe_spaces(config: RunConfig) -> tuple[spaces.Space, spaces.Space]:
    """
    Build the environment and look at it, so that whatever is wrong with it is found before anything is started.

    :param config: configuration of the run
    :return: observation space and action space, after the wrappers
    :raises InvalidArgument: when it cannot be built, or when PPO cannot act in it
    """
    check_env_id(config.env)
    kind = choose_vec_env(config)
    if kind == "unity":
        game = make_unity(config, 1, 0, evaluation_kwargs(config.env_kwargs))
        game.close()
        return game.observation_space, game.action_space
    try:
        if kind == "native":
            # Two, because one would hide a task that forgets its first dimension.
            env: gym.Env | VecEnv = make_native(config, 2, 0, config.env_kwargs)
        elif kind == "torch":
            env = make_torch(config, 2, 0, config.env_kwargs)
        else:
            wrapper = wrapper_function("env_wrapper", config.env_wrapper)
            env = EnvMaker(config.env)(**config.env_kwargs)
            env = env if wrapper is None else wrapper(env)
    except InvalidArgument:
        raise
    except (ImportError, error.DependencyNotInstalled) as missing:
        raise InvalidArgument(f"{config.env} needs a package that is not there: {remedy(str(missing))}") from missing
    except Exception as failed:  # any environment may raise anything; the reason is passed on
        raise InvalidArgument(
            f"{config.env} cannot be built with env_kwargs={config.env_kwargs}, env_wrapper={config.env_wrapper}: "
            f"{type(failed).__name__}: {' '.join(str(failed).split())}"
        ) from failed
    observation_space, action_space = env.observation_space, env.action_space
    env.close()
    supported = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(action_space, supported):
        raise InvalidArgument(
            f"{config.env} has the action space {action_space}; PPO acts in Box, Discrete, MultiDiscrete, MultiBinary: "
            "flatten it with an env_wrapper"
        )
    inner = observation_space.spaces.items() if isinstance(observation_space, spaces.Dict) else []
    numbers = [name for name, entry in inner if isinstance(entry, spaces.Box) and entry.shape == ()]
    if numbers:
        raise InvalidArgument(
            f"{config.env} observes single numbers ({', '.join(numbers)}), where Stable-Baselines3 takes vectors only; "
            "give env_wrapper gymnasium.wrappers.FlattenObservation"
        )
    return observation_space, action_space


def make_env(
    config: RunConfig, n_envs: int, seed: int | None, env_kwargs: dict[str, Any], in_workers: bool = False
) -> VecEnv:
    """
    Build the environments with every wrapper except the normalizer and those that stand outside of it.

    :param config: configuration of the run
    :param n_envs: number of environments
    :param seed: seed of the first one; the others count up
    :param env_kwargs: arguments of each environment
    :param in_workers: give each a process of its own if the run asks for it; else they step in this one
    :return: vectorized environment, monitored
    """
    kind = choose_vec_env(config)
    env: VecEnv
    if kind == "unity":
        env = make_unity(config, n_envs, seed, env_kwargs)
    elif kind == "native":
        env = robots = make_native(config, n_envs, seed, env_kwargs)
        if not in_workers and robots.randomizer is not None:
            # Evaluations do not begin where training began: they all see what training ends with.
            robots.randomizer.finish_schedules()
    elif kind == "torch" and "render_mode" not in env_kwargs:
        env = make_torch(config, n_envs, seed, env_kwargs)
    else:
        if kind == "torch":
            # Gymnasium draws what torch steps: the same task.
            env_kwargs = gymnasium_kwargs(env_kwargs)
        in_workers = in_workers and kind == "subproc"
        env = make_vec_env(
            EnvMaker(config.env, in_worker=in_workers),
            n_envs=n_envs,
            seed=seed,
            wrapper_class=wrapper_function("env_wrapper", config.env_wrapper),
            env_kwargs=env_kwargs,
            vec_env_cls=_process_class() if in_workers else DummyVecEnv,
        )
    outer = wrapper_function("vec_env_wrapper", config.vec_env_wrapper)
    return env if outer is None else outer(env)


def _process_class() -> Any:
    """Worker processes that are replaced when they are lost, where the system can tell; else SB3's."""
    return ProcessVecEnv if hasattr(os, "killpg") else Workers


def normalizer_class(env: VecEnv) -> type[VecNormalize]:
    """
    :param env: environments to normalize
    :return: SB3's VecNormalize, or its twin that keeps a tensor face
    """
    return TensorVecNormalize if isinstance(env, TensorVecEnv) else VecNormalize


def open_normalizer(path: Path, env: VecEnv, trust: bool = False) -> VecNormalize:
    """
    :param path: file of a VecNormalize
    :param env: environments to normalize
    :param trust: unpickle the file, whatever code is in it
    :return: these environments with the statistics of the file
    :raises DamagedFile: when the file is not whole (``UntrustedFile``: asks for unknown classes)
    :raises InvalidArgument: when the statistics are of other observations
    """
    saved = read_normalizer(path, trust)
    if isinstance(env, TensorVecEnv):
        return TensorVecNormalize.from_vec_normalize(saved, env)
    try:
        saved.set_venv(env)
    except (AssertionError, AttributeError) as error:
        raise InvalidArgument(f"{path} has statistics of other observations: {error}") from error
    return saved


def finish_env(env: VecEnv, config: RunConfig) -> VecEnv:
    """
    Add what stands outside of the normalizer: frame stack, and channels first for images.

    :param env: environments, normalized or not
    :param config: configuration of the run
    :return: environments as the policy sees them
    """
    if config.frame_stack is not None:
        stack = TensorVecFrameStack if isinstance(env, TensorVecEnv) else VecFrameStack
        env = stack(env, config.frame_stack)
    return VecTransposeImage(env) if _needs_transpose(env.observation_space) else env


def make_bare_training_env(config: RunConfig) -> VecEnv:
    """
    :param config: configuration of the run
    :return: environments to train in, without the normalizer and what stands outside of it
    """
    return make_env(config, config.n_envs, config.seed, config.env_kwargs, in_workers=True)


def make_training_env(config: RunConfig, bare: VecEnv | None = None) -> VecEnv:
    """
    :param config: resolved configuration (``normalize`` is False or a mapping)
    :param bare: result of ``make_bare_training_env`` where it was made before
    :return: environments to train in
    """
    env = make_bare_training_env(config) if bare is None else bare
    if isinstance(config.normalize, dict):
        env = normalizer_class(env)(env, **config.normalize)
    return finish_env(env, config)


def make_eval_env(config: RunConfig, n_envs: int, seed: int) -> VecEnv:
    """
    Build environments to evaluate in: the same wrappers, the normalizer frozen and the rewards as they are.

    They step in this process, natively when training does: a policy waits for all of them anyway, and evaluations are
    short.

    :param config: resolved configuration
    :param n_envs: number of environments; more makes an evaluation faster
    :param seed: seed, different from that of training
    :return: environments whose statistics are still to be filled
    """
    kwargs = config.env_kwargs
    if is_unity(config.env):
        n_envs, kwargs = 1, evaluation_kwargs(kwargs)  # one copy of the game has many agents
    elif choose_vec_env(config) == "native":
        kwargs = on_the_processor(kwargs)
    env = make_env(config, n_envs, seed, kwargs)
    if isinstance(config.normalize, dict):
        env = normalizer_class(env)(env, **{**config.normalize, "training": False, "norm_reward": False})
    return finish_env(env, config)


def is_vector(space: spaces.Space) -> bool:
    """
    :param space: observation space
    :return: whether it holds plain numbers that can be normalized, alone or in a Dict
    """
    if isinstance(space, spaces.Dict):
        return all(is_vector(inner) for inner in space.spaces.values())
    return isinstance(space, spaces.Box) and not has_image(space)


def wrapper_function(name: str, wrappers: Any) -> Callable[[Any], Any] | None:
    """
    Turn import paths into one function that applies the wrappers, innermost first.

    :param name: name of the setting, for the message
    :param wrappers: None, ``"package.module.Class"``, ``{"package.module.Class": arguments}``, or a list of these
    :return: the function, or None when there are no wrappers
    :raises InvalidArgument: when a wrapper cannot be imported
    """
    entries = wrappers if isinstance(wrappers, list) else [wrappers] if wrappers else []
    steps = [_wrapper(name, entry) for entry in entries]

    def wrap(env: Any) -> Any:
        for wrapper, kwargs in steps:
            env = wrapper(env, **kwargs)
        return env

    return wrap if steps else None


def _wrapper(name: str, entry: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Import one wrapper."""
    path, kwargs = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
    base: type = VecEnv if name.startswith("vec_env") else gym.Wrapper
    return import_named(name, path, base, functions=True), dict(kwargs or {})


def _needs_transpose(space: spaces.Space) -> bool:
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    boxes = [entry for entry in inner if isinstance(entry, spaces.Box)]
    return any(is_image_space(box) and not is_image_space_channels_first(box) for box in boxes)


def remedy(message: str) -> str:
    """
    :param message: text of an import error
    :return: what to install, or the text itself where that is not known
    """
    for word, install in _EXTRAS.items():
        if word in message.lower():
            return install
    return message


def _log_mujoco_warnings() -> None:
    """
    Send MuJoCo's own warnings to the log, for Gymnasium's environments with any version of MuJoCo.

    By default it prints them and appends them to a file MUJOCO_LOG.TXT in the working folder, once per environment.
    MujocoVecEnv has a handler of its own, which is quiet about unstable simulations because it counts them; here
    nothing else would tell of them.
    """
    try:
        import mujoco
    except ImportError:
        return  # gym.make raises the error that names the package
    mujoco.set_mju_user_warning(_on_mujoco_warning)


def _on_mujoco_warning(message: str) -> None:
    # Deprecations in the XML files of Gymnasium concern their authors, not who trains.
    level = logging.DEBUG if "deprecated" in message else logging.WARNING
    logger.log(level, "MuJoCo: %s", message.strip())
