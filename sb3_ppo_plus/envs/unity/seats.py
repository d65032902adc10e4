"""The rows of one behavior in all games."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.game import Actions, Game
from sb3_ppo_plus.envs.unity.others import family
from sb3_ppo_plus.envs.unity.records import Report
from sb3_ppo_plus.envs.unity.slots import Rows, Slots
from sb3_ppo_plus.envs.unity.specs import Behavior


class Seats:
    """
    Where the agents of a behavior that is trained sit.

    :param wanted: name of the behavior, with or without its team; None when there is one only
    :param n_games: number of games
    """

    behavior: Behavior
    rows: Rows

    def __init__(self, wanted: str | None, n_games: int) -> None:
        self.wanted = wanted
        self.slots: list[Slots] = []
        self._alive: list[set[int]] = [set() for _ in range(n_games)]
        self._most = [0] * n_games

    def __str__(self) -> str:
        return "any behavior" if self.wanted is None else f"behavior {self.wanted!r}"

    def names(self, game: Game) -> list[str]:
        """
        :param game: a game
        :return: behaviors of it that sit here, as far as it has shown them; more than one where teams share a policy
        :raises UnityError: when it is not clear which
        """
        if self.wanted is None:
            if len(game.behaviors) > 1:
                raise UnityError(
                    f"{game} has several behaviors, {', '.join(sorted(game.behaviors))}; say which one is trained "
                    "(behavior=...)"
                )
            return list(game.behaviors)
        if self.wanted in game.behaviors:
            return [self.wanted]
        return sorted(name for name in game.behaviors if family(name) == self.wanted)

    def set_up(self, games: list[Game], n_agents: int | None) -> None:
        """
        Make the rows.

        :param games: all games
        :param n_agents: rows of each, None for the most agents that were seen at once
        """
        n = n_agents or max(self._most)
        self.behavior = games[0].behaviors[self.names(games[0])[0]]
        images = np.float32 if games[0].launch.float_images else np.uint8
        shapes = [
            (sensor.shape, np.dtype(images if sensor.is_image else np.float32)) for sensor in self.behavior.sensors
        ]
        self.rows = Rows(shapes, sum(self.behavior.branches), n * len(games))
        self.slots = [Slots(self.rows, n * worker, n) for worker in range(len(games))]

    def take_in(self, game: Game, reports: Mapping[str, Report]) -> bool:
        """
        Take in what an exchange says.

        :param game: the game that says it
        :param reports: by behavior
        :return: whether anybody here asks for an action
        """
        mine = {name: reports[name] for name in self.names(game)}
        if self.slots:
            self.slots[game.worker].receive(mine)
        else:
            self._count(game.worker, mine)
        return any(len(report.decisions) for report in mine.values())

    def _count(self, worker: int, reports: Mapping[str, Report]) -> None:
        alive = self._alive[worker]
        for report in reports.values():
            alive.difference_update(report.ends.ids.tolist())
            alive.update(report.decisions.ids.tolist())
        self._most[worker] = max(self._most[worker], len(alive))

    def fill_in(self, answer: Actions, game: Game, name: str, chosen: Actions) -> None:
        """
        Put the rows' actions where their agents' are.

        :param answer: actions of all who ask, in the order of the game
        :param game: the game
        :param name: their behavior
        :param chosen: actions of all rows
        """
        seats = self.slots[game.worker].asking.get(name)
        if seats is None:  # who asked before the first reset has no row yet
            return
        seated = seats >= 0
        for part, actions in zip(answer, chosen, strict=True):
            part[seated] = actions[seats[seated]]

    @property
    def n_without_row(self) -> int:
        """:return: agents that play without a row now"""
        return sum(len(slots.without_row) for slots in self.slots)

    def enough(self) -> int:
        """:return: rows of a game that would do for all agents that there are"""
        return self.slots[0].n + max(len(slots.without_row) for slots in self.slots)
