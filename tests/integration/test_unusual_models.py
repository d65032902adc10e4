"""Models that are not SB3's own in every part: what works with SB3's PPO works here, and nothing is quietly wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import assert_same_tensors, learn_and_record, make_model
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.buffers import INVALID_ROW
from sb3_ppo_plus.controllers import KLBand
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import LinearSchedule

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}


class DecayGroups(ActorCriticPolicy):
    """Weight decay for matrices only: two parameter groups of the user's own."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        matrices = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = th.optim.AdamW(groups, lr=lr_schedule(1))


class OwnDistribution(ActorCriticPolicy):
    """Its evaluate_actions makes a distribution object of its own and leaves the policy's alone."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        features = self.extract_features(obs)
        latent_pi, latent_vf = self.mlp_extractor(features)
        distribution = DiagGaussianDistribution(actions.shape[1])
        distribution.proba_distribution(self.action_net(latent_pi), self.log_std)
        return self.value_net(latent_vf), distribution.log_prob(actions), distribution.entropy()


class NoDistribution(ActorCriticPolicy):
    """What SB3's PPO never calls need not work."""

    def get_distribution(self, obs: Any) -> Any:
        raise RuntimeError("not here")


class Scaled(ActorCriticPolicy):
    """Takes an argument that SB3 does not know, so cannot rebuild."""

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any) -> None:
        self.scale = scale
        super().__init__(*args, **kwargs)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return super()._get_action_dist_from_latent(self.scale * latent_pi)


def test_users_parameter_groups_stay_as_they_are(tmp_path: Path) -> None:
    models = []
    for algorithm in (PPO, PPOPlus):
        model = algorithm(DecayGroups, "Pendulum-v1", **SMALL).learn(64)
        model.save(tmp_path / f"{algorithm.__name__}.zip")
        models.append(model.learn(64))
    sizes = [(group["weight_decay"], len(group["params"])) for group in models[1].policy.optimizer.param_groups]
    assert sizes == [(0.1, 6), (0.0, 7)]
    for name in ("policy", "policy.optimizer"):
        theirs, ours = (model.get_parameters()[name] for model in models)
        assert str(theirs) == str(ours)
    PPO.load(tmp_path / "PPOPlus.zip", device="cpu")
    PPOPlus.load(tmp_path / "PPO.zip", device="cpu", custom_objects={"policy_class": DecayGroups})


def test_a_rate_by_kl_sets_every_group() -> None:
    band = {"type": "kl_band", "target": 1e-12, "min_value": 1e-9}
    model = PPOPlus(DecayGroups, "Pendulum-v1", controllers={"learning_rate": band}, **SMALL).learn(64)
    assert {group["lr"] for group in model.policy.optimizer.param_groups} == {model.lr_schedule(1.0)}


def test_a_rate_for_the_critic_needs_one_group() -> None:
    with pytest.raises(InvalidArgument, match="DecayGroups made 2"):
        PPOPlus(DecayGroups, "Pendulum-v1", critic_learning_rate=1e-3, **SMALL)


def test_reading_parameters_leaves_the_rates_alone() -> None:
    model = make_model(critic_learning_rate=1e-2).learn(64)
    rates = [group["lr"] for group in model.policy.optimizer.param_groups]
    model.get_parameters()
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == rates == [3e-4, 1e-2]


def test_the_penalty_reaches_a_policy_that_makes_its_own_distribution() -> None:
    kls = []
    for kl_coef in (0.0, 30.0):
        arguments = {"policy": OwnDistribution, "n_epochs": 10, "learning_rate": 3e-3, "kl_coef": kl_coef}
        kls.append(learn_and_record(make_model(**arguments), 64)[-1]["train/kl"])
    assert kls[1] < 0.5 * kls[0]


def test_diagnostics_never_stop_a_training_that_sb3_can_do() -> None:
    sb3 = PPO(NoDistribution, "Pendulum-v1", **SMALL).learn(128)
    with pytest.warns(UserWarning, match="log_diagnostics cannot measure NoDistribution"):
        plus = PPOPlus(NoDistribution, "Pendulum-v1", **SMALL).learn(128)
    assert_same_tensors(sb3, plus)


class OwnGet(RolloutBuffer):
    """Draws minibatches in order, and makes its samples itself."""

    def get(self, batch_size: int | None = None) -> Any:
        names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
        arrays = {name: self.swap_and_flatten(getattr(self, name)) for name in names}
        for start in range(0, self.buffer_size, batch_size or self.buffer_size):
            rows = slice(start, start + (batch_size or self.buffer_size))
            columns = {name: self.to_torch(array[rows]) for name, array in arrays.items()}
            flat = {name: columns[name].flatten() for name in names[2:]}
            yield RolloutBufferSamples(columns["observations"], columns["actions"], *flat.values())


def test_a_buffer_with_its_own_get() -> None:
    arguments = {**SMALL, "rollout_buffer_class": OwnGet}
    sb3 = PPO("MlpPolicy", "Pendulum-v1", **arguments).learn(128)
    plus = PPOPlus("MlpPolicy", "Pendulum-v1", **arguments).learn(128)
    assert_same_tensors(sb3, plus)
    with pytest.raises(TypeError, match="must draw its rows through _get_samples"):
        PPOPlus("MlpPolicy", "Pendulum-v1", advantage_scope="batch", **arguments).learn(64)


def test_a_model_can_be_pickled() -> None:
    model = make_model().learn(64)
    again = pickle.loads(pickle.dumps(model.rollout_buffer))
    assert type(again) is type(model.rollout_buffer)
    assert np.array_equal(again.advantages, model.rollout_buffer.advantages)


@pytest.mark.parametrize(
    "policy_kwargs",
    [{"share_features_extractor": False, "features_extractor_class": FlattenExtractor}, {"scale": 50.0}],
    ids=["extractors apart", "argument of the user's"],
)
def test_the_reference_acts_like_the_policy_that_was_given(policy_kwargs: dict[str, Any], tmp_path: Path) -> None:
    policy = Scaled if "scale" in policy_kwargs else "MlpPolicy"
    teacher = make_model(policy=policy, policy_kwargs=policy_kwargs).learn(64)
    student = make_model(
        policy=policy, policy_kwargs=policy_kwargs, seed=1, reference_policy=teacher, reference_kl_coef=0.1
    )
    student.learn(64).save(tmp_path / "student.zip")
    mine = {f"{__name__}.Scaled": Scaled}
    opened = PPOPlus.load(tmp_path / "student.zip", device="cpu", custom_objects=mine)
    observation = np.array([[0.6, -0.8, 2.0]], dtype=np.float32)
    expected = teacher.policy.predict(observation, deterministic=True)[0]
    for model in (student, opened):
        assert model._reference is not None
        assert np.array_equal(model._reference.predict(observation, deterministic=True)[0], expected)


def test_gsde_reference_after_training() -> None:
    """Its exploration matrices hang in a graph, which a plain copy cannot take."""
    teacher = make_model(use_sde=True).learn(64)
    make_model(use_sde=True, reference_policy=teacher, reference_kl_coef=0.1).learn(64)


def test_reference_that_squashes_is_refused_by_a_model_that_does_not() -> None:
    teacher = make_model(use_sde=True, policy_kwargs={"squash_output": True, "net_arch": [8]})
    with pytest.raises(InvalidArgument, match="squash_output=True, the model squash_output=False"):
        make_model(reference_policy=teacher, reference_kl_coef=0.1)


class Nobody(gym.Env):
    """No agent ever acts."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, dtype=np.float32), 1.0, False, False, {INVALID_ROW: True}


@pytest.mark.parametrize(
    "extras",
    [
        {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01}}},
        {"target_kl": 0.01, "kl_stop": "epoch"},
        {"target_kl": 0.01, "kl_stop": "rollback"},
        {"controllers": {"learning_rate": {"type": "kl_band", "target": 0.01}}},
        {"advantage_scope": "batch", "recompute_advantages": True, "critic_epochs": 1},
    ],
    ids=lambda extras: next(iter(extras)),
)
def test_a_rollout_without_a_row_that_counts_changes_nothing(extras: dict[str, Any]) -> None:
    model = make_model(env=Nobody(), **extras)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    values = {name: controller.value for name, controller in model._controllers.items()}
    dumps = learn_and_record(model, 128)
    assert all(th.equal(before[name], p) for name, p in model.policy.named_parameters())
    assert {name: controller.value for name, controller in model._controllers.items()} == values
    assert dumps[-1]["train/gradient_steps"] == 0


def test_ratio_extremes_are_of_the_rows_that_count() -> None:
    class Sometimes(Nobody):
        t = 0

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
            self.t += 1
            return np.zeros(2, dtype=np.float32), float(action), False, False, {INVALID_ROW: self.t % 2 == 0}

    dumps = learn_and_record(make_model(env=Sometimes(), n_epochs=1, batch_size=64), 64)
    assert dumps[-1]["train/ratio_min"] == pytest.approx(1.0, abs=1e-5)
    assert dumps[-1]["train/ratio_max"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("every", ["rollout", "epoch", "minibatch"])
def test_an_undone_epoch_still_tells_the_controllers_what_it_did(every: str) -> None:
    """Measured after the undoing the KL is zero, and a rate that followed it would rise for ever."""
    band = {"type": "kl_band", "target": 1e-4, "every": every, "max_value": 1.0, "min_value": 1e-9}
    model = make_model(learning_rate=1e-2, target_kl=1e-4, kl_stop="rollback", controllers={"learning_rate": band})
    dumps = learn_and_record(model, 3 * 64)
    assert dumps[1]["train/epochs_undone"] == 1
    assert model._controllers["learning_rate"].value < 1e-2


def test_rate_by_epoch_does_not_rise_from_the_zero_before_the_first_step() -> None:
    """One minibatch and one epoch: there is no KL to follow, so the rate stays."""
    band = {"type": "kl_band", "target": 0.001, "max_value": 1.0}
    model = make_model(batch_size=64, n_epochs=1, controllers={"learning_rate": band})
    model.learn(4 * 64)
    assert model._controllers["learning_rate"].value == 3e-4


def test_rollback_holds_with_critic_epochs_and_a_shared_extractor() -> None:
    """Critic epochs move the critic's own parameters only, so the policy stays where the rollback left it."""

    class Shared(FlattenExtractor):
        def __init__(self, observation_space: spaces.Space) -> None:
            super().__init__(observation_space)
            self.layer = th.nn.Linear(self.features_dim, self.features_dim)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.layer(super().forward(observations))

    arguments: dict[str, Any] = {"policy_kwargs": {"features_extractor_class": Shared, "net_arch": [16]}}
    model = make_model(target_kl=1e-5, kl_stop="rollback", critic_epochs=20, learning_rate=1e-2, **arguments)
    extractor = model.policy.features_extractor.layer.weight.detach().clone()
    dumps = learn_and_record(model, 64)
    assert dumps[-1]["train/epochs_undone"] == 1
    assert dumps[-1]["train/kl"] <= 1.5e-5
    assert th.equal(model.policy.features_extractor.layer.weight, extractor)


def test_a_loaded_controller_stays_in_its_bounds(tmp_path: Path) -> None:
    band = {"type": "kl_band", "target": 1.0, "max_value": 9e-3}
    model = make_model(learning_rate=9e-3, controllers={"learning_rate": band})
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(
        tmp_path / "model.zip", controllers={"learning_rate": {**band, "max_value": 1e-3}}, device="cpu"
    )
    assert opened._controllers["learning_rate"].value == 1e-3


class Halving(KLBand):
    """A controller of the user's own that inherits its type."""

    def _next(self, signal: float) -> float:
        return self.value / 2


def test_a_users_controller_stays_itself(tmp_path: Path) -> None:
    model = make_model(kl_coef=1.0, controllers={"kl_coef": Halving(0.01)}).learn(64)
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(tmp_path / "model.zip", device="cpu", trust=True)
    assert type(opened._controllers["kl_coef"]).__name__ == "Halving"
    assert opened._controllers["kl_coef"].value == 0.5


def test_a_schedule_by_steps_is_not_silently_frozen_under_sb3(tmp_path: Path) -> None:
    schedule = LinearSchedule(1e-3, 0.0, unit="steps", start_step=0, end_step=512)
    model = make_model(learning_rate=schedule).learn(128)
    model.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="never told how many"):
        PPO.load(tmp_path / "model.zip", env=model.get_env(), device="cpu").learn(256)
    opened = PPOPlus.load(tmp_path / "model.zip", device="cpu")
    assert opened.lr_schedule(1.0) == pytest.approx(1e-3 * (1 - 128 / 512))


def test_observation_space_that_no_policy_takes() -> None:
    class Pair(Nobody):
        observation_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])

    with pytest.raises(InvalidArgument, match=r"observation space Tuple.*flatten"):
        make_model(env=Pair())


def test_a_missing_reference_is_found_before_the_environment_is_made() -> None:
    made = []

    def make() -> gym.Env:
        made.append(1)
        return gym.make("Pendulum-v1")

    gym.register("Noted-v0", make)
    try:
        with pytest.raises(InvalidArgument, match="there is no such file"):
            make_model(env="Noted-v0", reference_policy="nowhere.zip", reference_kl_coef=0.1)
    finally:
        gym.registry.pop("Noted-v0")
    assert not made
