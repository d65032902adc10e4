"""A step's tensors as arrays, in one copy: each copy from an accelerator makes the host wait."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.types import ArrayStep, TensorStep

_NUMPY = {th.bool: np.bool_, th.float32: np.float32, th.float64: np.float64, th.int64: np.int64, th.int32: np.int32}


def as_arrays(step: TensorStep) -> ArrayStep:
    """
    :param step: what a step gave, on one device; observations are one tensor
    :return: the same in arrays that nobody touches again
    """
    fields = [name for name in ArrayStep._fields if name != "stats"]
    # Figures have names of their own, which might be any.
    named = {("of the step", name): getattr(step, name) for name in fields}
    arrays = unpack({**named, **{("of the task", name): value for name, value in step.stats.items()}})
    stats = {name: arrays[kind, name] for kind, name in arrays if kind == "of the task"}
    return ArrayStep(**{name: arrays["of the step", name] for name in fields}, stats=stats)


def unpack(tensors: Mapping[Any, th.Tensor]) -> dict[Any, np.ndarray]:
    """
    :param tensors: tensors by name, each [N] or [N, ...], of whole numbers below 2^53, flags or floats
    :return: arrays of the same shapes and types
    """
    n = len(next(iter(tensors.values())))
    # float64 holds every float32 and every whole number that is counted here.
    packed = th.cat([value.detach().reshape(n, -1).double() for value in tensors.values()], 1).cpu().numpy()
    arrays: dict[Any, np.ndarray] = {}
    start = 0
    for name, value in tensors.items():
        width = prod(value.shape[1:])
        columns = packed[:, start : start + width].reshape(value.shape)
        arrays[name] = columns.astype(_NUMPY[value.dtype])
        start += width
    return arrays
