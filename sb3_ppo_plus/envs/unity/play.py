"""One step of all games: who asked is answered, whoever has ended or asks anew is put into its row."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.game import Actions, Game
from sb3_ppo_plus.envs.unity.others import Others, zeros
from sb3_ppo_plus.envs.unity.records import Report
from sb3_ppo_plus.envs.unity.seats import Seats
from sb3_ppo_plus.envs.unity.workers import Workers

logger = logging.getLogger(__name__)

# Exchanges at the start in which agents are counted: those with slow rhythms do not ask at once.
_COUNTED_EXCHANGES = 20


class Play:
    """
    All games, and who sits in them.

    :param workers: the games, each waiting for a reset
    :param wanted: behaviors that are trained, by name with or without team; None for the only one
    :param others: who plays the others
    :param seed: of random players
    :param n_agents: rows of each game, None to count
    """

    def __init__(
        self, workers: Workers, wanted: Sequence[str | None], others: Any, seed: int, n_agents: int | None
    ) -> None:
        self._workers = workers
        floats, n_games = workers.launch.float_images, len(workers.games)
        self._others = [Others(others, seed + worker, floats) for worker in range(n_games)]
        self._reports: list[dict[str, Report]] = [{} for _ in range(n_games)]
        self.seats = [Seats(name, n_games) for name in wanted]
        # Those whose agents are waited for, with the actions of their rows; nothing is chosen yet.
        self._chosen: dict[Seats, Actions | None] = dict.fromkeys(self.seats)
        self._asked_for = 0.0
        self._warned = False
        self._find_behaviors()
        if n_agents is None:
            for _ in range(_COUNTED_EXCHANGES):
                self._continue()
        for seats in self.seats:
            seats.set_up(workers.games, n_agents)

    def _find_behaviors(self) -> None:
        """Reset all games, and wait until an agent of each behavior has asked in each of them."""
        self._workers.reset()
        self._gather("reset")
        begun = time.monotonic()
        while missing := [(s, g) for s in self.seats for g in self._workers.games if not s.names(g)]:
            if time.monotonic() - begun > self._workers.launch.timeout:
                raise self._unseen(*missing[0])
            self._continue()

    # ------------------------------------------------ steps

    def reset(self) -> None:
        """Reset all games, and wait until each has an agent that asks."""
        for seats in self.seats:
            for slots in seats.slots:
                slots.let_go()
        self._chosen = dict.fromkeys(self.seats)
        self._workers.reset()
        self._gather("reset")

    def step(self, chosen: Mapping[Seats, Actions]) -> None:
        """
        Answer all agents that ask, and wait until each game has one again.

        :param chosen: actions of the rows of some behaviors; agents of all others are played by others
        """
        self._chosen = dict(chosen)
        self._continue()

    def take_over(self, behavior: str, player: Any) -> None:
        """
        Give the agents of a behavior another player.

        :param behavior: its name
        :param player: what plays it whenever its rows are not stepped
        """
        for others in self._others:
            others.take_over(behavior, player)

    def _continue(self) -> None:
        for game in self._workers.games:
            game.step(self._answers(game))
        self._gather("step")

    def _gather(self, doing: str) -> None:
        self._asked_for = time.monotonic()
        self._workers.gather(doing, self._take_in, self._lose)
        lacking = [seats for seats in self.seats if seats.n_without_row]
        if lacking and not self._warned:
            self._warned = True
            n, enough = lacking[0].n_without_row, lacking[0].enough()
            logger.warning("%d agents play without a row and do nothing; give n_agents=%d or more", n, enough)

    def _take_in(self, game: Game, output: Any) -> bool:
        """Read a game's message; go on with it at once when nobody in it asks who is waited for."""
        reports = self._reports[game.worker] = game.read(output)
        asked = [seats.take_in(game, reports) for seats in self.seats]
        if any(asks for seats, asks in zip(self.seats, asked, strict=True) if seats in self._chosen):
            return True
        if time.monotonic() - self._asked_for > self._workers.launch.timeout:
            raise self._unseen(next(iter(self._chosen)), game)
        game.step(self._answers(game))
        return False

    def _unseen(self, seats: Seats, game: Game) -> UnityError:
        known = ", ".join(sorted(game.behaviors)) or "none"
        return UnityError(
            f"{game}: no agent of {seats} asked for an action within {self._workers.launch.timeout:g} seconds "
            f"(timeout); behaviors that were seen: {known}"
        )

    def _answers(self, game: Game) -> dict[str, Actions]:
        """Actions for everybody who asks in a game, in the order of the game."""
        trained = {name: seats for seats in self.seats if seats in self._chosen for name in seats.names(game)}
        answers = {}
        for name, report in self._reports[game.worker].items():
            if not len(report.decisions):
                continue
            behavior = game.behaviors[name]
            if name not in trained:
                answers[name] = self._others[game.worker].act(behavior, report.decisions)
                continue
            answers[name] = zeros(behavior, report.decisions)
            chosen = self._chosen[trained[name]]
            if chosen is not None:
                trained[name].fill_in(answers[name], game, name, chosen)
        return answers

    def _lose(self, worker: int) -> None:
        self._reports[worker] = {}
        for seats in self.seats:
            if seats.slots:
                seats.slots[worker].lose()
