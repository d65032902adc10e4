"""When the update is compiled, when it is not, and that nobody notices but the clock."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import assert_same_tensors, make_model, slow_but, tensors_of
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_ppo_plus import PPOPlus, compile_choice, graphs, machine
from sb3_ppo_plus.compiled import CompiledUpdate
from sb3_ppo_plus.eager import EagerUpdate
from sb3_ppo_plus.errors import InvalidArgument


@pytest.fixture
def graphs_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Leave out the C++ compiler, and note every graph that Dynamo traces."""
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(graphs, "compile_step", partial(graphs.compile_step, backend=backend))
    return made


def is_compiled(model: PPOPlus) -> bool:
    return isinstance(model._update_passes, CompiledUpdate)


def close(one: PPOPlus, other: PPOPlus) -> bool:
    a, b = tensors_of(one), tensors_of(other)
    return a.keys() == b.keys() and all(th.allclose(a[name], b[name], 1e-3, 1e-5) for name in a)


# ------------------------------------------------ one graph


def test_moving_coefficients_never_make_a_second_graph(graphs_made: list[Any]) -> None:
    model = make_model(
        compile_update=True,
        learning_rate="lin_1e-3",
        clip_range=lambda progress: 0.1 + 0.1 * progress,
        ent_coef="lin_0.01",
        clip_range_vf="lin_0.5",
        kl_coef=1.0,
        controllers={"kl_coef": {"type": "kl_band", "target": 1e-5}},
    )
    model.learn(64)
    first = model._controllers["kl_coef"].value
    assert len(graphs_made) == 1
    model.learn(4 * 64)
    model.max_grad_norm, model.vf_coef = 0.1, 0.7
    model.learn(64)
    assert model._controllers["kl_coef"].value != first
    assert len(graphs_made) == 1


@pytest.mark.slow
def test_every_model_of_a_study_is_compiled(graphs_made: list[Any]) -> None:
    for seed in range(10):  # Dynamo would give up at the ninth version of one function
        model = make_model(compile_update=True, seed=seed).learn(64)
        assert is_compiled(model) and len(graphs_made) == seed + 1


def test_a_changed_policy_gets_a_graph_of_its_own(graphs_made: list[Any]) -> None:
    model = make_model(compile_update=True).learn(64)
    model.policy.action_net.bias.requires_grad_(False)
    before = model.policy.action_net.bias.clone()
    model.learn(64)
    assert len(graphs_made) == 2
    assert th.equal(model.policy.action_net.bias, before)


def test_other_threads_of_torch_get_a_graph_of_their_own(
    graphs_made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "WORK_FOR_THREADS", 0.0)  # all of torch's threads, however small the networks are
    model = make_model(compile_update=True).learn(64)
    for threads, made in ((2, 2), (1, 2), (2, 2)):
        with machine.torch_threads(threads):
            model.learn(64)
        assert is_compiled(model) and not model._update_passes.failed
        assert len(graphs_made) == made


def test_an_update_draws_what_the_eager_one_draws(graphs_made: list[Any]) -> None:
    states = []
    for compiled in (False, True):
        make_model(compile_update=compiled).learn(128)
        states.append((np.random.get_state()[1].tolist(), th.get_rng_state()))
    assert states[0][0] == states[1][0] and th.equal(states[0][1], states[1][1])


def test_a_rollout_smaller_than_a_minibatch_is_told_and_learns_eagerly(graphs_made: list[Any]) -> None:
    with pytest.warns(UserWarning, match="no minibatch of batch_size=128"):
        model = make_model(compile_update=True, batch_size=128).learn(64)
    assert not is_compiled(model) and not graphs_made


def test_distributions_go_on_checking_their_parameters(graphs_made: list[Any]) -> None:
    before = th.distributions.Distribution._validate_args
    model = make_model(compile_update=True).learn(64)
    assert th.distributions.Distribution._validate_args is before is True
    with th.no_grad():
        model.policy.action_net.weight.fill_(np.nan)
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        model.learn(64)


# ------------------------------------------------ checkpoints


@pytest.mark.parametrize("first", [False, True])
def test_checkpoints_go_from_one_to_the_other(first: bool, graphs_made: list[Any]) -> None:
    begun = make_model(compile_update=first).learn(128)
    file = io.BytesIO()
    begun.save(file)
    continued = []
    for compiled in (first, not first):
        file.seek(0)
        model = PPOPlus.load(file, env=gym.make("Pendulum-v1"), custom_objects={"compile_update": compiled})
        assert_same_tensors(model, begun)
        model.set_random_seed(1)
        continued.append(model.learn(128, reset_num_timesteps=False))
    assert close(*continued)


def test_sb3_opens_a_model_that_was_trained_compiled(graphs_made: list[Any]) -> None:
    model = make_model(compile_update=True).learn(128)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same_tensors(PPO.load(file), model)


def test_parameters_set_between_updates_are_learned_from(graphs_made: list[Any]) -> None:
    target = make_model(seed=3).learn(64)
    results = []
    for compiled in (False, True):
        model = make_model(compile_update=compiled).learn(64)
        model.set_parameters(copy.deepcopy(target.get_parameters()))
        results.append(model.learn(64))
    assert close(*results)


# ------------------------------------------------ what changes between two calls of learn()


def change_epsilon(model: PPOPlus) -> None:
    model.policy.optimizer.param_groups[0]["eps"] = 0.1


def change_decay(model: PPOPlus) -> None:
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.5


def freeze(model: PPOPlus) -> None:
    model.policy.mlp_extractor.requires_grad_(False)


def new_optimizer(model: PPOPlus) -> None:
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3, eps=1e-3)


def clamp_after_each_step(model: PPOPlus) -> None:
    step = model.policy.optimizer.step
    model.policy.optimizer.step = lambda: (step(), model.policy.log_std.data.clamp_(max=-0.1))


def hold_a_gradient(model: PPOPlus) -> None:
    model.policy.action_net.weight.register_hook(th.zeros_like)


def more_for_the_critic(model: PPOPlus) -> None:
    model.critic_epochs = 2


CHANGES = [
    change_epsilon,
    change_decay,
    freeze,
    new_optimizer,
    clamp_after_each_step,
    hold_a_gradient,
    more_for_the_critic,
]


@pytest.mark.parametrize("change", slow_but(CHANGES[:4], CHANGES), ids=lambda change: change.__name__)
@pytest.mark.filterwarnings("ignore:compile_update")
def test_what_a_user_changes_is_followed(change: Any, graphs_made: list[Any]) -> None:
    results = []
    for compiled in (False, True):
        model = make_model(compile_update=compiled).learn(64)
        change(model)
        results.append(model.learn(128))
    assert close(*results)


def test_parameters_that_join_later_have_their_own_count_of_steps(graphs_made: list[Any]) -> None:
    results = []
    for compiled in (False, True):
        model = make_model(compile_update=compiled)
        model.policy.mlp_extractor.requires_grad_(False)
        model.learn(128)
        model.policy.mlp_extractor.requires_grad_(True)
        results.append(model.learn(128))
    assert is_compiled(results[1])
    assert close(*results)


def test_a_head_that_was_replaced_is_told_and_learns(graphs_made: list[Any]) -> None:
    results = []
    for compiled in (False, True):
        model = make_model(compile_update=compiled).learn(64)
        th.manual_seed(0)
        model.policy.value_net = th.nn.Linear(16, 1)
        model.policy.optimizer.add_param_group({"params": model.policy.value_net.parameters()})
        with pytest.warns(UserWarning, match="other parameters") if compiled else contextlib.nullcontext():
            results.append(model.learn(64))
    states = [model.policy.state_dict() for model in results]
    assert all(th.allclose(states[0][name], states[1][name], 1e-3, 1e-5) for name in states[0])


class Scaled(BaseFeaturesExtractor):
    """Computes with a number of Python that somebody may change."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.scale = 1.0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations * self.scale


def test_a_network_that_changes_in_python_is_not_compiled_again_and_again(graphs_made: list[Any]) -> None:
    results = []
    for compiled in (False, True):
        model = make_model(compile_update=compiled, policy_kwargs={"features_extractor_class": Scaled}).learn(64)
        model.policy.features_extractor.scale = 0.5
        with pytest.warns(UserWarning, match="cannot be compiled") if compiled else contextlib.nullcontext():
            model.learn(64)
        results.append(model.learn(64))
    assert len(graphs_made) == 1
    assert close(*results)


# ------------------------------------------------ what cannot be compiled


class Spectral(BaseFeaturesExtractor):
    """Its buffers change in every forward pass of training."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.layer = th.nn.utils.parametrizations.spectral_norm(th.nn.Linear(3, 4))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


def test_compilation_moves_nothing(graphs_made: list[Any]) -> None:
    overrides = {"policy_kwargs": {"features_extractor_class": Spectral}}
    assert close(make_model(compile_update=True, **overrides).learn(192), make_model(**overrides).learn(192))


class Noisy(BaseFeaturesExtractor):
    """Draws whenever it is asked, so that no two answers are equal."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations + 0.1 * th.randn_like(observations)


class OwnRows(RolloutBuffer):
    """Normalizes the returns of each minibatch."""

    def _get_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples = super()._get_samples(*args, **kwargs)
        return samples._replace(returns=(samples.returns - samples.returns.mean()) / samples.returns.std())


class OwnOrder(RolloutBuffer):
    """Gives its rows in minibatches of a size of its own."""

    def get(self, batch_size: int | None = None) -> Any:
        yield from super().get(20)


class OwnValues(ActorCriticPolicy):
    """Thinks otherwise when it is asked for values alone."""

    def predict_values(self, obs: Any) -> th.Tensor:
        return super().predict_values(obs) * 0.1


class OwnEvaluation(ActorCriticPolicy):
    """A user's policy that adds a term where no graph can know of it."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values * 1.01, log_prob, entropy


class AsksForValues(BaseFeaturesExtractor):
    """Branches on a number, which no graph can."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations if float(observations.sum()) > 0 else -observations


class Normalizing(BaseFeaturesExtractor):
    """Batch statistics, which training changes, and dropout."""

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.layers = th.nn.Sequential(th.nn.BatchNorm1d(3), th.nn.Dropout(0.1))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


@pytest.mark.parametrize(
    "overrides",
    [
        {"policy": OwnEvaluation},
        {"policy_kwargs": {"features_extractor_class": AsksForValues}},
        {"policy_kwargs": {"features_extractor_class": Normalizing}},
        {"policy_kwargs": {"features_extractor_class": Noisy}},
        {"rollout_buffer_class": OwnRows},
        {"rollout_buffer_class": OwnOrder},
        {"policy": OwnValues, "critic_epochs": 1},
    ],
    ids=["evaluation", "branches on values", "batch statistics", "noise", "rows", "order", "values"],
)
def test_what_cannot_be_compiled_learns_eagerly_after_one_warning(
    overrides: dict[str, Any], graphs_made: list[Any]
) -> None:
    with pytest.warns(UserWarning, match="the update cannot be compiled") as told:
        model = make_model(compile_update=True, **overrides)
        model.learn(128)
        model.learn(64)
    assert len([w for w in told if "compile" in str(w.message)]) == 1
    assert not is_compiled(model)
    assert_same_tensors(model, make_model(**overrides).learn(128).learn(64))


def test_a_missing_compiler_is_found_out_before_it_is_needed() -> None:
    from torch._inductor import config

    assert compile_choice.missing_compiler(th.device("cpu")) is None
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert "no C++ compiler" in str(compile_choice.missing_compiler(th.device("cpu")))
    assert compile_choice.missing_compiler(th.device("mps")) == "there is no compiler for the device mps"


# ------------------------------------------------ auto


def test_auto_leaves_short_runs_alone(graphs_made: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sb3_ppo_plus"):
        model = make_model(compile_update="auto").learn(256)
    assert not graphs_made and type(model._update_passes) is EagerUpdate
    assert [record.getMessage() for record in caplog.records] == [
        "update: eager, 24 gradient steps are too few to wait for a compilation"
    ]
    assert_same_tensors(model, make_model().learn(256))


def test_auto_compiles_long_runs(
    graphs_made: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_choice, "MIN_GRADIENT_STEPS", 20)
    with caplog.at_level(logging.INFO, logger="sb3_ppo_plus"):
        model = make_model(compile_update="auto").learn(256)
    assert is_compiled(model)
    assert len(caplog.records) == 1 and "compiled, for 24 gradient steps" in caplog.records[0].getMessage()


def test_auto_leaves_images_on_the_processor_alone(
    graphs_made: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compile_choice, "MIN_GRADIENT_STEPS", 0)
    env = FakeImageEnv(screen_height=36, screen_width=36)
    with caplog.at_level(logging.INFO, logger="sb3_ppo_plus"):
        make_model(policy="CnnPolicy", env=env, policy_kwargs={}, n_epochs=1, compile_update="auto").learn(64)
    assert not graphs_made
    assert [record.getMessage() for record in caplog.records] == [
        "update: eager, convolutions on the processor take as long in a graph"
    ]


def test_auto_is_eager_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(compile_choice, "MIN_GRADIENT_STEPS", 0)
    monkeypatch.setattr(compile_choice, "missing_compiler", lambda device: "no C++ compiler was found")
    with caplog.at_level(logging.INFO, logger="sb3_ppo_plus"), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make_model(compile_update="auto").learn(128)
    assert not is_compiled(model)
    assert [record.getMessage() for record in caplog.records] == ["update: eager, no C++ compiler was found"]


def test_false_never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_choice, "_choose", lambda model: pytest.fail("it asked"))
    make_model().learn(64)


@pytest.mark.parametrize("value", ["yes", 2, 0, None])
def test_an_unknown_choice_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"compile_update=.*choose False, True or 'auto'"):
        make_model(compile_update=value)
