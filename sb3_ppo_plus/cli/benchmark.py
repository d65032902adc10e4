"""``ppo-plus benchmark``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.benchmark.plan import PlannedRun
    from sb3_ppo_plus.benchmark.results import BenchmarkFolder, Result
    from sb3_ppo_plus.benchmark.runner import Runner
    from sb3_ppo_plus.benchmark.suite import Suite

HELP = (
    "Train a suite of tasks over seeds, each run in a process of its own, and write a report. The same line goes on "
    "where it was interrupted: what is done is skipped. `benchmark list` names the suites, `benchmark status FOLDER` "
    "says where one stands, `benchmark report FOLDER` writes its report from whatever is there. Exit codes: 0 done, "
    "1 a run failed, 2 wrong input, 130 interrupted."
)
# Words that are no names of suites.
_LOOKING = ("list", "status", "report")
_ROOT = Path("benchmark_runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("suite", metavar="SUITE", help="name of a suite, or its file; or list, status, report")
    add("folder", nargs="?", type=Path, default=None, metavar="FOLDER", help="for status and report: what was written")
    add("-o", "--output", type=Path, default=None, metavar="FOLDER", help=f"folder of the runs ({_ROOT}/NAME)")
    add("-j", "--jobs", type=int, default=1, metavar="N", help="runs at a time, one thread each for the networks (1)")
    add("--seeds", default=None, metavar="SEEDS", help="instead of those of the suite: 0-4, or 0,1,2; others are added")
    add("--tasks", default=None, metavar="IDS", help="only these environments, with commas")
    add("--variants", default=None, metavar="NAMES", help="only these configurations, with commas")
    add(
        "-n",
        "--n-timesteps",
        default=None,
        metavar="STEPS",
        help="environment steps of each run instead of the suite's",
    )
    add("--json", action="store_true", help="status for programs")
    add("--no-report", action="store_true", help="write no report at the end")
    add("--no-progress", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.errors import InvalidArgument

    if args.suite not in _LOOKING:
        if args.folder is not None:
            raise InvalidArgument(f"what is {args.folder}? give the folder of the runs with --output {args.folder}")
        return _train(args)
    if args.suite == "list":
        return _list()
    if args.folder is None:
        raise InvalidArgument(f"benchmark {args.suite} wants the folder of a benchmark, such as {_ROOT}/smoke")
    return _status(args) if args.suite == "status" else _report(args.folder)


def _train(args: argparse.Namespace) -> int:
    from sb3_ppo_plus.benchmark.plan import check_environments, plan_runs
    from sb3_ppo_plus.benchmark.results import BenchmarkFolder
    from sb3_ppo_plus.benchmark.runner import Interrupted, Runner
    from sb3_ppo_plus.benchmark.suite import parse_seeds
    from sb3_ppo_plus.checkpoint.signals import SIGNALLED
    from sb3_ppo_plus.cli import EXIT_FAILED, EXIT_OK

    suite = _suite(args)
    seeds = None if args.seeds is None else parse_seeds("--seeds", args.seeds)
    planned = plan_runs(suite, seeds, _words(args.tasks), _words(args.variants))
    check_environments(planned)
    folder = BenchmarkFolder(args.output or _ROOT / suite.name)
    runner = Runner(folder, planned, args.jobs)
    _prepare(folder, suite)
    print(f"suite {suite.name}: {len(planned)} runs, writing to {folder.path}", flush=True)
    try:
        with _shown(runner, enabled=not args.no_progress) as look:
            runner.run(look)
    except Interrupted as ended:
        done = sum(runner.is_done(each) for each in planned)
        print(f"\ninterrupted: {done} of {len(planned)} runs are done; the same line goes on", file=sys.stderr)
        return SIGNALLED + ended.number
    if not args.no_report:
        _report(folder.path)
    for result in runner.failed:
        print(f"error: {describe(result)}", file=sys.stderr)
    return EXIT_FAILED if runner.failed else EXIT_OK


def _suite(args: argparse.Namespace) -> Suite:
    from sb3_ppo_plus.benchmark.plan import with_timesteps
    from sb3_ppo_plus.benchmark.suite import find_suite, load_suite
    from sb3_ppo_plus.cli.train import number
    from sb3_ppo_plus.runs.values import plain, require_number

    suite = load_suite(find_suite(args.suite))
    if args.n_timesteps is None:
        return suite
    return with_timesteps(suite, int(require_number("n_timesteps", number(plain(args.n_timesteps)), minimum=1)))


def _prepare(folder: BenchmarkFolder, suite: Suite) -> None:
    """Make the folder of a benchmark, with the suite as it is now in it."""
    from sb3_ppo_plus.errors import InvalidArgument

    path = folder.path
    if folder.suite.is_file() and folder.open_suite().name != suite.name:
        raise InvalidArgument(f"{path} holds the suite {folder.open_suite().name}; give {suite.name} another --output")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with folder.claimed():
            suite.write(folder.suite)
    except OSError as error:
        raise InvalidArgument(f"cannot write to {path}: {error.strerror}; give another --output") from error


def _report(path: Path) -> int:
    from sb3_ppo_plus.benchmark.report import write_report
    from sb3_ppo_plus.benchmark.results import BenchmarkFolder
    from sb3_ppo_plus.cli import EXIT_OK

    print(f"  report           {write_report(BenchmarkFolder(path))}")
    return EXIT_OK


def _list() -> int:
    from sb3_ppo_plus.benchmark.suite import find_suite, load_suite, suite_names
    from sb3_ppo_plus.cli import EXIT_OK

    for name in suite_names():
        suite = load_suite(find_suite(name))
        runs = len(suite.tasks) * len(suite.variants) * len(suite.seeds)
        print(f"{name:<12} {len(suite.tasks)} tasks, {runs} runs: {suite.description}")
    return EXIT_OK


def _status(args: argparse.Namespace) -> int:
    from sb3_ppo_plus.benchmark.results import BenchmarkFolder
    from sb3_ppo_plus.benchmark.tables import read_findings
    from sb3_ppo_plus.cli import EXIT_OK

    folder = BenchmarkFolder(args.folder)
    findings = read_findings(folder)
    claimed = folder.is_claimed()
    standing = [(planned, folder.run(planned)) for planned in findings.missing]
    running = [(p, place.read(place.progress)) for p, place in standing if claimed and not place.outcome.is_file()]
    running = [(planned, progress) for planned, progress in running if progress]
    done = len(findings.results)
    if args.json:
        state = {
            "suite": findings.suite.name,
            "at_work": claimed,
            "done": done,
            "missing": [planned.title for planned in findings.missing],
            "running": [{"run": planned.title, **progress} for planned, progress in running],
            "failed": [{"run": _title(result), "reason": result.reason} for result in findings.failed],
        }
        print(json.dumps(state, indent=2))
        return EXIT_OK
    work = "at work" if claimed else "nobody is at work"
    print(
        f"{findings.suite.name}: {done} runs done, {len(findings.missing)} to do, {len(findings.failed)} failed; {work}"
    )
    for planned, progress in running:
        print(f"  {running_line(planned, progress)}")
    for result in findings.failed:
        print(f"  {describe(result)}")
    return EXIT_OK


# ------------------------------------------------ progress


@contextmanager
def _shown(runner: Runner, enabled: bool) -> Iterator[Callable[[Runner], None]]:
    if not enabled:
        yield lambda runner: None
    elif sys.stderr.isatty():
        with _live(runner) as look:
            yield look
    else:
        yield _Lines()


class _Lines:
    """A line for each run that ended, and one a minute for those that run: log files keep these."""

    def __init__(self, interval: float = 60.0) -> None:
        self.shown = 0
        self.interval, self.told = interval, time.monotonic()

    def __call__(self, runner: Runner) -> None:
        new = runner.ended[self.shown :]
        self.shown = len(runner.ended)
        for result in new:
            print(f"{headline(runner)} · {describe(result)}", file=sys.stderr, flush=True)
        if new:
            self.told = time.monotonic()
        elif time.monotonic() - self.told > self.interval:
            self.told = time.monotonic()
            running = "; ".join(running_line(entry.planned, entry.standing) for entry in runner.running)
            print(f"{headline(runner)} · {running}", file=sys.stderr, flush=True)


@contextmanager
def _live(runner: Runner) -> Iterator[Callable[[Runner], None]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.text import Text

    from sb3_ppo_plus.benchmark.runner import fraction_done

    bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    task = bar.add_task("", total=1.0)
    shown = 0
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:

        def look(runner: Runner) -> None:
            nonlocal shown
            for result in runner.ended[shown:]:
                live.console.print(Text(describe(result)))
            shown = len(runner.ended)
            bar.update(task, completed=fraction_done(runner), description=headline(runner))
            lines = [Text(f"  {running_line(entry.planned, entry.standing)}") for entry in runner.running]
            live.update(Group(bar, *lines))

        yield look


def headline(runner: Runner) -> str:
    """
    :param runner: runs of a benchmark
    :return: how many are done, failed, and the time left
    """
    from sb3_ppo_plus.benchmark.runner import fraction_done, seconds_left

    done = sum(runner.is_done(planned) for planned in runner.planned)
    parts = [f"{done}/{len(runner.planned)} runs", f"{fraction_done(runner):.0%}"]
    failed = sum(not result.done for result in runner.ended)
    if failed:
        parts.append(f"{failed} failed")
    left = seconds_left(runner)
    if left is not None and (runner.running or runner.waiting):
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02d}:{seconds:02d} left")
    return " · ".join(parts)


def running_line(planned: PlannedRun, standing: dict[str, Any]) -> str:
    """
    :param planned: a run
    :param standing: what its process says, empty before the training began
    :return: the same in words
    """
    if not standing.get("steps"):
        return f"{planned.title}: starting"
    text = f"{planned.title}: {standing['steps'] / standing['total']:.0%}"
    text += f" · {standing['steps'] / max(standing['seconds'], 1e-9):,.0f} steps/s"
    return text if standing["mean_return"] is None else f"{text} · return {standing['mean_return']:,.1f}"


def describe(result: Result) -> str:
    """
    :param result: what a run came to
    :return: the same in words
    """
    if not result.done:
        return f"{_title(result)} failed: {result.reason}"
    training = "-" if result.training_return is None else f"{result.training_return:,.1f}"
    final = "-" if result.final_return is None else f"{result.final_return:,.1f}"
    speed = result.steps / max(result.seconds, 1e-9)
    return f"{_title(result)}: return {training}, evaluation {final} · {result.seconds:,.0f} s, {speed:,.0f} steps/s"


def _title(result: Result) -> str:
    return f"{result.variant} · {result.task} · seed {result.seed}"


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]
