"""With masks PPOPlus is MaskablePPO, and every extra goes with them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toy_envs import PointMass

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import TensorStep

ENVS = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=8, n_invalid_actions=5),
    "multidiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[3, 4], n_invalid_actions=3),
    "multibinary": lambda: InvalidActionEnvMultiBinary(dims=4, n_invalid_actions=2),
}


def make(kind: type, name: str = "discrete", n_envs: int = 2, **overrides: Any) -> Any:
    arguments = {"n_steps": 32, "batch_size": 16, "n_epochs": 3, "seed": 0, "device": "cpu", "gamma": 0.9}
    env = overrides.pop("env", None) or make_envs(name, n_envs)
    return kind(overrides.pop("policy", "MlpPolicy"), env, **{**arguments, **overrides})


def make_envs(name: str, n_envs: int) -> DummyVecEnv:
    """Environments that draw the same at each call; their spaces, which they draw from, are not seeded by reset()."""
    venv = DummyVecEnv([ENVS[name]] * n_envs)
    for number, env in enumerate(venv.envs):
        env.unwrapped.action_space.seed(number)
        env.unwrapped.observation_space.seed(number)
    return venv


def parameters(model: Any) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_equal(one: Any, other: Any) -> None:
    assert all(th.equal(value, other.policy.state_dict()[name]) for name, value in one.policy.state_dict().items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("name", ["discrete", "multidiscrete"])
def test_parameters_equal_those_of_maskable_ppo_bit_for_bit(name: str, n_envs: int, seed: int) -> None:
    # one after the other: making a model seeds the generators that its rollouts draw from
    ours, theirs = [make(kind, name, n_envs, seed=seed, ent_coef=0.01).learn(400) for kind in (PPOPlus, MaskablePPO)]
    assert_equal(ours, theirs)
    assert not th.equal(ours.policy.action_net.weight, make(PPOPlus, name, n_envs, seed=seed).policy.action_net.weight)


@pytest.mark.slow
def test_binary_choices_are_learned_as_well_as_by_maskable_ppo() -> None:
    """Not the same numbers: a binary action has one logit here, as in SB3's PPO, and two there."""
    rewards = [
        evaluate_policy(make(kind, "multibinary", learning_rate=3e-3).learn(4000), ENVS["multibinary"](), 20)[0]
        for kind in (PPOPlus, MaskablePPO)
    ]
    assert rewards[0] >= 0.95 * rewards[1] > 0


@pytest.mark.parametrize("name", ENVS)
def test_without_masking_it_is_sb3s_ppo_bit_for_bit(name: str) -> None:
    ours = make(PPOPlus, name, use_masking=False).learn(200)
    assert not ours.takes_masks
    assert_equal(ours, make(PPO, name).learn(200))


EXTRAS: dict[str, dict[str, Any]] = {
    "kl penalty": {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01}}},
    "rollback": {"target_kl": 0.02, "kl_stop": "rollback"},
    "recomputed advantages": {"recompute_advantages": True, "advantage_scope": "batch"},
    "entropy target": {"ent_coef": 0.01, "controllers": {"ent_coef": {"type": "entropy_target", "target": 0.5}}},
    "critic": {"critic_epochs": 1, "vf_loss": "huber", "critic_learning_rate": 1e-3},
    "dual clip": {"dual_clip": 3.0, "clip_range_vf": 0.2, "vf_loss": "max"},
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_go_with_masks(extra: str, compiled: bool) -> None:
    model = make(PPOPlus, "multidiscrete", compile_update=compiled, **EXTRAS[extra]).learn(200)
    assert all(value.isfinite().all() for value in parameters(model).values())
    assert not forbidden_actions(model)


@pytest.mark.parametrize("name", ENVS)
def test_the_compiled_update_learns_the_same(name: str) -> None:
    ours, eager = [make(PPOPlus, name, compile_update=compiled, kl_coef=0.1).learn(64) for compiled in (True, False)]
    assert ours._update_passes is not None and not ours._update_passes.failed
    for key, value in eager.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[key], value, rtol=1e-3, atol=1e-5)


def test_a_reference_policy_is_masked_too(tmp_path: Path) -> None:
    teacher = make(PPOPlus).learn(64)
    model = make(PPOPlus, reference_policy=teacher, reference_kl_coef=0.1)
    model.learn(64)
    assert all(value.isfinite().all() for value in parameters(model).values())


def forbidden_actions(model: Any) -> int:
    """How many actions in the last rollout were forbidden."""
    buffer = model.rollout_buffer
    masks, actions = buffer.flat_masks(), buffer.actions.reshape(len(buffer.flat_masks()), -1).astype(int)
    space = model.action_space
    if isinstance(space, spaces.Discrete):
        starts = [0]
    elif isinstance(space, spaces.MultiDiscrete):
        starts = np.cumsum([0, *space.nvec[:-1]])
    else:
        starts = np.arange(0, 2 * actions.shape[1], 2)
    return int(sum((~masks[np.arange(len(actions)), start + actions[:, i]]).sum() for i, start in enumerate(starts)))


@pytest.mark.parametrize("name", ENVS)
def test_what_is_forbidden_is_never_done(name: str) -> None:
    model = make(PPOPlus, name, n_steps=512).learn(2048)
    assert model.rollout_buffer.masks is not None and not model.rollout_buffer.masks.all()
    assert forbidden_actions(model) == 0


class MaskedPoints(PointMass):
    """Point masses on a tensor face, whose allowed actions change at random."""

    def __init__(self, space: spaces.Space, n: int = 4, width: int = 0) -> None:
        super().__init__(n, seed=4)
        self.action_space, self.width = space, width
        self.rng = np.random.default_rng(0)
        self.now = self.draw()

    def draw(self) -> np.ndarray:
        masks = self.rng.random((self.num_envs, self.width)) < 0.5
        if isinstance(self.action_space, spaces.MultiBinary):
            masks[:, 0::2] |= ~masks[:, 1::2]
        elif isinstance(self.action_space, spaces.MultiDiscrete):
            masks[:, [0, 3]] = True
        else:
            masks[:, 0] = True
        return masks

    def action_masks(self) -> np.ndarray:
        return self.now

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        step = super().step_tensors(th.zeros(self.num_envs, 1))
        self.now = self.draw()
        return step


TENSOR_SPACES = {
    "discrete": (spaces.Discrete(5), 5),
    "multidiscrete": (spaces.MultiDiscrete([3, 4]), 7),
    "multibinary": (spaces.MultiBinary(3), 6),
}


@pytest.mark.parametrize("name", TENSOR_SPACES)
def test_on_tensors_the_rollout_is_that_of_sb3s_loop(name: str) -> None:
    space, width = TENSOR_SPACES[name]
    models = []
    for wrap in (lambda env: env, lambda env: VecNormalize(env, norm_obs=False, norm_reward=False)):
        model = make(PPOPlus, env=wrap(MaskedPoints(space, width=width)), n_steps=64, n_epochs=1)
        assert model.takes_masks
        _, callback = model._setup_learn(10**6, None)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
        models.append(model)
    ours, theirs = (model.rollout_buffer for model in models)
    assert isinstance(ours, RowsMixin) and np.array_equal(ours.masks, theirs.masks)
    assert np.array_equal(ours.actions, theirs.actions)
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4, atol=1e-4)
    models[0].train()
    assert forbidden_actions(models[0]) == 0
    assert models[0].env.env_method("action_masks", indices=[1])[0].shape == (width,)


def test_evaluation_inside_a_rollout_is_left_alone_and_contribs_tools_work(tmp_path: Path) -> None:
    model = make(PPOPlus, n_steps=64)
    unmasked = EvalCallback(DummyVecEnv([ENVS["discrete"]]), eval_freq=16, n_eval_episodes=2, verbose=0)
    masked = MaskableEvalCallback(
        DummyVecEnv([ENVS["discrete"]]), eval_freq=16, n_eval_episodes=2, verbose=0, warn=False
    )
    model.learn(256, callback=[unmasked, masked])
    assert masked.n_calls == unmasked.n_calls == 128
    assert forbidden_actions(model) == 0
    reward, _ = evaluate_policy(model, ENVS["discrete"](), n_eval_episodes=5, warn=False)
    assert reward > 0


class CopyPolicy(BaseCallback):
    """Copies the policy in the middle of a rollout, as self-play does to make an opponent."""

    def _on_step(self) -> bool:
        if self.n_calls == 1:
            self.copies = [copy.deepcopy(self.model.policy), pickle.loads(pickle.dumps(self.model.policy))]
        return True


@pytest.mark.parametrize("detailed", [False, True])
def test_a_copy_of_the_policy_made_in_a_rollout_acts_by_itself(detailed: bool) -> None:
    model = make(PPOPlus)
    model.profile.detailed = detailed
    model.learn(128, callback=(copies := CopyPolicy()))
    assert "forward" not in vars(model.policy) and forbidden_actions(model) == 0
    obs = model.policy.obs_to_tensor(model._last_obs)[0]
    for policy in copies.copies:
        with th.no_grad():
            value = policy(obs)[1]  # a policy that still asked the original would give its value of now
            assert th.equal(value, policy.predict_values(obs))
            assert not th.equal(value, model.policy.predict_values(obs))


def test_a_forward_that_was_there_before_the_rollout_is_there_after_it() -> None:
    model, calls = make(PPOPlus), []
    own = model.policy.forward
    model.policy.forward = mine = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    model.learn(64)
    assert model.policy.forward is mine and len(calls) == 32
    assert forbidden_actions(model) == 0


class TwoLayers(ActorCriticPolicy):
    """Makes its distribution in a method of its own, as users' policies do."""

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(2.0 * self.action_net(latent_pi))


def test_a_policy_with_methods_of_its_own_is_masked_too() -> None:
    model = make(PPOPlus, policy=TwoLayers, kl_coef=0.1).learn(128)
    assert forbidden_actions(model) == 0
    assert all(value.isfinite().all() for value in parameters(model).values())


def test_where_one_action_is_allowed_there_is_nothing_to_learn() -> None:
    """Probability one, no entropy, no gradient for the actor; the critic learns."""
    only_one = DummyVecEnv([lambda: InvalidActionEnvDiscrete(dim=4, n_invalid_actions=3)] * 2)
    model = make(PPOPlus, env=only_one, ent_coef=0.1)
    before = parameters(model)
    model.learn(128)
    assert forbidden_actions(model) == 0 and (model.rollout_buffer.log_probs == 0).all()
    assert model.logger.name_to_value["train/entropy_loss"] == 0.0
    th.testing.assert_close(before["action_net.weight"], model.policy.action_net.weight, rtol=0, atol=1e-6)
    assert not th.equal(before["value_net.weight"], model.policy.value_net.weight)


def test_a_buffer_keeps_its_masks_when_it_is_pickled() -> None:
    model = make(PPOPlus).learn(64)
    again = pickle.loads(pickle.dumps(model.rollout_buffer))
    assert np.array_equal(again.masks, model.rollout_buffer.masks)
    assert np.array_equal(again.flat_masks(), model.rollout_buffer.flat_masks())


def test_predictions_keep_to_the_masks() -> None:
    model = make(PPOPlus)
    obs = model.env.reset()
    only = np.zeros((2, 8), bool)
    only[0, 3] = only[1, 6] = True
    for deterministic in (False, True):
        actions, _ = model.predict(obs, deterministic=deterministic, action_masks=only)
        assert actions.tolist() == [3, 6]
    single, _ = model.predict(obs[0], action_masks=only[1])
    assert single == 6
    for wrong, words in {
        (2, 7): "takes 8 entries",
        (1, 8): "1 rows for 2 observations",
    }.items():
        with pytest.raises(InvalidArgument, match=words):
            model.predict(obs, action_masks=np.ones(wrong, bool))
    with pytest.raises(InvalidArgument, match="environment 1 allows nothing"):
        model.predict(obs, action_masks=np.array([[True] * 8, [False] * 8]))


def test_saved_models_know_of_their_masks_and_open_both_ways(tmp_path: Path) -> None:
    model = make(PPOPlus).learn(64)
    model.save(tmp_path / "model.zip")
    alone = PPOPlus.load(tmp_path / "model.zip")
    assert alone.takes_masks and alone.use_masking
    assert_equal(model, PPO.load(tmp_path / "model.zip"))
    again = PPOPlus.load(tmp_path / "model.zip", env=DummyVecEnv([ENVS["discrete"]] * 2))
    again.learn(64)
    assert forbidden_actions(again) == 0
    make(PPO).learn(64).save(tmp_path / "sb3.zip")
    assert not PPOPlus.load(tmp_path / "sb3.zip").takes_masks
    assert PPOPlus.load(tmp_path / "sb3.zip", env=DummyVecEnv([ENVS["discrete"]] * 2)).takes_masks


class Odd(gym.Env):
    """Says of its actions whatever it is told to."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, masks: Any, space: spaces.Space | None = None) -> None:
        self.masks, self.action_space = masks, space or spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def action_masks(self) -> Any:
        return self.masks


def test_masks_that_cannot_be_are_refused_with_the_environment_and_the_choice() -> None:
    for masks, words in {
        (True, True, False, False, False): "environment 0 allows nothing in choice 1",
        (True, True, True): r"takes 5 entries",
        (0.0, 0.0, -1e8, 0.0, -1e8): "give bool",
    }.items():
        model = make(PPOPlus, env=DummyVecEnv([lambda masks=masks: Odd(np.array(masks))]))
        with pytest.raises(InvalidArgument, match=words):
            model.learn(32)


def test_an_environment_without_choices_has_nothing_to_mask() -> None:
    model = make(PPOPlus, env=DummyVecEnv([lambda: Odd(np.ones(2, bool), spaces.Box(-1, 1, (2,)))]))
    assert not model.takes_masks
    model.learn(32)
