"""TensorVecNormalize equals SB3's VecNormalize bit for bit: each step, the statistics, and a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import assert_same_tensors
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from toy_envs import DictPointMass, PointMass

from sb3_ppo_plus import PPOPlus, rollout, rollout_ends
from sb3_ppo_plus.actors import PolicyActor
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.normalize import TensorVecNormalize

Make = Callable[[], TensorVecEnv]


def mujoco(task: str, **options: Any) -> Make:
    def make() -> TensorVecEnv:
        pytest.importorskip("mujoco.batch", reason="needs MuJoCo with batched simulation")
        from sb3_ppo_plus.envs.mujoco.vec_env import MujocoVecEnv

        return MujocoVecEnv(task, n_envs=4, seed=0, n_threads=1, **options)

    return make


# HalfCheetah's episodes end by the time limit only, all at once; Hopper falls, each at its own time.
ENVIRONMENTS: dict[str, Make] = {
    "HalfCheetah-v5": mujoco("HalfCheetah-v5", max_episode_steps=70),
    "Hopper-v5": mujoco("Hopper-v5"),
    "point-mass": lambda: PointMass(9, seed=0),
    "dict": lambda: DictPointMass(4, seed=0),
}


def assert_equal(one: Any, other: Any) -> None:
    """Equal types, equal dtypes, equal bits; through mappings and statistics."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, RunningMeanStd):
        assert_equal([one.mean, one.var, one.count], [other.mean, other.var, other.count])
    elif isinstance(one, (list, tuple)):
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        left, right = np.asarray(one), np.asarray(other)
        assert left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True), f"{one} and {other}"


def assert_equal_state(ours: TensorVecNormalize, theirs: VecNormalize) -> None:
    assert_equal(ours.returns, theirs.returns)
    assert_equal(ours.ret_rms, theirs.ret_rms)
    assert hasattr(ours, "obs_rms") == hasattr(theirs, "obs_rms")
    if hasattr(theirs, "obs_rms"):
        assert_equal(ours.obs_rms, theirs.obs_rms)


def run_in_lock_step(ours: VecEnv, theirs: VecEnv, n_steps: int, seed: int = 0) -> int:
    """Take the same actions in both and compare all they give; the wall-clock time of an episode is left out."""
    rng = np.random.default_rng(seed)
    space, ended = theirs.action_space, 0
    assert_equal(ours.reset(), theirs.reset())
    for _ in range(n_steps):
        actions = rng.uniform(space.low, space.high, (theirs.num_envs, *space.shape)).astype(np.float32)
        *numbers, infos = ours.step(actions)
        *expected, expected_infos = theirs.step(actions)
        assert_equal(numbers, expected)
        assert_equal(ours.get_original_obs(), theirs.get_original_obs())
        assert_equal(ours.get_original_reward(), theirs.get_original_reward())
        for info in (*infos, *expected_infos):
            info.get("episode", {}).pop("t", None)
        assert_equal(infos, expected_infos)
        ended += sum("terminal_observation" in info for info in infos)
    return ended


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_number_of_a_step_equals_that_of_sb3(name: str) -> None:
    make = ENVIRONMENTS[name]
    ours, theirs = TensorVecNormalize(make()), VecNormalize(make())
    assert run_in_lock_step(ours, theirs, 300) >= 8
    assert_equal_state(ours, theirs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"training": False},
        {"norm_obs": False},
        {"norm_reward": False},
        {"clip_obs": 0.5, "clip_reward": 0.1, "gamma": 0.5, "epsilon": 0.1},
    ],
)
def test_every_argument_means_what_it_means_in_sb3(arguments: dict[str, Any]) -> None:
    ours, theirs = (kind(PointMass(4, seed=0), **arguments) for kind in (TensorVecNormalize, VecNormalize))
    assert run_in_lock_step(ours, theirs, 60) >= 8
    assert_equal_state(ours, theirs)


def test_one_key_of_a_dict_is_normalized_as_in_sb3() -> None:
    ours, theirs = (
        kind(DictPointMass(4, seed=0), norm_obs_keys=["velocity"]) for kind in (TensorVecNormalize, VecNormalize)
    )
    run_in_lock_step(ours, theirs, 60)
    assert list(ours.obs_rms) == ["velocity"]
    assert_equal_state(ours, theirs)


def test_a_reset_in_the_middle_of_episodes_equals_that_of_sb3() -> None:
    ours, theirs = TensorVecNormalize(PointMass(4, seed=0)), VecNormalize(PointMass(4, seed=0))
    for n_steps in (5, 7, 30):
        run_in_lock_step(ours, theirs, n_steps)
    assert_equal_state(ours, theirs)


def test_switches_may_be_turned_while_it_runs() -> None:
    ours, theirs = TensorVecNormalize(PointMass(4, seed=0)), VecNormalize(PointMass(4, seed=0))
    for seed, (training, norm_reward) in enumerate([(True, True), (False, True), (True, False), (False, False)]):
        for env in (ours, theirs):
            env.training, env.norm_reward = training, norm_reward
        run_in_lock_step(ours, theirs, 30, seed)
    assert_equal_state(ours, theirs)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_public_functions_on_arrays_equal_those_of_sb3(name: str) -> None:
    ours, theirs = (kind(ENVIRONMENTS[name]()) for kind in (TensorVecNormalize, VecNormalize))
    run_in_lock_step(ours, theirs, 30)
    raw, rewards = theirs.get_original_obs(), np.array([0.5, -3.0, 1000.0], dtype=np.float32)
    assert_equal(ours.normalize_obs(raw), theirs.normalize_obs(raw))
    assert_equal(ours.unnormalize_obs(raw), theirs.unnormalize_obs(raw))
    assert_equal(ours.normalize_reward(rewards), theirs.normalize_reward(rewards))
    assert_equal(ours.unnormalize_reward(rewards), theirs.unnormalize_reward(rewards))
    assert_equal_state(ours, theirs)


@pytest.mark.parametrize("algorithm", [PPO, PPOPlus])
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_training_gives_the_same_parameters(name: str, algorithm: type[PPO], monkeypatch: pytest.MonkeyPatch) -> None:
    # Around TensorVecNormalize, PPOPlus computes actions in NumPy and values in batches, which is rounded otherwise.
    monkeypatch.setattr(rollout, "make_actor", lambda policy, n_envs: PolicyActor(policy))
    monkeypatch.setattr(rollout_ends, "_CHUNK", 1)
    models = []
    for kind in (TensorVecNormalize, VecNormalize):
        env = kind(ENVIRONMENTS[name]())
        # Made and trained one after the other: SB3 seeds the global generators when a model is made.
        model = algorithm("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
        models.append(model.learn(2 * 4 * 64))
    assert_same_tensors(*models)
    assert_equal_state(*(model.get_vec_normalize_env() for model in models))
