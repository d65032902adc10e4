"""Known traps of SB3's own numbers (and of PPO codes at large), each one a test."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import learn_and_record, make_model, record_logs
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus import update
from sb3_ppo_plus.policies import critic_parameters
from sb3_ppo_plus.types import LossTerms


@pytest.fixture
def seen_terms(monkeypatch: pytest.MonkeyPatch) -> list[LossTerms]:
    """The terms of every minibatch."""
    terms: list[LossTerms] = []
    original = update.ppo_loss

    def spy(*arguments: Any) -> LossTerms:
        terms.append(original(*arguments))
        return terms[-1]

    monkeypatch.setattr(update, "ppo_loss", spy)
    return terms


def test_approx_kl_is_the_last_epochs_and_clip_fraction_all_epochs(seen_terms: list[LossTerms]) -> None:
    dumps = learn_and_record(make_model(n_epochs=4, learning_rate=1e-2), 64)
    kls = np.array([terms.approx_kl.item() for terms in seen_terms])
    fractions = [terms.clip_fraction.item() for terms in seen_terms]
    assert len(kls) == 8
    assert dumps[-1]["train/approx_kl"] == pytest.approx(kls[-2:].mean())
    assert dumps[-1]["train/approx_kl"] != pytest.approx(kls.mean())
    assert dumps[-1]["train/clip_fraction"] == pytest.approx(np.mean(fractions))
    # and all epochs, under keys of their own
    per_epoch = [dumps[-1][f"train/approx_kl_epoch_{epoch}"] for epoch in range(4)]
    assert per_epoch == pytest.approx(kls.reshape(4, 2).mean(axis=1), rel=1e-5)


def test_logged_loss_is_that_of_the_skipped_minibatch(seen_terms: list[LossTerms]) -> None:
    dumps = learn_and_record(make_model(n_epochs=5, target_kl=1e-7), 64)
    assert len(seen_terms) == 2  # one stepped, one that ended the update
    assert dumps[-1]["train/loss"] == seen_terms[-1].loss.item()
    assert dumps[-1]["train/gradient_steps"] == 1


def test_n_updates_counts_epochs_and_gradient_steps_has_its_own_key() -> None:
    dumps = learn_and_record(make_model(n_epochs=3), 2 * 64)
    assert dumps[-1]["train/n_updates"] == 6
    assert dumps[-1]["train/gradient_steps"] == 6  # of the last update: 3 epochs of 2 minibatches


def test_last_minibatch_of_one_is_not_normalized(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unbiased deviation of one row is NaN; SB3 skips the normalization, and so do we."""
    model = make_model(n_steps=33, batch_size=32)
    dumps = learn_and_record(model, 66)
    assert np.isfinite(dumps[-1]["train/loss"])


def test_equal_rewards_give_finite_advantages() -> None:
    class Same(gym.Env):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            return np.zeros(1, dtype=np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            return np.zeros(1, dtype=np.float32), 1.0, True, False, {}

    model = make_model(env=Same())
    learn_and_record(model, 128)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


class IntegerBox(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(0, 10, (2,), dtype=np.int64)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.normal(size=2).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.np_random.normal(size=2).astype(np.float32), float(np.sum(action)), False, False, {}


def test_integer_box_spaces_keep_the_sampled_action(seen_terms: list[LossTerms]) -> None:
    """SB3 >= 2.7.1 stores actions in the space's dtype: the ratio does not start at 1. Here it does."""
    learn_and_record(make_model(env=IntegerBox(), n_epochs=1, batch_size=64), 64)
    th.testing.assert_close(seen_terms[0].ratio.detach(), th.ones(64), rtol=0, atol=1e-5)

    sb3 = PPO("MlpPolicy", IntegerBox(), n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")
    record_logs(sb3)
    sb3.learn(64)
    assert sb3.rollout_buffer.actions.dtype == np.int64, "SB3 changed: our correction may no longer be needed"


@pytest.mark.parametrize("use_sde", [False, True])
def test_ratio_is_one_in_the_first_minibatch(seen_terms: list[LossTerms], use_sde: bool) -> None:
    learn_and_record(make_model(use_sde=use_sde, n_epochs=2), 64)
    th.testing.assert_close(seen_terms[0].ratio.detach(), th.ones(32), rtol=0, atol=1e-5)
    assert float(seen_terms[0].approx_kl) == pytest.approx(0.0, abs=1e-6)


def test_stored_action_is_the_unclipped_sample() -> None:
    """The environment receives the clipped action, the loss the one whose log-probability was stored."""

    class Actions(BaseCallback):
        def _on_step(self) -> bool:
            self.clipped = self.locals["clipped_actions"]
            return True

    model = make_model(policy_kwargs={"log_std_init": 2.0, "net_arch": [8]})
    callback = Actions()
    record_logs(model)
    model.learn(64, callback=callback)
    assert np.abs(model.rollout_buffer.actions).max() > 2.0 >= np.abs(callback.clipped).max()


def test_minibatches_are_drawn_anew_in_each_epoch() -> None:
    model = make_model(n_epochs=1)
    learn_and_record(model, 64)
    buffer = model.rollout_buffer
    orders = []
    for _ in range(2):
        for _ in buffer.get(64):
            orders.append(buffer.rows.tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(64))
    assert orders[0] != orders[1]


def test_critic_is_found_by_module_not_by_the_word_value() -> None:
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class ValueOfFeatures(FlattenExtractor):
        def __init__(self, observation_space: spaces.Space) -> None:
            super().__init__(observation_space)
            self.value_scale = th.nn.Parameter(th.ones(1))

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return super().forward(observations) * self.value_scale

    shared = make_model(policy_kwargs={"features_extractor_class": ValueOfFeatures, "net_arch": [8]})
    names = {id(p): name for name, p in shared.policy.named_parameters()}
    critic = {names[id(p)] for p in critic_parameters(shared.policy)}
    assert critic == {
        "mlp_extractor.value_net.0.weight",
        "mlp_extractor.value_net.0.bias",
        "value_net.weight",
        "value_net.bias",
    }


def test_masked_kl_divides_by_the_rows_that_count() -> None:
    """Padded rows with a KL of zero would bias an adaptive learning rate upwards."""
    from sb3_ppo_plus.losses import masked_mean

    kl = th.tensor([0.02, 0.02, 0.0, 0.0])
    assert masked_mean(kl, th.tensor([True, True, False, False])).item() == pytest.approx(0.02)


def test_a_finished_linear_schedule_does_not_jump_back_up() -> None:
    """SB3's progress makes learn(N) + learn(N) end at half its rate again; a schedule by steps goes on falling."""
    from sb3_ppo_plus.schedules import LinearSchedule

    by_progress = make_model(learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    rates = [dump["train/learning_rate"] for dump in learn_and_record(by_progress, 128)[1:]]
    rates += [dump["train/learning_rate"] for dump in learn_and_record(by_progress, 128, reset_num_timesteps=False)[1:]]
    assert rates[2] > rates[1]
    by_steps = make_model(learning_rate=LinearSchedule(1e-3, 0.0, unit="steps", start_step=0, end_step=256))
    rates = [dump["train/learning_rate"] for dump in learn_and_record(by_steps, 128)[1:]]
    rates += [dump["train/learning_rate"] for dump in learn_and_record(by_steps, 128, reset_num_timesteps=False)[1:]]
    assert rates == sorted(rates, reverse=True)
