"""Statistics of few seeds: closed forms by hand, equality with scipy, coverage of the intervals, invariances."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_ppo_plus import statistics as st
from sb3_ppo_plus.errors import InvalidArgument

# ------------------------------------------------ interquartile mean


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    # S = 8, c = 2: of 1 2 3 4 5 6 7 100 the middle is 3 4 5 6, mean 18 / 4.
    assert st.interquartile_mean([7, 1, 100, 3, 5, 2, 6, 4]) == 4.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4.0], 4.0),
        ([1.0, 2.0, 6.0], 3.0),  # c = 0: the plain mean
        ([0.0, 2.0, 6.0, 100.0], 4.0),  # c = 1: (2 + 6) / 2
        ([0.0, 1.0, 2.0, 6.0, 100.0], 3.0),  # c = 1 of 5: (1 + 2 + 6) / 3
    ],
)
def test_interquartile_mean_of_few(values: list[float], expected: float) -> None:
    assert st.interquartile_mean(values) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("n_seeds", range(1, 25))
def test_interquartile_mean_is_scipys_trimmed_mean(n_seeds: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is in the extra [tune]")
    values = np.random.default_rng(n_seeds).standard_cauchy((3, n_seeds))
    expected = scipy_stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(st.interquartile_mean(values), expected, rtol=1e-12)


def test_interquartile_mean_follows_shift_and_scale_and_ignores_order() -> None:
    values = np.random.default_rng(0).normal(size=11)
    plain = st.interquartile_mean(values)
    assert st.interquartile_mean(-3 * values + 5) == pytest.approx(-3 * plain + 5)
    assert st.interquartile_mean(values[::-1]) == plain


def test_interquartile_mean_leaves_its_argument_alone() -> None:
    values = np.array([3.0, 1.0, 2.0, 0.0])
    st.interquartile_mean(values)
    assert values.tolist() == [3.0, 1.0, 2.0, 0.0]


# ------------------------------------------------ two samples


def test_iqm_difference_by_hand() -> None:
    # IQM(0 2 6 100) = 4, IQM(1 2 6) = 3.
    assert st.iqm_difference([0, 2, 6, 100], [1, 2, 6]) == 1.0
    assert st.iqm_difference([1, 2, 6], [0, 2, 6, 100]) == -1.0


def test_probability_of_improvement_by_hand() -> None:
    # Pairs of (1, 3) with (1, 2, 2): 1 against them: tie, loss, loss; 3: three wins. (3 + 0.5) / 6.
    assert st.probability_of_improvement([1, 3], [1, 2, 2]) == pytest.approx(3.5 / 6, rel=1e-15)


def test_probability_of_improvement_of_both_sides_adds_up_to_one() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.integers(5, size=(4, 7)), generator.integers(5, size=(4, 9))
    there, back = st.probability_of_improvement(a, b), st.probability_of_improvement(b, a)
    assert there.shape == (4,)
    np.testing.assert_allclose(there + back, 1.0)
    # Only the order counts, so a growing function of both changes nothing.
    np.testing.assert_array_equal(st.probability_of_improvement(np.exp(a), np.exp(b)), there)
    assert st.probability_of_improvement(a[0], a[0]) == 0.5


def test_probability_of_improvement_is_the_mann_whitney_statistic() -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is in the extra [tune]")
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.5, size=8), generator.normal(size=6)
    assert st.probability_of_improvement(a, b) == pytest.approx(scipy_stats.mannwhitneyu(a, b).statistic / 48)


# ------------------------------------------------ profiles


def test_performance_profile_counts_what_is_strictly_above() -> None:
    # Of 1 2 2 4: all above 0; 2 2 4 above 1; only 4 above 2; nothing above 4.
    profile = st.performance_profile([1, 2, 2, 4], [0, 1, 2, 4])
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_performance_profile_keeps_leading_axes() -> None:
    profile = st.performance_profile([[1, 3], [5, 5]], [2, 4, 6])
    assert profile.tolist() == [[0.5, 0, 0], [1, 1, 0]]


def test_optimality_gap_by_hand() -> None:
    # min(x, 1) of 0.5, 1, 3 is 0.5, 1, 1 with mean 5 / 6.
    assert st.optimality_gap([0.5, 1.0, 3.0]) == pytest.approx(1 / 6)
    assert st.optimality_gap([0.5, 1.0, 3.0], target=2.0) == pytest.approx(2 - 3.5 / 3)


# ------------------------------------------------ bootstrap


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)


def test_bootstrap_of_equal_scores_is_a_point() -> None:
    assert st.bootstrap_interval(st.interquartile_mean, [3.0] * 6) == (3.0, 3.0)


def test_bootstrap_of_two_scores_spans_both() -> None:
    # The mean of two draws from {0, 1} is 0, 0.5, 1 with 1/4, 1/2, 1/4: the quantiles 2.5% and 97.5% are the ends,
    # and at a level of 0.4 the quantiles 30% and 70% are both 0.5.
    assert st.bootstrap_interval(mean, [0.0, 1.0]) == (0.0, 1.0)
    assert st.bootstrap_interval(mean, [0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_theory() -> None:
    # The resampled mean has the standard deviation sqrt(var / S), var with divisor S; S = 50 is near enough to normal.
    values = np.random.default_rng(3).normal(10, 2, size=50)
    low, high = st.bootstrap_interval(mean, values, n_resamples=40_000)
    half = 1.96 * values.std() / np.sqrt(50)
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    # 300 repetitions at a true coverage near 0.93 (30 seeds are slightly too few) have a standard error of 0.015.
    generator = np.random.default_rng(4)
    covered = 0
    for repetition in range(300):
        a, b = generator.normal(1.0, size=30), generator.normal(0.0, size=30)
        low, high = st.bootstrap_interval(st.iqm_difference, a, b, n_resamples=500, seed=repetition)
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 300 <= 0.985


def test_bootstrap_resamples_each_sample_by_itself() -> None:
    # Were the same seeds drawn for both, the difference would be zero in every resample.
    values = np.arange(10.0)
    low, high = st.bootstrap_interval(st.iqm_difference, values, values)
    assert low < -1 < 1 < high


def test_bootstrap_takes_samples_of_different_sizes_and_repeats_itself() -> None:
    samples = np.arange(4.0), np.arange(7.0) + 2
    first = st.bootstrap_interval(st.probability_of_improvement, *samples, seed=5)
    assert first == st.bootstrap_interval(st.probability_of_improvement, *samples, seed=5)
    other = st.bootstrap_interval(mean, samples[0], n_resamples=50, seed=6)
    assert other != st.bootstrap_interval(mean, samples[0], n_resamples=50, seed=7)


def test_bootstrap_follows_shift_and_scale() -> None:
    values = np.random.default_rng(8).normal(size=9)
    low, high = st.bootstrap_interval(st.interquartile_mean, values)
    shifted = st.bootstrap_interval(st.interquartile_mean, 1e9 * values + 1e9)
    assert shifted == pytest.approx((1e9 * low + 1e9, 1e9 * high + 1e9))


def test_wider_level_gives_wider_interval() -> None:
    values = np.random.default_rng(9).normal(size=12)
    inner = st.bootstrap_interval(mean, values, level=0.5)
    outer = st.bootstrap_interval(mean, values, level=0.99)
    assert outer[0] < inner[0] < values.mean() < inner[1] < outer[1]


# ------------------------------------------------ tasks


def test_stratified_bootstrap_draws_within_tasks() -> None:
    # Two tasks without spread: however seeds are drawn, the pooled mean is (0 + 100) / 2. Mixed tasks would spread.
    scores = np.array([[0.0, 100.0]] * 5)
    assert st.stratified_interval(lambda x: x.reshape(len(x), -1).mean(axis=-1), scores) == (50.0, 50.0)


def test_stratified_bootstrap_averages_what_comes_per_task() -> None:
    # Task 0: always better, task 1: always worse; the mean over tasks is 1/2 in every resample.
    a, b = np.array([[3.0, 0.0], [4.0, 1.0]]), np.array([[1.0, 5.0], [2.0, 6.0], [0.0, 7.0]])
    assert st.stratified_interval(st.probability_of_improvement, a, b) == (0.5, 0.5)


def test_stratified_bootstrap_of_one_task_is_the_plain_one() -> None:
    values = np.random.default_rng(10).normal(size=8)
    plain = st.bootstrap_interval(mean, values, seed=3)
    assert st.stratified_interval(mean, values[:, None], seed=3) == pytest.approx(plain)


def test_stratified_bootstrap_draws_each_task_by_itself() -> None:
    # With one draw of seeds for all tasks, the columns x and -x would cancel in every resample.
    column = np.arange(8.0)
    low, high = st.stratified_interval(mean, np.stack([column, -column], axis=1))
    assert low < -0.5 < 0.5 < high


# ------------------------------------------------ signed ranks


@pytest.mark.parametrize("n_pairs", range(1, 9))
def test_smallest_p_of_n_pairs(n_pairs: int) -> None:
    assert st.wilcoxon_less(-np.arange(1.0, n_pairs + 1)) == 2.0**-n_pairs
    assert st.wilcoxon_less(np.arange(1.0, n_pairs + 1)) == 1.0


def test_signed_ranks_by_hand() -> None:
    # |d| = 1 2 3, positive is the one of rank 2, w = 2. Sums of subsets of {1, 2, 3} that are <= 2: {}, {1}, {2}.
    assert st.wilcoxon_less([-1.0, 2.0, -3.0]) == 3 / 8


def test_tied_differences_share_their_ranks() -> None:
    # |d| = 1 1 2: ranks 1.5 1.5 3, positive is one of rank 1.5. Subsets with a sum <= 1.5: {}, {1.5}, {1.5}.
    assert st.wilcoxon_less([1.0, -1.0, -2.0]) == 3 / 8


def test_zeros_are_dropped() -> None:
    assert st.wilcoxon_less([0.0, -1.0, 0.0, -2.0]) == 1 / 4
    assert st.wilcoxon_less([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("n_pairs", [*range(1, 13), 20])
def test_signed_ranks_are_scipys(n_pairs: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is in the extra [tune]")
    for seed in range(5):
        differences = np.random.default_rng(100 * n_pairs + seed).normal(-0.3, size=n_pairs)
        expected = scipy_stats.wilcoxon(differences, method="exact", alternative="less").pvalue
        assert st.wilcoxon_less(differences) == pytest.approx(expected, rel=1e-12)


def test_signed_ranks_with_ties_count_all_sign_patterns() -> None:
    # Brute force over 2^8 patterns, ranks by counting: smaller ones plus half of the equal ones.
    differences = np.array([1.0, -1.0, -2.0, -2.0, 2.0, -3.0, -4.0, -4.0])
    size = np.abs(differences)
    ranks = np.array([(size < s).sum() + ((size == s).sum() + 1) / 2 for s in size])
    patterns = (np.arange(256)[:, None] >> np.arange(8)) & 1
    expected = (patterns @ ranks <= ranks[differences > 0].sum()).mean()
    assert st.wilcoxon_less(differences) == pytest.approx(expected, rel=1e-15)


def test_signed_ranks_ignore_scale() -> None:
    differences = np.random.default_rng(11).normal(size=9)
    assert st.wilcoxon_less(1e9 * differences) == st.wilcoxon_less(differences)


def test_p_values_of_no_effect_are_not_too_small() -> None:
    # Exact tests hold their level: P(p <= 0.05) <= 0.05 for every n; 2000 repetitions have a standard error of 0.005.
    generator = np.random.default_rng(12)
    small = np.mean([st.wilcoxon_less(generator.normal(size=8)) <= 0.05 for _ in range(2000)])
    assert 0.02 < small < 0.065


# ------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.interquartile_mean([]), "values is empty"),
        (lambda: st.interquartile_mean([1.0, np.nan]), "values has 1 NaN"),
        (lambda: st.interquartile_mean(3.0), "values has shape"),
        (lambda: st.iqm_difference([1.0], [np.inf]), "values has 1 NaN or infinite"),
        (lambda: st.probability_of_improvement([1.0], []), "b is empty"),
        (lambda: st.probability_of_improvement([np.nan], [1.0]), "a has 1 NaN"),
        (lambda: st.performance_profile([1.0], [np.nan]), "thresholds has 1 NaN"),
        (lambda: st.performance_profile([], [1.0]), "scores is empty"),
        (lambda: st.optimality_gap([]), "scores is empty"),
        (lambda: st.bootstrap_interval(mean), "samples is empty"),
        (lambda: st.bootstrap_interval(mean, [1.0], []), "sample 1 is empty"),
        (lambda: st.bootstrap_interval(mean, [[1.0]]), "sample 0 has shape"),
        (lambda: st.bootstrap_interval(mean, [1.0], level=95), "level=95"),
        (lambda: st.bootstrap_interval(mean, [1.0], n_resamples=0), "n_resamples=0"),
        (lambda: st.bootstrap_interval(np.mean, [1.0, 2.0]), "statistic gave shape"),
        (lambda: st.stratified_interval(mean, [1.0, 2.0]), "sample 0 has shape"),
        (lambda: st.wilcoxon_less([]), "differences is empty"),
        (lambda: st.wilcoxon_less([1.0, np.nan]), "differences has 1 NaN"),
    ],
)
def test_wrong_input_is_named(call: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call()  # type: ignore[operator]
