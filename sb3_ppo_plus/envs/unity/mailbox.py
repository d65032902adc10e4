"""Where the messages of all games arrive, so that whoever is ready first is answered first."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.unity.game import Game

# How often a waiting trainer looks whether the games' processes still run, in seconds.
_POLL = 0.1


class Mailbox:
    """Messages of games, in the order in which they came."""

    def __init__(self) -> None:
        #: filled by the communicators' threads with (game, message); no message means that the game hung up
        self.inbox: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._kept: list[tuple[Any, Any]] = []

    def receive(self, waiting: set[Game], doing: str) -> tuple[Game, Any]:
        """
        Wait for the next message of one of some games; those of others are kept for later.

        :param waiting: games that owe one
        :param doing: what they were to do
        :return: the game and its ``UnityOutputProto``
        :raises GameLost: when one of them died, quit or let the time pass; its ``game`` says which
        """
        for index, (game, _) in enumerate(self._kept):
            if game in waiting:
                return self._checked(*self._kept.pop(index), doing)
        while True:
            try:
                game, output = self.inbox.get(timeout=_POLL)
            except queue.Empty:
                for game in waiting:
                    game.check(doing)
                continue
            if game in waiting:
                return self._checked(game, output, doing)
            self._kept = [entry for entry in [*self._kept, (game, output)] if not entry[0].closed]

    @staticmethod
    def _checked(game: Game, output: Any, doing: str) -> tuple[Game, Any]:
        if output is None:
            game.mourn(doing)
        game.busy = False
        return game, output

    def handshake(self, games: Iterable[Game]) -> None:
        """
        Wait for games to start, all at once; afterwards each waits for a reset.

        :param games: games that were started
        :raises GameLost: when one dies, or does not answer in time
        :raises UnityError: when one speaks another language
        """
        greeting = set(games)
        ready = set(greeting)
        while ready:
            game, output = self.receive(ready, "start")
            if game in greeting:
                greeting.remove(game)
                game.welcome(output)
            else:
                ready.remove(game)
                game.learn_behaviors(output)
