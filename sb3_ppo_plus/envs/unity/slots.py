"""
Which agent sits in which row, and what a step of the rows was made of.

A game reports agents as it likes: in any order, at rhythms of their own, with new ones and without old ones. The rules
(shared with ML-Agents' own trainer) that turn this into transitions:

- a transition opens when an agent that asked is answered, and closes with its next record: another question or its end;
- what closes it brings its reward; a question that closes nothing (the first of an episode, or after a reset) brings a
  reward that belongs to no action, and it is dropped;
- an end that closes nothing is an episode without a decision, and is dropped too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sb3_ppo_plus.envs.unity.records import Records, Report

_NOBODY = -1


class Slots:
    """
    The rows of one game, ``first`` to ``first + n``, in arrays that all games share.

    :param rows: the shared arrays
    :param first: first row
    :param n: number of rows
    """

    def __init__(self, rows: Rows, first: int, n: int) -> None:
        self.rows, self.first, self.n = rows, first, n
        self._slots: dict[int, int] = {}
        self._agents = [_NOBODY] * n
        # How long each slot has been without an episode, in records; the longest one is given away first.
        self._idle_since = list(range(n))
        self._clock = n
        #: by behavior, rows of the agents that ask, in their order; -1 for one without a row
        self.asking: dict[str, np.ndarray] = {}
        #: agents that found no row, ever
        self.without_row: set[int] = set()

    @property
    def here(self) -> slice:
        """:return: its rows"""
        return slice(self.first, self.first + self.n)

    def forget(self) -> None:
        """Begin anew with another game: nobody sits anywhere, nothing is open."""
        self._slots, self._agents = {}, [_NOBODY] * self.n
        self._idle_since = list(range(self.n))
        self._clock = self.n
        self.asking = {}
        self.let_go()

    def let_go(self) -> None:
        """Nothing is open any more: what was done before a reset of the game leads nowhere."""
        self.rows.open[self.here] = False
        self.rows.asks[self.here] = False

    def lose(self) -> int:
        """
        Close what is open without an outcome: the game is gone.

        :return: how many episodes that ended
        """
        rows, here = self.rows, self.here
        lost = np.flatnonzero(rows.open[here] & ~rows.ended[here]) + self.first
        rows.lost[lost] = rows.truncated[lost] = rows.ended[lost] = True
        rows.final.copy_rows(rows.obs, lost)
        self.forget()
        return len(lost)

    def receive(self, reports: Mapping[str, Report]) -> None:
        """
        Take in what an exchange says; ends come first, since an agent may end and ask anew in one exchange.

        :param reports: decisions and ends of the behaviors that sit here, by name
        """
        for report in reports.values():
            self._receive_ends(report.ends)
        taken = {agent for report in reports.values() for agent in report.decisions.ids.tolist()}
        self.asking = {name: self._receive_decisions(report.decisions, taken) for name, report in reports.items()}

    def _receive_ends(self, ends: Records) -> None:
        rows = self.rows
        self.without_row.difference_update(ends.ids.tolist())
        seats = np.array([self._slots.get(agent, _NOBODY) for agent in ends.ids.tolist()], np.int64)
        for row in seats[seats >= 0].tolist():
            self._clock += 1
            self._idle_since[row - self.first] = self._clock
        index = np.flatnonzero((seats >= 0) & rows.open[seats] & ~rows.ended[seats])
        rows.n_dropped += int((seats >= 0).sum()) - len(index)
        at = seats[index]
        rows.add_rewards(at, ends, index)
        rows.open[at], rows.ended[at] = False, True
        rows.truncated[at], rows.terminated[at] = ends.interrupted[index], ~ends.interrupted[index]
        rows.final.set_rows(at, ends.observations, index)
        rows.obs.set_rows(at, ends.observations, index)  # until the next episode shows something

    def _receive_decisions(self, decisions: Records, taken: set[int]) -> np.ndarray:
        rows = self.rows
        seats = np.array([self._seat(agent, taken) for agent in decisions.ids.tolist()], np.int64)
        index = np.flatnonzero(seats >= 0)
        closing = index[rows.open[seats[index]]]
        rows.add_rewards(seats[closing], decisions, closing)
        at = seats[index]
        rows.open[at], rows.asks[at] = False, True
        rows.obs.set_rows(at, decisions.observations, index)
        if decisions.masks is not None:
            rows.masks[at] = decisions.masks[index]
        return seats

    def _seat(self, agent: int, taken: set[int]) -> int:
        """The agent's row; a new agent gets the one that has been without an episode for longest, if there is one."""
        if agent in self._slots:
            self._idle_since[self._slots[agent] - self.first] = 0
            return self._slots[agent]
        free = [
            (since, slot)
            for slot, since in enumerate(self._idle_since)
            if self._agents[slot] == _NOBODY or (since and self._agents[slot] not in taken)
        ]
        if not free:
            self.without_row.add(agent)
            return _NOBODY
        # Rows that nobody ever had come first.
        _, slot = min(free, key=lambda entry: (self._agents[entry[1]] != _NOBODY, entry[0]))
        self._slots.pop(self._agents[slot], None)
        self._agents[slot], self._idle_since[slot] = agent, 0
        self._slots[agent] = self.first + slot
        self.without_row.discard(agent)
        return self.first + slot


class Parts:
    """
    Observations of all rows, an array a sensor.

    :param shapes: shape and dtype of each sensor
    :param n: number of rows
    """

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], np.dtype]], n: int) -> None:
        self.arrays = [np.zeros((n, *shape), dtype) for shape, dtype in shapes]

    def set_rows(self, at: np.ndarray, observations: Sequence[np.ndarray], index: np.ndarray) -> None:
        """
        :param at: rows to write
        :param observations: observations of some agents, an array a sensor
        :param index: which of these agents, as many as rows
        """
        for array, values in zip(self.arrays, observations, strict=True):
            array[at] = values[index]

    def copy_rows(self, other: Parts, at: np.ndarray) -> None:
        """
        :param other: where to copy from
        :param at: rows to copy
        """
        for array, values in zip(self.arrays, other.arrays, strict=True):
            array[at] = values[at]


class Rows:
    """
    The state of all rows of all games.

    :param shapes: shape and dtype of each sensor
    :param n_masks: width of the masks, 0 for none
    :param n: number of rows
    """

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], np.dtype]], n_masks: int, n: int) -> None:
        self.obs, self.final = Parts(shapes, n), Parts(shapes, n)
        self.masks = np.ones((n, n_masks), bool)
        #: asks for an action now; an action that was given leads somewhere
        self.asks, self.open = np.zeros(n, bool), np.zeros(n, bool)
        self.rewards, self.group_rewards = np.zeros(n, np.float32), np.zeros(n, np.float32)
        self.ended, self.terminated, self.truncated, self.lost = (np.zeros(n, bool) for _ in range(4))
        #: episodes without a decision, which nobody sees
        self.n_dropped = 0

    def start_step(self) -> None:
        """Answer all who ask, and begin to gather what comes of it."""
        self.open |= self.asks
        self.asks[:] = False
        self.masks[:] = True
        for array in (self.rewards, self.group_rewards, self.ended, self.terminated, self.truncated, self.lost):
            array[:] = 0

    def add_rewards(self, at: np.ndarray, records: Records, index: np.ndarray) -> None:
        """
        :param at: rows
        :param records: records of some agents
        :param index: which of these agents, as many as rows
        """
        self.rewards[at] += records.rewards[index]
        self.group_rewards[at] += records.group_rewards[index]
