"""Samplers by name, and the rule that ends hopeless trials."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.space import Space

SAMPLERS = ("tpe", "gp", "cmaes", "random", "qmc", "grid")
PRUNERS = ("percentile", "median", "none")
# Sampler to what it needs beside Optuna.
_NEEDS = {"gp": "scipy", "qmc": "scipy", "cmaes": "cmaes"}
# Points of a grid for each number.
GRID_POINTS = 3


def make_sampler(name: str, seed: int, n_startup_trials: int = 10) -> BaseSampler:
    """
    :param name: one of ``SAMPLERS``; ``grid`` draws at random what its enqueued points leave open
    :param seed: seed of its draws
    :param n_startup_trials: random trials at first; more explores more, 10 is usual
    :return: Optuna's sampler
    :raises InvalidArgument: for another name, or a missing package
    """
    check_sampler(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_startup_trials)
        if name == "gp":
            # Its default believes that a configuration always returns the same.
            noisy: dict[str, Any] = {"deterministic_objective": False}
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=n_startup_trials, **noisy)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=n_startup_trials)
        if name == "qmc":
            return optuna.samplers.QMCSampler(seed=seed, scramble=True)
        return optuna.samplers.RandomSampler(seed=seed)


def check_sampler(name: str) -> None:
    """
    :param name: name of a sampler
    :raises InvalidArgument: for another name, or a missing package
    """
    if name not in SAMPLERS:
        raise InvalidArgument(f"sampler is {name!r}; choose of {', '.join(SAMPLERS)}")
    if name in _NEEDS and find_spec(_NEEDS[name]) is None:
        raise InvalidArgument(f"sampler {name} needs {_NEEDS[name]}; pip install {_NEEDS[name]}")


def grid_draws(space: Space, points: int = GRID_POINTS) -> list[dict[str, Any]]:
    """
    Every combination of evenly spaced values.

    :param space: the space
    :param points: values of each number; choices are all taken
    :return: draws by label, without those that differ in nothing that is drawn
    """
    axes = []
    for parameter in space.parameters:
        ends = parameter.extremes()
        if parameter.kind == "choice":
            axes.append(ends)
            continue
        low, high = ends
        spread = np.geomspace(low, high, points) if parameter.log else np.linspace(low, high, points)
        whole = parameter.kind == "int"
        axes.append(sorted({round(value) if whole else float(value) for value in spread}))
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes):
        whole_draw = dict(zip((parameter.label for parameter in space.parameters), values, strict=True))
        draw = space.middle(whole_draw)
        found.setdefault(repr(draw), draw)
    return list(found.values())


class CurvePruner(BasePruner):
    """
    End a trial whose curve is among the worst of all trials at the same number of environment steps.

    A trial reports its score so far at each evaluation. It is compared with what the others reported at that step,
    and ends when it was below the percentile at ``patience`` evaluations in a row.

    :param percentile: share of the trials that go on, in percent; larger prunes less
    :param warmup: environment steps before which nothing ends; larger is safer and saves less
    :param n_startup_trials: trials that must have reached the step before
    :param patience: evaluations in a row; larger forgives noise and saves less
    """

    def __init__(self, percentile: float, warmup: int, n_startup_trials: int = 5, patience: int = 2) -> None:
        self.percentile = percentile
        self.warmup = warmup
        self.n_startup_trials = n_startup_trials
        self.patience = patience

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """
        :param study: the study
        :param trial: the trial as it is now
        :return: whether it ends
        """
        steps = sorted(trial.intermediate_values)[-self.patience :]
        if len(steps) < self.patience or steps[-1] < self.warmup:
            return False
        others = [
            other.intermediate_values
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if other.number != trial.number
        ]
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        for step in steps:
            company = [sign * curve[step] for curve in others if step in curve]
            if not self._is_bad(sign * trial.intermediate_values[step], company):
                return False
        return True

    def _is_bad(self, value: float, others: Sequence[float]) -> bool:
        if len(others) < self.n_startup_trials:
            return False
        return math.isnan(value) or value < float(np.percentile(others, 100 - self.percentile))


def make_pruner(name: str, n_timesteps: int, warmup_fraction: float, n_startup_trials: int) -> BasePruner:
    """
    :param name: ``percentile`` (the worst quarter ends), ``median`` (the worse half), ``none``
    :param n_timesteps: environment steps of a trial
    :param warmup_fraction: part of a trial before which nothing ends
    :param n_startup_trials: trials to compare with
    :return: the pruner
    :raises InvalidArgument: for another name
    """
    if name not in PRUNERS:
        raise InvalidArgument(f"pruner is {name!r}; choose of {', '.join(PRUNERS)}")
    if name == "none":
        return optuna.pruners.NopPruner()
    share = 75.0 if name == "percentile" else 50.0
    return CurvePruner(share, round(warmup_fraction * n_timesteps), n_startup_trials)
