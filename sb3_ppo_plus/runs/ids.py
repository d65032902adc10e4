"""What the id of an environment stands for: Gymnasium's id, a module that registers one, or a task of your own."""

from __future__ import annotations

import importlib
from types import ModuleType

import gymnasium as gym
from gymnasium import error

from sb3_ppo_plus.envs.tasks.base import MujocoTask
from sb3_ppo_plus.envs.tasks.registry import TASKS
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.naming import did_you_mean

# Before the path of a Unity game.
UNITY_PREFIX = "unity:"
# Words in a module or an entry point that tell of MuJoCo.
_MUJOCO_WORDS = ("mujoco", "dm_control", "gymnasium_robotics", "metaworld")


def is_unity(env_id: str) -> bool:
    """
    :param env_id: environment id
    :return: whether it is a Unity game, ``unity:PATH``
    """
    return env_id.startswith(UNITY_PREFIX)


def is_atari(env_id: str) -> bool:
    """
    :param env_id: environment id
    :return: whether it is an Atari game, as far as its module or its entry point tell (the rule of RL Baselines3 Zoo)
    """
    module, _, name = env_id.rpartition(":")
    spec = gym.registry.get(name)
    return module == "ale_py" or (spec is not None and "AtariEnv" in str(spec.entry_point))


def check_env_id(env_id: str) -> None:
    """
    Check that there is such an environment.

    :param env_id: Gymnasium's id, ``module:EnvId`` to import the module that registers it first, or ``module:Class``
        for a subclass of :class:`~sb3_ppo_plus.envs.MujocoTask`
    :raises InvalidArgument: naming near matches, or what is wrong with the module
    """
    if is_unity(env_id) or find_task(env_id) is not None:
        return
    module, _, name = env_id.rpartition(":")
    home = _import(env_id, module) if module else None
    try:
        gym.spec(name)
    except error.Error as unknown:
        if home is not None and hasattr(home, name):
            raise InvalidArgument(
                f"env is {env_id!r}, but {name} is not a subclass of sb3_ppo_plus.envs.MujocoTask; derive it from that "
                "class, or register an environment with Gymnasium in the module and give its id"
            ) from unknown
        hint = did_you_mean(name, [*gym.registry, *_own_tasks(home)])
        remedy = "write module:EnvId when another module registers it, module:Class for a MujocoTask of your own"
        raise InvalidArgument(f"unknown environment {env_id!r}; {hint or remedy}") from unknown


def find_task(env_id: str) -> str | type[MujocoTask] | None:
    """
    Find out whether an environment can step on native threads.

    :param env_id: as for ``check_env_id``
    :return: the id itself for one of this package's tasks, the class for a task of your own, None for anything else
    :raises InvalidArgument: when a module is named and cannot be imported
    """
    if env_id in TASKS:
        return env_id
    if is_unity(env_id):
        return None
    module, _, name = env_id.rpartition(":")
    found = getattr(_import(env_id, module), name, None) if module else None
    return found if isinstance(found, type) and issubclass(found, MujocoTask) else None


def uses_mujoco(env_id: str) -> bool:
    """
    :param env_id: environment id
    :return: whether MuJoCo simulates it, as far as its id, its module or its entry point tell
    """
    if is_unity(env_id):
        return False
    _, _, name = env_id.rpartition(":")
    spec = gym.registry.get(name)
    told = f"{env_id} {spec.entry_point if spec else ''}".lower()
    return any(word in told for word in _MUJOCO_WORDS) or find_task(env_id) is not None


def _import(env_id: str, module: str) -> ModuleType:
    """Import the module that an id names; whatever goes wrong in it is the user's to read."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        stem = module.removesuffix(".py")
        hint = f"; write {stem}:{env_id.rpartition(':')[2]}" if stem != module else ""
        raise InvalidArgument(
            f"env is {env_id!r}, but module {module!r} cannot be imported ({missing}){hint}"
        ) from missing
    except Exception as failed:  # a module may raise anything
        raise InvalidArgument(
            f"env is {env_id!r}, but module {module!r} cannot be imported "
            f"({type(failed).__name__}: {' '.join(str(failed).split())})"
        ) from failed


def _own_tasks(module: ModuleType | None) -> list[str]:
    found = vars(module).items() if module is not None else ()
    return [name for name, value in found if isinstance(value, type) and issubclass(value, MujocoTask)]
