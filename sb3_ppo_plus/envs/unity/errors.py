"""What can go wrong with a game."""

from __future__ import annotations

from typing import Any


class UnityError(RuntimeError):
    """A game cannot be used; the message says which one, why, and what to do."""


class GameLost(UnityError):
    """
    A game that ran, or was to start, is gone: it crashed, quit or does not answer. Another may take its place.

    :param message: what happened
    :param game: the game
    """

    def __init__(self, message: str, game: Any) -> None:
        super().__init__(message)
        self.game = game
