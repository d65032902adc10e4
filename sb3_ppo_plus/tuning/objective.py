"""What a trial is worth: one or two numbers from its evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_ppo_plus.errors import InvalidArgument

OBJECTIVES = ("auc", "final", "time-to-threshold", "return,wallclock")
# Part of the evaluations at the end that count as final: one alone is too noisy to rank by.
_FINAL_PART = 0.2


@dataclass(frozen=True)
class Objective:
    """
    How trials are ranked.

    :param name: ``auc`` (mean return over the whole training), ``final`` (over its last fifth), ``time-to-threshold``
        (environment steps until an evaluation reaches ``threshold``), or ``return,wallclock`` (the final return, and
        the seconds that training took: two objectives)
    :param n_timesteps: environment steps of a trial
    :param threshold: return to reach, for ``time-to-threshold`` only
    """

    name: str
    n_timesteps: int
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise InvalidArgument(f"objective is {self.name!r}; choose of {', '.join(OBJECTIVES)}")
        if (self.threshold is not None) != (self.name == "time-to-threshold"):
            raise InvalidArgument(
                f"objective {self.name} and threshold {self.threshold}: time-to-threshold needs the return to reach, "
                "the others take none"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """What each value is, in words."""
        return {
            "auc": ("mean return over the training",),
            "final": ("return at the end",),
            "time-to-threshold": ("steps to the threshold",),
            "return,wallclock": ("return at the end", "seconds of training"),
        }[self.name]

    @property
    def maximize(self) -> tuple[bool, ...]:
        """For each value whether more is better."""
        return {"time-to-threshold": (False,), "return,wallclock": (True, False)}.get(self.name, (True,))

    def values(self, steps: Sequence[int], returns: Sequence[float], seconds: float) -> tuple[float, ...]:
        """
        :param steps: environment steps of each evaluation, ascending from 0 [E]
        :param returns: mean return of each evaluation [E]
        :param seconds: time that training took, evaluations not counted
        :return: one value, or two
        """
        if self.name == "auc":
            return (area(steps, returns),)
        if self.name == "time-to-threshold":
            return (self._time(steps, returns),)
        return (final(returns),) if self.name == "final" else (final(returns), seconds)

    def so_far(self, steps: Sequence[int], returns: Sequence[float]) -> float:
        """
        :param steps: environment steps of the evaluations so far [E]
        :param returns: their returns [E]
        :return: what pruning compares, in the direction of the objective
        """
        if self.name == "auc":
            return area(steps, returns)
        return self._time(steps, returns) if self.name == "time-to-threshold" else final(returns)

    def _time(self, steps: Sequence[int], returns: Sequence[float]) -> float:
        """Interpolated; a trial that never gets there takes longer than any that does, the more the farther it is."""
        assert self.threshold is not None
        for index, value in enumerate(returns):
            if value >= self.threshold:
                if index == 0:
                    return float(steps[0])
                before = returns[index - 1]
                part = (self.threshold - before) / (value - before)
                return float(steps[index - 1] + part * (steps[index] - steps[index - 1]))
        start, best = returns[0], max(returns)
        missing = (self.threshold - best) / max(self.threshold - start, 1e-12)
        return float(self.n_timesteps * (1 + missing))


def area(steps: Sequence[int], returns: Sequence[float]) -> float:
    """
    :param steps: environment steps of each evaluation, ascending [E]
    :param returns: mean return of each evaluation [E]
    :return: area under the curve by the trapezoidal rule, divided by its length: a mean return
    """
    if len(steps) == 1:
        return float(returns[0])
    x, y = np.asarray(steps, float), np.asarray(returns, float)
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (x[-1] - x[0]))


def final(returns: Sequence[float]) -> float:
    """
    :param returns: mean return of each evaluation [E]
    :return: mean of the last fifth of them, at least one
    """
    count = max(1, round(_FINAL_PART * len(returns)))
    return float(np.mean(returns[-count:]))
