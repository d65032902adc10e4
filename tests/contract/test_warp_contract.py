"""The contract of vectorized environments, kept by MuJoCo's tasks on MuJoCo-Warp, on Warp's CPU device."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

pytest.importorskip("mujoco.batch", reason="MuJoCo 3.17 or newer is not installed")
pytest.importorskip("mujoco_warp", reason="MuJoCo-Warp is not installed: pip install sb3_ppo_plus[warp]")

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv
from sb3_ppo_plus.envs.normalize import TensorVecNormalize

# Kernels are compiled when they are first used, which takes a minute on a new machine.
pytestmark = pytest.mark.timeout(300)


class WarpContract(TensorVecEnvContract):
    """A task by its id."""

    task: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    n_steps = 30

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return MujocoVecEnv(self.task, n_envs, seed, engine="warp", device="cpu", **self.options)


class TestHopper(WarpContract):
    """Nothing of it is derived from its state, so a reset computes nothing."""

    task = "Hopper-v5"
    options = {"max_episode_steps": 18}
    n_steps = 40


class TestAnt(WarpContract):
    """What it compares before and after a step is derived, and its observation has contact forces."""

    task = "Ant-v5"
    options = {"max_episode_steps": 9}
    n_steps = 20


class TestReacher(WarpContract):
    """Its target is drawn until it lies within reach."""

    task = "Reacher-v5"
    options = {"max_episode_steps": 6}


class TestRandomizedHopper(WarpContract):
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


class TestNoisyReacher(WarpContract):
    """Noise and delays of all robots come from one generator."""

    task = "Reacher-v5"
    options = {"max_episode_steps": 6, "observation_noise": 0.01, "action_delay": [0, 2]}
    independent_envs = False


class TestNormalizedHopper(WarpContract):
    """As robots are trained: observations and rewards scaled."""

    task = "Hopper-v5"
    n_steps = 40
    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(super().make_env(n_envs, seed))
