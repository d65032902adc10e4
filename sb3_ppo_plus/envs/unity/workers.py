"""Several games side by side: started, asked in turns, and replaced when one is lost."""

from __future__ import annotations

import logging
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sb3_ppo_plus.envs.unity.channels import Channels
from sb3_ppo_plus.envs.unity.communicator import port_is_free
from sb3_ppo_plus.envs.unity.errors import GameLost, UnityError
from sb3_ppo_plus.envs.unity.game import Game, Launch
from sb3_ppo_plus.envs.unity.mailbox import Mailbox
from sb3_ppo_plus.envs.unity.process import Watchdog

logger = logging.getLogger(__name__)

EDITOR_PORT = 5004
# Seconds that a game gets to end by itself when it is replaced: it crashed, or it hangs.
_HASTE = 0.5


class RestartLimits(NamedTuple):
    """
    How often a lost game is replaced, each worker counted by itself; ML-Agents' limits are the defaults.

    :param lifetime: restarts in all, 0 for none, -1 for no limit
    :param n: restarts within ``period``, -1 for no limit
    :param period: in seconds
    """

    lifetime: int = 10
    n: int = 1
    period: float = 60.0


class Workers:
    """
    The games of one environment.

    :param launch: how they are started
    :param n: how many there are
    :param base_port: port of the first, the others count up; None for the editor's port, or any that are free
    :param seed: of the first, the others count up
    :param make_channels: makes the side channels of a worker's game
    :param limits: how often a lost one is replaced
    """

    def __init__(
        self,
        launch: Launch,
        n: int,
        base_port: int | None,
        seed: int,
        make_channels: Callable[[int], Channels],
        limits: RestartLimits,
    ) -> None:
        self.launch, self.limits = launch, limits
        self._base_port, self._seed, self._make_channels = base_port, seed, make_channels
        self._mailbox = Mailbox()
        self._watchdog = Watchdog()
        self._restarts: list[deque[float]] = [deque() for _ in range(n)]
        #: restarts of each worker so far
        self.n_restarts = [0] * n
        self.games: list[Game] = []
        # At the end of the interpreter too, in whatever way the program leaves it.
        self._finalizer = weakref.finalize(self, _close, self.games, self._watchdog)
        try:
            for worker in range(n):
                self.games.append(self._start(worker))
            self._mailbox.handshake(self.games)
        except BaseException as error:
            self.abandon(error)
            raise

    def _start(self, worker: int) -> Game:
        seed = self._seed + worker + len(self._restarts) * self.n_restarts[worker]
        port = self._port(worker)
        return Game(self.launch, worker, port, seed, self._mailbox, self._make_channels(worker), self._watchdog)

    def _port(self, worker: int) -> int:
        if self._base_port is not None:
            return self._base_port + worker
        if self.launch.program is None:
            return EDITOR_PORT
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port_is_free(port):
                return port

    def reset(self) -> None:
        """Answer all games: begin anew. Whoever was interrupted in the middle of a step is waited for."""
        busy = {game for game in self.games if game.busy}
        if busy:
            self.gather("step", lambda game, output: True, lambda worker: None, busy)
        for game in self.games:
            if not game.busy:  # one that was just replaced begins anyway
                game.reset()

    def gather(
        self,
        doing: str,
        done: Callable[[Game, object], bool],
        lost: Callable[[int], None],
        games: Iterable[Game] | None = None,
    ) -> None:
        """
        Wait until every game has come as far as it should; those that are faster wait for nobody.

        A game that is lost is replaced, and the new one is reset.

        :param doing: what the games were to do
        :param done: takes a game and its message; answers the game and returns False, or returns True to let it wait
        :param lost: told which worker's game was lost, once the new one is there
        :param games: who is waited for, None for all
        :raises UnityError: when a game is lost too often, or does what cannot be
        """
        if not self._finalizer.alive:
            raise UnityError("the games were closed; make a new environment")
        waiting = set(self.games if games is None else games)
        while waiting:
            try:
                game, output = self._mailbox.receive(waiting, doing)
            except GameLost as loss:
                waiting.remove(loss.game)
                waiting.add(self._replace(loss))
                lost(loss.game.worker)
                continue
            if done(game, output):
                waiting.remove(game)

    def _replace(self, loss: GameLost) -> Game:
        """Start another game in place of one that was lost, and ask it to begin."""
        worker = loss.game.worker
        while True:
            self.games[worker].close(_HASTE)
            self._count_restart(worker, loss)
            logger.warning("%s; it is started again (restart %d)", loss, self.n_restarts[worker])
            try:
                self.games[worker] = game = self._start(worker)
                self._mailbox.handshake([game])
            except GameLost as again:
                loss = again
                continue
            game.reset()
            return game

    def _count_restart(self, worker: int, loss: GameLost) -> None:
        now, recent = time.monotonic(), self._restarts[worker]
        while recent and now - recent[0] > self.limits.period:
            recent.popleft()
        lifetime, n, period = self.limits
        if self.launch.program is None:
            raise UnityError(f"{loss}; press Play again and make a new environment") from loss
        if 0 <= lifetime <= self.n_restarts[worker]:
            raise UnityError(f"{loss}; worker {worker} was restarted {lifetime} times (max_restarts)") from loss
        if 0 <= n <= len(recent):
            raise UnityError(
                f"{loss}; worker {worker} was restarted {len(recent)} times within {period:g} seconds "
                "(restart_rate=(n, seconds))"
            ) from loss
        recent.append(now)
        self.n_restarts[worker] += 1

    def abandon(self, error: BaseException) -> None:
        """
        End all games after an error; one that is lost anyway is not waited for.

        :param error: what happened
        """
        cause = error if isinstance(error, GameLost) else error.__cause__
        if isinstance(cause, GameLost):
            cause.game.close(_HASTE)
        self.close()

    def close(self) -> None:
        """End all games; doing it twice is fine."""
        self._finalizer()


def _close(games: Iterable[Game], watchdog: Watchdog) -> None:
    # All are told before the first is waited for.
    games = list(games)
    for game in games:
        game.hang_up()
    for game in games:
        game.close()
    watchdog.close()
