"""A training's progress: a live bar on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_ppo_plus.callbacks import Progress


@contextmanager
def show_progress(title: str, enabled: bool = True) -> Iterator[Callable[[Progress], None] | None]:
    """
    Show progress on standard error.

    :param title: what is trained
    :param enabled: False shows nothing
    :return: context manager giving what receives the numbers, or None
    """
    if not enabled:
        yield None
    elif sys.stderr.isatty():
        with _live_bar(title) as report:
            yield report
    else:
        yield LinePrinter()


def describe(progress: Progress) -> str:
    """
    :param progress: numbers of a training
    :return: the same in one line, without the percentage
    """
    parts = [f"{progress.steps_per_second:,.0f} steps/s"]
    if progress.mean_return is not None:
        parts.append(f"return {progress.mean_return:,.1f}")
    if progress.evaluation is not None:
        parts.append(f"evaluation {progress.evaluation:,.1f}")
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return " · ".join([*parts, f"{minutes}:{seconds:02d} left"])


class LinePrinter:
    """
    One line whenever another part of the training is done: log files keep these, and no control characters.

    :param parts: number of lines in a whole training
    """

    def __init__(self, parts: int = 10) -> None:
        self.parts = parts
        self.printed = 0

    def __call__(self, progress: Progress) -> None:
        part = int(progress.fraction * self.parts)
        if part > self.printed:
            self.printed = part
            print(f"{progress.fraction:4.0%} · {describe(progress)}", file=sys.stderr, flush=True)


@contextmanager
def _live_bar(title: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(title), BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("evaluating before training", total=1.0)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.fraction, description=describe(progress))

        yield report
