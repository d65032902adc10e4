"""What went wrong on a device, counted there, and read by the host when it is ready instead of waited for."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch as th

logger = logging.getLogger(__name__)

# Steps between two looks: a copy of a few numbers, but a launch all the same.
_EVERY = 32
# Messages of each kind; all events are counted.
_MAX_WARNINGS = 10


class Tally:
    """
    Counts kinds of events on a device, and logs those that are new.

    On an accelerator a count arrives some steps after the event: the copy to the host is started, and looked at when it
    is there. On the processor it is looked at at once.

    :param messages: by kind: what happened and what to do, with ``%d`` for the number of times
    :param device: where events are counted
    """

    def __init__(self, messages: Mapping[str, str], device: th.device) -> None:
        self.messages = dict(messages)
        self.counts = th.zeros(len(self.messages), dtype=th.int64, device=device)
        self._waits = device.type == "cuda"
        self._seen = [0] * len(self.messages)
        self._told = [0] * len(self.messages)
        self._logged = [0] * len(self.messages)
        self._steps = 0
        self._arriving: th.cuda.Event | None = None
        if self._waits:
            self._host = th.zeros(len(self.messages), dtype=th.int64, pin_memory=True)

    def add(self, events: th.Tensor) -> None:
        """
        :param events: how often each kind happened in this step [len(messages)]
        """
        self.counts += events
        self._steps += 1
        if not self._waits:
            self._take(self.counts.tolist())
        elif self._arriving is not None:
            if self._arriving.query():
                self._arriving = None
                self._take(self._host.tolist())
        elif self._steps % _EVERY == 0:
            self._host.copy_(self.counts, non_blocking=True)
            self._arriving = th.cuda.Event()
            self._arriving.record()

    def read(self) -> dict[str, int]:
        """
        Wait for the device and give all counts.

        :return: number of events by kind
        """
        self._take(self.counts.tolist())
        return dict(zip(self.messages, self._seen, strict=True))

    def take_new(self) -> dict[str, int]:
        """
        :return: by kind, events that have arrived here since the last call; nothing where there were none
        """
        new = {name: self._seen[i] - self._logged[i] for i, name in enumerate(self.messages)}
        self._logged = list(self._seen)
        return {name: count for name, count in new.items() if count}

    def restore(self, counts: Mapping[str, int]) -> None:
        """
        :param counts: what :meth:`read` gave
        """
        self._seen = [int(counts[name]) for name in self.messages]
        self._logged = list(self._seen)
        self._arriving = None
        self.counts.copy_(th.tensor(self._seen))

    def _take(self, counts: list[int]) -> None:
        for i, message in enumerate(self.messages.values()):
            if counts[i] > self._seen[i]:
                # A policy that has learned to break the physics does it at every step; the count goes on silently.
                level = logging.WARNING if self._told[i] < _MAX_WARNINGS else logging.DEBUG
                self._told[i] += 1
                logger.log(level, message + ", %d so far", counts[i] - self._seen[i], counts[i])
        self._seen = list(counts)
