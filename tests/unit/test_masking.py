"""sb3_ppo_plus.masking: numbers by hand, beside sb3-contrib's distributions, and what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)

from sb3_ppo_plus.distributions import exact_kl
from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.hybrid_policy import HybridDistribution
from sb3_ppo_plus.masking import FORBIDDEN, check_masks, mask_rows, mask_sizes, masked, masked_twin
from sb3_ppo_plus.policies import distribution_params

LOG = math.log


def twin(plain: Any, masks: list[list[bool]], logits: list[list[float]]) -> Any:
    return masked_twin(plain, th.tensor(masks)).proba_distribution(th.tensor(logits))


def test_what_remains_shares_the_probability() -> None:
    # weights 1, 3, 4 and a forbidden 100: the rest has 1/8, 3/8, 4/8
    found = twin(CategoricalDistribution(4), [[True, True, True, False]], [[0.0, LOG(3), LOG(4), LOG(100)]])
    th.testing.assert_close(found.distribution.probs, th.tensor([[0.125, 0.375, 0.5, 0.0]]))
    assert found.distribution.probs[0, 3] == 0.0
    assert found.log_prob(th.tensor([1])).item() == pytest.approx(LOG(3 / 8), abs=1e-6)
    entropy = -(LOG(1 / 8) / 8 + 3 * LOG(3 / 8) / 8 + LOG(1 / 2) / 2)
    assert found.entropy().item() == pytest.approx(entropy, abs=1e-6)
    assert found.mode().tolist() == [2]


def test_each_choice_has_its_own_part_of_the_mask() -> None:
    # choice 0 may only be 1; choice 1 of weights 1, 2, 5 may be 0 or 1: 1/3, 2/3
    plain = MultiCategoricalDistribution([2, 3])
    found = twin(plain, [[False, True, True, True, False]], [[9.0, 0.0, 0.0, LOG(2), LOG(5)]])
    assert found.log_prob(th.tensor([[1, 1]])).item() == pytest.approx(LOG(2 / 3), abs=1e-6)
    assert found.entropy().item() == pytest.approx(-(LOG(1 / 3) / 3 + 2 * LOG(2 / 3) / 3), abs=1e-6)
    assert found.mode().tolist() == [[1, 1]]


def test_a_bit_with_one_allowed_value_has_it_for_certain() -> None:
    # free with odds of 3, only 0, only 1
    masks = [[True, True, True, False, False, True]]
    found = twin(BernoulliDistribution(3), masks, [[LOG(3), 5.0, -5.0]])
    th.testing.assert_close(found.distribution.probs, th.tensor([[0.75, 0.0, 1.0]]))
    assert found.log_prob(th.tensor([[1.0, 0.0, 1.0]])).item() == pytest.approx(LOG(0.75), abs=1e-6)
    assert found.entropy().item() == pytest.approx(-(0.75 * LOG(0.75) + 0.25 * LOG(0.25)), abs=1e-6)
    assert found.mode().tolist() == [[1.0, 0.0, 1.0]]


def test_masks_bind_the_choices_of_hybrid_actions_only() -> None:
    plain = HybridDistribution(1, (3,))
    found = masked_twin(plain, th.tensor([[True, False, True]]))
    found.proba_distribution(th.tensor([[0.5, 0.0, 7.0, LOG(3)]]), th.zeros(1))
    gaussian = -0.5 * LOG(2 * math.pi)
    assert found.log_prob(th.tensor([[0.5, 2.0]])).item() == pytest.approx(gaussian + LOG(3 / 4), abs=1e-6)
    assert found.mode().tolist() == [[0.5, 2.0]]


def test_the_divergence_counts_what_is_allowed() -> None:
    plain, mask = CategoricalDistribution(3), [[True, True, False]]
    old, new = twin(plain, mask, [[0.0, 0.0, 4.0]]), twin(plain, mask, [[0.0, LOG(3), -2.0]])
    p, q = distribution_params(old), distribution_params(new)
    assert p is not None and q is not None
    # 1/2 log((1/2) / (1/4)) + 1/2 log((1/2) / (3/4))
    assert exact_kl(p, q).item() == pytest.approx(0.5 * LOG(2) + 0.5 * LOG(2 / 3), abs=1e-6)
    assert exact_kl(p, p).item() == 0.0


KINDS = {
    "discrete": (CategoricalDistribution(6), MaskableCategoricalDistribution(6), (6,)),
    "multidiscrete": (MultiCategoricalDistribution([2, 4]), MaskableMultiCategoricalDistribution([2, 4]), (2, 4)),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_and_gradients_are_those_of_sb3_contrib_bit_for_bit(name: str) -> None:
    plain, theirs, sizes = KINDS[name]
    generator = th.Generator().manual_seed(0)
    logits = 3.0 * th.randn(200, sum(sizes), generator=generator)
    masks = th.rand(200, sum(sizes), generator=generator) < 0.5
    masks[:, np.cumsum((0, *sizes[:-1]))] = True
    results = []
    for make in (lambda x: masked_twin(plain, masks).proba_distribution(x), theirs.proba_distribution):
        leaf = logits.clone().requires_grad_()
        distribution = make(leaf)
        if distribution is theirs:
            distribution.apply_masking(masks)
        actions = distribution.mode()
        terms = distribution.log_prob(actions), distribution.entropy()
        (terms[0].sum() + 0.1 * terms[1].sum()).backward()
        results.append((actions, *terms, leaf.grad))
    assert all(th.equal(one, other) for one, other in zip(*results, strict=True))
    # Normalizing before the mask leaves roundings where the gradient of what is forbidden should be 0; theirs too.
    assert results[0][3] is not None and results[0][3][~masks].abs().max() < 1e-6


@pytest.mark.parametrize(
    "plain", [CategoricalDistribution(4), MultiCategoricalDistribution([2, 2]), BernoulliDistribution(2)]
)
def test_nothing_but_the_gradient_of_the_allowed_is_left(plain: Any) -> None:
    width = 2 if isinstance(plain, BernoulliDistribution) else 4
    logits = th.randn(3, width, generator=th.Generator().manual_seed(1)).requires_grad_()
    found = masked_twin(plain, th.tensor([[True, False, False, True]] * 3)).proba_distribution(logits)
    params = distribution_params(found)
    assert params is not None
    (found.entropy().sum() + found.log_prob(found.mode()).sum() + exact_kl(params, params).sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_mask_that_allows_all_changes_no_bit() -> None:
    logits = th.randn(50, 5, generator=th.Generator().manual_seed(2))
    free = BernoulliDistribution(5).proba_distribution(logits)
    found = masked_twin(BernoulliDistribution(5), th.ones(50, 10, dtype=th.bool)).proba_distribution(logits)
    assert th.equal(free.distribution.logits, found.distribution.logits)


def test_in_numpy_the_same_logits_are_forbidden() -> None:
    logits = np.zeros((1, 3), np.float32)
    mask_rows(logits, np.array([[True, False, True]]))
    assert logits.tolist() == [[0.0, FORBIDDEN, 0.0]]
    odds = np.full((1, 3), 0.5, np.float32)
    mask_rows(odds, np.array([[True, True, True, False, False, True]]))
    assert odds.tolist() == [[0.5, FORBIDDEN, -FORBIDDEN]]


def test_the_policy_has_its_own_distribution_back_even_after_an_error() -> None:
    plain = CategoricalDistribution(2)
    policy: Any = SimpleNamespace(action_dist=plain, device="cpu")
    with masked(policy, None):
        assert policy.action_dist is plain
    with pytest.raises(KeyError), masked(policy, np.array([[True, False]])):
        assert policy.action_dist is not plain
        raise KeyError
    assert policy.action_dist is plain


@pytest.mark.parametrize(
    ("space", "sizes"),
    [
        (spaces.Discrete(3), (3,)),
        (spaces.MultiDiscrete([2, 3]), (2, 3)),
        (spaces.MultiBinary(2), (2, 2)),
        (HybridSpace(spaces.Box(-1, 1, (2,)), [4, 2]), (4, 2)),
        (spaces.Box(-1, 1, (2,)), None),
    ],
)
def test_what_a_mask_consists_of(space: spaces.Space, sizes: tuple[int, ...] | None) -> None:
    assert mask_sizes(space) == sizes


TWO = spaces.MultiDiscrete([2, 3])


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32])
def test_zeros_and_ones_of_any_type_are_masks(dtype: Any) -> None:
    found = check_masks(np.array([1, 0, 0, 1, 1], dtype), TWO)
    assert found.dtype == bool and found.tolist() == [[True, False, False, True, True]]
    assert np.array_equal(check_masks([[True] * 5, [True] * 5], TWO), np.ones((2, 5), bool))


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (np.ones((3, 4), bool), r"of the shape \(3, 4\).*takes 5 entries"),
        ([[True, True], [True, True, True]], "rows of different lengths.*takes 5 entries"),
        (None, r"of the shape \(\).*takes 5 entries"),
        ([None] * 5, "action_masks of object"),
        (np.array([0.0, -1e8, 0.0, 0.0, -1e8]), "action_masks of float64 hold .*-100000000"),
        (np.array([0.5] * 5), "give bool"),
        (np.array([math.nan] * 5), "give bool"),
        (np.array([1, 2, 0, 0, 1]), "give bool"),
        (np.array([[True] * 5, [True, True, False, False, False]]), "environment 1 allows nothing in choice 1"),
        (np.array([[False, False, True, True, True]]), "environment 0 allows nothing in choice 0"),
    ],
)
def test_masks_that_cannot_be_are_refused(masks: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_masks(masks, TWO)


def test_spaces_and_distributions_without_choices_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no choices to mask"):
        check_masks(np.ones(2, bool), spaces.Box(-1, 1, (2,)))
    with pytest.raises(InvalidArgument, match=r"DiagGaussianDistribution.*use_masking=False"):
        masked_twin(DiagGaussianDistribution(2), th.ones(1, 2, dtype=th.bool))


def test_there_is_one_row_of_masks_for_each_observation() -> None:
    for plain, width in ((CategoricalDistribution(4), 4), (MultiCategoricalDistribution([2, 2]), 4)):
        with pytest.raises(InvalidArgument, match="1 rows for 2 observations"):
            masked_twin(plain, th.ones(1, width, dtype=th.bool)).proba_distribution(th.zeros(2, width))
    with pytest.raises(InvalidArgument, match="1 rows for 2 observations"):
        masked_twin(BernoulliDistribution(2), th.ones(1, 4, dtype=th.bool)).proba_distribution(th.zeros(2, 2))
