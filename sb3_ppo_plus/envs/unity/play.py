"""One step of all games: who asked is answered, whoever has ended or asks anew is put into its row."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.game import Actions, Game
from sb3_ppo_plus.envs.unity.others import Others, family, zeros
from sb3_ppo_plus.envs.unity.records import Report
from sb3_ppo_plus.envs.unity.slots import Rows, Slots
from sb3_ppo_plus.envs.unity.specs import Behavior
from sb3_ppo_plus.envs.unity.workers import Workers

logger = logging.getLogger(__name__)

# Exchanges at the start in which agents are counted: those with slow rhythms do not ask at once.
_COUNTED_EXCHANGES = 20


class Play:
    """
    The behavior that is trained, and the rows of its agents.

    :param workers: the games, each waiting for a reset
    :param behavior: name of the behavior, with or without its team; None when there is one only
    :param others: who plays the others
    :param seed: of random players
    :param n_agents: rows of each game, None to count
    """

    def __init__(self, workers: Workers, behavior: str | None, others: Any, seed: int, n_agents: int | None) -> None:
        self._workers, self._wanted = workers, behavior
        floats = workers.launch.float_images
        self._others = [Others(others, seed + worker, floats) for worker in range(len(workers.games))]
        self._reports: list[dict[str, Report]] = [{} for _ in workers.games]
        self._slots: list[Slots] = []
        self._alive: list[set[int]] = [set() for _ in workers.games]
        self._most = [0] * len(workers.games)
        self._actions: Actions | None = None
        self._asked_for = 0.0
        self._warned = False
        self.behavior: Behavior = self._find_behavior()
        n_rows = n_agents or self._count_agents()
        shapes = self._shapes()
        self.rows = Rows(shapes, sum(self.behavior.branches), n_rows * len(workers.games))
        self._slots = [Slots(self.rows, n_rows * worker, n_rows) for worker in range(len(workers.games))]

    def _shapes(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        images = np.float32 if self._workers.launch.float_images else np.uint8
        return [(sensor.shape, np.dtype(images if sensor.is_image else np.float32)) for sensor in self.behavior.sensors]

    @property
    def n_without_row(self) -> int:
        """:return: agents that play without a row now"""
        return sum(len(slots.without_row) for slots in self._slots)

    # ------------------------------------------------ at the start

    def _find_behavior(self) -> Behavior:
        """Reset all games, and wait until an agent of the behavior asks in each of them."""
        self._workers.reset()
        self._gather("reset")
        names = self._trained(self._workers.games[0])
        return self._workers.games[0].behaviors[names[0]]

    def _trained(self, game: Game) -> list[str]:
        """Names of the behaviors that are trained, as far as the game has shown them."""
        if self._wanted is None:
            if len(game.behaviors) > 1:
                raise UnityError(
                    f"{game} has several behaviors, {', '.join(sorted(game.behaviors))}; say which one is trained "
                    "(behavior=...)"
                )
            return list(game.behaviors)
        if self._wanted in game.behaviors:
            return [self._wanted]
        return sorted(name for name in game.behaviors if family(name) == self._wanted)

    def _count_agents(self) -> int:
        """The most agents of the behavior that play at once in one game, over some exchanges."""
        for _ in range(_COUNTED_EXCHANGES):
            self._continue()
        return max(self._most)

    def _count(self, worker: int, mine: Iterable[Report]) -> None:
        for report in mine:
            self._alive[worker] -= set(report.ends.ids.tolist())
            self._alive[worker] |= set(report.decisions.ids.tolist())
        self._most[worker] = max(self._most[worker], len(self._alive[worker]))

    # ------------------------------------------------ steps

    def reset(self) -> None:
        """Reset all games, and wait until each has an agent that asks."""
        for slots in self._slots:
            slots.let_go()
        self._workers.reset()
        self._gather("reset")

    def step(self, actions: Actions) -> None:
        """
        Answer all agents that ask, and wait until each game has one again.

        :param actions: one a row
        """
        self._actions = actions
        self._continue()

    def _continue(self) -> None:
        for game in self._workers.games:
            game.step(self._answers(game))
        self._gather("step")

    def _gather(self, doing: str) -> None:
        self._asked_for = time.monotonic()
        self._workers.gather(doing, self._take_in, self._lose)
        if not self._warned and self._slots and self.n_without_row:
            self._warned = True
            logger.warning(
                "%d agents play without a row and do nothing; give n_agents=%d or more",
                self.n_without_row,
                self._slots[0].n + max(len(slots.without_row) for slots in self._slots),
            )

    def _take_in(self, game: Game, output: Any) -> bool:
        """Read a game's message; go on with it at once when nobody in it asks who is trained."""
        reports = self._reports[game.worker] = game.read(output)
        mine = {name: reports[name] for name in self._trained(game)}
        if self._slots:
            self._slots[game.worker].receive(mine)
        else:
            self._count(game.worker, mine.values())
        if any(len(report.decisions) for report in mine.values()):
            return True
        waited = time.monotonic() - self._asked_for
        if waited > self._workers.launch.timeout:
            wanted = "any behavior" if self._wanted is None else f"behavior {self._wanted!r}"
            known = ", ".join(sorted(game.behaviors)) or "none"
            raise UnityError(
                f"{game}: no agent of {wanted} asked for an action within {waited:.0f} seconds (timeout); behaviors "
                f"that were seen: {known}"
            )
        game.step(self._answers(game))
        return False

    def _answers(self, game: Game) -> dict[str, Actions]:
        """Actions for everybody who asks in a game, in the order of the game."""
        trained = self._trained(game)
        answers = {}
        for name, report in self._reports[game.worker].items():
            if not len(report.decisions):
                continue
            behavior = game.behaviors[name]
            if name not in trained:
                answers[name] = self._others[game.worker].act(behavior, report.decisions)
                continue
            answers[name] = zeros(behavior, report.decisions)
            if self._slots and self._actions is not None:
                seats = self._slots[game.worker].asking[name]
                seated = seats >= 0
                for part, chosen in zip(answers[name], self._actions, strict=True):
                    part[seated] = chosen[seats[seated]]
        return answers

    def _lose(self, worker: int) -> None:
        self._reports[worker] = {}
        if self._slots:
            self._slots[worker].lose()
