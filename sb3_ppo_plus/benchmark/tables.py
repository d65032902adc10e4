"""The numbers of a benchmark: interquartile means with intervals, comparisons, and pooled tasks, as plain data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ppo_plus.benchmark.plan import PlannedRun, plan_runs
from sb3_ppo_plus.benchmark.results import BenchmarkFolder, Curve, Result, results_of
from sb3_ppo_plus.benchmark.suite import (
    EVALUATION,
    TRAINING,
    Published,
    Suite,
    Task,
    find_suite,
    load_suite,
    suite_names,
)
from sb3_ppo_plus.statistics import (
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    probability_of_improvement,
    stratified_interval,
)

PROTOCOLS = (TRAINING, EVALUATION)
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """
    Runs of one configuration on one task that came to their end.

    :param variant: name of the configuration
    :param task: environment and steps
    :param runs: the runs, in the order of their seeds
    """

    variant: str
    task: Task
    runs: tuple[tuple[PlannedRun, Result], ...]

    def scores(self, protocol: str) -> dict[int, float]:
        """
        :param protocol: ``training`` or ``evaluation``
        :return: score of each seed that has one
        """
        found = {
            result.seed: result.training_return if protocol == TRAINING else result.final_return
            for _, result in self.runs
        }
        return {seed: score for seed, score in found.items() if score is not None}


@dataclass(frozen=True)
class Findings:
    """
    What a benchmark has come to so far.

    :param folder: where it is
    :param suite: the suite
    :param cells: one for each variant and task that has runs, in the order of the suite
    :param failed: runs that failed
    :param missing: runs of the suite that were not done yet, or failed
    :param others: how many runs there are of configurations that are no longer part of the suite
    """

    folder: BenchmarkFolder
    suite: Suite
    cells: tuple[Cell, ...]
    failed: tuple[Result, ...]
    missing: tuple[PlannedRun, ...]
    others: int

    @property
    def results(self) -> list[Result]:
        """Results of all runs that came to their end."""
        return [result for cell in self.cells for _, result in cell.runs]

    def cell(self, variant: str, env: str) -> Cell | None:
        """
        :param variant: name of a configuration
        :param env: environment id
        :return: its runs, None when there are none
        """
        return next((cell for cell in self.cells if cell.variant == variant and cell.task.env == env), None)

    def curves(self, cell: Cell) -> list[Curve]:
        """
        :param cell: runs
        :return: those of their learning curves that are there
        """
        curves = [self.folder.run(planned).read_curve() for planned, _ in cell.runs]
        return [curve for curve in curves if curve is not None]


def read_findings(folder: BenchmarkFolder) -> Findings:
    """
    :param folder: folder of a benchmark, finished or not
    :return: what it has come to
    :raises InvalidArgument: when it is no such folder
    """
    suite = folder.open_suite()
    found, others = results_of(suite, folder.read())
    done = {planned.key for planned, result in found if result.done}
    cells = []
    for task, variant in product(suite.tasks, suite.variants):
        runs = [(p, r) for p, r in found if r.done and r.variant == variant.name and r.task == task.env]
        if runs:
            cells.append(Cell(variant.name, task, tuple(runs)))
    failed = tuple(result for _, result in found if not result.done)
    missing = tuple(planned for planned in plan_runs(suite) if planned.key not in done)
    return Findings(folder, suite, tuple(cells), failed, missing, others)


def make_table(findings: Findings) -> Row:
    """
    :param findings: what a benchmark has come to
    :return: every number of the report, for programs
    """
    return {
        "suite": findings.suite.name,
        "rows": [row(findings, cell) for cell in findings.cells],
        "pooled": pooled(findings),
        "comparisons": comparisons(findings),
        "published": published(findings),
        "failed": [{"run": _name(result), "reason": result.reason} for result in findings.failed],
        "missing": [planned.title for planned in findings.missing],
        "machines": sorted({result.machine for result in findings.results}),
        "versions": _versions(findings.results),
    }


def row(findings: Findings, cell: Cell) -> Row:
    """
    :param findings: what a benchmark has come to
    :param cell: runs of one configuration on one task
    :return: scores, speed, and the command line that repeats them
    """
    results = [result for _, result in cell.runs]
    seconds = [result.seconds for result in results]
    return {
        "task": cell.task.env,
        "variant": cell.variant,
        "seeds": [result.seed for result in results],
        "steps": cell.task.n_timesteps,
        **{protocol: summarize(list(cell.scores(protocol).values())) for protocol in PROTOCOLS},
        "seconds": float(np.mean(seconds)),
        "total_seconds": float(np.mean([result.total_seconds for result in results])),
        "steps_per_second": float(np.mean([result.steps / max(result.seconds, 1e-9) for result in results])),
        "jobs": sorted({result.jobs for result in results}),
        "command": command(findings, cell),
    }


def summarize(scores: Sequence[float]) -> Row | None:
    """
    :param scores: one for each seed
    :return: interquartile mean and mean, each with its 95% bootstrap interval (None for one seed), deviation over seeds
    """
    if not scores:
        return None
    several = len(scores) > 1
    return {
        "iqm": float(interquartile_mean(scores)),
        "interval": list(bootstrap_interval(interquartile_mean, scores)) if several else None,
        "mean": float(np.mean(scores)),
        "mean_interval": list(bootstrap_interval(_mean, scores)) if several else None,
        "std": float(np.std(scores, ddof=1)) if several else None,
        "scores": list(scores),
    }


def pooled(findings: Findings) -> list[Row]:
    """
    Pool the tasks of each variant: 0 is ``low`` of the task, 1 is ``high``.

    :param findings: what a benchmark has come to
    :return: for each variant and protocol interquartile mean, mean and optimality gap of the normalized scores
    """
    rows = []
    for variant, protocol in product([variant.name for variant in findings.suite.variants], PROTOCOLS):
        scores, envs = normalized(findings, variant, protocol)
        if not scores.size:
            continue
        several = len(scores) > 1
        entry: Row = {"variant": variant, "protocol": protocol, "tasks": envs, "n_seeds": len(scores)}
        for name, statistic in (("iqm", interquartile_mean), ("mean", _mean), ("optimality_gap", optimality_gap)):

            def flat(x: np.ndarray, statistic: Any = statistic) -> Any:
                return statistic(x.reshape(len(x), -1))

            entry[name] = float(statistic(scores.reshape(-1)))
            entry[f"{name}_interval"] = list(stratified_interval(flat, scores)) if several else None
        rows.append(entry)
    return rows


def normalized(findings: Findings, variant: str, protocol: str) -> tuple[np.ndarray, list[str]]:
    """
    :param findings: what a benchmark has come to
    :param variant: name of a configuration
    :param protocol: ``training`` or ``evaluation``
    :return: normalized scores [S, K] of the seeds that all of the tasks have, and the tasks [K]; empty without any
    """
    cells = [cell for cell in findings.cells if cell.variant == variant and cell.task.low is not None]
    scores, envs = _matrix(cells, protocol)
    if scores.size:
        low = np.array([cell.task.low for cell in cells], float)
        high = np.array([cell.task.high for cell in cells], float)
        scores = (scores - low) / (high - low)
    return scores, envs


def comparisons(findings: Findings) -> list[Row]:
    """
    :param findings: what a benchmark has come to
    :return: probability that a run of a variant is better than one of the baseline, for each task and for all
    """
    suite, rows = findings.suite, []
    others = [variant.name for variant in suite.variants if variant.name != suite.baseline]
    if suite.baseline is None:
        return []
    for variant, protocol in product(others, PROTOCOLS):
        pairs = []
        for task in suite.tasks:
            cells = findings.cell(variant, task.env), findings.cell(suite.baseline, task.env)
            if cells[0] is None or cells[1] is None:
                continue
            left, right = (list(cell.scores(protocol).values()) for cell in cells if cell is not None)
            if left and right:
                pairs.append((cells[0], cells[1]))
                interval = _interval(probability_of_improvement, left, right)
                probability = float(probability_of_improvement(left, right))
                rows.append(_comparison(variant, suite.baseline, protocol, task.env, probability, interval))
        a, b = (_matrix([pair[index] for pair in pairs], protocol)[0] for index in (0, 1))
        if len(pairs) > 1 and a.size and b.size:
            interval = None
            if min(len(a), len(b)) > 1:
                interval = list(stratified_interval(probability_of_improvement, a, b))
            probability = float(probability_of_improvement(a.T, b.T).mean())
            rows.append(
                _comparison(variant, suite.baseline, protocol, f"all {len(pairs)} tasks", probability, interval)
            )
    return rows


def published(findings: Findings) -> list[Row]:
    """
    :param findings: what a benchmark has come to
    :return: our runs beside published means, measured in the same way; ``above`` is the share of our runs over the mean
    """
    rows = []
    for entry, task in product(findings.suite.published, findings.suite.tasks):
        cells = [cell for cell in findings.cells if cell.task.env == task.env and task.env in entry.scores]
        for cell in cells:
            scores = list(cell.scores(entry.protocol).values())
            if scores:
                rows.append(_beside(entry, cell, scores))
    return rows


def command(findings: Findings, cell: Cell) -> str:
    """
    :param findings: what a benchmark has come to
    :param cell: runs of one configuration on one task
    :return: command line that repeats them
    """
    seeds = ",".join(str(result.seed) for _, result in cell.runs)
    words = ["ppo-plus", "benchmark", _suite_word(findings), "--variants", cell.variant, "--tasks", cell.task.env]
    return shlex.join([*words, "--seeds", seeds, "-o", f"{findings.folder.path.name}_again"])


def _beside(entry: Published, cell: Cell, scores: list[float]) -> Row:
    score = entry.scores[cell.task.env]
    return {
        "label": entry.label,
        "source": entry.source,
        "protocol": entry.protocol,
        "task": cell.task.env,
        "published_mean": score.mean,
        "published_std": score.std,
        "published_seeds": score.seeds,
        "variant": cell.variant,
        "mean": float(np.mean(scores)),
        "difference": float(np.mean(scores)) - score.mean,
        "above": float(np.mean([value > score.mean for value in scores])),
        "difference_interval": _interval(lambda x: x.mean(axis=-1) - score.mean, scores),
    }


def _comparison(
    variant: str, baseline: str, protocol: str, task: str, probability: float, interval: list[float] | None
) -> Row:
    return {
        "variant": variant,
        "baseline": baseline,
        "protocol": protocol,
        "task": task,
        "probability": probability,
        "interval": interval,
    }


def _matrix(cells: Sequence[Cell], protocol: str) -> tuple[np.ndarray, list[str]]:
    """Scores [S, K] of the seeds that all of these tasks have: a bootstrap within tasks needs as many of each."""
    by_task = [cell.scores(protocol) for cell in cells]
    shared = sorted(set.intersection(*(set(scores) for scores in by_task))) if by_task else []
    matrix = np.array([[scores[seed] for scores in by_task] for seed in shared])
    return matrix.reshape(len(shared), len(by_task)), [cell.task.env for cell in cells]


def _interval(statistic: Any, *samples: list[float]) -> list[float] | None:
    if min(len(sample) for sample in samples) < 2:
        return None
    return list(bootstrap_interval(statistic, *samples))


def _mean(values: Any) -> Any:
    return np.asarray(values).mean(axis=-1)


def _suite_word(findings: Findings) -> str:
    """The name of the suite where the package's own is the same, else its file."""
    name = findings.suite.name
    if name in suite_names() and load_suite(find_suite(name)) == findings.suite:
        return name
    return Path(findings.folder.suite).as_posix()


def _name(result: Result) -> str:
    return f"{result.variant} · {result.task} · seed {result.seed}"


def _versions(results: Sequence[Result]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for result in results:
        for package, version in result.versions.items():
            found.setdefault(package, set()).add(version)
    return {package: sorted(versions) for package, versions in found.items()}
