"""Return and length of the episodes under way, and which of them end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch as th


class EpisodeClock:
    """
    Counts the episodes of n robots.

    :param n: number of robots
    :param limit: steps after which an episode is truncated, -1 for no limit
    """

    def __init__(self, n: int, limit: int) -> None:
        self.limit = limit
        self.lengths = np.zeros(n, np.int64)
        self.returns = np.zeros(n)
        self._never = np.zeros(n, bool)
        # Until then no episode can reach the limit, and nothing has to be compared.
        self._steps_to_limit: float = math.inf

    def tick(
        self, rewards: np.ndarray, terminated: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """
        Count a step.

        :param rewards: its rewards [n]
        :param terminated: True where the task ends the episode, None where it never does [n]
        :return: flags terminated and truncated [n], and which episodes ended, None when none did [n]
        """
        self.lengths = self.lengths + 1
        self.returns = self.returns + rewards
        self._steps_to_limit -= 1
        truncated = self._never
        if self._steps_to_limit <= 0:
            truncated = self.lengths >= self.limit
        elif terminated is None:
            return self._never, truncated, None
        terminated = self._never if terminated is None else terminated
        done = terminated | truncated
        return terminated, truncated, done if done.any() else None

    def restart(self, done: np.ndarray) -> None:
        """
        :param done: True where a new episode begins [n]
        """
        self.lengths = np.where(done, 0, self.lengths)
        self.returns = np.where(done, 0.0, self.returns)
        self._look_ahead()

    def start_late(self, shares: np.ndarray) -> None:
        """
        :param shares: share of the limit that has passed of the episodes under way, in [0, 1) [n]
        """
        self.lengths = (shares * self.limit).astype(np.int64)
        self._look_ahead()

    def state_dict(self) -> dict[str, th.Tensor]:
        """
        :return: lengths and returns so far
        """
        return {"lengths": th.tensor(self.lengths), "returns": th.tensor(self.returns)}

    def load_state_dict(self, state: Mapping[str, th.Tensor]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.lengths, self.returns = state["lengths"].numpy().copy(), state["returns"].numpy().copy()
        self._look_ahead()

    def _look_ahead(self) -> None:
        if self.limit > 0:
            self._steps_to_limit = self.limit - int(self.lengths.max())
