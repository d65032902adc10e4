"""Rows of tensors, and from tensors to what SB3 expects: arrays of its own, one dictionary per environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_ppo_plus.types import Observations


def map_observations(function: Any, observations: Observations) -> Any:
    """
    Apply a function to an observation tensor, or to each tensor of a mapping.

    :param function: of one tensor
    :param observations: a tensor or a mapping of tensors
    :return: the result, in the same form
    """
    if isinstance(observations, Mapping):
        return {key: function(value) for key, value in observations.items()}
    return function(observations)


def to_numpy(observations: Observations) -> Any:
    """
    Copy observations to the host.

    :param observations: a tensor or a mapping of tensors
    :return: arrays that share no memory with them
    """
    return map_observations(lambda value: value.detach().cpu().numpy().copy(), observations)


def pick(observations: Any, index: int) -> Any:
    """
    :param observations: an array or a mapping of arrays [N, ...]
    :param index: a row
    :return: a copy of that row
    """
    return map_observations(lambda value: value[index].copy(), observations)


def rows(stats: Mapping[str, th.Tensor], n: int) -> list[dict[str, Any]]:
    """
    :param stats: figures by name, each [n] or [n, ...]
    :param n: number of environments
    :return: one dictionary per environment; scalars as Python numbers, vectors as arrays
    """
    if not stats:
        return [{} for _ in range(n)]
    names = list(stats)
    columns = [value.tolist() if value.ndim == 1 else list(to_numpy(value)) for value in stats.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def where_rows(mask: th.Tensor, yes: th.Tensor, no: th.Tensor) -> th.Tensor:
    """
    Choose row by row.

    :param mask: True where the row is taken from the first [n]
    :param yes: rows [n, ...]
    :param no: rows of the same shape
    :return: rows of both [n, ...]
    """
    return th.where(mask.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
