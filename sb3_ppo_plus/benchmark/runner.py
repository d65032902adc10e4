"""Trains what is not done yet: a process for each run, several at a time, and a line for each that ends."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.benchmark.plan import PlannedRun
from sb3_ppo_plus.benchmark.results import FAILED, BenchmarkFolder, Result, RunPlace, latest
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import processors
from sb3_ppo_plus.runs.config import package_versions

logger = logging.getLogger(__name__)

# Seconds that a process has to end after SIGTERM; there is nothing that it would save.
_PATIENCE = 5.0
# Part of a run after which its speed is an estimate for the rest.
_TELLING = 0.03
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(BaseException):
    """
    A signal ended the benchmark; what ran is lost, what was done is kept.

    :param number: the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@dataclass
class Running:
    """
    A run whose process is alive.

    :param planned: the run
    :param place: its files
    :param process: its process
    :param log: where that writes to
    :param started: when it was started, in seconds since 1970
    """

    planned: PlannedRun
    place: RunPlace
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float

    @property
    def standing(self) -> dict[str, Any]:
        """``steps``, ``total``, ``seconds`` and ``mean_return``; empty before the training began."""
        return self.place.read(self.place.progress)


@dataclass
class Runner:
    """
    Runs of a benchmark on this machine.

    :param folder: folder of the benchmark
    :param planned: the runs
    :param jobs: runs at a time; each uses one thread for its networks, and MuJoCo's are divided among them
    :param running: runs whose processes are alive
    :param results: what runs came to, by key
    """

    folder: BenchmarkFolder
    planned: Sequence[PlannedRun]
    jobs: int = 1
    running: list[Running] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    waiting: list[PlannedRun] = field(default_factory=list)
    ended: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise InvalidArgument(f"jobs is {self.jobs}; give at least 1")

    def run(self, on_look: Callable[[Runner], None], interval: float = 0.3) -> None:
        """
        Train what is not done; a run that failed before is tried again.

        :param on_look: called at intervals, and whenever runs have ended
        :param interval: seconds between looks
        :raises Interrupted: after a signal, when all processes have ended
        """
        self.results = latest(self.folder.read())
        self.waiting = [planned for planned in self.planned if not self.is_done(planned)]
        with _interruptible(), self.folder.claimed():
            try:
                while self.waiting or self.running:
                    while self.waiting and len(self.running) < self.jobs:
                        self._start(self.waiting.pop(0))
                    on_look(self)
                    time.sleep(interval)
                    self._collect()
                on_look(self)
            finally:
                self._stop()

    def is_done(self, planned: PlannedRun) -> bool:
        """
        :param planned: a run
        :return: whether it came to its end
        """
        result = self.results.get(planned.key)
        return result is not None and result.done

    @property
    def failed(self) -> list[Result]:
        """Results of the planned runs that failed."""
        found = (self.results.get(planned.key) for planned in self.planned)
        return [result for result in found if result is not None and not result.done]

    def _start(self, planned: PlannedRun) -> None:
        place = self.folder.run(planned)
        shutil.rmtree(place.path, ignore_errors=True)  # of a run that was killed, or that failed
        place.path.mkdir(parents=True)
        job = {
            "kind": planned.kind,
            "config": planned.config.to_mapping(),
            "last_episodes": planned.last_episodes,
            "n_threads": None if self.jobs == 1 else max(1, processors() // self.jobs),
            "parent": os.getpid(),
        }
        atomic_write(place.job, json.dumps(job, indent=1))
        log = open(place.log, "ab")
        # A session of its own: Ctrl-C is for this process, and whatever the run starts ends with it.
        process = subprocess.Popen(
            [sys.executable, "-m", "sb3_ppo_plus.benchmark.process", str(place.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.running.append(Running(planned, place, process, log, time.time()))

    def _collect(self) -> None:
        for running in list(self.running):
            if running.process.poll() is None:
                continue
            self.running.remove(running)
            running.log.close()
            result = self._result(running)
            self.folder.append(result)
            self.results[result.key] = result
            self.ended.append(result)

    def _result(self, running: Running) -> Result:
        planned, code = running.planned, running.process.returncode
        outcome = running.place.read(running.place.outcome)
        if not outcome:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            outcome = {"state": FAILED, "reason": f"its process ended with {how}: {_last_words(running.place.log)}"}
        return Result(
            **{**outcome, "final_returns": tuple(outcome.get("final_returns", ()))},
            variant=planned.variant,
            task=planned.task,
            seed=planned.seed,
            key=planned.key,
            jobs=self.jobs,
            started=running.started,
            versions=package_versions(),
            machine=describe_machine(),
        )

    def _stop(self) -> None:
        for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            for running in self.running:
                _signal_group(running.process, number)
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline and any(entry.process.poll() is None for entry in self.running):
                time.sleep(0.05)
        for running in self.running:
            running.process.wait()
            running.log.close()
        self.running.clear()


def seconds_left(runner: Runner) -> float | None:
    """
    Estimate how long the rest takes, from the speed of runs of the same kind where there are any.

    :param runner: runs of a benchmark
    :return: seconds, None before anything is known
    """
    speeds: dict[tuple[str, str], list[float]] = {}
    for planned in runner.planned:
        result = runner.results.get(planned.key)
        if result is not None and result.done:
            speeds.setdefault((planned.variant, planned.task), []).append(result.total_seconds / result.steps)
    left, waiting = [], list(runner.waiting)
    for running in runner.running:
        standing, elapsed = running.standing, time.time() - running.started
        # A start takes seconds, in which there are a few steps at most: they tell nothing about the speed.
        if standing.get("steps", 0) < _TELLING * running.planned.config.n_timesteps:
            waiting.append(running.planned)
        else:
            per_step = elapsed / standing["steps"]
            speeds.setdefault((running.planned.variant, running.planned.task), []).append(per_step)
            left.append(max(0, standing["total"] - standing["steps"]) * per_step)
    if not speeds:
        return None
    means = {pair: sum(values) / len(values) for pair, values in speeds.items()}
    anything = sum(means.values()) / len(means)
    ahead = [means.get((p.variant, p.task), anything) * p.config.n_timesteps for p in waiting]
    return max([(sum(left) + sum(ahead)) / runner.jobs, *left, *ahead])


def fraction_done(runner: Runner) -> float:
    """
    :param runner: runs of a benchmark
    :return: part of all environment steps that is done, 0 to 1
    """
    total = sum(planned.config.n_timesteps for planned in runner.planned)
    over = sum(planned.config.n_timesteps for planned in runner.planned if planned.key in runner.results)
    again = sum(planned.config.n_timesteps for planned in runner.waiting if planned.key in runner.results)
    again += sum(entry.planned.config.n_timesteps for entry in runner.running if entry.planned.key in runner.results)
    part = sum(min(entry.standing.get("steps", 0), entry.planned.config.n_timesteps) for entry in runner.running)
    return min(1.0, (over - again + part) / max(1, total))


def describe_machine() -> str:
    """
    :return: processor and how many this process may use
    """
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {processors()} processors, {platform.system()}"


@contextmanager
def _interruptible() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        # The first one ends the benchmark; further ones must not end its ending.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is not None:
        return
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
    except ProcessLookupError:
        pass


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it said nothing"
