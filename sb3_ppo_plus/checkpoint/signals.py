"""Signals that ask a training to end: SIGTERM, SIGUSR1 (clusters send it before a time limit) and Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

#: seconds after which a training that asks for no signal, in an evaluation or a long update, is interrupted there
PATIENCE = 4.0
#: exit code of a process that a signal ended is this plus the signal's number
SIGNALLED = 128


class Preempted(SystemExit):
    """
    A signal ended the training, and its checkpoint was written; uncaught, the process exits with 128 + the signal.

    :param number: the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(SIGNALLED + number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"the training was ended by {self.signal.name}"


class SignalWatch:
    """
    While it is open, the first signal is remembered and the second ends the process at once.

    Handlers are installed in the main thread only, and were what they are again when it is closed. A worker process
    that is started meanwhile has its own.

    :param patience: seconds until :meth:`check` must have been called; then the main thread is interrupted wherever it
        is; 0 never interrupts it
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._owner = 0

    def open(self) -> None:
        """Install the handlers."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._owner = os.getpid()
        for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
            number = getattr(signal, name, None)
            # What the parent process had ignored (nohup, a background job) stays ignored.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)

    def close(self) -> None:
        """Put back the handlers that were there."""
        if not self._before or threading.current_thread() is not threading.main_thread():
            return
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """
        Ask whether a signal came.

        :raises KeyboardInterrupt: after Ctrl-C
        :raises Preempted: after another signal
        """
        if self.received is not None:
            self._interrupt()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner or self.received is not None:
            # A second signal, or a process that was forked from this one.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if hasattr(signal, "setitimer"):
            self._before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._ring))
            signal.setitimer(signal.ITIMER_REAL, self.patience)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._interrupt()

    def _interrupt(self) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert self.received is not None
        raise interruption(self.received)


def interruption(number: int) -> BaseException:
    """
    :param number: a signal
    :return: what is raised after it
    """
    return KeyboardInterrupt() if number == signal.SIGINT else Preempted(number)
