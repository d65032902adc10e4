"""What the ranks tell each other between a rollout and its update."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.distributed.callbacks import RankCallbacks
from sb3_ppo_plus.distributed.moments import moments_of, over_all
from sb3_ppo_plus.distributed.normalizers import SharedNormalizers
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.distributed.trees import gather_trees

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus


class SharedRollouts:
    """
    The rollouts of one call of ``learn()``: one exchange after each brings together the episodes that ended, the
    statistics of normalizers, and whether somebody wants to stop.

    :param model: the algorithm, before its environments are reset
    :param ranks: the processes
    """

    def __init__(self, model: PPOPlus, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.callbacks: RankCallbacks | None = None
        self.normalizers = SharedNormalizers(model.env)
        self.normalizers.begin_with(gather_trees(ranks, self.normalizers.state())[0])
        self._successes: list[Any] | None = None
        self._known: list[Any] = []

    def begin(self) -> None:
        """A rollout begins: what is noted from here on is new to the others."""
        model = self.model
        self._known = list(model.ep_info_buffer or ())
        if model.ep_success_buffer is not None:
            # One success looks like another, so the new ones are noted apart.
            self._successes = list(model.ep_success_buffer)
            model.ep_success_buffer = deque(maxlen=model.ep_success_buffer.maxlen)

    def exchange(self) -> bool:
        """
        Bring together what the ranks have seen since the last exchange; nothing but the first observations before the
        first rollout.

        :return: whether the training goes on
        """
        model = self.model
        seen = {id(episode) for episode in self._known}
        own = {
            "ends": self.callbacks is not None and self.callbacks.wants_end,
            "episodes": [_plain(episode) for episode in model.ep_info_buffer or () if id(episode) not in seen],
            "successes": [] if self._successes is None else [float(entry) for entry in model.ep_success_buffer or ()],
            "normalizers": self.normalizers.seen(),
        }
        everyone = gather_trees(self.ranks, own)
        self.normalizers.merge([each["normalizers"] for each in everyone])
        if model.ep_info_buffer is not None:
            episodes = _in_turn([each["episodes"] for each in everyone])
            model.ep_info_buffer = deque([*self._known, *episodes], maxlen=model.ep_info_buffer.maxlen)
        if self._successes is not None:
            assert model.ep_success_buffer is not None
            successes = _in_turn([each["successes"] for each in everyone])
            model.ep_success_buffer = deque([*self._successes, *successes], maxlen=model.ep_success_buffer.maxlen)
            self._successes = None
        return not any(each["ends"] for each in everyone)

    def explained_variance(self) -> float:
        """
        1 - Var(R - V) / Var(R) over the rollouts of all ranks, as SB3 logs it for one.

        :return: 1 for a perfect critic, below 0 for one that is worse than a constant; NaN where all returns are equal
        """
        buffer = self.model.rollout_buffer
        assert isinstance(buffer, RowsMixin)
        valid = th.as_tensor(_flat_as(buffer.returns, buffer.valid))
        returns, values = th.as_tensor(buffer.returns.flatten()), th.as_tensor(buffer.values.flatten())
        targets, errors = over_all(self.ranks, [moments_of(returns, valid), moments_of(returns - values, valid)])
        spread = float(targets.squares)
        return float("nan") if spread == 0.0 else 1.0 - float(errors.squares) / spread


def _flat_as(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The mask in the order of a buffer's array, which the update has flattened or not."""
    return (valid if values.shape == valid.shape else valid.swapaxes(0, 1)).reshape(-1)


def _plain(episode: Mapping[str, Any]) -> dict[str, Any]:
    """What monitors note of an episode; what a user's wrapper may add beside numbers and text stays on its rank."""
    kinds = (bool, int, float, str, np.generic)
    return {str(name): value for name, value in episode.items() if isinstance(value, kinds)}


def _in_turn(lists: list[list[Any]]) -> list[Any]:
    """One after the other from each rank, as if all had been one: where a window is short, no rank fills it alone."""
    placed = [
        ((index + 1) / len(entries), rank, entry)
        for rank, entries in enumerate(lists)
        for index, entry in enumerate(entries)
    ]
    return [entry for _, _, entry in sorted(placed, key=lambda place: place[:2])]
