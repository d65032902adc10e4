"""
The few operations that NumPy arrays and torch tensors spell differently, so that a task is written once for both.

Between two physics steps a processor's caches are cold: a torch call then costs several times what a NumPy call does,
which shows with few robots. So the CPU engine hands arrays to tasks that take them (``MujocoTask.arrays``), and an
accelerator's engine tensors. Operators, slices, comparisons, ``abs()``, ``.sum(1)``, ``.all(1)`` and ``.reshape()``
mean the same for both and need nothing from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

#: an array or a tensor, environments first
Array = Any


def cat(parts: Sequence[Array]) -> Array:
    """
    :param parts: columns [n, k_1], [n, k_2], ...
    :return: one after the other [n, k_1 + k_2 + ...]
    """
    return np.concatenate(parts, axis=1) if isinstance(parts[0], np.ndarray) else th.cat(tuple(parts), dim=1)


def copy(values: Array) -> Array:
    """
    :param values: possibly a view of the simulation [n, ...]
    :return: values that no later step changes [n, ...]
    """
    return values.copy() if isinstance(values, np.ndarray) else values.clone()


def clip(values: Array, low: float, high: float) -> Array:
    """
    :param values: any values [...]
    :param low: lower limit
    :param high: upper limit
    :return: values within the limits [...]
    """
    if isinstance(values, np.ndarray):
        return np.minimum(np.maximum(values, low), high)
    return values.clamp(low, high)


def flat(values: Array) -> Array:
    """
    :param values: a field of the simulation [n, j, k]
    :return: its rows, flattened [n, j k]
    """
    return values.reshape(len(values), -1)


def norm(values: Array) -> Array:
    """
    :param values: vectors [n, k]
    :return: their Euclidean lengths [n]
    """
    return sum_of_squares(values) ** 0.5


def sum_of_squares(values: Array) -> Array:
    """
    :param values: vectors [n, k]
    :return: sums of squares, in the values' own precision; of arrays in the order in which NumPy, and so Gymnasium,
        adds [n]
    """
    return (values * values).sum(1)


def bonus(mask: Array, value: float, like: Array) -> Array:
    """
    :param mask: True where the bonus is earned [n]
    :param value: the bonus
    :param like: values whose precision it gets [n]
    :return: the bonus or 0 [n]
    """
    return mask * value if isinstance(mask, np.ndarray) else mask.to(like.dtype) * value


def zeros(like: Array) -> Array:
    """
    :param like: values of the shape and type wanted [...]
    :return: zeros [...]
    """
    return np.zeros_like(like) if isinstance(like, np.ndarray) else th.zeros_like(like)


def sin(angles: Array) -> Array:
    """
    :param angles: angles, in radians [...]
    :return: their sines [...]
    """
    return np.sin(angles) if isinstance(angles, np.ndarray) else angles.sin()


def cos(angles: Array) -> Array:
    """
    :param angles: angles, in radians [...]
    :return: their cosines [...]
    """
    return np.cos(angles) if isinstance(angles, np.ndarray) else angles.cos()


def finite(values: Array) -> Array:
    """
    :param values: rows [n, k]
    :return: False for rows with an infinite entry, or one that is no number [n]
    """
    # Not a number compares false with everything.
    return (abs(values) < math.inf).all(1)
