"""When a file counts as different: choices by what the model thinks of them, numbers by float32's own rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from export_models import trained

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export import export_onnx
from sb3_ppo_plus.export.reference import Reference, difference, sample_masks, sample_observations
from sb3_ppo_plus.export.rounding import Twins

CASES = ("PPOPlus discrete", "PPOPlus multibinary", "MaskablePPO multidiscrete", "RecurrentPPO normalized frames")


def asked(case: str) -> tuple[Reference, np.ndarray]:
    """A reference that has been asked twice, and its actions."""
    model: Any = trained(case)
    reference, rng = Reference(model, [], None), np.random.default_rng(0)
    masks = sample_masks((3, 2, 4), 6, rng) if reference.masked else None
    for begins in (np.ones(6, bool), np.zeros(6, bool)):
        actions = reference.predict(sample_observations(model.observation_space, 6, rng), begins, masks)
    return reference, actions


@pytest.mark.parametrize("case", CASES)
def test_another_choice_counts_by_its_log_probability(case: str) -> None:
    reference, actions = asked(case)
    assert reference.gap(actions) == 0.0
    other = actions.copy()
    sizes = {"PPOPlus discrete": 4, "RecurrentPPO normalized frames": 4, "MaskablePPO multidiscrete": 3}
    row = other[:1].reshape(1, -1)
    row[0, 0] = (row[0, 0] + 1) % sizes.get(case, 2)
    assert reference.gap(other) > 1e-6


def test_equally_likely_choices_are_the_same(tmp_path: Any) -> None:
    """The last layer is made to like the first two actions equally: which one is taken is a matter of rounding."""
    model: Any = trained("PPOPlus discrete")
    with th.no_grad():
        model.policy.action_net.weight[1] = model.policy.action_net.weight[0]
        model.policy.action_net.bias[:2] = 100.0
    reference = Reference(model, [])
    actions = reference.predict(np.ones((3, 5), np.float32), np.ones(3, bool))
    assert set(actions) <= {0, 1}
    assert reference.gap(1 - actions) < 1e-5
    assert reference.gap(np.full(3, 2)) > 50
    assert export_onnx(model, tmp_path / "p.onnx").verification.passed


def test_numbers_count_by_their_magnitude_above_one() -> None:
    assert difference(np.array([1.5, 0.1]), np.array([1.0, 0.1])) == 0.5
    assert difference(np.array([110.0]), np.array([100.0])) == pytest.approx(0.1)
    assert difference(np.array([np.nan]), np.array([0.0])) == np.inf
    assert difference(np.array([np.nan]), np.array([np.nan])) == 0.0
    with pytest.raises(InvalidArgument, match="shape"):
        difference(np.zeros(2), np.zeros(3))


def test_rounding_grows_with_the_network_and_the_tolerance_with_it(tmp_path: Any) -> None:
    model: Any = trained("PPOPlus box")
    seen = sample_observations(model.observation_space, 200, np.random.default_rng(0))
    small = Twins(model).measure(seen, None)
    assert 0 < small < 1e-6
    # Weights of a long training: sums of large numbers that cancel, on the steep part of tanh.
    with th.no_grad():
        model.policy.mlp_extractor.policy_net[0].weight.mul_(3)
        model.policy.mlp_extractor.policy_net[2].weight.mul_(8)
        model.policy.action_net.weight.mul_(100)
    large = Twins(model).measure(seen, None)
    assert large > 5 * small
    proof = export_onnx(model, tmp_path / "p.onnx").verification
    assert proof.passed and proof.rounding > 2.5e-7
    assert proof.tolerance == pytest.approx(4 * proof.rounding) and proof.tolerance < 1e-4


@pytest.mark.parametrize("case", ["two extractors", "MaskablePPO discrete", "RecurrentPPO", "gSDE squashed"])
def test_every_policy_has_its_twin(case: str) -> None:
    model: Any = trained(case)
    seen = sample_observations(model.observation_space, 20, np.random.default_rng(0))
    masks = np.ones((20, 4), bool) if case.startswith("Maskable") else None
    assert 0 < Twins(model).measure(seen, masks) < 1e-5
