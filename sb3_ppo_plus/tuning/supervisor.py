"""Starts workers, watches them, starts others for those that die, and ends them all."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.process import EXIT_USAGE, SIGNALS
from sb3_ppo_plus.tuning.study import Opened

logger = logging.getLogger(__name__)

# Workers that may die in a row without a trial brought to an end in between.
MAX_DEATHS = 5
# Seconds that a worker has to leave its trial with a checkpoint.
PATIENCE = 60.0


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let what a cluster sends before it takes the machine away do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]


@dataclass
class Supervisor:
    """
    Worker processes of one study on this machine.

    :param opened: the study
    :param folder: folder of the study on this machine
    :param n_workers: processes at a time; one for each core is usual, since each uses one thread
    :param options: options of ``WorkerOptions`` as plain values, and ``seconds`` and ``stays``
    :param prefix: how its workers' names begin, empty for one that no other machine or call has
    """

    opened: Opened
    folder: Path
    n_workers: int
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    _children: list[_Child] = field(default_factory=list)
    _deaths: int = 0
    _ended: int = 0

    def run(self, on_look: Callable[[], bool], interval: float = 0.5) -> None:
        """
        Work until nothing is left to do.

        :param on_look: called at intervals; False ends the workers
        :param interval: seconds between looks
        :raises InvalidArgument: when workers cannot open the study, or die over and over
        :raises KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGUSR1, when all workers have left their trials
        """
        with _interruptible():
            self._run(on_look, interval)

    def _run(self, on_look: Callable[[], bool], interval: float) -> None:
        prefix = self.prefix or f"{socket.gethostname()}-{uuid.uuid4().hex[:4]}"
        self._ended = self._finished()
        try:
            for index in range(self.n_workers):
                self._start(f"{prefix}-{index}")
            while self._children and on_look():
                self._replace_dead()
                time.sleep(interval)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ask all workers to leave their trials, and end those that do not."""
        for child in self._children:
            child.process.terminate()
        deadline = time.monotonic() + PATIENCE
        try:
            for child in self._children:
                child.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for child in self._children:
                child.process.kill()
                child.process.wait()
        for child in self._children:
            child.log.close()
        self._children.clear()

    def log_of(self, name: str) -> Path:
        """
        :param name: name of a worker
        :return: what it said
        """
        return self.folder / "workers" / f"{name}.log"

    def _start(self, name: str) -> None:
        path = self.log_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        log = open(path, "ab")
        options = {
            **self.options,
            "url": self.opened.url,
            "study": self.opened.name,
            "worker": name,
            "folder": str(self.folder),
            "parent": os.getpid(),
        }
        command = [sys.executable, "-m", "sb3_ppo_plus.tuning.process", json.dumps(options)]
        # A session of its own: Ctrl-C is for this process, which passes it on once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._children.append(_Child(name, process, log))

    def _replace_dead(self) -> None:
        for child in list(self._children):
            code = child.process.poll()
            if code is None:
                continue
            self._children.remove(child)
            child.log.close()
            if code == EXIT_USAGE:
                raise InvalidArgument(f"a worker could not start: {self._last_words(child.name)}")
            if code != 0:
                self._mourn(child, code)
                self._start(child.name)

    def _mourn(self, child: _Child, code: int) -> None:
        ended = self._finished()
        self._deaths = self._deaths + 1 if ended == self._ended else 1
        self._ended = ended
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        logger.warning("worker %s died (%s); another goes on with its trial", child.name, how)
        if self._deaths >= MAX_DEATHS * self.n_workers:
            raise InvalidArgument(
                f"{self._deaths} workers died one after the other, the last by {how}; see {self.log_of(child.name)}: "
                f"{self._last_words(child.name)}"
            )

    def _finished(self) -> int:
        return sum(
            trial.state.is_finished()
            for trial in self.opened.storage.get_all_trials(self.opened.study_id, deepcopy=False)
        )

    def _last_words(self, name: str) -> str:
        lines = self.log_of(name).read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("ERROR: ") if lines else "it said nothing"
