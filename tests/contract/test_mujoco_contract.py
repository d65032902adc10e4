"""The contract of vectorized environments, kept by MuJoCo's tasks on both engines."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

pytest.importorskip("mujoco")

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv
from sb3_ppo_plus.envs.normalize import TensorVecNormalize


class MujocoContract(TensorVecEnvContract):
    """A task by its id; two threads, so that results may not depend on who steps what."""

    task: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    n_steps = 30

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return MujocoVecEnv(self.task, n_envs, seed, n_threads=2, **self.options)


class TestHopper(MujocoContract):
    """It falls after ten to twenty steps of random actions; some last until the time limit."""

    task = "Hopper-v5"
    options = {"max_episode_steps": 18}
    n_steps = 40


class TestHalfCheetah(MujocoContract):
    """It never falls: only the time limit ends an episode."""

    task = "HalfCheetah-v5"
    options = {"max_episode_steps": 7}


class TestAnt(MujocoContract):
    """Its observation has contact forces, which the other engine computes."""

    task = "Ant-v5"
    options = {"max_episode_steps": 9}
    n_steps = 20


class TestInvertedDoublePendulum(MujocoContract):
    """It falls within some steps; its reward looks at the positions of sites."""

    task = "InvertedDoublePendulum-v5"


class TestReacher(MujocoContract):
    """Its target is drawn until it lies within reach, so a reset takes as many draws as it takes."""

    task = "Reacher-v5"
    options = {"max_episode_steps": 6}


class TestRandomizedHopper(MujocoContract):
    """Masses and friction drawn for each episode, commands that come late and are filtered."""

    task = "Hopper-v5"
    options = {
        "randomization": {
            "body_mass": {"scale": [0.8, 1.2], "also": ["body_inertia"]},
            "geom_friction": {"scale": {"log_uniform": [0.5, 2.0]}, "columns": [0], "shared": True},
        },
        "action_delay": 1,
        "action_filter": 20.0,
    }
    n_steps = 40


class TestNoisyReacher(MujocoContract):
    """Noise and delays of all robots come from one generator, which is what an accelerator has."""

    task = "Reacher-v5"
    options = {"max_episode_steps": 6, "observation_noise": 0.01, "action_delay": [0, 2]}
    independent_envs = False


class TestNormalizedHopper(MujocoContract):
    """As robots are trained: observations and rewards scaled."""

    task = "Hopper-v5"
    n_steps = 40
    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(super().make_env(n_envs, seed))
