"""
The process of one worker: ``python -m sb3_ppo_plus.tuning.process JSON``, which the supervisor starts.

A trial that takes its process down (a simulator that crashes, memory that runs out) so costs a worker, not the study.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.lease import identify
from sb3_ppo_plus.tuning.study import open_study
from sb3_ppo_plus.tuning.worker import Worker, WorkerOptions

logger = logging.getLogger(__name__)

EXIT_USAGE = 2
# Seconds within which two signals are one request.
_SAME_REQUEST = 3.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """
    Whether somebody asked this process to stop: by a signal, or by the death of its parent.

    A later signal ends the process at once; another worker then goes on from the latest checkpoint. One that comes
    right after the first is the same request: a cluster signals every process, and the supervisor passes it on too.

    :param parent: process id of the parent, None not to look after it
    """

    def __init__(self, parent: int | None) -> None:
        self._event = threading.Event()
        self._parent = parent
        self._first = 0.0

    def listen(self) -> None:
        """Take the signals of this process."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        """
        :return: whether to stop
        """
        orphaned = self._parent is not None and os.getppid() != self._parent
        return orphaned or self._event.is_set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._event.is_set() and time.monotonic() - self._first > _SAME_REQUEST:
            os._exit(128 + number)
        if not self._event.is_set():
            self._first = time.monotonic()
        self._event.set()


def work(options: dict[str, Any], asked_to_stop: Callable[[], bool]) -> int:
    """
    Open a study and work on it.

    :param options: ``url``, ``study``, ``worker``, ``seconds`` and the fields of ``WorkerOptions``
    :param asked_to_stop: whether to end
    :return: number of trials that were brought to an end
    """
    options = dict(options)
    opened = open_study(options.pop("url"), options.pop("study"))
    identity = identify(options.pop("worker"))
    stays, seconds = options.pop("stays", False), options.pop("seconds", None)
    deadline = None if seconds is None else time.monotonic() + seconds
    settings = WorkerOptions(**{**options, "folder": Path(options["folder"]), "deadline": deadline})
    return Worker(opened, identity, settings, asked_to_stop, stays).run()


def work_until_told(options: dict[str, Any]) -> int:
    """
    Work in a process that somebody else started, such as a job of submitit.

    :param options: as for ``work``
    :return: number of trials that were brought to an end
    """
    sys.path.append(str(Path.cwd()))
    request = StopRequest(parent=None)
    request.listen()
    return work(options, request)


def main() -> int:
    """
    :return: exit code: 0 nothing is left to do, or asked to stop; 2 the study cannot be opened; 1 anything else
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.path.append(str(Path.cwd()))  # as the command line does, for environments of one's own
    options = json.loads(sys.argv[1])
    request = StopRequest(options.pop("parent", None))
    request.listen()
    try:
        work(options, request)
    except InvalidArgument as error:
        logger.error("%s", error)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
