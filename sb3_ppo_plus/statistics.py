"""
Statistics of few seeds: interquartile means, bootstrap intervals, probability of improvement, a signed-rank test.

After Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", NeurIPS 2021 (arXiv 2108.13264), from here on "Agarwal et al." Every statistic of a sample works along the
last axis, so the bootstrap evaluates all of its resamples in one call.

Letters: S seeds (scores of one sample), K tasks, R resamples; ``...`` is any leading shape, empty for a single sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sb3_ppo_plus.errors import InvalidArgument

Statistic = Callable[..., Any]


def interquartile_mean(values: ArrayLike) -> Any:
    """
    Mean of the middle half: ``IQM = 1 / (S - 2c) * sum_{i=c+1}^{S-c} x_(i)`` with ``c = floor(S / 4)``.

    ``x_(i)`` is the i-th smallest score. This is ``scipy.stats.trim_mean(values, 0.25)``, which Agarwal et al. (section
    4.3) use through their library rliable: whole scores are cut, none is weighted. Below four seeds nothing is cut and
    it is the mean.

    :param values: scores [..., S]
    :return: interquartile mean [...]; a float for a single sample
    """
    ordered = np.sort(_scores(values, "values"), axis=-1)
    n_seeds = ordered.shape[-1]
    cut = n_seeds // 4
    return ordered[..., cut : n_seeds - cut].mean(axis=-1)


def iqm_difference(a: ArrayLike, b: ArrayLike) -> Any:
    """
    How much better ``a`` is: ``IQM(a) - IQM(b)``, see :func:`interquartile_mean`.

    :param a: scores [..., S]
    :param b: scores of the other [..., S'], may be another number of seeds
    :return: difference [...]; a float for single samples
    """
    return interquartile_mean(a) - interquartile_mean(b)


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> Any:
    """
    That a run of ``a`` beats one of ``b``: ``1 / (S S') * sum_ij [1(a_i > b_j) + 1/2 * 1(a_i = b_j)]``.

    Agarwal et al., section 4.3; the Mann-Whitney U statistic over the number of pairs. 0.5 means no difference.

    :param a: scores [..., S]
    :param b: scores of the other [..., S']
    :return: probability [...]; a float for single samples
    """
    left, right = _scores(a, "a")[..., :, None], _scores(b, "b")[..., None, :]
    return (left > right).mean(axis=(-2, -1)) + 0.5 * (left == right).mean(axis=(-2, -1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """
    Share of runs above each threshold: ``F(tau) = 1 / S * sum_i 1(x_i > tau)``.

    Agarwal et al., section 4.2 (score distributions). Flatten seeds and tasks into the last axis to pool tasks.

    :param scores: scores [..., S]
    :param thresholds: values of tau [T]
    :return: shares [..., T]
    """
    levels = _scores(thresholds, "thresholds", dimensions=1)
    above: np.ndarray = _scores(scores, "scores")[..., None, :] > levels[:, None]
    return above.mean(axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Any:
    """
    How much is missing to a target score: ``target - 1 / S * sum_i min(x_i, target)``; smaller is better.

    Agarwal et al., section 4.3.

    :param scores: normalized scores [..., S]
    :param target: score beyond which more does not count
    :return: gap [...]; a float for a single sample
    """
    return target - np.minimum(_scores(scores, "scores"), target).mean(axis=-1)


def bootstrap_interval(
    statistic: Statistic, *samples: ArrayLike, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a statistic of one or more independent samples.

    Draws R times S scores with replacement from each sample, computes ``t_1 ... t_R`` and returns the quantiles
    ``(1 - level) / 2`` and ``(1 + level) / 2`` of them (Efron, "Bootstrap Methods", Annals of Statistics 1979;
    Agarwal et al., section 4.1). With few seeds it is too narrow: the smaller S, the more so.

    :param statistic: takes one array [R, S] per sample and returns [R], for instance :func:`iqm_difference`
    :param samples: scores of each sample [S]; the numbers of seeds may differ
    :param n_resamples: number of resamples R
    :param level: probability that the interval aims to cover, between 0 and 1
    :param seed: seed of the draws; equal arguments give equal intervals
    :return: lower and upper end
    """
    arrays = [_scores(sample, f"sample {index}", dimensions=1) for index, sample in enumerate(samples)]
    generator = _generator(len(arrays), n_resamples, level, seed)
    drawn = [array[generator.integers(len(array), size=(n_resamples, len(array)))] for array in arrays]
    return _percentiles(statistic(*drawn), n_resamples, level)


def stratified_interval(
    statistic: Statistic, *samples: ArrayLike, n_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """
    Percentile bootstrap interval over several tasks, where seeds are resampled within each task.

    Agarwal et al., section 4.1: with K tasks of S seeds a resample draws S scores of each task, so that every task
    keeps its weight. The statistic gets arrays [R, K, S]. Returning [R, K] means one value per task, and the tasks are
    averaged (probability of improvement); to pool all scores as rliable's interquartile mean does, flatten them::

        stratified_interval(lambda x: interquartile_mean(x.reshape(len(x), -1)), scores)

    :param statistic: takes one array [R, K, S] per sample and returns [R, K] or [R]
    :param samples: scores of each sample [S, K], seeds by tasks
    :param n_resamples: number of resamples R
    :param level: probability that the interval aims to cover, between 0 and 1
    :param seed: seed of the draws; equal arguments give equal intervals
    :return: lower and upper end
    """
    arrays = [_scores(sample, f"sample {index}", dimensions=2) for index, sample in enumerate(samples)]
    generator = _generator(len(arrays), n_resamples, level, seed)
    drawn = []
    for array in arrays:
        by_task = array.T
        n_tasks, n_seeds = by_task.shape
        picked = generator.integers(n_seeds, size=(n_resamples, n_tasks, n_seeds))
        drawn.append(by_task[np.arange(n_tasks)[:, None], picked])
    result = np.asarray(statistic(*drawn), dtype=float)
    return _percentiles(result.mean(axis=1) if result.ndim == 2 else result, n_resamples, level)


def wilcoxon_less(differences: ArrayLike) -> float:
    """
    Exact p-value of the one-sided Wilcoxon signed-rank test that paired differences are below zero.

    ``p = P(W <= w)`` where ``w`` is the sum of the ranks of ``|d_i|`` over positive ``d_i`` and ``W`` the same sum when
    each sign is flipped by a fair coin (Wilcoxon, "Individual Comparisons by Ranking Methods", 1945). Zeros are
    dropped, equal ``|d_i|`` share the average of their ranks, and all ``2^n`` sign patterns count, by dynamic
    programming over the sum of the ranks. So the smallest p of n pairs is ``2^-n``: four pairs never reach 0.05.

    :param differences: one difference per pair [S], for instance scores of a candidate minus those of the leader
    :return: p-value; 1 when all differences are zero
    """
    pairs = _scores(differences, "differences", dimensions=1)
    pairs = pairs[pairs != 0]
    _, which, counts = np.unique(np.abs(pairs), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    # Average ranks are halves; twice of them are whole numbers, which can index the table of sums.
    doubled = (2 * last - counts + 1)[which]
    probability = np.zeros(int(doubled.sum()) + 1)
    probability[0] = 1.0
    for rank in doubled:
        flipped = np.zeros_like(probability)
        flipped[rank:] = probability[:-rank]
        probability = 0.5 * probability + 0.5 * flipped
    observed = int(doubled[pairs > 0].sum())
    return min(1.0, float(probability[: observed + 1].sum()))


def _scores(values: ArrayLike, name: str, dimensions: int | None = None) -> np.ndarray:
    """Give the values as floats, or say what is wrong with them: empty, not finite, wrong number of dimensions."""
    array = np.asarray(values, dtype=float)
    if array.ndim == 0 or (dimensions is not None and array.ndim != dimensions):
        raise InvalidArgument(
            f"{name} has shape {array.shape}; give an array of {dimensions or '1 or more'} dimensions"
        )
    if array.size == 0:
        raise InvalidArgument(f"{name} is empty (shape {array.shape}); at least one score is needed")
    if not np.isfinite(array).all():
        raise InvalidArgument(
            f"{name} has {np.count_nonzero(~np.isfinite(array))} NaN or infinite scores; leave them out"
        )
    return array


def _generator(n_samples: int, n_resamples: int, level: float, seed: int) -> np.random.Generator:
    """Check what both bootstraps take, and make their source of draws."""
    if n_samples == 0:
        raise InvalidArgument("samples is empty; give at least one sample")
    if n_resamples < 1:
        raise InvalidArgument(f"n_resamples={n_resamples} must be at least 1")
    if not 0 < level < 1:
        raise InvalidArgument(f"level={level} must lie between 0 and 1")
    return np.random.default_rng(seed)


def _percentiles(values: ArrayLike, n_resamples: int, level: float) -> tuple[float, float]:
    array = np.asarray(values, dtype=float)
    if array.shape != (n_resamples,):
        raise InvalidArgument(
            f"statistic gave shape {array.shape} for {n_resamples} resamples; it must reduce the last axis of [R, S]"
        )
    low, high = np.quantile(array, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
