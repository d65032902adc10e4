"""The contract of vectorized environments, kept by each wrapper on the tensor face, alone and together."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from toy_envs import DictPointMass, DiscretePointMass, PointMass, RecyclingPointMass

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.envs.normalize import TensorVecNormalize
from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack, TensorVecMonitor


class TestBareWrapper(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecEnvWrapper(PointMass(n_envs, seed))


class TestMonitorWhereNothingIsCounted(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecMonitor(DiscretePointMass(n_envs, seed))


class TestMonitorWhereEpisodesAreCounted(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecMonitor(DictPointMass(n_envs, seed))


class TestFrameStack(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecFrameStack(PointMass(n_envs, seed), n_stack=3)


class TestFrameStackOfDict(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecFrameStack(DictPointMass(n_envs, seed), n_stack=2)


class TestNormalize(TensorVecEnvContract):
    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(PointMass(n_envs, seed))


class TestNormalizeOneKey(TensorVecEnvContract):
    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(DictPointMass(n_envs, seed), norm_obs_keys=["velocity"])


class TestFrozenNormalize(TensorVecEnvContract):
    """With statistics that stand still, environments are as independent as without."""

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        env = TensorVecNormalize(PointMass(n_envs, seed), training=False, norm_reward=False)
        statistics = RunningMeanStd(shape=(2,))
        statistics.mean, statistics.var = np.array([0.1, -0.2]), np.array([0.5, 0.02])
        env.obs_rms = statistics
        return env


class TestAllTogether(TensorVecEnvContract):
    """Around an environment that overwrites what it returned, so that a wrapper that keeps a reference shows."""

    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(TensorVecFrameStack(TensorVecMonitor(RecyclingPointMass(n_envs, seed)), n_stack=2))
