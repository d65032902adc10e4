"""What a study does while it does it: a bar and a line per worker on a terminal, a line per trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sb3_ppo_plus.tuning.objective import Objective
from sb3_ppo_plus.tuning.reading import Progress, WorkerState, read_progress
from sb3_ppo_plus.tuning.records import FAILED, PRUNED
from sb3_ppo_plus.tuning.study import JOB, Opened, open_confirmation

if TYPE_CHECKING:
    from rich.console import Group

# Seconds between looks at the storage: it is read as a whole.
_INTERVAL = 1.0


@contextmanager
def show_trials(opened: Opened, n_workers: int, enabled: bool = True) -> Iterator[Callable[[], bool]]:
    """
    Show a study on standard error.

    :param opened: the study, or its confirmation
    :param n_workers: workers at a time, for the time left
    :param enabled: False shows nothing
    :return: context manager giving what is called again and again; it always says to go on
    """
    if not enabled:
        yield lambda: True
    elif sys.stderr.isatty():
        with _live(opened, n_workers) as look:
            yield look
    else:
        yield _Lines(opened, n_workers)


def lines_of(opened: Opened, progress: Progress) -> list[str]:
    """
    :param opened: the study
    :param progress: where it stands
    :return: the same in words, a line for the study and one for each worker
    """
    return [headline(opened, progress), *(worker_line(state) for state in progress.workers)]


def headline(opened: Opened, progress: Progress) -> str:
    """
    :param opened: the study
    :param progress: where it stands
    :return: trials done, best so far, time left
    """
    parts = [f"{progress.ended}/{progress.total} trials"]
    parts += [f"{progress.counts[state]} {state}" for state in (PRUNED, FAILED) if progress.counts[state]]
    if progress.best is not None and not opened.confirms:
        parts.append(f"best {describe_values(opened.spec.goal, progress.best[1])} (trial {progress.best[0]})")
    if progress.seconds_left is not None and progress.ended < progress.total:
        parts.append(f"{clock(progress.seconds_left)} left")
    return " · ".join(parts)


def worker_line(state: WorkerState) -> str:
    """
    :param state: a trial that runs
    :return: who runs it and how far it is
    """
    done = f"{state.step / state.total:4.0%}" if state.total else "   -"
    evaluation = "" if state.evaluation is None else f" · evaluation {state.evaluation:,.1f}"
    silent = " · gone" if state.gone else f" · silent for {state.silent:.0f} s" if state.silent > 30 else ""
    label = f" ({state.label})" if state.label else ""
    return f"{state.worker or 'unknown'}: trial {state.number}{label} {done}{evaluation}{silent}"


def describe_values(goal: Objective, values: tuple[float, ...]) -> str:
    """
    :param goal: what they are
    :param values: one value, or two
    :return: the same in words
    """
    return ", ".join(f"{name} {value:,.1f}" for name, value in zip(goal.names, values, strict=True))


def clock(seconds: float) -> str:
    """
    :param seconds: a time
    :return: the same in hours, minutes and seconds
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Lines:
    """One line for each trial that ended: log files keep these, and no control characters."""

    def __init__(self, opened: Opened, n_workers: int) -> None:
        self.opened, self.n_workers = opened, n_workers
        self.told = self._ended()
        self.looked = 0.0

    def __call__(self) -> bool:
        if time.monotonic() - self.looked > _INTERVAL:
            self.looked = time.monotonic()
            for number, line in self._ended().items():
                if number not in self.told:
                    self.told[number] = line
                    progress = read_progress(self.opened, self.n_workers)
                    print(f"{line} · {headline(self.opened, progress)}", file=sys.stderr, flush=True)
        return True

    def _ended(self) -> dict[int, str]:
        goal, found = self.opened.spec.goal, {}
        for trial in self.opened.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                value = describe_values(goal, tuple(trial.values)) if trial.state.name == "COMPLETE" else ""
                word = {"COMPLETE": value, "PRUNED": PRUNED, "FAIL": FAILED}[trial.state.name]
                job = trial.user_attrs.get(JOB)
                name = f"{job['candidate']} with seed {job['seed']}" if job else f"trial {trial.number}"
                found[trial.number] = f"{name}: {word}"
        return found


@contextmanager
def _live(opened: Opened, n_workers: int) -> Iterator[Callable[[], bool]]:
    from rich.console import Console
    from rich.live import Live

    shown = _Picture(opened, n_workers)
    with Live(shown.draw(), console=Console(stderr=True), auto_refresh=False) as live:

        def look() -> bool:
            if time.monotonic() - shown.looked > _INTERVAL:
                live.update(shown.draw(), refresh=True)
            return True

        yield look
        live.update(shown.draw(), refresh=True)


class _Picture:
    """The bar over the trials and the line of each worker; the confirmation has its own once there is one."""

    def __init__(self, opened: Opened, n_workers: int) -> None:
        self.opened, self.n_workers = opened, n_workers
        self.looked = 0.0

    def draw(self) -> Group:
        """:return: what is on the screen now"""
        from rich.console import Group
        from rich.text import Text

        self.looked = time.monotonic()
        parts: list[Any] = []
        confirmation = None if self.opened.confirms else open_confirmation(self.opened)
        for opened in filter(None, (self.opened, confirmation)):
            progress = read_progress(opened, self.n_workers)
            parts.append(_bar(opened, progress))
            parts += [Text(f"  {worker_line(state)}", style="dim") for state in progress.workers]
        return Group(*parts)


def _bar(opened: Opened, progress: Progress) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    done = progress.ended + sum(state.step / state.total for state in progress.workers if state.total)
    row = Table.grid(padding=(0, 1))
    title = "confirming" if opened.confirms else f"tuning {opened.name}"
    row.add_row(title, ProgressBar(total=max(1, progress.total), completed=done, width=24), headline(opened, progress))
    return row


def is_done(progress: Progress) -> bool:
    """
    :param progress: where a study stands
    :return: whether nothing runs or waits
    """
    return progress.ended == progress.total or bool(progress.stopped)
