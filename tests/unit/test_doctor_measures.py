"""What the doctor measures in a rollout, in networks and in environments, on numbers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_model
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_plus.doctor.env_watch import EndWatch, duplicate_envs
from sb3_ppo_plus.doctor.measures import count_nonfinite, measure_rollout, stands_still, vector_observations
from sb3_ppo_plus.doctor.network_probe import ActorWatch, feature_rank, mode_layers, probe_networks
from sb3_ppo_plus.doctor.settings import max_entropy, settings_of_model
from sb3_ppo_plus.doctor.treatment import Treatment

T, N = 8, 4
BOX = spaces.Box(-1.0, 1.0, (3,))


def filled(**arrays: Any) -> RolloutBuffer:
    """A full buffer of ordinary numbers; a test states only what it varies."""
    buffer = RolloutBuffer(T, BOX, BOX, n_envs=N)
    rng = np.random.default_rng(0)
    for name in ("observations", "actions", "rewards", "returns", "advantages", "values", "log_probs"):
        array = getattr(buffer, name)
        array[...] = rng.uniform(-0.9, 0.9, array.shape)
    buffer.episode_starts[...] = 0.0
    for name, value in arrays.items():
        getattr(buffer, name)[...] = value
    return buffer


def test_a_plain_rollout() -> None:
    buffer = filled()
    measured = measure_rollout(buffer, BOX)
    assert measured["doctor/saturation"] == 0.0
    assert measured["doctor/nonfinite"] == 0.0
    assert measured["doctor/obs_constant"] == measured["doctor/obs_frozen"] == 0.0
    assert measured["doctor/reward_nonzero"] == 1.0
    assert measured["doctor/return_max"] == pytest.approx(np.abs(buffer.returns).max())
    assert measured["doctor/advantage_bias"] == pytest.approx(abs(buffer.advantages.mean()) / buffer.advantages.std())
    assert "doctor/ends_together" not in measured  # nothing ended


def test_actions_beyond_their_bounds_are_counted_by_number() -> None:
    actions = np.zeros((T, N, 3))
    actions[..., 0], actions[..., 1] = 1.5, -1.0  # one of three outside, one on the bound
    assert measure_rollout(filled(actions=actions), BOX)["doctor/saturation"] == pytest.approx(1 / 3)
    assert "doctor/saturation" not in measure_rollout(filled(), spaces.Box(-np.inf, np.inf, (3,)))


def test_ends_in_the_same_step_and_one_by_one() -> None:
    starts = np.zeros((T, N))
    starts[3] = 1.0
    assert measure_rollout(filled(episode_starts=starts), BOX)["doctor/ends_together"] == 1.0
    starts = np.zeros((T, N))
    starts[[1, 3, 5, 7], [0, 1, 2, 3]] = 1.0
    assert measure_rollout(filled(episode_starts=starts), BOX)["doctor/ends_together"] == pytest.approx(1 / N)


def test_a_reward_at_the_end_counts_unless_all_ends_are_cuts() -> None:
    """SB3 adds the value of what is beyond a cut to the last reward, which is no reward."""
    rewards, starts = np.zeros((T, N)), np.zeros((T, N))
    rewards[2], starts[3] = 0.7, 1.0
    buffer = filled(rewards=rewards, episode_starts=starts)
    assert measure_rollout(buffer, BOX)["doctor/reward_nonzero"] == pytest.approx(1 / T)
    assert measure_rollout(buffer, BOX, all_cut=True)["doctor/reward_nonzero"] == 0.0


def test_numbers_that_are_none_are_counted() -> None:
    buffer = filled()
    buffer.rewards[1, 2], buffer.observations[0, 0, :2] = np.nan, np.inf
    assert count_nonfinite(buffer) == 3.0


def test_standing_still_is_about_steps_of_an_episode() -> None:
    """Environments that stand still in different places differ from each other, and still stand still."""
    places = np.broadcast_to(np.arange(N)[None, :, None], (T, N, 3)) / 10
    assert stands_still(filled(observations=places))
    assert not stands_still(filled())
    moved = np.array(places)
    moved[4:] += 0.5
    assert not stands_still(filled(observations=moved))
    starts = np.zeros((T, N))
    starts[4] = 1.0
    assert stands_still(filled(observations=moved, episode_starts=starts))  # it moved by a reset only
    # episodes of one step have nothing to move
    assert not stands_still(filled(observations=places, episode_starts=np.ones((T, N))))


def test_vectors_of_a_mapping_stand_side_by_side_and_images_are_left_out() -> None:
    space = spaces.Dict(
        {
            "a": BOX,
            "image": spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "b": spaces.Box(-1, 1, (2,)),
            "c": spaces.Discrete(3),
        }
    )
    buffer = DictRolloutBuffer(T, space, BOX, n_envs=N)
    found = vector_observations(buffer)
    assert found is not None and found.shape == (T * N, 5)
    assert vector_observations(RolloutBuffer(T, spaces.Discrete(5), BOX, n_envs=N)) is None


# ------------------------------------------------ networks


def test_rank_counts_directions() -> None:
    generator = th.Generator().manual_seed(0)
    basis = th.randn(3, 20, generator=generator)
    features = th.randn(100, 3, generator=generator) @ basis + 5.0  # a shift is no direction
    assert feature_rank(features) == 3.0
    assert feature_rank(th.ones(100, 20)) == 0.0
    assert feature_rank(features[:10]) is None
    assert feature_rank(features * float("nan")) is None


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_the_probe_leaves_no_trace(env: str) -> None:
    model = make_model(env=env)
    model.learn(64)
    model.policy.set_training_mode(False)
    model._last_obs = model.env.reset()
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    measured = probe_networks(model.policy, model.rollout_buffer)
    assert measured["doctor/ratio_error"] < 1e-4
    assert measured["doctor/dead_units"] == 0.0
    assert 1.0 <= measured["doctor/rank"] <= 16.0
    assert th.equal(before[0], th.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    assert not model.rollout_buffer.generator_ready
    assert not any(module._forward_hooks for module in model.policy.modules())
    model.policy.action_net.weight.data[0] += 1.0
    assert probe_networks(model.policy, model.rollout_buffer)["doctor/ratio_error"] > 0.1


def test_a_policy_that_cannot_be_looked_into_is_left_alone() -> None:
    assert probe_networks(th.nn.Linear(2, 2), filled()) == {}  # type: ignore[arg-type]
    assert mode_layers(make_model().policy) == []


def test_the_actor_is_watched_by_its_weights() -> None:
    model, watch = make_model(), ActorWatch()
    assert watch.stands_still() is None
    watch.take(model.policy)
    assert watch.stands_still() is True
    model.policy.action_net.weight.data[0, 0] += 1e-6
    assert watch.stands_still() is False
    watch.remember(True)
    assert watch.stands_still() is True


# ------------------------------------------------ environments, settings, treatment


def test_ends_are_counted_until_there_are_enough() -> None:
    watch = EndWatch()
    ended = {"episode": {"l": 7, "r": 1.0}, "TimeLimit.truncated": True}
    for _ in range(30):
        watch.look([True, False, True], [ended, {}, {**ended, "TimeLimit.truncated": False}])
    assert not watch.waiting
    assert watch.measures() == {"doctor/ends": 24.0, "doctor/end_length": 7.0, "doctor/truncated_share": 0.5}
    again = EndWatch()
    again.load_state_dict(watch.state_dict())
    assert again.measures() == watch.measures()
    assert EndWatch().measures() == {}


def test_copies_have_the_seed_and_the_start_of_another() -> None:
    env = make_vec_env("CartPole-v1", 4, seed=0)
    assert duplicate_envs(env, env.reset()) == 0.0
    env = make_vec_env("CartPole-v1", 4, seed=0)
    env._seeds = [1, 1, 2, 1]
    assert duplicate_envs(env, env.reset()) == 2.0
    one = make_vec_env("CartPole-v1", 1, seed=0)
    assert duplicate_envs(one, one.reset()) == 0.0


def test_settings_of_models() -> None:
    controllers = {"learning_rate": {"type": "kl_band", "target": 0.01, "min_value": 1e-5, "max_value": 1e-2}}
    settings = settings_of_model(make_model(controllers=controllers, clip_range=(0.1, 0.3), ent_coef="lin_0.02"))
    assert (settings.rate_bounds, settings.ent_coef, settings.continuous) == ((1e-5, 1e-2), 0.02, True)
    assert (settings.n_steps, settings.n_envs, settings.rows) == (64, 1, 64)
    assert settings.normalizes_obs is False and settings.max_entropy is None
    plain = settings_of_model(
        PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda progress: 1e-3 * progress, device="cpu")
    )
    assert (plain.learning_rate, plain.clip_range) == (1e-3, 0.2)
    assert plain.max_entropy == pytest.approx(np.log(2))
    assert max_entropy(spaces.MultiDiscrete([3, 2])) == pytest.approx(np.log(6))
    assert max_entropy(spaces.MultiBinary(3)) == pytest.approx(3 * np.log(2))


def rate_of(model: Any) -> float:
    """What the next update would begin with."""
    model._current_progress_remaining = 1.0
    model._update_learning_rate(model.policy.optimizer)
    rate: float = model.policy.optimizer.param_groups[0]["lr"]
    return rate


@pytest.mark.parametrize("kind", ["plain", "schedule", "controller", "sb3"])
def test_a_repair_halves_the_rate_of_every_form_and_restores_the_policy(kind: str) -> None:
    settings: dict[str, Any] = {
        "plain": {"learning_rate": 0.01},
        "schedule": {"learning_rate": "lin_0.01"},
        "controller": {
            "learning_rate": 0.01,
            "controllers": {"learning_rate": {"type": "kl_band", "target": 0.01, "min_value": 1e-5, "max_value": 1e-1}},
        },
        "sb3": {},
    }[kind]
    model = PPO("MlpPolicy", "Pendulum-v1", 0.01, n_steps=64, device="cpu") if kind == "sb3" else make_model(**settings)
    treatment = Treatment(model)
    treatment.note_good()
    good = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(64)
    rate = rate_of(model)
    what = treatment.apply()
    assert what.startswith("policy and optimizer restored as they were at step 0; learning rate lowered from ")
    assert rate_of(model) == pytest.approx(rate / 2)
    assert all(th.equal(tensor, good[name]) for name, tensor in model.policy.state_dict().items())
    treatment.apply()
    assert rate_of(model) == pytest.approx(rate / 4)
    model.learn(64, reset_num_timesteps=False)  # and it still trains, at that rate
    if kind in ("plain", "sb3"):
        assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0025)


def test_a_state_with_a_number_that_is_none_is_no_good_state() -> None:
    model = make_model()
    treatment = Treatment(model)
    model.policy.log_std.data[0] = float("nan")
    treatment.note_good()
    assert treatment.good_step is None
    assert treatment.apply().startswith("no good state is known to go back to; ")
