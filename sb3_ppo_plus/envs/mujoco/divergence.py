"""Simulations that left the numbers: found, and taken out of a step so that the others do not notice."""

from __future__ import annotations

import numpy as np

from sb3_ppo_plus.envs.arrays import where_rows
from sb3_ppo_plus.envs.tasks.base import Outcome


def find_diverged(failed: np.ndarray | None, outcome: Outcome, observations: np.ndarray) -> np.ndarray:
    """
    :param failed: numbers of simulations that the engine gave up, None for none
    :param outcome: what the step was worth
    :param observations: what was seen after it [n, O]
    :return: True for these, and for rows that are not finite [n]
    """
    bad = ~np.isfinite(observations).all(1) | ~np.isfinite(outcome.reward)
    if failed is not None:
        bad[failed] = True
    return bad


def end_rows(outcome: Outcome, bad: np.ndarray) -> Outcome:
    """
    Take simulations out of an outcome: they end here, and what they would say counts as 0.

    :param outcome: what a step was worth
    :param bad: True for simulations that diverged [n]
    :return: the same for the others, and ``diverged`` among the figures
    """
    terminated = bad if outcome.terminated is None else bad | outcome.terminated
    stats = {name: where_rows(bad, np.zeros_like(value), value) for name, value in outcome.stats.items()}
    return Outcome(np.where(bad, 0.0, outcome.reward), terminated, {**stats, "diverged": bad})


def keep_rows(bad: np.ndarray, before: np.ndarray | None, after: np.ndarray | None) -> np.ndarray | None:
    """
    :param bad: True for simulations that diverged [n]
    :param before: what was tracked before the step [n, k]
    :param after: what was tracked after it [n, k]
    :return: the latter, except for diverged rows; None when nothing is tracked
    """
    return after if after is None or before is None else where_rows(bad, before, after)
