"""PPO for people who already use Stable-Baselines3: identical when its extras are off, one argument away from each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.controllers import EntropyTarget as EntropyTarget
    from sb3_ppo_plus.controllers import KLBand as KLBand
    from sb3_ppo_plus.controllers import KLProportional as KLProportional
    from sb3_ppo_plus.errors import InvalidArgument as InvalidArgument
    from sb3_ppo_plus.explain import explain_config as explain_config
    from sb3_ppo_plus.ppo_plus import PPOPlus as PPOPlus
    from sb3_ppo_plus.presets import PRESETS as PRESETS
    from sb3_ppo_plus.schedules import ConstantSchedule as ConstantSchedule
    from sb3_ppo_plus.schedules import CosineSchedule as CosineSchedule
    from sb3_ppo_plus.schedules import ExponentialSchedule as ExponentialSchedule
    from sb3_ppo_plus.schedules import LinearSchedule as LinearSchedule
    from sb3_ppo_plus.schedules import PiecewiseSchedule as PiecewiseSchedule
    from sb3_ppo_plus.schedules import PolynomialSchedule as PolynomialSchedule

__version__ = "0.1.0"

# Resolved on first use (PEP 562), so that `ppo-plus --help` never pays for importing torch.
_EXPORTS = {
    "ConstantSchedule": "schedules",
    "CosineSchedule": "schedules",
    "EntropyTarget": "controllers",
    "ExponentialSchedule": "schedules",
    "InvalidArgument": "errors",
    "KLBand": "controllers",
    "KLProportional": "controllers",
    "LinearSchedule": "schedules",
    "PPOPlus": "ppo_plus",
    "PRESETS": "presets",
    "PiecewiseSchedule": "schedules",
    "PolynomialSchedule": "schedules",
    "explain_config": "explain",
}

__all__ = [
    "PRESETS",
    "ConstantSchedule",
    "CosineSchedule",
    "EntropyTarget",
    "ExponentialSchedule",
    "InvalidArgument",
    "KLBand",
    "KLProportional",
    "LinearSchedule",
    "PPOPlus",
    "PiecewiseSchedule",
    "PolynomialSchedule",
    "__version__",
    "explain_config",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
