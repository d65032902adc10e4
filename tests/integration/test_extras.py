"""Each extra inside a real model: that it reaches the update, and does there what it says."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Critic, OneReward, learn_and_record, make_model, tensors_of
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import INVALID_ROW, RowsMixin, flat, flatten_rows, unflat
from sb3_ppo_plus.policies import critic_parameters, predicted_values
from sb3_ppo_plus.probe import AdvantageRecomputation, diagnostic_rows
from sb3_ppo_plus.schedules import LinearSchedule

EVERYTHING: dict[str, Any] = {
    "clip_range": (0.1, 0.3),
    "clip_range_vf": 0.5,
    "vf_loss": "max",
    "target_kl": 0.05,
    "kl_stop": "rollback",
    "kl_coef": 0.5,
    "controllers": {
        "kl_coef": {"type": "kl_band", "target": 0.01},
        "learning_rate": {"type": "kl_band", "target": 0.01, "every": "minibatch"},
        "ent_coef": {"type": "entropy_target", "target": 0.5},
        "reference_kl_coef": {"type": "kl_proportional", "target": 0.05},
    },
    "dual_clip": 3.0,
    "advantage_scope": "batch",
    "recompute_advantages": True,
    "critic_learning_rate": 1e-3,
    "critic_epochs": 1,
    "reference_kl_coef": 0.1,
}


# ---------------------------------------------------------------------------------------------- all of them, everywhere


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", "Pendulum-v1"),
        ("MlpPolicy", IdentityEnv(4)),
        ("MlpPolicy", IdentityEnvMultiDiscrete(3)),
        ("MlpPolicy", IdentityEnvMultiBinary(3)),
        ("MultiInputPolicy", SimpleMultiObsEnv()),
    ],
    ids=["box", "discrete", "multidiscrete", "multibinary", "dict"],
)
def test_everything_on_trains_saves_and_loads(policy: str, env: Any, tmp_path: Path) -> None:
    arguments = {"policy": policy, "env": env, "batch_size": 24, "policy_kwargs": {}}
    reference = make_model(**arguments)
    model = make_model(**arguments, reference_policy=reference, **EVERYTHING)
    before = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    dumps = learn_and_record(model, 256)
    after = tensors_of(model)
    assert any(not th.equal(before[name], after[name]) for name in before)
    assert all(th.isfinite(tensor).all() for tensor in after.values())
    for key in ("kl", "reference_kl", "kl_coef", "reference_kl_coef", "ent_coef", "entropy_0", "grad_norm"):
        assert math.isfinite(dumps[-1][f"train/{key}"]), key
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    assert opened.learn(64).num_timesteps == 64
    assert {n: c.state_dict() for n, c in opened._controllers.items()}.keys() == EVERYTHING["controllers"].keys()


@pytest.mark.parametrize("use_sde", [False, True])
def test_everything_on_with_gsde_and_several_envs(use_sde: bool) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=3, seed=0)
    reference = make_model(env=env, use_sde=use_sde)
    model = make_model(env=env, use_sde=use_sde, reference_policy=reference, **EVERYTHING)
    dumps = learn_and_record(model, 600)
    assert math.isfinite(dumps[-1]["train/kl"])


# ---------------------------------------------------------------------------------------------- KL


def test_logged_kl_is_the_one_between_the_two_policies() -> None:
    """Recomputed with torch.distributions from a copy of the policy that collected."""
    model = make_model(n_steps=64, n_epochs=5, learning_rate=3e-3)
    dumps = learn_and_record(model, 64)
    buffer, new = model.rollout_buffer, model.policy
    old = make_model(n_steps=64, n_epochs=5, learning_rate=3e-3).policy  # the same seed: the policy before the update
    observations = th.as_tensor(buffer.observations)
    with th.no_grad():
        p, q = old.get_distribution(observations).distribution, new.get_distribution(observations).distribution
        kl = th.distributions.kl_divergence(p, q).sum(-1).mean().item()
        entropy = q.entropy()[:, 0].mean().item()
    assert kl > 1e-4
    assert dumps[-1]["train/kl"] == pytest.approx(kl, rel=1e-3)
    assert dumps[-1]["train/entropy_0"] == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "epochs", "expected"), [(64, 10, 64), (2048, 10, 512), (1024, 4, 128), (4096, 3, 368)]
)
def test_diagnostics_look_at_a_share_of_the_rows(rows: int, epochs: int, expected: int) -> None:
    """3% of rows times epochs, between 128 and 512: 0.03 * 4096 * 3 = 368.6."""
    assert diagnostic_rows(rows, epochs) == expected


def test_kl_penalty_keeps_the_policy_nearer() -> None:
    kls = []
    for kl_coef in (0.0, 1.0, 30.0):
        dumps = learn_and_record(make_model(kl_coef=kl_coef, n_epochs=10, learning_rate=3e-3), 256)
        kls.append(np.mean([dump["train/kl"] for dump in dumps[1:]]))
    assert kls[0] > kls[1] > kls[2]


def test_adaptive_penalty_moves_once_per_rollout_by_the_papers_rule() -> None:
    model = make_model(kl_coef=1.0, controllers={"kl_coef": {"type": "kl_band", "target": 1e-9}})
    dumps = learn_and_record(model, 4 * 64)
    # the target is out of reach, so it doubles after each of the four updates; logged is what the update used
    assert [dump["train/kl_coef"] for dump in dumps[1:]] == [1.0, 2.0, 4.0, 8.0]
    assert model._controllers["kl_coef"].value == 16.0


def test_pure_penalty_has_no_clipping() -> None:
    model = make_model(clip_range=None, kl_coef=1.0, learning_rate=3e-2, n_epochs=5)
    dumps = learn_and_record(model, 128)
    assert [dump["train/clip_fraction"] for dump in dumps[1:]] == [0.0, 0.0]
    assert dumps[-1]["train/ratio_max"] > 1.3


def test_target_kl_minibatch_stops_before_the_step() -> None:
    dumps = learn_and_record(make_model(target_kl=1e-7, n_epochs=5), 64)
    # the first minibatch has KL 0 and is stepped; the second is over the limit and is not
    assert dumps[-1]["train/gradient_steps"] == 1
    assert dumps[-1]["train/n_updates"] == 1


def test_target_kl_epoch_finishes_its_epoch() -> None:
    dumps = learn_and_record(make_model(target_kl=1e-7, kl_stop="epoch", n_epochs=5), 64)
    assert dumps[-1]["train/gradient_steps"] == 2
    assert dumps[-1]["train/n_updates"] == 1


def test_target_kl_rollback_undoes_the_epoch_that_overshot() -> None:
    model = make_model(target_kl=1e-7, kl_stop="rollback", n_epochs=5)
    before = copy.deepcopy(tensors_of(model))
    dumps = learn_and_record(model, 64)
    after = tensors_of(model)
    assert all(th.equal(before[name], after[name]) for name in before), "parameters"
    assert not [name for name in after if name.startswith("optimizer")], "Adam has no state before its first step"
    assert dumps[-1]["train/epochs_undone"] == 1
    assert dumps[-1]["train/kl"] == pytest.approx(0.0, abs=1e-9)


def test_rollback_never_leaves_more_than_the_limit() -> None:
    model = make_model(target_kl=0.005, kl_stop="rollback", n_epochs=20, learning_rate=3e-3)
    dumps = learn_and_record(model, 10 * 64)[1:]
    free = learn_and_record(make_model(n_epochs=20, learning_rate=3e-3), 10 * 64)[1:]
    assert max(dump["train/kl"] for dump in dumps) <= 1.5 * 0.005
    assert max(dump["train/kl"] for dump in free) > 1.5 * 0.005
    # an undone epoch puts Adam back too: its step count is that of the epochs that stand
    undone = sum(dump["train/epochs_undone"] for dump in dumps)
    steps = sum(dump["train/gradient_steps"] for dump in dumps)
    assert undone > 0
    assert tensors_of(model)["optimizer.0.step"] == steps - 2 * undone


# ---------------------------------------------------------------------------------------------- learning rates


@pytest.mark.parametrize(("every", "expected"), [("rollout", 1), ("epoch", 3), ("minibatch", 5)])
def test_learning_rate_by_kl(every: str, expected: int) -> None:
    """A target out of reach divides by 1.5 each time: 3 epochs of 2 minibatches, the very first of them free."""
    config = {"type": "kl_band", "target": 1e-12, "every": every, "min_value": 1e-9}
    model = make_model(learning_rate=1e-3, controllers={"learning_rate": config})
    dumps = learn_and_record(model, 64)
    rate = model._controllers["learning_rate"].value
    assert rate == pytest.approx(1e-3 / 1.5**expected)
    used_last = 1e-3 if every == "rollout" else rate
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(used_last)
    assert dumps[-1]["train/learning_rate"] == pytest.approx(used_last)
    dumps = learn_and_record(model, 64, reset_num_timesteps=False)
    assert model._controllers["learning_rate"].value == pytest.approx(1e-3 / 1.5 ** (2 * expected))


def test_critic_learning_rate_moves_the_critic_alone() -> None:
    model = make_model(learning_rate=0.0, critic_learning_rate=1e-3)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    dumps = learn_and_record(model, 64)
    moved = {name for name, p in model.policy.named_parameters() if not th.equal(before[name], p)}
    critic = {id(p) for p in critic_parameters(model.policy)}
    assert moved == {name for name, p in model.policy.named_parameters() if id(p) in critic}
    assert dumps[-1]["train/critic_learning_rate"] == 1e-3


def test_equal_rates_for_both_are_one_rate() -> None:
    """Two parameter groups change nothing by themselves."""
    one, two = make_model(), make_model(critic_learning_rate=3e-4)
    for model in (one, two):
        model.set_random_seed(1)
        model.learn(128)
    assert len(two.policy.optimizer.param_groups) == 2
    ours, theirs = tensors_of(two), tensors_of(one)
    assert all(th.equal(ours[name], theirs[name]) for name in theirs)


def test_critic_epochs_move_the_critic_alone_and_help_it() -> None:
    errors = []
    for critic_epochs in (0, 10):
        model = make_model(learning_rate=1e-3, critic_epochs=critic_epochs)
        model.learn(64)
        buffer = model.rollout_buffer
        errors.append(np.square(predicted_values(model.policy, buffer) - buffer.returns.flatten()).mean())
    assert errors[1] < errors[0]
    frozen_actor = make_model(learning_rate=1e-3, critic_epochs=10)
    reference = make_model(learning_rate=1e-3)
    for model in (frozen_actor, reference):
        model.set_random_seed(1)
        model.learn(64)
    assert th.equal(frozen_actor.policy.action_net.weight, reference.policy.action_net.weight)
    assert not th.equal(frozen_actor.policy.value_net.weight, reference.policy.value_net.weight)


# ---------------------------------------------------------------------------------------------- entropy and schedules


def test_entropy_coefficient_follows_its_schedule() -> None:
    dumps = learn_and_record(make_model(ent_coef=LinearSchedule(0.1, 0.0, 1.0)), 4 * 64)
    # the update after k of 4 rollouts sees a remaining progress of 1 - k / 4
    assert [dump["train/ent_coef"] for dump in dumps[1:]] == pytest.approx([0.075, 0.05, 0.025, 0.0])


@pytest.mark.parametrize("value", ["lin_0.1", {"type": "linear", "start": 0.1, "end": 0.0}])
def test_schedules_from_yaml(value: Any) -> None:
    model = make_model(
        ent_coef=value, learning_rate="lin_3e-4", clip_range={"type": "cosine", "start": 0.2, "end": 0.1}
    )
    dumps = learn_and_record(model, 128)
    assert [dump["train/ent_coef"] for dump in dumps[1:]] == pytest.approx([0.05, 0.0])
    assert [dump["train/learning_rate"] for dump in dumps[1:]] == pytest.approx([1.5e-4, 0.0])
    assert [dump["train/clip_range"] for dump in dumps[1:]] == pytest.approx([0.15, 0.1])


def test_a_schedule_by_steps_does_not_bend_when_a_run_goes_on() -> None:
    def rates(legs: list[int]) -> list[float]:
        schedule = LinearSchedule(1e-3, 0.0, unit="steps", start_step=0, end_step=512)
        model = make_model(learning_rate=schedule)
        dumps = []
        for index, leg in enumerate(legs):
            dumps += learn_and_record(model, leg, reset_num_timesteps=index == 0)[1:]
        return [dump["train/learning_rate"] for dump in dumps]

    assert rates([512]) == rates([128, 128, 256])
    assert rates([512])[0] == pytest.approx(1e-3 * (1 - 64 / 512))


def test_two_models_do_not_share_a_schedules_counter() -> None:
    schedule = LinearSchedule(1e-3, 0.0, unit="steps", start_step=0, end_step=512)
    first, second = make_model(learning_rate=schedule), make_model(learning_rate=schedule)
    first.learn(256)
    assert second.lr_schedule(1.0) == 1e-3
    assert first.lr_schedule(1.0) == pytest.approx(5e-4)


def test_entropy_target_raises_and_lowers_the_bonus() -> None:
    values = []
    for target in (-50.0, 50.0):
        model = make_model(ent_coef=0.01, controllers={"ent_coef": {"type": "entropy_target", "target": target}})
        model.learn(128)
        values.append(model._controllers["ent_coef"].value)
    # the error is clipped at one nat: two updates of exp(-0.1) or exp(0.1)
    assert values == pytest.approx([0.01 * math.exp(-0.2), 0.01 * math.exp(0.2)])


def test_a_callback_may_set_a_coefficient() -> None:
    """SB3's answer to those who ask for entropy annealing; it must keep working."""
    model = make_model(ent_coef=0.0)

    def anneal(local: dict[str, Any], _: dict[str, Any]) -> bool:
        local["self"].ent_coef = 1e3
        return True

    learn_and_record(model, 64, callback=anneal)
    plain = make_model()
    learn_and_record(plain, 64)
    assert (model.policy.log_std > plain.policy.log_std).all()


# ---------------------------------------------------------------------------------------------- advantages


def standardized(model: PPOPlus, scope: str) -> np.ndarray:
    advantages = unflat(model.rollout_buffer.advantages, model.n_steps)
    axis = None if scope == "batch" else 0
    return (advantages - advantages.mean(axis)) / (advantages.std(axis, ddof=1) + 1e-8)


@pytest.mark.parametrize("scope", ["batch", "env"])
def test_advantage_scopes_reach_the_minibatches(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_ppo_plus import update

    seen: list[th.Tensor] = []
    original = update.ppo_loss

    def spy(outputs: Any, batch: Any, coefs: Any, options: Any) -> Any:
        assert not options.standardize_advantages
        seen.append(batch.advantages)
        return original(outputs, batch, coefs, options)

    monkeypatch.setattr(update, "ppo_loss", spy)
    model = make_model(env=make_vec_env("Pendulum-v1", n_envs=2, seed=0), advantage_scope=scope, n_epochs=1)
    model.learn(128)
    ours = th.cat(seen).sort().values.numpy()
    np.testing.assert_allclose(ours, np.sort(standardized(model, scope).flatten()), rtol=1e-4, atol=1e-5)


def test_scope_none_is_normalize_advantage_off() -> None:
    models = [make_model(advantage_scope="none"), make_model(normalize_advantage=False)]
    for model in models:
        model.set_random_seed(1)
        model.learn(128)
    first, second = (tensors_of(model) for model in models)
    assert all(th.equal(first[name], second[name]) for name in first)


def test_recomputation_with_the_same_critic_gives_the_same_advantages() -> None:
    """Truncated Pendulum episodes (200 steps) included: SB3's bootstrap is taken out and put back."""
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    model = make_model(env=env, n_steps=450, learning_rate=0.0, recompute_advantages=True)
    model.learn(900)
    buffer = model.rollout_buffer
    assert isinstance(buffer, RowsMixin)
    assert [(t.step, t.env) for t in buffer.truncations] == [(199, 0), (199, 1), (399, 0), (399, 1)]
    expected = unflat(buffer.advantages, 450)
    again = AdvantageRecomputation(model.policy, buffer, model._last_obs, model._last_episode_starts)
    advantages, returns = again(model.policy)
    np.testing.assert_allclose(advantages, expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(returns, unflat(buffer.returns, 450), rtol=1e-3, atol=1e-2)


def test_recomputation_with_a_newer_critic_bootstraps_truncations_with_it() -> None:
    """A critic that learned the true value 1 / (1 - gamma) = 10 sees no advantage, at the truncations neither."""
    arguments = {"policy": Critic, "env": OneReward(limit=5), "n_steps": 20, "batch_size": 20, "gamma": 0.9}
    model = make_model(**arguments, policy_kwargs={"opinion": 0.0}, learning_rate=0.0, recompute_advantages=True)
    model.learn(20)
    again = AdvantageRecomputation(model.policy, model.rollout_buffer, model._last_obs, model._last_episode_starts)
    model.policy.opinion = 10.0
    advantages, returns = again(model.policy)
    np.testing.assert_allclose(advantages, 0.0, atol=1e-5)
    np.testing.assert_allclose(returns, 10.0, atol=1e-5)


def test_recomputation_changes_the_later_epochs_only() -> None:
    for n_epochs, equal in ((1, True), (3, False)):
        models = [make_model(n_epochs=n_epochs, recompute_advantages=on, learning_rate=1e-2) for on in (False, True)]
        for model in models:
            model.set_random_seed(1)
            model.learn(64)
        first, second = (tensors_of(model) for model in models)
        assert all(th.equal(first[name], second[name]) for name in first) == equal


# ---------------------------------------------------------------------------------------------- reference policy


@pytest.mark.parametrize("source", ["model", "policy", "path"])
def test_reference_policy_is_a_frozen_copy(source: str, tmp_path: Path) -> None:
    trained = make_model(seed=5)
    trained.save(tmp_path / "trained.zip")
    given = {"model": trained, "policy": trained.policy, "path": str(tmp_path / "trained.zip")}[source]
    model = make_model(reference_policy=given, reference_kl_coef=0.1)
    assert model._reference is not None
    for ours, theirs in zip(model._reference.parameters(), trained.policy.parameters(), strict=True):
        assert th.equal(ours, theirs) and not ours.requires_grad and ours is not theirs
    trained.learn(64)
    model.learn(64)
    assert th.equal(model._reference.action_net.weight, make_model(seed=5).policy.action_net.weight)


def test_reference_policy_does_not_disturb_the_generators(tmp_path: Path) -> None:
    """SB3's load() reseeds python, numpy and torch; a run with a leash must still be its own run."""
    make_model(seed=5).save(tmp_path / "trained.zip")
    np.random.seed(123)
    th.manual_seed(123)
    make_model(seed=None, reference_policy=tmp_path / "trained.zip", reference_kl_coef=0.1)
    drawn = np.random.rand(), th.rand(1).item()
    np.random.seed(123)
    th.manual_seed(123)
    make_model(seed=None)
    assert drawn == (np.random.rand(), th.rand(1).item())


def test_leash_keeps_the_policy_near_the_reference() -> None:
    distances = []
    for coef in (1e-6, 10.0):
        model = make_model(reference_policy=make_model(), reference_kl_coef=coef, learning_rate=3e-3, n_epochs=10)
        dumps = learn_and_record(model, 5 * 64)
        distances.append(dumps[-1]["train/reference_kl"])
    assert distances[1] < 0.3 * distances[0]


def test_reference_policy_is_saved_with_the_model(tmp_path: Path) -> None:
    model = make_model(reference_policy=make_model(seed=5), reference_kl_coef=0.1)
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(tmp_path / "model.zip", device="cpu")
    assert opened._reference is not None and model._reference is not None
    assert th.equal(opened._reference.action_net.weight, model._reference.action_net.weight)


def test_reference_policy_for_other_spaces_is_refused() -> None:
    other = make_model(env="CartPole-v1")
    with pytest.raises(ValueError, match="reference_policy has observation_space"):
        make_model(reference_policy=other, reference_kl_coef=0.1)


# ---------------------------------------------------------------------------------------------- rows that do not count


class Absent(gym.Env):
    """Every third step the agent did not act."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))
    t = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        observation = np.array([math.sin(self.t), 0.0], dtype=np.float32)
        return observation, 1.0, False, False, {INVALID_ROW: self.t % 3 == 0}


def test_invalid_rows_are_left_out_of_the_update() -> None:
    """The same update as one on a rollout whose invalid rows hold something else."""
    results = []
    for nonsense in (0.0, 1e6):
        model = make_model(env=Absent(), n_steps=30, batch_size=10, advantage_scope="batch", kl_coef=1.0, n_epochs=2)
        learn_and_record(model, 1)  # collects one rollout; then the update is made again on changed invalid rows
        buffer = model.rollout_buffer
        assert isinstance(buffer, RowsMixin)
        model.collect_rollouts(model.env, model._init_callback(None), buffer, 30)
        assert (~buffer.valid).sum() == 10
        buffer.advantages[~buffer.valid] = nonsense
        buffer.returns[~buffer.valid] = nonsense
        np.random.seed(0)
        model.train()
        results.append(tensors_of(model))
    assert all(th.equal(results[0][name], results[1][name]) for name in results[0])


def test_minibatches_without_a_valid_row_make_no_step() -> None:
    model = make_model(env=Absent(), n_steps=30, batch_size=1, advantage_scope="batch", n_epochs=1)
    dumps = learn_and_record(model, 30)
    assert dumps[-1]["train/gradient_steps"] == 20


def test_flat_order_is_sb3s() -> None:
    array = np.arange(6).reshape(3, 2)  # [T, N]
    assert flat(array).tolist() == RolloutBuffer.swap_and_flatten(array).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert np.array_equal(unflat(flat(array), 3), array)


def test_flattening_leaves_the_generator_alone() -> None:
    model = make_model()
    model.learn(64)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, 64)
    np.random.seed(4)
    expected = np.random.rand()
    np.random.seed(4)
    flatten_rows(model.rollout_buffer)
    assert np.random.rand() == expected
    assert model.rollout_buffer.observations.shape == (64, 3)
    flatten_rows(model.rollout_buffer)
    assert model.rollout_buffer.observations.shape == (64, 3)
