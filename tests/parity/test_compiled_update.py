"""The compiled update learns what the eager one learns, to float32 rounding, whatever the policy and the extras are."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import learn_and_record, slow_but, tensors_of
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_ppo_plus import PPOPlus, graphs
from sb3_ppo_plus.compiled import CompiledUpdate

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
MOTORS = spaces.Box(-1.0, 1.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)


class Anything(gym.Env):
    """Any observation, any action, rewards of both, episodes of seven steps; every fifth row may not count."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space, invalid: bool = False) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observations), actions
        self.invalid = invalid

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        reward = float(np.sum(action)) + self.np_random.normal()
        info = {"invalid_row": self.invalid and self.t % 5 == 0}
        return self.observation_space.sample(), reward, self.t % 7 == 0, self.t % 13 == 0, info


class Extractor(BaseFeaturesExtractor):
    """A user's own: one layer that learns, one that is frozen, one that nothing uses."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=8)
        self.learns, self.frozen, self.unused = (th.nn.Linear(3, 8) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.relu(self.learns(observations)) + self.frozen(observations)


class Drawing(BaseFeaturesExtractor):
    """Draws in training only: noise, and dropout."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=3)
        self.dropout = th.nn.Dropout(0.2)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        noise = 0.1 * th.randn_like(observations) if self.training else 0.0
        return self.dropout(observations + noise)


class Convolutions(BaseFeaturesExtractor):
    """A small CNN."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=8)
        self.layers = th.nn.Sequential(
            th.nn.Conv2d(observation_space.shape[0], 4, 8, stride=8), th.nn.ReLU(), th.nn.Flatten(), th.nn.LazyLinear(8)
        )
        self.layers(th.zeros(1, *observation_space.shape))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def make(compiled: bool, observations: spaces.Space = BOX, actions: spaces.Space = MOTORS, **overrides: Any) -> PPOPlus:
    invalid = overrides.pop("invalid", False)
    if "reference_policy" in overrides:
        overrides["reference_policy"] = PPO("MlpPolicy", Anything(BOX, MOTORS), seed=9, n_steps=64)
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    arguments: dict[str, Any] = {
        "policy": policy,
        "env": Anything(observations, actions, invalid),
        "n_steps": 96,
        "batch_size": 32,
        "n_epochs": 2,
        "seed": 1,
        "device": "cpu",
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [16]},
        "compile_update": compiled,
    }
    return PPOPlus(**{**arguments, **overrides})


def kwargs(**own: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [16], **own}}


def leash(name: str, **own: Any) -> dict[str, Any]:
    return {"controllers": {name: {"type": "kl_band", "target": 0.001, **own}}}


POLICIES: dict[str, dict[str, Any]] = {
    "Box": {},
    "Discrete": {"actions": spaces.Discrete(3)},
    "MultiDiscrete": {"actions": spaces.MultiDiscrete([3, 2])},
    "MultiBinary": {"actions": spaces.MultiBinary(3)},
    "observes Discrete": {"observations": spaces.Discrete(4)},
    "observes MultiDiscrete": {"observations": spaces.MultiDiscrete([3, 4])},
    "observes MultiBinary": {"observations": spaces.MultiBinary(4)},
    "observes float64": {"observations": spaces.Box(-np.inf, np.inf, (3,), np.float64)},
    "MultiInputPolicy": {"observations": spaces.Dict({"vector": BOX, "choice": spaces.Discrete(3)})},
    "CnnPolicy": {
        "observations": IMAGE,
        "policy": "CnnPolicy",
        **kwargs(features_extractor_class=Convolutions),
    },
    "two CNNs": {
        "observations": IMAGE,
        "policy": "CnnPolicy",
        **kwargs(features_extractor_class=Convolutions, share_features_extractor=False),
    },
    "own extractor": kwargs(features_extractor_class=Extractor),
    "gSDE": {"use_sde": True},
    "gSDE squashed": {"use_sde": True, **kwargs(squash_output=True, use_expln=True, full_std=False)},
    "draws in training": kwargs(features_extractor_class=Drawing),
    "AdamW": kwargs(optimizer_class=th.optim.AdamW, optimizer_kwargs={"weight_decay": 0.1}),
    "Adam with decay": kwargs(optimizer_kwargs={"weight_decay": 0.1}),
    "SGD": kwargs(optimizer_class=th.optim.SGD, optimizer_kwargs={"momentum": 0.9}),
    "AMSGrad": kwargs(optimizer_kwargs={"amsgrad": True}),
}
EXTRAS: dict[str, dict[str, Any]] = {
    "truncated last minibatch": {"batch_size": 40},
    "no advantage normalization": {"normalize_advantage": False},
    "one row in the last minibatch": {"batch_size": 19},
    "value clipping": {"clip_range_vf": 0.1},
    "max": {"vf_loss": "max", "clip_range_vf": 0.1},
    "huber": {"vf_loss": "huber"},
    "error_cap": {"vf_loss": "error_cap", "vf_error_cap": 1.0},
    "asymmetric": {"clip_range": (0.1, 0.3)},
    "no clipping": {"clip_range": None},
    "dual clip": {"dual_clip": 3.0},
    "entropy": {"ent_coef": 0.01, "controllers": {"ent_coef": {"type": "entropy_target", "target": 1.0}}},
    "stop by minibatch": {"target_kl": 0.002, "n_epochs": 6},
    "stop by epoch": {"target_kl": 0.002, "kl_stop": "epoch", "n_epochs": 6},
    "rollback": {"target_kl": 0.002, "kl_stop": "rollback", "n_epochs": 6},
    "adaptive KL penalty": {"kl_coef": 1.0, **leash("kl_coef")},
    "KL penalty, Discrete": {"kl_coef": 1.0, "actions": spaces.Discrete(3)},
    "KL penalty, MultiBinary": {"kl_coef": 1.0, "actions": spaces.MultiBinary(3)},
    "rate by epoch": leash("learning_rate"),
    "rate by minibatch": leash("learning_rate", every="minibatch"),
    "advantages by batch": {"advantage_scope": "batch"},
    "recomputed advantages": {"recompute_advantages": True},
    "critic's own rate": {"critic_learning_rate": 3e-3},
    "critic epochs": {"critic_epochs": 2},
    "critic epochs, own rate, truncated": {"critic_epochs": 1, "critic_learning_rate": 3e-3, "batch_size": 40},
    "critic epochs, shared CNN": {**POLICIES["CnnPolicy"], "critic_epochs": 1},
    "rows that do not count": {"invalid": True},
    "rows that do not count, by environment": {"invalid": True, "advantage_scope": "env", "vf_loss": "huber"},
    "leash to a reference": {"reference_policy": ..., "reference_kl_coef": 0.5},
    "schedules": {"learning_rate": "lin_1e-3", "clip_range": "lin_0.3", "ent_coef": "lin_0.01", "clip_range_vf": 0.5},
    "no diagnostics": {"log_diagnostics": False},
}
# Of what a clock or the memory decides, and what only one of the two measures.
_NOT_COMPARED = ("time/", "rollout/")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and differentiate as always, but leave out the C++ compiler, which takes ten seconds a graph."""
    monkeypatch.setattr(graphs, "compile_step", partial(graphs.compile_step, backend="aot_eager"))


def learn(compiled: bool, overrides: dict[str, Any], updates: int = 3) -> tuple[PPOPlus, list[dict[str, Any]]]:
    model = make(compiled, **overrides)
    logs = learn_and_record(model, updates * model.n_steps)
    return model, logs


def assert_learns_the_same(overrides: dict[str, Any]) -> None:
    eager, eager_logs = learn(False, overrides)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile_update")
        compiled, compiled_logs = learn(True, overrides)
    assert isinstance(compiled._update_passes, CompiledUpdate)
    assert compiled.num_gradient_steps == eager.num_gradient_steps > 0
    ours, theirs = tensors_of(compiled), tensors_of(eager)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        th.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert len(compiled_logs) == len(eager_logs)
    for mine, other in zip(compiled_logs, eager_logs, strict=True):
        assert mine.keys() - {"time/compile_seconds"} == other.keys()
        for key in other:
            if not key.startswith(_NOT_COMPARED):
                np.testing.assert_allclose(mine[key], other[key], rtol=5e-3, atol=1e-4, err_msg=key)


QUICK_POLICIES = ("Discrete", "MultiInputPolicy", "CnnPolicy", "gSDE squashed", "Adam with decay")
QUICK_EXTRAS = ("max", "rollback", "rate by minibatch", "critic epochs, own rate, truncated", "rows that do not count")


@pytest.mark.parametrize("name", slow_but(QUICK_POLICIES, POLICIES))
def test_every_policy(name: str, traced: None) -> None:
    assert_learns_the_same(POLICIES[name])


@pytest.mark.parametrize("name", slow_but(QUICK_EXTRAS, EXTRAS))
def test_every_extra(name: str, traced: None) -> None:
    assert_learns_the_same(EXTRAS[name])


@pytest.mark.parametrize("name", ["Box"])
def test_with_the_compiler(name: str) -> None:
    assert_learns_the_same(POLICIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "Box"])
def test_every_policy_with_the_compiler(name: str) -> None:
    assert_learns_the_same(POLICIES[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["adaptive KL penalty", "critic epochs", "rows that do not count", "rate by minibatch"]
)
def test_every_kind_of_extra_with_the_compiler(name: str) -> None:
    assert_learns_the_same(EXTRAS[name])
