"""
RL Baselines3 Zoo with PPOPlus in it: ``ppo-plus zoo train --env CartPole-v1``, or from Python::

    from sb3_ppo_plus.zoo import register

    register()  # from here on the zoo in this process knows ``ppo_plus``

Nothing of the installed zoo is changed on disk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.zoo.launcher import launch as launch
    from sb3_ppo_plus.zoo.registration import register as register

_EXPORTS = {"launch": "zoo.launcher", "register": "zoo.registration"}

__all__ = ["launch", "register"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"sb3_ppo_plus.{_EXPORTS[name]}"), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "rl_zoo3":
            raise ImportError('the zoo is not installed: pip install "sb3-ppo-plus[zoo]"') from missing
        raise
