"""One ONNX file that acts as a trained model does: export, proof, and a runner without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.export.api import ExportReport as ExportReport
    from sb3_ppo_plus.export.api import export_onnx as export_onnx
    from sb3_ppo_plus.export.runner import OnnxPolicy as OnnxPolicy
    from sb3_ppo_plus.export.verify import Verification as Verification
    from sb3_ppo_plus.export.verify import verify_onnx as verify_onnx

# Resolved on first use: the runner must not bring torch along.
_EXPORTS = {
    "ExportReport": "api",
    "OnnxPolicy": "runner",
    "Verification": "verify",
    "export_onnx": "api",
    "verify_onnx": "verify",
}

__all__ = ["ExportReport", "OnnxPolicy", "Verification", "export_onnx", "verify_onnx"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
