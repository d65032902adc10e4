"""The adapter of EnvPool on the real one; ``tests/suites/run_suites.py --suite envpool`` installs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

pytest.importorskip("envpool")

from foreign_envs import ForeignContract

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import EnvPoolAdapter
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, TensorVecEnv


class TestCartPole(ForeignContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return EnvPoolAdapter("CartPole-v1", n_envs, seed, max_episode_steps=15)


class TestPendulum(ForeignContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return EnvPoolAdapter("Pendulum-v1", n_envs, seed, max_episode_steps=8, rescale_actions=True)


class TestThreads(ForeignContract):
    """Answers come in the order in which threads finish."""

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return EnvPoolAdapter("Acrobot-v1", n_envs, seed, max_episode_steps=9, num_threads=3)


def test_no_row_is_spent_on_a_reset() -> None:
    """EnvPool alone would answer with reward 0 after an end; and it counts the steps of episodes itself."""
    env = EnvPoolAdapter("CartPole-v1", 8, seed=1)
    env.reset()
    rng, ends = np.random.default_rng(0), 0
    for _ in range(200):
        step = env.step_tensors(th.from_numpy(rng.integers(0, 2, 8)))
        assert (step.rewards == 1).all()
        order = np.argsort(env.infos["env_id"])
        assert np.array_equal(env.infos["elapsed_step"][order], step.stats[EPISODE_LENGTH])
        ends += int((step.terminated | step.truncated).sum())
        # The first observation of an episode lies within the bounds that starts are drawn from.
        assert (step.obs[step.terminated].abs() <= 0.05).all()
    env.close()
    assert ends > 40


def test_ppo_plus_learns_on_it() -> None:
    env = EnvPoolAdapter("CartPole-v1", 8, seed=0)
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=128, seed=0, device="cpu").learn(12_000)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert np.mean(lengths[-20:]) > 60
