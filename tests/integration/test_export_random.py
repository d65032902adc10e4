"""Drawn actions follow the policy's distribution, and a forbidden action is never drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from export_models import CASES, trained
from stable_baselines3.common.distributions import BernoulliDistribution

from sb3_ppo_plus.export import OnnxPolicy, export_onnx
from sb3_ppo_plus.export.heads import branch_sizes
from sb3_ppo_plus.export.reference import sample_masks, sample_observations
from sb3_ppo_plus.export.stages import read_wrappers
from sb3_ppo_plus.masking import masked

pytest.importorskip("onnx")
DRAWS = 20_000
# Statistics of this size stay below it in all but one of a million runs, and the seed is fixed.
SIGMAS = 5.0


def draw(case: str, target: str, tmp_path: Path, masks: np.ndarray | None = None) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model, one observation, and many drawn actions for it."""
    model, path = trained(case), tmp_path / "p.onnx"
    export_onnx(model, path, target, stochastic=True, n_random=20)
    space = read_wrappers(model.get_env())[0]
    obs = sample_observations(space, 1, np.random.default_rng(1))
    policy = OnnxPolicy(path, seed=3)
    rows = np.repeat(obs, DRAWS, axis=0)
    many = None if masks is None else np.repeat(masks[None], DRAWS, axis=0)
    return model, obs, policy.predict(rows, deterministic=False, action_masks=many)[0]


def distribution(model: Any, obs: np.ndarray, **kwargs: Any) -> Any:
    with th.no_grad():
        return model.policy.get_distribution(model.policy.obs_to_tensor(obs)[0], **kwargs)


@pytest.mark.parametrize("target", ["generic", "mlagents"])
@pytest.mark.parametrize("case", ["PPOPlus uneven", "gSDE", "gSDE squashed"])
def test_continuous_draws_have_the_policys_mean_and_deviation(case: str, target: str, tmp_path: Path) -> None:
    model, obs, drawn = draw(case, target, tmp_path)
    th.manual_seed(0)
    if model.use_sde:
        # Fresh exploration noise for every row: gSDE keeps it for a whole rollout.
        model.policy.reset_noise(DRAWS)
    own = distribution(model, np.repeat(obs, DRAWS, axis=0)).sample().detach().numpy()
    own = model.policy.unscale_action(own) if model.policy.squash_output else own
    own = np.clip(own, model.action_space.low, model.action_space.high)
    error = own.std(axis=0) / np.sqrt(DRAWS / 2)
    assert (np.abs(drawn.mean(axis=0) - own.mean(axis=0)) < SIGMAS * error).all()
    assert (np.abs(drawn.std(axis=0) - own.std(axis=0)) < SIGMAS * error).all()
    assert drawn.std(axis=0).min() > 0.01
    for quantile in (0.1, 0.9):
        gap = (drawn < np.quantile(own, quantile, axis=0)).mean(axis=0) - (
            own < np.quantile(own, quantile, axis=0)
        ).mean(axis=0)
        assert (np.abs(gap) < SIGMAS * 0.7 / np.sqrt(DRAWS)).all()


@pytest.mark.parametrize("target", ["generic", "mlagents"])
@pytest.mark.parametrize("case", ["PPOPlus discrete", "PPOPlus multidiscrete", "PPOPlus multibinary"])
def test_discrete_draws_have_the_policys_probabilities(case: str, target: str, tmp_path: Path) -> None:
    model, obs, drawn = draw(case, target, tmp_path)
    own = distribution(model, obs)
    columns = drawn.reshape(DRAWS, -1)
    if case.endswith("multibinary"):
        probabilities = [np.array([1 - p, p]) for p in own.distribution.probs[0].numpy()]
    else:
        parts = own.distribution if isinstance(own.distribution, list) else [own.distribution]
        probabilities = [part.probs[0].numpy() for part in parts]
    for column, expected in zip(columns.T, probabilities, strict=True):
        counts = np.bincount(column, minlength=len(expected)) / DRAWS
        assert (np.abs(counts - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9).all()


@pytest.mark.parametrize("target", ["generic", "mlagents"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.startswith("PPOPlus masked") and "sensors" not in case]
)
def test_ppo_plus_draws_what_its_masked_policy_draws(case: str, target: str, tmp_path: Path) -> None:
    sizes = branch_sizes(trained(case).action_space)
    allowed = sample_masks(sizes, 1, np.random.default_rng(5))[0]
    assert not allowed.all()
    model, obs, drawn = draw(case, target, tmp_path, allowed)
    with masked(model.policy, allowed):
        own = distribution(model, obs)
    choices = own.choices.distribution if hasattr(own, "choices") else own.distribution
    if isinstance(own, BernoulliDistribution):
        probabilities = [np.array([1 - p, p]) for p in choices.probs[0].numpy()]
    else:
        probabilities = [part.probs[0].numpy() for part in (choices if isinstance(choices, list) else [choices])]
    columns = drawn.reshape(DRAWS, -1)[:, -len(sizes) :].astype(int)
    first = 0
    for column, size, expected in zip(columns.T, sizes, probabilities, strict=True):
        counts = np.bincount(column, minlength=size) / DRAWS
        assert (counts[~allowed[first : first + size]] == 0).all()
        assert (np.abs(counts - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-9).all()
        first += size


@pytest.mark.parametrize("target", ["generic", "mlagents"])
@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("MaskablePPO")])
def test_a_masked_action_is_never_drawn_and_the_rest_keeps_its_probabilities(
    case: str, target: str, tmp_path: Path
) -> None:
    sizes = branch_sizes(trained(case).action_space)
    masks = sample_masks(sizes, 1, np.random.default_rng(5))[0]
    assert not masks.all()
    model, obs, drawn = draw(case, target, tmp_path, masks)
    own = distribution(model, obs, action_masks=masks)
    parts = own.distributions if hasattr(own, "distributions") else [own.distribution]
    first = 0
    for column, size, part in zip(drawn.reshape(DRAWS, -1).T, sizes, parts, strict=True):
        allowed, expected = masks[first : first + size], part.probs[0].numpy()
        counts = np.bincount(column, minlength=size) / DRAWS
        assert counts[~allowed].sum() == 0
        assert (np.abs(counts - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / DRAWS) + 1e-7).all()
        first += size


def test_many_random_masks_are_never_broken(tmp_path: Path) -> None:
    case = "MaskablePPO multidiscrete"
    model, path = trained(case), tmp_path / "p.onnx"
    export_onnx(model, path, stochastic=True, n_random=20)
    rng, sizes = np.random.default_rng(0), branch_sizes(model.action_space)
    obs = sample_observations(model.observation_space, DRAWS, rng)
    masks = sample_masks(sizes, DRAWS, rng)
    for deterministic in (True, False):
        drawn, _ = OnnxPolicy(path).predict(obs, deterministic=deterministic, action_masks=masks)
        first = 0
        for column, size in zip(drawn.T, sizes, strict=True):
            assert masks[np.arange(DRAWS), first + column].all()
            first += size


def test_a_seed_repeats_the_draws(tmp_path: Path) -> None:
    model, path = trained("PPOPlus box"), tmp_path / "p.onnx"
    export_onnx(model, path, stochastic=True, n_random=20)
    obs = np.zeros((3, 5), np.float32)
    draws = [OnnxPolicy(path, seed=seed).predict(obs, deterministic=False)[0] for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])
