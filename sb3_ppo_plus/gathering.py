"""The minibatches of an epoch, gathered many at a time: the rows that ``minibatches`` would give, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from sb3_ppo_plus.buffers import Columns, RowsMixin, flatten_rows, policy_actions
from sb3_ppo_plus.types import Minibatch

# What is gathered at once: small enough to stay in a processor's cache, large enough that the calls do not count.
_BLOCK_BYTES = 4 * 2**20


def why_not_gathered(buffer: RolloutBuffer) -> str | None:
    """
    Look whether a buffer's minibatches are rows of its arrays in SB3's random order.

    :param buffer: rollout buffer made by ``with_rows``
    :return: what is different, None when nothing is
    """
    assert isinstance(buffer, RowsMixin)
    if type(buffer).get not in (RolloutBuffer.get, DictRolloutBuffer.get):
        return f"{type(buffer).__name__} overrides get()"
    reads = super(RowsMixin, buffer)._get_samples.__func__  # type: ignore[attr-defined]
    if reads not in (RolloutBuffer._get_samples, DictRolloutBuffer._get_samples):
        return f"{type(buffer).__name__} overrides _get_samples()"
    return None


class EpochRows:
    """
    A rollout's rows as tensors in the buffer's flat order, to be shuffled and cut into minibatches.

    The draws are those of SB3's buffers, so that an epoch sees the same minibatches with and without this class.

    :param buffer: full rollout buffer for which :func:`why_not_gathered` has nothing to say
    :param columns: what the update adds to the rows
    """

    def __init__(self, buffer: RolloutBuffer, columns: Columns) -> None:
        self.buffer = buffer
        self.columns = columns
        self._rows: Minibatch | None = None

    def minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        """
        One pass over the rows in random order; a minibatch without a row that counts is left out.

        :param batch_size: rows of a minibatch (B); the last one may be smaller
        :return: minibatches
        """
        flatten_rows(self.buffer)
        rows = self._join()
        n_rows = len(rows.returns)
        order = np.random.permutation(n_rows)  # noqa: NPY002 (SB3 draws from the global generator)
        at = th.as_tensor(order, device=rows.returns.device)
        block = batch_size * max(1, _BLOCK_BYTES // max(1, _row_bytes(rows) * batch_size))
        for start in range(0, n_rows, block):
            cut = split_rows(take(rows, at[start : start + block]), batch_size)
            for index, batch in enumerate(cut):
                begin = start + index * batch_size
                if self._counts(order[begin : begin + batch_size]):
                    yield batch

    def example(self, batch_size: int) -> Minibatch:
        """
        The first rows in order, without a draw.

        :param batch_size: rows of the minibatch (B)
        :return: minibatch that looks like those of an epoch
        """
        flatten_rows(self.buffer)
        rows = self._join()
        return take(rows, th.arange(batch_size, device=rows.returns.device))

    def _counts(self, rows: np.ndarray) -> bool:
        return self.columns.valid is None or bool(self.columns.valid[rows].any())

    def _join(self) -> Minibatch:
        """All rows with the columns of now; advantages may have been recomputed since the last epoch."""
        if self._rows is None:
            self._rows = self._read()
        return self.columns.join_all(self._rows)

    def _read(self) -> Minibatch:
        buffer, device = self.buffer, self.buffer.device

        def tensor(array: np.ndarray) -> th.Tensor:
            return th.as_tensor(array, device=device)

        observations: Any = buffer.observations
        if isinstance(buffer.observation_space, spaces.Dict):
            observations = {key: tensor(value) for key, value in observations.items()}
        else:
            observations = tensor(observations)
        actions = tensor(buffer.actions.astype(np.float32, copy=False))
        values, log_probs, advantages, returns = (
            tensor(x.reshape(-1)) for x in (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        )
        return Minibatch(observations, policy_actions(buffer, actions), values, log_probs, advantages, returns)


def take(rows: Minibatch, at: th.Tensor) -> Minibatch:
    """
    Gather rows of everything that a minibatch holds.

    :param rows: many rows
    :param at: row indices [B]
    :return: those rows
    """
    taken: Minibatch = map_tensors(lambda x: x.index_select(0, at), rows)
    return taken


def split_rows(rows: Minibatch, batch_size: int) -> list[Minibatch]:
    """
    Cut gathered rows into minibatches.

    :param rows: many rows
    :param batch_size: rows of each (B); the last one may be smaller
    :return: the minibatches, each at an address that compiled graphs like
    """
    pieces: list[Minibatch] = _pieces(rows, batch_size, -(-len(rows.returns) // batch_size))
    return pieces


def _pieces(value: Any, batch_size: int, count: int) -> list[Any]:
    """Cut every tensor inside records and mappings; whatever else there is goes into each piece."""
    if isinstance(value, th.Tensor):
        pieces = value.split(batch_size)
        # Fresh tensors begin at multiples of 64 bytes; compiled graphs and matrix products may depend on it.
        aligned = pieces[0].numel() * value.element_size() % 64 == 0
        return list(pieces) if aligned else [piece.clone() for piece in pieces]
    if isinstance(value, dict):
        columns = [_pieces(part, batch_size, count) for part in value.values()]
        return [dict(zip(value, parts, strict=True)) for parts in zip(*columns, strict=True)]
    if hasattr(value, "_make"):
        columns = [_pieces(part, batch_size, count) for part in value]
        return [value._make(parts) for parts in zip(*columns, strict=True)]
    return [value] * count


def _row_bytes(rows: Minibatch) -> int:
    sizes: list[int] = []
    map_tensors(lambda x: sizes.append(x[:1].numel() * x.element_size()), rows)
    return sum(sizes)


def map_tensors(change: Any, value: Any) -> Any:
    """
    Apply to every tensor inside records and mappings.

    :param change: function of a tensor
    :param value: tensor, record, mapping, or anything else, which is left alone
    :return: the results, in the same form
    """
    if isinstance(value, th.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(change, part) for key, part in value.items()}
    if hasattr(value, "_make"):
        return value._make(map_tensors(change, part) for part in value)
    return value
