"""How often a worker may be started again."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class RestartLimits(NamedTuple):
    """
    How often a lost worker is replaced, each counted by itself.

    :param restarts: in all, 0 for none, -1 for no limit
    :param per_interval: within ``interval``, -1 for no limit
    :param interval: in seconds
    """

    restarts: int = 10
    per_interval: int = 1
    interval: float = 60.0


class Budget:
    """
    The restarts of one worker.

    :param limits: how many there may be
    """

    def __init__(self, limits: RestartLimits) -> None:
        self.limits = limits
        #: restarts so far
        self.spent = 0
        self._recent: deque[float] = deque()

    def spend(self, now: float) -> str | None:
        """
        Count one more restart, if it may be.

        :param now: seconds on a clock that never goes back
        :return: None, or why it may not be
        """
        restarts, per_interval, interval = self.limits
        while self._recent and now - self._recent[0] > interval:
            self._recent.popleft()
        if 0 <= restarts <= self.spent:
            return f"its worker was started again {self.spent} times, and restarts={restarts}"
        if 0 <= per_interval <= len(self._recent):
            return (
                f"its worker was started again {self.spent} times, {len(self._recent)} of them within "
                f"{interval:g} seconds, and restarts_per_interval={per_interval}"
            )
        self._recent.append(now)
        self.spent += 1
        return None
