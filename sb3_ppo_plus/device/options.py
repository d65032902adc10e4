"""What can be chosen about a run on an accelerator, read from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from sb3_ppo_plus.errors import InvalidArgument

#: how float32 matrix products are computed, in torch's words
MATMUL_PRECISIONS = ("highest", "high", "medium")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "rollout": ("auto", True, False),
    "cuda_graphs": (True, False),
    "matmul_precision": (None, *MATMUL_PRECISIONS),
    "autocast": (None, "bfloat16"),
}


class DeviceOptions(NamedTuple):
    """
    The entries of ``device_options``.

    :param rollout: whether rows stay on the environments' device: ``"auto"`` where environments and policy share one
        that is not the processor, True also on the processor (a warning says where it cannot be), False never
    :param cuda_graphs: whether acting and gradient steps become CUDA graphs; on other devices it has no effect
    :param matmul_precision: ``highest``, ``high`` (TF32 on Ampere and newer) or ``medium`` (bfloat16 products) while
        ``learn()`` runs, as ``torch.set_float32_matmul_precision`` has it; None leaves torch's setting
    :param autocast: ``"bfloat16"`` computes the networks in it, None in float32; distributions, losses, advantages and
        the optimizer stay in float32. Worth a try for wide networks and images only
    """

    rollout: bool | str = "auto"
    cuda_graphs: bool = True
    matmul_precision: str | None = None
    autocast: str | None = None


def read_options(given: Mapping[str, Any] | None) -> DeviceOptions:
    """
    :param given: ``device_options`` as the user wrote it, None for all defaults
    :return: every entry
    :raises InvalidArgument: for an unknown name or value
    """
    if given is None:
        return DeviceOptions()
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"device_options={given!r} must be a mapping, e.g. {{'matmul_precision': 'high'}}")
    for name, value in given.items():
        if name not in _CHOICES:
            near = get_close_matches(str(name), _CHOICES, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InvalidArgument(f"device_options: unknown entry {name!r}{hint}; valid: {', '.join(_CHOICES)}")
        # 1 equals True, and would be written to a file as something else.
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in _CHOICES[name]):
            valid = ", ".join(repr(choice) for choice in _CHOICES[name])
            raise InvalidArgument(f"device_options[{name!r}]={value!r} is unknown; choose one of {valid}")
    return DeviceOptions(**given)
