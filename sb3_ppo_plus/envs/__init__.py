"""Environments with a tensor face, their wrappers, and MuJoCo's tasks on native threads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.base import TensorVecEnv as TensorVecEnv
    from sb3_ppo_plus.envs.base import TensorVecEnvWrapper as TensorVecEnvWrapper
    from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv as MujocoVecEnv
    from sb3_ppo_plus.envs.normalize import TensorVecNormalize as TensorVecNormalize
    from sb3_ppo_plus.envs.tasks.base import MujocoTask as MujocoTask
    from sb3_ppo_plus.envs.tasks.base import Outcome as Outcome
    from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack as TensorVecFrameStack
    from sb3_ppo_plus.envs.wrappers import TensorVecMonitor as TensorVecMonitor

# Resolved on first use: one name needs MuJoCo, and the others have to work without it.
_EXPORTS = {
    "MujocoTask": "tasks.base",
    "MujocoVecEnv": "mujoco.vec_env",
    "Outcome": "tasks.base",
    "TensorVecEnv": "base",
    "TensorVecEnvWrapper": "base",
    "TensorVecFrameStack": "wrappers",
    "TensorVecMonitor": "wrappers",
    "TensorVecNormalize": "normalize",
}

__all__ = [
    "MujocoTask",
    "MujocoVecEnv",
    "Outcome",
    "TensorVecEnv",
    "TensorVecEnvWrapper",
    "TensorVecFrameStack",
    "TensorVecMonitor",
    "TensorVecNormalize",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
