"""A worker: takes trials of a study one by one, trains them, and tells what became of them."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping
from sb3_ppo_plus.tuning.lease import REASON, Identity, Lease, Watchman, claim
from sb3_ppo_plus.tuning.samplers import make_pruner, make_sampler
from sb3_ppo_plus.tuning.settings import apply_settings, settings_of
from sb3_ppo_plus.tuning.study import EVALUATIONS, JOB, SEED, SETTINGS, Opened, open_confirmation
from sb3_ppo_plus.tuning.training import Checkpoint, Curve, Leave, NotFinite, Stop, Training

logger = logging.getLogger(__name__)

# Spreads the seeds of samplers, one for each trial, so that a study repeats however its trials were interrupted.
_SEED_STRIDE = 1_000_003
# Trials at a step that a curve is compared with.
_PRUNING_COMPANY = 5


@dataclass(frozen=True)
class WorkerOptions:
    """
    How a worker works.

    :param folder: folder of the study on this machine, for checkpoints and models
    :param heartbeat: seconds between signs of life; smaller notices losses sooner and writes more
    :param grace: seconds without a sign of life after which a trial is taken from its worker
    :param checkpoint_interval: seconds between checkpoints of a trial
    :param max_trials: trials to take, None for as many as there are
    :param deadline: time (``time.monotonic()``) after which none is begun and the current one is left, None for none
    :param poll: seconds between looks at the storage while others work
    """

    folder: Path
    heartbeat: float = 5.0
    grace: float = 60.0
    checkpoint_interval: float = 60.0
    max_trials: int | None = None
    deadline: float | None = None
    poll: float = 1.0


@dataclass
class Worker:
    """
    Takes trials until there are none.

    :param opened: the study; its confirmation is worked on as well when there is one
    :param identity: this process
    :param options: how it works
    :param asked_to_stop: whether to leave the trial at hand and end
    :param stays: whether to wait for further trials when all are done, while a confirmation decides what comes next
    """

    opened: Opened
    identity: Identity
    options: WorkerOptions
    asked_to_stop: Callable[[], bool]
    stays: bool = False

    def run(self) -> int:
        """
        :return: number of trials that this worker brought to an end
        """
        watchman = Watchman(self.opened.storage, self.options.grace, self.opened.spec.max_attempts)
        done = 0
        while not self._is_over(done):
            studies = self._studies()
            for opened in studies:
                watchman.look(opened.study_id)
            if all(opened.stopped() for opened in studies):
                break
            taken = self._take(studies)
            if taken is not None:
                done += self.train(*taken)
            elif not self.stays and not any(opened.count(TrialState.RUNNING) for opened in studies):
                break
            else:
                time.sleep(self.options.poll)
        return done

    def train(self, opened: Opened, trial_id: int) -> bool:
        """
        Run one trial that this worker has taken.

        :param opened: study of the trial
        :param trial_id: id of the trial
        :return: whether it came to an end, rather than being left or lost
        """
        storage, spec = opened.storage, opened.spec
        number = storage.get_trial(trial_id).number
        checkpoint = Checkpoint(trial_folder(self.options.folder, opened, number))
        with Lease(storage, trial_id, self.identity, self.options.heartbeat) as lease:
            try:
                trial, config = self._begin(opened, trial_id)
                curve = self._training(opened, trial, config, checkpoint.folder, lease).run()
                values = spec.goal.values(curve.steps, curve.returns, curve.seconds)
                if not all(math.isfinite(value) for value in values):
                    raise NotFinite(f"the objective is {', '.join(map(str, values))}")
                storage.set_trial_user_attr(trial_id, EVALUATIONS, vars(curve))
                return self._end(lease, opened, trial_id, TrialState.COMPLETE, values)
            except optuna.TrialPruned:
                checkpoint.remove()
                return self._end(lease, opened, trial_id, TrialState.PRUNED)
            except Leave:
                self._end(lease, opened, trial_id, TrialState.WAITING)
                return False
            except Stop:
                return False
            except Exception as error:  # any environment may raise anything; the study goes on
                return self._fail(lease, opened, trial_id, error, checkpoint.folder)

    def _begin(self, opened: Opened, trial_id: int) -> tuple[optuna.Trial, RunConfig]:
        """Draw, unless it was drawn before or is given, and note what was drawn as settings."""
        spec, study = opened.spec, opened.study
        number = opened.storage.get_trial(trial_id).number
        study.sampler = make_sampler(spec.sampler, spec.sampler_seed + number * _SEED_STRIDE, spec.n_startup_trials)
        study.pruner = make_pruner(spec.pruner, spec.n_timesteps, spec.pruning_warmup, _PRUNING_COMPANY)
        # A study keeps what it read for the thread's last ask().
        study._thread_local.cached_all_trials = None
        trial = optuna.Trial(study, trial_id)
        seed = trial.user_attrs[SEED]
        if JOB in trial.user_attrs:
            return trial, config_from_mapping({**trial.user_attrs[JOB]["config"], "seed": seed})
        space = spec.read_space()
        draws: dict[str, Any] = {}
        for parameter in space.parameters:
            if parameter.is_drawn(draws, space):
                draws[parameter.label] = _draw(trial, parameter.label, parameter.distribution())
        settings = settings_of(space, draws, spec.base)
        trial.set_user_attr(SETTINGS, settings)
        return trial, apply_settings({**spec.base, "seed": seed}, settings)

    def _training(self, opened: Opened, trial: optuna.Trial, config: RunConfig, folder: Path, lease: Lease) -> Training:
        goal = opened.spec.goal
        prunes = len(goal.maximize) == 1 and not opened.confirms

        def on_evaluation(curve: Curve) -> None:
            lease.progress.update(evaluation=curve.returns[-1])
            if lease.lost:
                raise Stop
            if not math.isfinite(curve.returns[-1]):
                return
            trial.set_user_attr(EVALUATIONS, vars(curve))
            if prunes:
                trial.report(goal.so_far(curve.steps, curve.returns), curve.steps[-1])
                if curve.steps[-1] < config.n_timesteps and trial.should_prune():
                    raise optuna.TrialPruned

        def on_update(num_timesteps: int) -> None:
            lease.progress.update(step=num_timesteps, total=config.n_timesteps)
            if lease.lost:
                raise Stop
            if self.asked_to_stop() or self._is_late():
                raise Leave

        return Training(config, folder, on_evaluation, on_update, self.options.checkpoint_interval)

    def _end(
        self, lease: Lease, opened: Opened, trial_id: int, state: TrialState, values: tuple[float, ...] | None = None
    ) -> bool:
        """Tell what became of a trial; False when it is somebody else's by now."""
        if not lease.is_held():
            return False
        with suppress(UpdateFinishedTrialError):
            if state == TrialState.PRUNED:
                # As Study.tell does: the last report is what the trial is remembered by.
                reports = opened.storage.get_trial(trial_id).intermediate_values
                values = (reports[max(reports)],) if reports else None
            opened.storage.set_trial_state_values(trial_id, state, values)
            return state.is_finished()
        return False

    def _fail(self, lease: Lease, opened: Opened, trial_id: int, error: Exception, folder: Path) -> bool:
        if not lease.is_held():
            return False
        reason = f"{'' if isinstance(error, NotFinite) else type(error).__name__ + ': '}{' '.join(str(error).split())}"
        atomic_write(folder / "error.txt", "".join(traceback.format_exception(error)))
        logger.warning("trial %d failed: %s", opened.storage.get_trial(trial_id).number, reason)
        with suppress(UpdateFinishedTrialError):
            opened.storage.set_trial_user_attr(trial_id, REASON, reason[:1000])
        ended = self._end(lease, opened, trial_id, TrialState.FAIL)
        if fails_over_and_over(opened):
            opened.stop(
                f"the last {opened.spec.max_failures} trials failed, the latest with: {reason[:300]}. Repair the "
                "environment or the configuration, or narrow the space, then go on with `ppo-plus tune resume`"
            )
        return ended

    def _studies(self) -> list[Opened]:
        confirmation = open_confirmation(self.opened)
        return [self.opened] if confirmation is None else [self.opened, confirmation]

    def _take(self, studies: list[Opened]) -> tuple[Opened, int] | None:
        for opened in studies:
            trial_id = None if opened.stopped() else claim(opened.storage, opened.study_id)
            if trial_id is not None:
                return opened, trial_id
        return None

    def _is_over(self, done: int) -> bool:
        enough = self.options.max_trials is not None and done >= self.options.max_trials
        return enough or self.asked_to_stop() or self._is_late()

    def _is_late(self) -> bool:
        return self.options.deadline is not None and time.monotonic() >= self.options.deadline


def trial_folder(folder: Path, opened: Opened, number: int) -> Path:
    """
    :param folder: folder of the study on this machine
    :param opened: the study, or its confirmation
    :param number: number of the trial
    :return: where its files are
    """
    return folder / ("confirmation" if opened.confirms else "trials") / str(number)


def fails_over_and_over(opened: Opened) -> bool:
    """
    :param opened: a study
    :return: whether so many of its trials failed in a row that something must be wrong with all of them
    """
    ended = [trial for trial in opened.study.get_trials(deepcopy=False) if trial.datetime_complete is not None]
    ended.sort(key=lambda trial: (trial.datetime_complete, trial.number))
    last = ended[-opened.spec.max_failures :]
    return len(last) == opened.spec.max_failures and all(trial.state == TrialState.FAIL for trial in last)


def _draw(trial: optuna.Trial, label: str, distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(label, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            label, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    return trial.suggest_int(label, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
