"""Studies as plain records: for reports, for other terminals, and for the progress that is shown."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sb3_ppo_plus.tuning.confirm import read_decision
from sb3_ppo_plus.tuning.lease import ATTEMPTS, LEASE, REASON, is_gone
from sb3_ppo_plus.tuning.records import FAILED, FINISHED, PRUNED, RUNNING, WAITING, Dimension, StudyRecord, TrialRecord
from sb3_ppo_plus.tuning.study import EVALUATIONS, JOB, ORIGIN, SEED, SETTINGS, Opened

STATES = {
    TrialState.WAITING: WAITING,
    TrialState.RUNNING: RUNNING,
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
}
# With fewer, the better tenth that PED-ANOVA looks at is hardly anything.
_LEAST_FOR_IMPORTANCE = 10


@dataclass(frozen=True)
class WorkerState:
    """
    A trial that runs.

    :param number: number of the trial
    :param worker: who runs it
    :param step: environment steps done
    :param total: environment steps of a trial
    :param evaluation: latest evaluation, None before
    :param silent: seconds since the last sign of life, by the clocks of both machines
    :param gone: whether its process is known to have ended
    :param label: what it trains, when that is given and not drawn
    """

    number: int
    worker: str
    step: int
    total: int
    evaluation: float | None
    silent: float
    gone: bool
    label: str = ""


@dataclass(frozen=True)
class Progress:
    """
    Where a study stands.

    :param name: its name
    :param counts: state to number of trials
    :param total: trials in all
    :param best: number and values of the best trial, None before the first has finished
    :param workers: the trials that run
    :param seconds_left: estimate of the time to go, None before anything has ended
    :param stopped: why it stopped itself, empty while it goes on
    """

    name: str
    counts: dict[str, int]
    total: int
    best: tuple[int, tuple[float, ...]] | None
    workers: tuple[WorkerState, ...]
    seconds_left: float | None
    stopped: str

    @property
    def ended(self) -> int:
        """Trials that finished, failed or were pruned."""
        return sum(self.counts[state] for state in (FINISHED, PRUNED, FAILED))


def read_study(opened: Opened) -> StudyRecord:
    """
    :param opened: a study
    :return: everything about it
    """
    spec = opened.spec
    candidates, comparisons = read_decision(opened)
    return StudyRecord(
        name=opened.name,
        env=spec.env,
        objective=spec.objective,
        objectives=spec.goal.names,
        maximize=spec.goal.maximize,
        n_timesteps=spec.n_timesteps,
        sampler=spec.sampler,
        pruner=spec.pruner,
        dimensions=tuple(_dimension(entry.label, entry.distribution()) for entry in spec.read_space().parameters),
        trials=tuple(_trial(trial) for trial in opened.study.get_trials(deepcopy=False)),
        candidates=candidates,
        comparisons=comparisons,
        importances=importances(opened),
        versions=dict(spec.versions or {}),
        command=spec.command,
    )


def read_progress(opened: Opened, n_workers: int | None = None) -> Progress:
    """
    :param opened: a study, or its confirmation
    :param n_workers: workers at a time, for the estimate; None for those that run
    :return: where it stands
    """
    trials = opened.study.get_trials(deepcopy=False)
    counts = {name: 0 for name in STATES.values()}
    for trial in trials:
        counts[STATES[trial.state]] += 1
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    workers = tuple(_worker(trial) for trial in running)
    return Progress(
        name=opened.name,
        counts=counts,
        total=len(trials),
        best=_best(opened, trials),
        workers=workers,
        seconds_left=_seconds_left(trials, workers, counts[WAITING], n_workers or len(running)),
        stopped=opened.stopped(),
    )


def importances(opened: Opened) -> dict[str, float]:
    """
    :param opened: a study
    :return: parameter to its share of what makes trials better, by PED-ANOVA (Watanabe et al. 2023), the most important
        first; empty with fewer than ten finished trials, or where two objectives leave no order
    """
    finished = opened.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _LEAST_FOR_IMPORTANCE or len(opened.spec.goal.maximize) > 1:
        return {}
    if len({trial.value for trial in finished}) == 1:
        return {}  # nothing is better than anything
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            found = optuna.importance.get_param_importances(opened.study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # parameters without a value in common
            return {}
    return {name: float(share) for name, share in found.items()}


def _trial(trial: FrozenTrial) -> TrialRecord:
    attributes = trial.user_attrs
    curve = attributes.get(EVALUATIONS, {})
    started, ended = trial.datetime_start, trial.datetime_complete
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state],
        params=dict(trial.params),
        settings=attributes.get(SETTINGS, {}),
        values=None if trial.values is None else tuple(trial.values),
        seed=attributes.get(SEED),
        steps=tuple(curve.get("steps", ())),
        returns=tuple(curve.get("returns", ())),
        origin=attributes.get(ORIGIN, ""),
        reason=attributes.get(REASON, ""),
        started=None if started is None else started.timestamp(),
        ended=None if ended is None else ended.timestamp(),
        worker=attributes.get(LEASE, {}).get("worker", ""),
        attempts=attributes.get(ATTEMPTS, 0),
    )


def _worker(trial: FrozenTrial) -> WorkerState:
    lease: dict[str, Any] = trial.user_attrs.get(LEASE, {})
    job = trial.user_attrs.get(JOB)
    return WorkerState(
        number=trial.number,
        worker=str(lease.get("worker", "")),
        step=int(lease.get("step", 0)),
        total=int(lease.get("total", 0)),
        evaluation=lease.get("evaluation"),
        silent=max(0.0, time.time() - lease["beat"]) if "beat" in lease else 0.0,
        gone=bool(lease) and is_gone(lease),
        label=f"{job['candidate']}, seed {job['seed']}" if job else "",
    )


def _best(opened: Opened, trials: list[FrozenTrial]) -> tuple[int, tuple[float, ...]] | None:
    sign = 1 if opened.spec.goal.maximize[0] else -1
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not finished:
        return None
    best = max(finished, key=lambda trial: sign * trial.values[0])
    return best.number, tuple(best.values)


def _seconds_left(
    trials: list[FrozenTrial], workers: tuple[WorkerState, ...], waiting: int, n_workers: int
) -> float | None:
    """From how long trials took that ended, pruned ones included: those to come will be pruned as often."""
    took = [
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        for trial in trials
        if trial.datetime_complete is not None and trial.datetime_start is not None
    ]
    if not took:
        return None
    each = sum(took) / len(took)
    begun = sum(1 - worker.step / worker.total if worker.total else 1.0 for worker in workers)
    return each * (waiting + begun) / max(1, n_workers)


def _dimension(label: str, distribution: Any) -> Dimension:
    if isinstance(distribution, CategoricalDistribution):
        return Dimension(label, choices=tuple(str(choice) for choice in distribution.choices))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return Dimension(label, distribution.low, distribution.high, distribution.log)
