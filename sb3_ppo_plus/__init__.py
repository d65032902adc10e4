"""PPO for people who already use Stable-Baselines3: identical when its extras are off, one argument away from each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus as PPOPlus

__version__ = "0.1.0"

# Resolved on first use (PEP 562), so that `ppo-plus --help` never pays for importing torch.
_EXPORTS = {
    "PPOPlus": "sb3_ppo_plus.ppo_plus",
}

__all__ = ["PPOPlus", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
