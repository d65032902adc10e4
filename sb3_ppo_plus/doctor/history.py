"""The metrics of a run, one value of each for every update; what the rules look at."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_ppo_plus.doctor.settings import Settings

TRAIN, STEP = "train/", "time/total_timesteps"
EVALUATION = "eval/mean_reward"
#: how many numbers of a rollout and its update were NaN or infinite
NONFINITE = "doctor/nonfinite"
#: updates between two looks of the doctor where they are short; what a single update shows is looked for among so many
LOOK_EVERY = 4
# A line of the log has it exactly when it tells of a rollout.
_ROLLOUT = "time/fps"
# Other metrics may be NaN in a healthy run: a mean of no episodes, the explained variance of equal returns.
_LOSSES = ("train/loss", "train/value_loss", "train/policy_gradient_loss", "train/approx_kl")

_NONE: array[float] = array("d")


class History:
    """
    What a run logged. Names are those of the logger (``train/approx_kl``); the doctor's own begin with ``doctor/``.

    :param settings: settings of the run
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        #: timestep at the end of each update's rollout [U]
        self.steps: list[int] = []
        #: values by name, NaN where an update did not log it, each [U]
        self.columns: dict[str, array[float]] = {}
        #: timestep and mean return of each evaluation
        self.evaluations: list[tuple[int, float]] = []
        self._logged: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def step(self) -> int:
        """:return: timestep of the latest update, 0 before the first"""
        return self.steps[-1] if self.steps else 0

    # ------------------------------------------------ writing

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """
        Add an update.

        :param step: timestep at the end of its rollout
        :param values: metrics by name
        """
        length = len(self.steps)
        self.steps.append(int(step))
        broken = sum(not math.isfinite(values[name]) for name in _LOSSES if name in values)
        if broken:
            values = {**values, NONFINITE: values.get(NONFINITE, 0.0) + broken}
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None:
                column = self.columns[name] = array("d", [math.nan]) * length
                self._logged[name] = array("d")
            column.append(float(value))
            if value == value:
                self._logged[name].append(float(value))
        for column in self.columns.values():
            if len(column) == length:
                column.append(math.nan)

    def add_evaluation(self, step: int, mean: float) -> None:
        """
        :param step: timestep of the evaluation
        :param mean: mean return of its episodes
        """
        self.evaluations.append((int(step), float(mean)))

    def state_dict(self) -> dict[str, Any]:
        """:return: plain data and arrays, a copy"""
        return {
            "steps": np.array(self.steps, np.int64),
            "columns": {name: np.array(column, np.float64) for name, column in self.columns.items()},
            "evaluations": np.array(self.evaluations, np.float64).reshape(-1, 2),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.steps = [int(step) for step in state["steps"]]
        self.columns = {name: array("d", column) for name, column in state["columns"].items()}
        self._logged = {
            name: array("d", (value for value in column if value == value)) for name, column in self.columns.items()
        }
        self.evaluations = [(int(step), float(mean)) for step, mean in state["evaluations"]]

    # ------------------------------------------------ reading

    def window(self, count: int) -> tuple[int, int]:
        """
        :param count: number of updates
        :return: first and last timestep of the latest ones
        """
        return (self.steps[max(0, len(self.steps) - count)], self.step) if self.steps else (0, 0)

    def every(self, name: str) -> array[float]:
        """
        :param name: name of a metric
        :return: the values that were logged so far, without gaps; to be read only
        """
        return self._logged.get(name, _NONE)

    def last(self, name: str, count: int) -> array[float]:
        """
        :param name: name of a metric
        :param count: number of values
        :return: the latest values that were logged
        """
        return self._logged.get(name, _NONE)[-count:]

    def median(self, name: str, count: int) -> float | None:
        """
        :param name: name of a metric
        :param count: values to look at
        :return: median of the latest values; None before there are half as many
        """
        values = self.last(name, count)
        return median(values) if 2 * len(values) >= count else None

    def latest(self, name: str) -> float | None:
        """
        :param name: name of a metric
        :return: its newest value, however old it is; None when it was never logged
        """
        values = self.every(name)
        return values[-1] if values else None


def median(values: Sequence[float]) -> float:
    """
    :param values: numbers, at least one
    :return: their median, faster than NumPy's for a few of them
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])


def history_of_rows(rows: Sequence[Mapping[str, float]], settings: Settings | None = None) -> History:
    """
    Put a log into the order of updates.

    A logger writes its line between a rollout and its update: what begins with ``train/`` belongs to the rollout of
    the line before. Evaluations write lines of their own, which may carry the numbers of an update as well.

    :param rows: lines of the log, each with the metrics that it has
    :param settings: settings of the run
    :return: the history
    """
    history = History(settings)
    waiting: dict[str, float] | None = None
    for row in rows:
        update = {name: value for name, value in row.items() if name.startswith(TRAIN)}
        rest = {name: value for name, value in row.items() if not name.startswith((TRAIN, "eval/"))}
        if update and waiting is not None:
            history.append(int(waiting[STEP]), {**waiting, **update})
            waiting = None
        if EVALUATION in row:
            history.add_evaluation(int(row.get(STEP, 0)), row[EVALUATION])
        if STEP in row and _ROLLOUT in row:
            if waiting is not None:
                history.append(int(waiting[STEP]), waiting)
            waiting = rest
    if waiting is not None:
        history.append(int(waiting[STEP]), waiting)
    return history
