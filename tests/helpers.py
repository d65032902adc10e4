"""What several tests need: small models, recorded logs, exact comparison of models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus import PPOPlus


def slow_but(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases of a test; those that are not among the quick ones wait for the slow tests."""
    quick, cases = list(quick), list(cases)
    assert all(case in cases for case in quick)
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in cases]


def make_model(**overrides: Any) -> PPOPlus:
    """A small model on Pendulum-v1; a test states only what it varies."""
    arguments: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": "Pendulum-v1",
        "n_steps": 64,
        "batch_size": 32,
        "n_epochs": 3,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": {"net_arch": [16]},
    }
    return PPOPlus(**{**arguments, **overrides})


class Recorder(KVWriter):
    """Keeps every dump of a logger."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        pass


def record_logs(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """Give a model a logger that remembers; returns the list that fills while it learns."""
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    return recorder.dumps


def learn_and_record(model: BaseAlgorithm, steps: int, **kwargs: Any) -> list[dict[str, Any]]:
    """Train and return one mapping of logged values an update, those of the last one included."""
    dumps = record_logs(model)
    model.learn(steps, **kwargs)
    model.logger.dump(model.num_timesteps)
    return dumps


def tensors_of(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Parameters and optimizer state by name."""
    found = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, state in model.get_parameters()["policy.optimizer"]["state"].items():
        found.update({f"optimizer.{index}.{name}": th.as_tensor(value) for name, value in state.items()})
    return found


def assert_same_tensors(one: BaseAlgorithm, other: BaseAlgorithm) -> None:
    """Equal names, equal bits."""
    first, second = tensors_of(one), tensors_of(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not th.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ: {different[:5]}"


def same_number(a: Any, b: Any) -> bool:
    """Equal, with NaN equal to NaN."""
    return bool(a == b or (np.isnan(a) and np.isnan(b)))


class Critic(ActorCriticPolicy):
    """Its opinion is a constant, so that targets have a closed form."""

    def __init__(self, *args: Any, opinion: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opinion = opinion

    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, th.full_like(values, self.opinion), log_prob

    def predict_values(self, obs: Any) -> th.Tensor:
        return th.full_like(super().predict_values(obs), self.opinion)


class OneReward(gym.Env):
    """A reward of 1 in every step; cut off by a time limit, never terminal."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.zeros(1, dtype=np.float32), 1.0, False, self.t == self.limit, {}
