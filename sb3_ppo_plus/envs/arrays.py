"""From tensors to what SB3 expects: arrays of its own, and one dictionary per environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th


def map_observations(function: Any, observations: th.Tensor | Mapping[str, th.Tensor]) -> Any:
    """
    Apply a function to an observation tensor, or to each tensor of a mapping.

    :param function: of one tensor
    :param observations: a tensor or a mapping of tensors
    :return: the result, in the same form
    """
    if isinstance(observations, Mapping):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def to_numpy(observations: th.Tensor | Mapping[str, th.Tensor]) -> Any:
    """
    Copy observations to the host.

    :param observations: a tensor or a mapping of tensors
    :return: arrays that share no memory with them
    """
    return map_observations(lambda value: value.detach().cpu().numpy().copy(), observations)


def to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, th.Tensor]:
    """
    :param arrays: arrays by name
    :return: tensors on the same memory
    """
    return {name: th.from_numpy(value) for name, value in arrays.items()}


def pick(observations: Any, index: int) -> Any:
    """
    :param observations: an array or a mapping of arrays [N, ...]
    :param index: a row
    :return: a copy of that row
    """
    return map_observations(lambda value: value[index].copy(), observations)


def rows(stats: Mapping[str, np.ndarray], n: int) -> list[dict[str, Any]]:
    """
    :param stats: figures by name, each [n] or [n, ...]
    :param n: number of environments
    :return: one dictionary per environment; scalars as Python numbers, vectors as arrays of its own
    """
    if not stats:
        return [{} for _ in range(n)]
    names = list(stats)
    columns = [value.tolist() if value.ndim == 1 else list(value.copy()) for value in stats.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def row(stats: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    """
    :param stats: figures by name, each [n] or [n, ...]
    :param index: an environment
    :return: the dictionary that :func:`rows` gives for it
    """
    return {name: value.item(index) if value.ndim == 1 else value[index].copy() for name, value in stats.items()}


def where_rows(mask: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """
    Choose row by row.

    :param mask: True where the row is taken from the first [n]
    :param yes: rows [n, ...]
    :param no: rows of the same shape
    :return: rows of both [n, ...]
    """
    return np.where(mask.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
