"""What finished episodes brought, kept on the device and brought to the host once a rollout."""

from __future__ import annotations

from collections.abc import Mapping

import torch as th

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN

SUCCESS = "is_success"
_NAMES = (EPISODE_RETURN, EPISODE_LENGTH, SUCCESS)


class EpisodeRows:
    """
    Return and length of each environment's episode so far, at every step of a rollout.

    :param n_steps: T
    :param n_envs: N
    :param kept: episodes that are brought to the host at most, those that ended last
    :param device: where the rows live
    """

    def __init__(self, n_steps: int, n_envs: int, kept: int, device: th.device) -> None:
        self.kept = min(kept, n_steps * n_envs)
        self._done = th.zeros(n_steps, n_envs, dtype=th.bool, device=device)
        self._rows: dict[str, th.Tensor] = {}

    def note(self, t: int, stats: Mapping[str, th.Tensor], done: th.Tensor) -> None:
        """
        :param t: step of the rollout
        :param stats: figures of the step by name, each [N]
        :param done: which episodes ended in it [N]
        """
        self._done[t].copy_(done)
        for name in _NAMES:
            if name in stats:
                if name not in self._rows:
                    self._rows[name] = th.zeros(self._done.shape, dtype=th.float64, device=done.device)
                self._rows[name][t].copy_(stats[name])

    @property
    def names(self) -> list[str]:
        """:return: which figures there are, in the order of :meth:`last`"""
        return [name for name in _NAMES if name in self._rows]

    def last(self) -> th.Tensor:
        """
        The last episodes that ended, without asking how many there are.

        :return: how many are told, then of each figure one number an episode, in the order in which they ended, zeros
            behind them, float64 [1 + figures * kept]
        """
        done = self._done.flatten()
        rank = done.cumsum(0)
        count = rank[-1:]
        # Everything that is not among the last goes into a place of its own, which is cut off.
        skipped = (count - self.kept).clamp(min=0)
        place = th.where(done & (rank > skipped), rank - 1 - skipped, self.kept)
        told = [(count - skipped).double()]
        for name in self.names:
            column = th.zeros(self.kept + 1, dtype=th.float64, device=done.device)
            told.append(column.scatter_(0, place, self._rows[name].flatten())[: self.kept])
        return th.cat(told)
