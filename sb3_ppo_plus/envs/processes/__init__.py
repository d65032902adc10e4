"""Environments in worker processes that may die: they are started again, and training goes on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.processes.errors import WorkerLost as WorkerLost
    from sb3_ppo_plus.envs.processes.vec_env import ProcessVecEnv as ProcessVecEnv

# Resolved on first use: a worker imports its own module of this package, and has to start without torch.
_EXPORTS = {"ProcessVecEnv": "vec_env", "WorkerLost": "errors"}

__all__ = ["ProcessVecEnv", "WorkerLost"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
