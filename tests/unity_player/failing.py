"""Ways in which a game fails."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path


class Quit(Exception):
    """The game is to leave in good order."""


class Trouble:
    """
    Fails where the options say so.

    :param options: command line options
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._exchanges = 0
        self._fails = True
        if options.only_first is not None:
            marker = Path(options.only_first)
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                self._fails = False

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Options of this file."""
        phases = ("handshake", "reset", "step", "close")
        parser.add_argument("--crash-after", type=int, metavar="EXCHANGES")
        parser.add_argument("--quit-after", type=int, metavar="EXCHANGES")
        parser.add_argument("--hang-after", type=int, metavar="EXCHANGES")
        parser.add_argument("--crash-in", choices=phases)
        parser.add_argument("--hang-in", choices=phases)
        parser.add_argument("--slow", type=float, default=0.0, metavar="SECONDS", help="before each exchange")
        parser.add_argument("--only-first", metavar="FILE", help="fail once; the file says that it has been")

    def __call__(self, phase: str) -> None:
        """Called before each exchange, and when the game is told to close."""
        time.sleep(self.options.slow)
        self._exchanges += phase in ("reset", "step")
        if not self._fails:
            return
        if phase == self.options.crash_in or self._exchanges == self.options.crash_after:
            print("NullReferenceException: the ball is missing", file=sys.stderr, flush=True)
            os._exit(1)
        if self._exchanges == self.options.quit_after:
            raise Quit
        if phase == self.options.hang_in or self._exchanges == self.options.hang_after:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1.0)
