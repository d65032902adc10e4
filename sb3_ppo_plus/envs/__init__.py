"""Environments with a tensor face, their wrappers, MuJoCo's tasks on native threads, Unity's games."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.base import TensorVecEnv as TensorVecEnv
    from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper as TensorVecEnvWrapper
    from sb3_ppo_plus.envs.hybrid import HybridSpace as HybridSpace
    from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv as MujocoVecEnv
    from sb3_ppo_plus.envs.normalize import TensorVecNormalize as TensorVecNormalize
    from sb3_ppo_plus.envs.tasks.base import MujocoTask as MujocoTask
    from sb3_ppo_plus.envs.tasks.base import Outcome as Outcome
    from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv as UnityVecEnv
    from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack as TensorVecFrameStack
    from sb3_ppo_plus.envs.wrappers import TensorVecMonitor as TensorVecMonitor

# Resolved on first use: two names need MuJoCo or ML-Agents, and the others have to work without it.
_EXPORTS = {
    "HybridSpace": "hybrid",
    "MujocoTask": "tasks.base",
    "MujocoVecEnv": "mujoco.vec_env",
    "Outcome": "tasks.base",
    "TensorVecEnv": "base",
    "TensorVecEnvWrapper": "base_wrapper",
    "TensorVecFrameStack": "wrappers",
    "TensorVecMonitor": "wrappers",
    "TensorVecNormalize": "normalize",
    "UnityVecEnv": "unity.vec_env",
}

__all__ = [
    "HybridSpace",
    "MujocoTask",
    "MujocoVecEnv",
    "Outcome",
    "TensorVecEnv",
    "TensorVecEnvWrapper",
    "TensorVecFrameStack",
    "TensorVecMonitor",
    "TensorVecNormalize",
    "UnityVecEnv",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
