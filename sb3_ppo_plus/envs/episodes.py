"""Which episodes count, where agents come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.buffers import INVALID_ROW


def agents_come_and_go(env: VecEnv) -> bool:
    """
    :param env: vectorized environment
    :return: whether rows may stay empty for as long as they like, so that nobody should wait for an episode in each
    """
    return bool(getattr(getattr(env, "unwrapped", env), "agents_come_and_go", False))


class FirstEpisodes:
    """
    The first n episodes to begin, whenever they end.

    Taking the first n that end would prefer short ones, and taking as many of each row would wait for rows in which
    nobody lives.

    :param n: number of episodes
    :param n_rows: number of rows
    """

    def __init__(self, n: int, n_rows: int) -> None:
        self.n = n
        self._begun = 0
        self._runs, self._counts = np.zeros(n_rows, bool), np.zeros(n_rows, bool)
        #: ``info["episode"]`` of those that ended
        self.ended: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        """:return: whether all have ended"""
        return len(self.ended) >= self.n

    def note(self, dones: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> None:
        """
        :param dones: rows whose episode ended [N]
        :param infos: of the same step [N]
        """
        for row, info in enumerate(infos):
            if not self._runs[row] and not info.get(INVALID_ROW, False):
                self._runs[row] = True
                self._counts[row] = self._begun < self.n
                self._begun += int(self._counts[row])
            if not dones[row]:
                continue
            if self._counts[row] and "episode" in info:
                self.ended.append(info["episode"])
            elif self._counts[row]:
                self._begun -= 1  # it was lost with its game; the next one to begin takes its place
            self._runs[row] = self._counts[row] = False
