"""A game's process: started, watched, and ended with its trainer, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from sb3_ppo_plus.envs.unity.errors import UnityError

# Seconds between asking a game to end and making it.
_GRACE = 2.0
# Lines of a dead game's output that are told.
_TOLD_LINES = 12

# Runs beside the trainer, and outlives it by a moment: a trainer that is killed runs no code of its own. It ends the
# process groups that are written to its input, "+pid" and "-pid", once that input ends. The standard library only.
_WATCHDOG = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
games = set()
for line in sys.stdin:
    (games.add if line[0] == "+" else games.discard)(int(line[1:]))
def signal_all(number):
    for pid in list(games):
        try:
            os.killpg(pid, number)
        except OSError:
            games.discard(pid)
for number in [0] * 20 + [signal.SIGTERM] + [0] * 10 + [signal.SIGKILL]:
    signal_all(number)
    if not games:
        break
    time.sleep(0.1)
"""


class Watchdog:
    """Ends the games that are left when this process is gone, killed for example. Where there are process groups."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        if hasattr(os, "killpg"):
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHDOG],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._finalizer = weakref.finalize(self, _end_watchdog, self._process)

    def note(self, pid: int, lives: bool) -> None:
        """
        :param pid: a game's process
        :param lives: whether it was started, or has ended
        """
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{'+' if lives else '-'}{pid}\n")
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it go; games that were not noted as ended are ended."""
        if self._process is not None:
            self._finalizer()


def _end_watchdog(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10.0)


class GameProcess:
    """
    The process of one game.

    :param program: what to start
    :param arguments: its arguments
    :param watchdog: who ends it should this process be killed
    :param show_output: whether its output goes to the terminal; otherwise the end of it is told when it dies
    :raises UnityError: when it cannot be started
    """

    def __init__(self, program: Path, arguments: Sequence[str], watchdog: Watchdog, show_output: bool = False) -> None:
        self._watchdog = watchdog
        self._output = None if show_output else tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                # Ctrl-C in the terminal is for the trainer, which then ends the game in order.
                start_new_session=True,
            )
        except OSError as error:
            raise UnityError(
                f"{program} cannot be started ({error}); give the path of a build for this platform, and see that it "
                "may be executed (chmod -R 755)"
            ) from error
        watchdog.note(self._process.pid, True)

    @property
    def pid(self) -> int:
        """:return: number of the process"""
        return self._process.pid

    def death(self) -> str | None:
        """:return: how it ended, with the end of its output; None while it runs"""
        code = self._process.poll()
        if code is None:
            return None
        how = "quit" if code == 0 else f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was killed by {signal.Signals(-code).name}"
        return how + self._last_words()

    def _last_words(self) -> str:
        if self._output is None:
            return ""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 8192))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return "; its last output:\n  " + "\n  ".join(lines[-_TOLD_LINES:]) if lines else ""

    def wait(self, seconds: float) -> bool:
        """
        :param seconds: how long to wait for its end
        :return: whether it has ended
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, seconds: float) -> None:
        """
        Wait until it ends by itself, and make it end when it does not.

        :param seconds: how long to wait
        """
        if not self.wait(seconds):
            self._signal(signal.SIGTERM)
            if not self.wait(_GRACE):
                self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                self._process.wait()
        elif hasattr(os, "killpg"):
            self._signal(signal.SIGKILL)  # what it may have started itself
        self._watchdog.note(self._process.pid, False)
        if self._output is not None:
            self._output.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
