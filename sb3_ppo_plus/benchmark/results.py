"""The folder of a benchmark: what was run, one line for each run that ended, and who is at work in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ppo_plus.atomic import locked_folder
from sb3_ppo_plus.benchmark.plan import PlannedRun, plan_run
from sb3_ppo_plus.benchmark.suite import Suite, load_suite
from sb3_ppo_plus.errors import InvalidArgument

DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Result:
    """
    What a run came to.

    :param variant: name of the configuration
    :param task: environment id
    :param seed: training seed
    :param key: key of the planned run
    :param state: ``done`` or ``failed``
    :param reason: why it failed
    :param training_return: mean return of the last training episodes, None when none ended
    :param training_episodes: how many these are
    :param final_returns: returns of the evaluation after the last update, with the policy's mode
    :param steps: environment steps done
    :param seconds: wall time of the training, without that of the evaluations
    :param total_seconds: wall time of everything from the start of the process
    :param jobs: runs that shared the machine
    :param started: time of the start, in seconds since 1970
    :param versions: packages
    :param machine: processor and number of them
    """

    variant: str
    task: str
    seed: int
    key: str
    state: str
    reason: str = ""
    training_return: float | None = None
    training_episodes: int = 0
    final_returns: tuple[float, ...] = ()
    steps: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    jobs: int = 1
    started: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return self.state == DONE

    @property
    def final_return(self) -> float | None:
        """Mean return of the final evaluation."""
        return float(np.mean(self.final_returns)) if self.final_returns else None


@dataclass(frozen=True)
class Curve:
    """
    How a run learned.

    :param steps: environment steps at the end of each bin [K]
    :param seconds: training time until then [K]
    :param returns: mean return of the training episodes that ended in the bin [K], NaN where none did
    :param episodes: number of these episodes [K]
    :param eval_steps: environment steps at the evaluations [E]
    :param eval_seconds: training time until then [E]
    :param eval_returns: returns of their episodes [E, M]
    """

    steps: np.ndarray
    seconds: np.ndarray
    returns: np.ndarray
    episodes: np.ndarray
    eval_steps: np.ndarray
    eval_seconds: np.ndarray
    eval_returns: np.ndarray


@dataclass(frozen=True)
class BenchmarkFolder:
    """
    The files of a benchmark.

    :param path: the folder
    """

    path: Path

    @property
    def suite(self) -> Path:
        """The suite as it was last run."""
        return self.path / "suite.yml"

    @property
    def results(self) -> Path:
        """One line of JSON for each run that ended, appended; of equal keys the last one counts."""
        return self.path / "results.jsonl"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    def run(self, planned: PlannedRun) -> RunPlace:
        """
        :param planned: a run
        :return: its files
        """
        return RunPlace(self.path / "runs" / planned.place)

    def append(self, result: Result) -> None:
        """
        Add a line, on the disk before this returns.

        :param result: what a run came to
        """
        line = json.dumps(asdict(result)) + "\n"
        with open(self.results, "ab+") as file:
            # What a machine that lost power left without an end must not swallow this line as well.
            if file.tell() and _last_byte(file) != b"\n":
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[Result]:
        """
        :return: every line that can be read, in order
        """
        if not self.results.is_file():
            return []
        found = []
        for line in self.results.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found.append(Result(**{**entry, "final_returns": tuple(entry["final_returns"])}))
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def open_suite(self) -> Suite:
        """
        :return: the suite that was run here
        :raises InvalidArgument: when this is no folder of a benchmark
        """
        if not self.suite.is_file():
            raise InvalidArgument(f"{self.path} is no folder of a benchmark: it has no {self.suite.name}")
        return load_suite(self.suite)

    def is_claimed(self) -> bool:
        """
        :return: whether a process runs a benchmark here; False also where that cannot be known
        """
        try:
            with self.claimed():
                return False
        except InvalidArgument:
            return True

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """
        Keep other processes from running a benchmark here, as long as this one lives.

        :raises InvalidArgument: when one does
        """
        with locked_folder(self.path) as mine:
            if not mine:
                raise InvalidArgument(f"another process runs a benchmark in {self.path}; wait for it, or end it")
            yield


@dataclass(frozen=True)
class RunPlace:
    """
    The files of one run.

    :param path: its folder
    """

    path: Path

    @property
    def config(self) -> Path:
        """Configuration, with which ``ppo-plus train --config`` repeats the run."""
        return self.path / "config.yml"

    @property
    def job(self) -> Path:
        """What its process is told."""
        return self.path / "job.json"

    @property
    def outcome(self) -> Path:
        """What its process says at the end."""
        return self.path / "outcome.json"

    @property
    def progress(self) -> Path:
        """Where it stands, while it runs."""
        return self.path / "progress.json"

    @property
    def curve(self) -> Path:
        """Arrays of :class:`Curve`."""
        return self.path / "curve.npz"

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.path / "log.txt"

    def read(self, path: Path) -> dict[str, Any]:
        """
        :param path: one of its JSON files
        :return: its content, empty when it is not there or half written
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def read_curve(self) -> Curve | None:
        """
        :return: how it learned, None when that was not kept
        """
        try:
            with np.load(self.curve) as arrays:
                return Curve(**{name: arrays[name] for name in Curve.__dataclass_fields__})
        except (OSError, ValueError, KeyError):
            return None


def latest(results: Iterable[Result]) -> dict[str, Result]:
    """
    :param results: lines, in order
    :return: the last one of each key
    """
    return {result.key: result for result in results}


def results_of(suite: Suite, results: Iterable[Result]) -> tuple[list[tuple[PlannedRun, Result]], int]:
    """
    Sort out what belongs to a suite as it is now, whatever the seed.

    :param suite: the suite
    :param results: lines, in order
    :return: runs of the suite that ended, in the order of the suite and of their seeds; how many other runs there are
    """
    newest = latest(results)
    tasks, variants = {task.env: task for task in suite.tasks}, {variant.name: variant for variant in suite.variants}
    found = []
    for result in newest.values():
        variant, task = variants.get(result.variant), tasks.get(result.task)
        if variant is None or task is None:
            continue
        planned = plan_run(variant, task, result.seed, suite.protocol)
        if planned.key == result.key:
            found.append((planned, result))
    order = {env: index for index, env in enumerate(tasks)}, {name: index for index, name in enumerate(variants)}
    found.sort(key=lambda pair: (order[0][pair[1].task], order[1][pair[1].variant], pair[1].seed))
    return found, len(newest) - len(found)


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    last: bytes = file.read(1)
    return last
