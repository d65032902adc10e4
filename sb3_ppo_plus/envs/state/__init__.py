"""The state of environments of every kind, taken and put back exactly. See docs/env_state.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.state.vector import EnvState as EnvState
    from sb3_ppo_plus.envs.state.vector import capture_env as capture_env
    from sb3_ppo_plus.envs.state.vector import restore_env as restore_env

__all__ = ["EnvState", "capture_env", "restore_env"]


def __getattr__(name: str) -> Any:
    # On first use: worker processes need what is beside, and no torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sb3_ppo_plus.envs.state import vector

    return getattr(vector, name)
