"""Runs on native threads: which runs can have them, and building their environments."""

from __future__ import annotations

import inspect
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sb3_ppo_plus.distributed import current_ranks
from sb3_ppo_plus.envs.classic.vec_env import TORCH_TASKS, TorchVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import processors
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.ids import find_task, is_unity
from sb3_ppo_plus.runs.naming import did_you_mean

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv
    from sb3_ppo_plus.envs.tasks.base import MujocoTask

logger = logging.getLogger(__name__)

# Arguments of MujocoVecEnv that a run sets by itself.
_OF_THE_RUN = ("task", "n_envs", "seed")
# Arguments of MujocoVecEnv that say where robots are simulated.
_OF_THE_ENGINE = ("engine", "device", "engine_options")
# Arguments of TorchVecEnv that Gymnasium does not know.
_OF_TORCH = ("device", "dtype", "draws")


def choose_vec_env(config: RunConfig) -> str:
    """
    Decide how the environments of a run are stepped.

    :param config: configuration; its ``vec_env`` may be ``auto``
    :return: ``native``, ``torch``, ``dummy``, ``subproc`` or ``unity``
    :raises InvalidArgument: when what was asked for cannot be had, with what to do instead
    """
    if is_unity(config.env) != (config.vec_env == "unity") and config.vec_env != "auto":
        kind = "a Unity game" if is_unity(config.env) else "no Unity game"
        raise InvalidArgument(f"vec_env is {config.vec_env!r}, but {config.env} is {kind}; leave vec_env at auto")
    if is_unity(config.env):
        return "unity"
    if config.vec_env == "torch":
        _check_torch(config)
        return "torch"
    task = find_task(config.env)
    own = isinstance(task, type)
    if config.vec_env in ("dummy", "subproc"):
        if own:
            raise InvalidArgument(
                f"vec_env is {config.vec_env!r}, but {config.env} is a MujocoTask, which only native threads can step; "
                "leave vec_env at auto"
            )
        return config.vec_env
    if config.vec_env == "auto" and not own and (task is None or config.env_wrapper or why_not_native()):
        return "dummy"
    if task is None:
        raise InvalidArgument(
            f"vec_env is 'native', but {config.env} is neither one of Gymnasium's MuJoCo tasks (HalfCheetah-v5, ...) "
            "nor a MujocoTask of your own; give vec_env dummy or subproc"
        )
    if config.env_wrapper:
        other = "" if own else ", or give vec_env dummy"
        raise InvalidArgument(
            f"env_wrapper is {config.env_wrapper!r}, but environments on native threads take no Gymnasium wrappers; "
            f"use a vec_env_wrapper instead{other}"
        )
    missing = why_not_native()
    if missing:
        raise InvalidArgument(f"{config.env} cannot be stepped on native threads: {missing}")
    return "native"


def warn_if_slower(config: RunConfig) -> None:
    """
    Log what would make a run several times faster, where it is one package away.

    :param config: configuration as it was given
    """
    slower = config.vec_env == "auto" and find_task(config.env) is not None and not config.env_wrapper
    # Without any MuJoCo the environment itself tells what is missing.
    missing = why_not_native() if slower and find_spec("mujoco") else None
    if missing:
        logger.warning("%s is stepped by Gymnasium, one robot at a time: %s", config.env, missing)


def why_not_native() -> str | None:
    """
    :return: None when MujocoVecEnv can be imported, else what to install
    """
    try:
        _mujoco_vec_env()
    except ImportError as missing:
        return str(missing)
    return None


def make_native(config: RunConfig, n_envs: int, seed: int | None, env_kwargs: dict[str, Any]) -> MujocoVecEnv:
    """
    Build the environments of a run that ``choose_vec_env`` calls native.

    :param config: configuration of the run
    :param n_envs: number of environments
    :param seed: seed of the first one; the others count up
    :param env_kwargs: arguments of the task, and options of MujocoVecEnv such as ``randomization``
    :return: the environments; their finished episodes carry SB3's Monitor statistics
    :raises InvalidArgument: for an argument that neither takes, or a value that cannot work
    """
    kind = _mujoco_vec_env()
    task = find_task(config.env)
    assert task is not None, "choose_vec_env() comes first"
    mine, options = ({}, env_kwargs) if isinstance(task, str) else _split(config.env, task, env_kwargs)
    for name in _OF_THE_RUN:
        if name in options:
            raise InvalidArgument(
                f"env_kwargs.{name} is {options[name]!r}, but {name} belongs to the run; give it beside env_kwargs"
            )
    ranks = current_ranks()
    if ranks is not None and "n_threads" not in options:
        options = {**options, "n_threads": max(1, processors() // ranks.on_this_host)}
    return kind(task if isinstance(task, str) else task(**mine), n_envs=n_envs, seed=seed, **options)


def make_torch(config: RunConfig, n_envs: int, seed: int | None, env_kwargs: dict[str, Any]) -> TorchVecEnv:
    """
    Build the environments of a run that ``choose_vec_env`` calls torch.

    :param config: configuration of the run
    :param n_envs: number of environments
    :param seed: seed of the first one; the others count up
    :param env_kwargs: arguments of the task, and options of TorchVecEnv such as ``device``
    :return: the environments; their finished episodes carry SB3's Monitor statistics
    :raises InvalidArgument: for an argument that neither takes, or a value that cannot work
    """
    for name in _OF_THE_RUN:
        if name in env_kwargs:
            raise InvalidArgument(f"env_kwargs.{name} is {env_kwargs[name]!r}, but {name} belongs to the run")
    return TorchVecEnv(config.env, n_envs=n_envs, seed=seed, **env_kwargs)


def gymnasium_kwargs(env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param env_kwargs: of a run on TorchVecEnv
    :return: those that ``gym.make`` takes as well, for what draws pictures
    """
    return {name: value for name, value in env_kwargs.items() if name not in _OF_TORCH}


def on_the_processor(env_kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    :param env_kwargs: of a run on MujocoVecEnv
    :return: those for the same robots in MuJoCo itself, where a few of them, as in an evaluation, are faster, and where
        a policy is going to be judged
    """
    return {name: value for name, value in env_kwargs.items() if name not in _OF_THE_ENGINE}


def _check_torch(config: RunConfig) -> None:
    if config.env not in TORCH_TASKS:
        raise InvalidArgument(
            f"vec_env is 'torch', but {config.env} is none of {', '.join(TORCH_TASKS)}; leave vec_env at auto"
        )
    if config.env_wrapper:
        raise InvalidArgument(
            f"env_wrapper is {config.env_wrapper!r}, but environments in torch take no Gymnasium wrappers; use a "
            "vec_env_wrapper instead, or give vec_env dummy"
        )


def task_kwargs(config: RunConfig) -> dict[str, Any]:
    """
    :param config: configuration of a run
    :return: its ``env_kwargs`` without options of MujocoVecEnv, which make the robots of a training differ
    """
    if choose_vec_env(config) != "native":
        return dict(config.env_kwargs)
    options = _parameters(_mujoco_vec_env())[0]
    return {name: value for name, value in config.env_kwargs.items() if name not in options}


def _split(env_id: str, task: type[MujocoTask], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that the constructor of a task takes, and those for MujocoVecEnv."""
    named, takes_any = _parameters(task)
    options = [name for name in _parameters(_mujoco_vec_env())[0] if name not in _OF_THE_RUN]
    mine = {name: value for name, value in kwargs.items() if name in named or (takes_any and name not in options)}
    rest = {name: value for name, value in kwargs.items() if name not in mine}
    for name in rest:
        if name not in (*options, *_OF_THE_RUN):
            known = [*named, *options]
            hint = did_you_mean(name, known) or f"there is {', '.join(known)}"
            raise InvalidArgument(f"env_kwargs.{name}: neither {env_id} nor MujocoVecEnv takes it; {hint}")
    return mine, rest


def _parameters(kind: type) -> tuple[list[str], bool]:
    """Names of the arguments of a class, and whether it takes any others."""
    parameters = inspect.signature(kind).parameters.values()
    named = [entry.name for entry in parameters if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)]
    return named, any(entry.kind is entry.VAR_KEYWORD for entry in parameters)


def _mujoco_vec_env() -> type[MujocoVecEnv]:
    from sb3_ppo_plus.envs import MujocoVecEnv

    return MujocoVecEnv
