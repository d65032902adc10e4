"""The rows of an update, shuffled and cut on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_plus.advantages import standardize_rollout
from sb3_ppo_plus.buffers import policy_actions
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.gathering import EpochRows, split_rows, take
from sb3_ppo_plus.types import Minibatch
from sb3_ppo_plus.update_data import UpdateData

# What is gathered at once. On an accelerator that is as good as everything; images are bounded by it.
_BLOCK_ROWS = 2**17


class DeviceRows(EpochRows):
    """
    A device rollout's rows, to be shuffled and cut into minibatches; the order is drawn on the device.

    :param buffer: full device buffer
    :param columns: what the update adds to the rows
    """

    buffer: DeviceBuffer

    def minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        """
        One pass over the rows in random order.

        :param batch_size: rows of a minibatch (B); the last one may be smaller
        :return: minibatches
        """
        rows = self._join()
        n_rows = len(rows.returns)
        order = self.draw_order(n_rows)
        block = batch_size * max(1, _BLOCK_ROWS // batch_size)
        for start in range(0, n_rows, block):
            yield from split_rows(take(rows, order[start : start + block]), batch_size)

    def draw_order(self, n_rows: int) -> th.Tensor:
        """
        :param n_rows: rows of the rollout
        :return: the order in which an epoch sees them, from torch's generator of the device [T * N]
        """
        return th.randperm(n_rows, device=self.buffer.device)

    def _read(self) -> Minibatch:
        flat = self.buffer.flat
        return Minibatch(
            flat("observations"),
            policy_actions(self.buffer, flat("actions")),
            flat("values"),
            flat("log_probs"),
            flat("advantages"),
            flat("returns"),
        )


class DeviceData(UpdateData):
    """:class:`~sb3_ppo_plus.update_data.UpdateData` of a rollout that lives on the device, from which nothing leaves"""

    @cached_property
    def epoch_rows(self) -> EpochRows:
        """:return: the rows as tensors, to be shuffled and cut"""
        return DeviceRows(self.buffer, self.columns)

    def minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        """
        :param batch_size: rows of a minibatch (B); the last one may be smaller
        :return: minibatches of one pass
        """
        return self.epoch_rows.minibatches(batch_size)

    def _standardize(self) -> None:
        buffer: RolloutBuffer = self.buffer
        assert isinstance(buffer, DeviceBuffer)
        self.columns.advantages = standardize_rollout(buffer.tensors["advantages"], None, self.needs.scope).flatten()
