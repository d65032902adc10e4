"""Environments with a tensor face, their wrappers, MuJoCo's tasks on native threads, Unity's games."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.adapters.env_pool import EnvPoolAdapter as EnvPoolAdapter
    from sb3_ppo_plus.envs.adapters.gymnasium_vector import GymnasiumVectorAdapter as GymnasiumVectorAdapter
    from sb3_ppo_plus.envs.adapters.isaac_lab import IsaacLabAdapter as IsaacLabAdapter
    from sb3_ppo_plus.envs.adapters.jax_functional import JaxAdapter as JaxAdapter
    from sb3_ppo_plus.envs.adapters.mani_skill import ManiSkillAdapter as ManiSkillAdapter
    from sb3_ppo_plus.envs.adapters.mjlab import MjlabAdapter as MjlabAdapter
    from sb3_ppo_plus.envs.base import TensorVecEnv as TensorVecEnv
    from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper as TensorVecEnvWrapper
    from sb3_ppo_plus.envs.classic.task import TorchTask as TorchTask
    from sb3_ppo_plus.envs.classic.vec_env import TorchVecEnv as TorchVecEnv
    from sb3_ppo_plus.envs.hybrid import HybridSpace as HybridSpace
    from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv as MujocoVecEnv
    from sb3_ppo_plus.envs.normalize import TensorVecNormalize as TensorVecNormalize
    from sb3_ppo_plus.envs.processes.errors import WorkerLost as WorkerLost
    from sb3_ppo_plus.envs.processes.vec_env import ProcessVecEnv as ProcessVecEnv
    from sb3_ppo_plus.envs.staggered import StaggeredStart as StaggeredStart
    from sb3_ppo_plus.envs.tasks.base import MujocoTask as MujocoTask
    from sb3_ppo_plus.envs.tasks.base import Outcome as Outcome
    from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv as UnityVecEnv
    from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack as TensorVecFrameStack
    from sb3_ppo_plus.envs.wrappers import TensorVecMonitor as TensorVecMonitor

# Resolved on first use: two names need MuJoCo or ML-Agents, and the others have to work without it.
_EXPORTS = {
    "EnvPoolAdapter": "adapters.env_pool",
    "GymnasiumVectorAdapter": "adapters.gymnasium_vector",
    "HybridSpace": "hybrid",
    "IsaacLabAdapter": "adapters.isaac_lab",
    "JaxAdapter": "adapters.jax_functional",
    "ManiSkillAdapter": "adapters.mani_skill",
    "MjlabAdapter": "adapters.mjlab",
    "MujocoTask": "tasks.base",
    "MujocoVecEnv": "mujoco.vec_env",
    "Outcome": "tasks.base",
    "ProcessVecEnv": "processes.vec_env",
    "StaggeredStart": "staggered",
    "TensorVecEnv": "base",
    "TensorVecEnvWrapper": "base_wrapper",
    "TensorVecFrameStack": "wrappers",
    "TensorVecMonitor": "wrappers",
    "TensorVecNormalize": "normalize",
    "TorchTask": "classic.task",
    "TorchVecEnv": "classic.vec_env",
    "UnityVecEnv": "unity.vec_env",
    "WorkerLost": "processes.errors",
}

__all__ = [
    "EnvPoolAdapter",
    "GymnasiumVectorAdapter",
    "HybridSpace",
    "IsaacLabAdapter",
    "JaxAdapter",
    "ManiSkillAdapter",
    "MjlabAdapter",
    "MujocoTask",
    "MujocoVecEnv",
    "Outcome",
    "ProcessVecEnv",
    "StaggeredStart",
    "TensorVecEnv",
    "TensorVecEnvWrapper",
    "TensorVecFrameStack",
    "TensorVecMonitor",
    "TensorVecNormalize",
    "TorchTask",
    "TorchVecEnv",
    "UnityVecEnv",
    "WorkerLost",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
