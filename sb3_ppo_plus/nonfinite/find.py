"""Looking for numbers that are none, in arrays and mappings of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th


class Found(NamedTuple):
    """
    A number that is none.

    :param env: row of the array that it stands in, usually the environment
    :param key: where in the row, such as ``['camera'][0, 3]``; empty when the row is one number
    :param value: NaN or an infinity
    """

    env: int
    key: str
    value: float


def is_finite(array: Any) -> bool:
    """
    Look at a whole array at once, at a tenth of the cost of looking at each number.

    :param array: array of any type and shape, tensor or number
    :return: whether every number in it is one; arrays of whole numbers always are
    """
    if isinstance(array, th.Tensor):
        if not array.is_cpu:
            return not array.is_floating_point() or bool(th.isfinite(array).all())
        array = array.numpy()
    elif not isinstance(array, np.ndarray):
        array = np.asarray(array)
    if array.dtype.kind != "f":
        return True
    flat = array.ravel()
    # NaN and infinity survive a sum of squares. An overflow of large numbers looks the same, until the second look.
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def parts(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """
    :param value: array, tensor, or mappings and tuples of them
    :param prefix: what stands before the name of a part
    :return: arrays with what leads to them, such as ``['camera']``
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from parts(part, f"{prefix}[{name!r}]")
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from parts(part, f"{prefix}[{index}]")
    else:
        yield prefix, value


def all_finite(value: Any) -> bool:
    """
    :param value: array, tensor, or mappings and tuples of them
    :return: whether every number in it is one
    """
    if isinstance(value, (np.ndarray, th.Tensor)):
        return is_finite(value)
    return all(is_finite(part) for _, part in parts(value))


def find_in_rows(value: Any) -> list[Found]:
    """
    :param value: one row per environment: array, tensor, or mappings and tuples of them [N, ...]
    :return: the first such number of each row that has one, in order
    """
    found: dict[int, Found] = {}
    for name, part in parts(value):
        array = part.detach().cpu().numpy() if isinstance(part, th.Tensor) else np.asarray(part)
        if array.dtype.kind != "f" or is_finite(array):
            continue
        for index in np.argwhere(~np.isfinite(array)).tolist():
            row, *inside = index
            if row not in found:
                found[row] = Found(row, f"{name}{inside if inside else ''}", float(array[tuple(index)]))
    return [found[row] for row in sorted(found)]


def find_in_one(env: int, value: Any) -> Found | None:
    """
    :param env: environment
    :param value: what it gave: array, number, or mappings and tuples of them
    :return: the first number in it that is none
    """
    for name, part in parts(value):
        array = np.asarray(part)
        if array.dtype.kind == "f" and not is_finite(array):
            at = np.argwhere(~np.isfinite(array))[0].tolist()
            return Found(env, f"{name}{at if at else ''}", float(array[tuple(at)]))
    return None
