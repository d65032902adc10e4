"""Hybrid actions: continuous ones and choices in one, drawn, weighed and learned together."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from helpers import slow_but
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.distributions import HybridParams, exact_kl
from sb3_ppo_plus.envs import HybridSpace, TensorVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.hybrid_policy import HybridDistribution
from sb3_ppo_plus.masking import masked
from sb3_ppo_plus.types import TensorStep


def space() -> HybridSpace:
    return HybridSpace(spaces.Box(-1.0, 1.0, (2,)), [3, 2])


class Both(gym.Env):
    """Wants a force and a choice that depend on what is seen; either alone brings half of the reward at most."""

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, forbid: bool = False) -> None:
        self.action_space = space()
        self.forbid = forbid
        self.n_forbidden = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self.look(), {}

    def look(self) -> np.ndarray:
        self.seen = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.seen

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        (force, _), (choice, other) = self.action_space.split(action)
        self.n_forbidden += int(self.forbid and other == 1)
        near = math.exp(-4.0 * (force - 0.8 * self.seen[0]) ** 2)
        right = float(choice == (2 if self.seen[1] > 0 else 0))
        self.t += 1
        return self.look(), 0.5 * near + 0.5 * right, False, self.t == 20, {}


class Forbidding(Both):
    def __init__(self) -> None:
        super().__init__(forbid=True)

    def action_masks(self) -> np.ndarray:
        return np.array([True, True, True, True, False])


def make(env: Any = None, **overrides: Any) -> PPOPlus:
    arguments = {"n_steps": 64, "batch_size": 64, "n_epochs": 4, "seed": 0, "device": "cpu", "gamma": 0.5}
    venv = DummyVecEnv([env or Both] * 2)
    return PPOPlus("MlpPolicy", venv, **{**arguments, **overrides})


def test_the_space_is_one_vector_of_both_parts() -> None:
    both = space()
    assert both.shape == (4,) and both.branch_sizes == (3, 2) and both.n_continuous == 2
    both.seed(3)
    drawn = np.array([both.sample() for _ in range(300)])
    assert all(action in both for action in drawn)
    assert {tuple(row) for row in drawn[:, 2:].tolist()} == {(a, b) for a in range(3) for b in range(2)}
    assert np.array([0.0, 0.0, 0.5, 0.0], np.float32) not in both and np.array([0, 0, 3, 0], np.float32) not in both
    for other in (pickle.loads(pickle.dumps(both)), copy.deepcopy(both)):
        assert other == both and np.array_equal(other.sample(), copy.deepcopy(both).sample())
    assert both != spaces.Box(both.low, both.high) and both != HybridSpace(spaces.Box(-1, 1, (2,)), [3, 3])
    continuous, choices = both.split(drawn)
    assert continuous.dtype == np.float32 and choices.dtype == np.int64 and choices.shape == (300, 2)
    check_env(Both(), skip_render_check=True)


@pytest.mark.parametrize("parts", [(spaces.Box(-1, 1, (2, 2)), [2]), (spaces.Box(-1, 1, (1,)), []), ("x", [2])])
def test_spaces_that_cannot_be_are_refused(parts: Any) -> None:
    with pytest.raises(InvalidArgument, match="hybrid action"):
        HybridSpace(*parts)


def test_log_probability_and_entropy_are_sums_of_both_parts() -> None:
    distribution = HybridDistribution(1, (2,))
    # mean 0.5, deviation 1; choices with probabilities 1/4 and 3/4
    outputs = th.tensor([[0.5, 0.0, math.log(3.0)]])
    distribution.proba_distribution(outputs, th.zeros(1))
    gaussian = -0.5 * (1.5 - 0.5) ** 2 - 0.5 * math.log(2 * math.pi)
    assert distribution.log_prob(th.tensor([[1.5, 1.0]])).item() == pytest.approx(gaussian + math.log(0.75), abs=1e-6)
    entropy = 0.5 * math.log(2 * math.pi * math.e) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert distribution.entropy().item() == pytest.approx(entropy, abs=1e-6)
    assert distribution.mode().tolist() == [[0.5, 1.0]]


def test_the_divergence_is_the_sum_of_both_parts() -> None:
    one = HybridParams(th.zeros(1, 1), th.ones(1, 1), th.tensor([[0.0, 0.0]]), (2,))
    other = HybridParams(th.ones(1, 1), th.ones(1, 1), th.tensor([[0.0, math.log(3.0)]]), (2,))
    # Gaussians one deviation apart: 1/2. Choices: 1/2 log(2) + 1/2 log(2/3)
    assert exact_kl(one, other).item() == pytest.approx(0.5 + 0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0), abs=1e-6)
    assert exact_kl(one, one).item() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_both_parts_are_learned(compiled: bool) -> None:
    model = make(learning_rate=3e-3, compile_update=compiled, ent_coef=0.0)
    before, _ = evaluate_policy(model, DummyVecEnv([Both]), 20, warn=False)
    model.learn(16_000)
    after, _ = evaluate_policy(model, DummyVecEnv([Both]), 20, warn=False)
    assert before < 14.0 and after > 17.5, (before, after)  # of 20


def test_masks_bind_the_choices() -> None:
    model = make(Forbidding)
    assert model.takes_masks
    model.learn(512)
    assert sum(env.n_forbidden for env in model.env.envs) == 0
    with masked(model.policy, np.array([[True, False, False, True, True]] * 2)):
        actions, _ = model.predict(model.env.reset())
    assert (actions[:, 2] == 0).all()


EXTRAS: dict[str, dict[str, Any]] = {
    "kl penalty": {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01}}},
    "rollback": {"target_kl": 0.005, "kl_stop": "rollback"},
    "recomputed advantages": {"recompute_advantages": True},
    "compiled kl penalty": {"kl_coef": 1.0, "compile_update": True},
}


@pytest.mark.parametrize("extra", slow_but(["kl penalty", "rollback"], EXTRAS))
def test_extras_go_with_hybrid_actions(extra: str) -> None:
    model = make(**EXTRAS[extra]).learn(256)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("as_file", [False, True])
def test_a_reference_policy_may_be_hybrid(as_file: bool, tmp_path: Path) -> None:
    teacher: Any = make(Forbidding).learn(128)
    if as_file:
        teacher.save(tmp_path / "teacher.zip")
    model = make(Forbidding, reference_policy=tmp_path / "teacher.zip" if as_file else teacher, reference_kl_coef=0.5)
    assert model._reference is not None
    for name, value in teacher.policy.state_dict().items():
        assert th.equal(model._reference.state_dict()[name], value)
    model.learn(128)
    assert sum(env.n_forbidden for env in model.env.envs) == 0


class OwnPolicy(ActorCriticPolicy):
    """A user's class."""


@pytest.mark.parametrize("policy", ["MlpPolicy", OwnPolicy])
def test_policies_are_pickled_and_copied_as_sb3s_are(policy: Any) -> None:
    model = PPOPlus(policy, DummyVecEnv([Both]), n_steps=32, batch_size=32, device="cpu").learn(32)
    obs = model.policy.obs_to_tensor(model.env.reset())[0]
    for again in (pickle.loads(pickle.dumps(model.policy)), copy.deepcopy(pickle.loads(pickle.dumps(model.policy)))):
        assert type(again) is type(model.policy) and isinstance(again, OwnPolicy) == (policy is OwnPolicy)
        assert th.equal(again._predict(obs, deterministic=True), model.policy._predict(obs, deterministic=True))


class Rows(TensorVecEnv):
    """The same reward on a tensor face; the episode never ends."""

    def __init__(self, n: int = 4) -> None:
        super().__init__(n, Both.observation_space, space())
        self.rng = np.random.default_rng(0)
        self.actions: list[np.ndarray] = []

    def look(self) -> th.Tensor:
        self.seen = self.rng.uniform(-1, 1, (self.num_envs, 2)).astype(np.float32)
        return th.from_numpy(self.seen)

    def reset_tensors(self) -> th.Tensor:
        return self.look()

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        self.actions.append(actions.numpy().copy())
        (forces, choices) = self.action_space.split(actions.numpy())
        right = choices[:, 0] == np.where(self.seen[:, 1] > 0, 2, 0)
        near = np.exp(-4.0 * (forces[:, 0] - 0.8 * self.seen[:, 0]) ** 2)
        never = th.zeros(self.num_envs, dtype=th.bool)
        obs = self.look()
        rewards = th.from_numpy((0.5 * near + 0.5 * right).astype(np.float32))
        return TensorStep(obs, rewards, never, never, obs, {})

    def action_masks(self) -> np.ndarray:
        return np.array([[True, True, True, True, False]] * self.num_envs)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


def test_rollouts_in_tensors_clip_the_forces_and_leave_the_choices_alone() -> None:
    env = Rows()
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu", policy_kwargs={"log_std_init": 1.0})
    model.learn(256)
    done = np.concatenate(env.actions)
    assert done.dtype == np.float32 and all(action in env.action_space for action in done)
    assert {0.0, 1.0, 2.0} == set(done[:, 2]) and (done[:, 3] == 0).all()
    stored = model.rollout_buffer.actions.reshape(-1, 4)
    assert np.abs(stored[:, :2]).max() > 1.0 and np.abs(done[:, :2]).max() == 1.0  # stored as sampled, done clipped
    assert np.array_equal(np.sort(stored[:, 2]), np.sort(done[-256:, 2]))


@pytest.mark.slow
def test_the_compiled_update_learns_the_same() -> None:
    eager, compiled = [make(compile_update=compiled).learn(128) for compiled in (False, True)]
    for name, value in eager.policy.state_dict().items():
        th.testing.assert_close(compiled.policy.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_saved_models_open_again(tmp_path: Path) -> None:
    model = make().learn(128)
    model.save(tmp_path / "model.zip")
    again = PPOPlus.load(tmp_path / "model.zip", env=DummyVecEnv([Both] * 2))
    obs = model.env.reset()
    assert np.array_equal(model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    again.learn(128)


def test_it_works_behind_a_normalizer() -> None:
    venv = VecNormalize(DummyVecEnv([Both] * 2))
    PPOPlus("MlpPolicy", venv, n_steps=32, batch_size=32, device="cpu").learn(64)


def test_state_dependent_exploration_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="use_sde"):
        make(use_sde=True)
