"""Extras off: parameters, optimizer state and logged values equal SB3's PPO bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import assert_same_tensors, learn_and_record, same_number
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    FakeImageEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
    SimpleMultiObsEnv,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_plus import PPOPlus


def vec(env: Any, n_envs: int = 1) -> Callable[[], Any]:
    def make() -> VecEnv:
        np.random.seed(1)  # SB3's toy environments draw their layout from the global generator
        made = make_vec_env(env, n_envs=n_envs, seed=1)
        for space in made.get_attr("observation_space"):
            space.seed(1)  # and their observations from the unseeded space
        return made

    return make


def normalized() -> VecNormalize:
    return VecNormalize(make_vec_env("Pendulum-v1", n_envs=2, seed=1))


class DropoutExtractor(BaseFeaturesExtractor):
    """Random and batch-dependent layers: an extra pass over the data would change what follows."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, features_dim=8)
        self.net = th.nn.Sequential(
            th.nn.Linear(observation_space.shape[0], 8), th.nn.BatchNorm1d(8), th.nn.Dropout(0.2)
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


SMALL = {"n_steps": 60, "batch_size": 20, "n_epochs": 3}
# A vf_coef and a batch size that are no powers of two: rounding differs where the order of operations does.
ODD = {"n_steps": 70, "batch_size": 30, "n_epochs": 3, "vf_coef": 0.37, "ent_coef": 0.013}

CASES: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "box": ("MlpPolicy", vec("Pendulum-v1"), SMALL),
    "box, odd numbers, truncated last minibatch": ("MlpPolicy", vec("Pendulum-v1"), ODD),
    "last minibatch of one": ("MlpPolicy", vec("Pendulum-v1"), {**SMALL, "n_steps": 61}),
    "several envs": ("MlpPolicy", vec("Pendulum-v1", 4), SMALL),
    "discrete": ("MlpPolicy", vec("CartPole-v1", 2), {**ODD, "n_steps": 35}),
    "multidiscrete": ("MlpPolicy", vec(lambda: IdentityEnvMultiDiscrete(3)), ODD),
    "multibinary": ("MlpPolicy", vec(lambda: IdentityEnvMultiBinary(3)), ODD),
    "identity box": ("MlpPolicy", vec(lambda: IdentityEnvBox()), ODD),
    "dict observations": ("MultiInputPolicy", vec(lambda: SimpleMultiObsEnv(), 2), {**ODD, "n_steps": 20}),
    "cnn": (
        "CnnPolicy",
        vec(lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=False)),
        {"n_steps": 16, "batch_size": 6, "n_epochs": 2},
    ),
    "gsde": ("MlpPolicy", vec("Pendulum-v1", 2), {**ODD, "use_sde": True, "sde_sample_freq": 4}),
    "gsde squashed": (
        "MlpPolicy",
        vec("Pendulum-v1"),
        {**ODD, "use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
    "target_kl": ("MlpPolicy", vec("Pendulum-v1"), {**SMALL, "n_epochs": 10, "target_kl": 0.002}),
    "target_kl never reached": ("MlpPolicy", vec("Pendulum-v1"), {**SMALL, "target_kl": 100.0}),
    "clip_range_vf": ("MlpPolicy", vec("Pendulum-v1"), {**ODD, "clip_range_vf": 0.1}),
    "schedules": (
        "MlpPolicy",
        vec("Pendulum-v1"),
        {
            **ODD,
            "learning_rate": LinearSchedule(1e-3, 1e-4, 0.8),
            "clip_range": lambda progress: 0.1 + 0.2 * progress,
            "clip_range_vf": LinearSchedule(0.5, 0.1, 1.0),
        },
    ),
    "advantages not normalized": ("MlpPolicy", vec("Pendulum-v1"), {**ODD, "normalize_advantage": False}),
    "other numbers": (
        "MlpPolicy",
        vec("CartPole-v1"),
        {**ODD, "gamma": 0.97, "gae_lambda": 0.9, "max_grad_norm": 0.1, "learning_rate": 1},
    ),
    "features not shared": (
        "MlpPolicy",
        vec("Pendulum-v1"),
        {**ODD, "policy_kwargs": {"share_features_extractor": False, "features_extractor_class": DropoutExtractor}},
    ),
    "dropout and batch norm": (
        "MlpPolicy",
        vec("Pendulum-v1"),
        {**SMALL, "policy_kwargs": {"features_extractor_class": DropoutExtractor}},
    ),
    "other optimizer": (
        "MlpPolicy",
        vec("Pendulum-v1"),
        {**ODD, "policy_kwargs": {"optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9}}},
    ),
    "own buffer class": ("MlpPolicy", vec("Pendulum-v1"), {**ODD, "rollout_buffer_class": RolloutBuffer}),
    "VecNormalize": ("MlpPolicy", normalized, SMALL),
    "frame stack": ("MlpPolicy", lambda: VecFrameStack(vec("CartPole-v1", 2)(), 3), SMALL),
    "truncated episodes": ("MlpPolicy", vec("Pendulum-v1", 2), {**ODD, "n_steps": 250}),
}


@pytest.mark.parametrize("log_diagnostics", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equal_bit_for_bit(case: str, log_diagnostics: bool) -> None:
    policy, make_env, arguments = CASES[case]
    steps = 4 * arguments["n_steps"] * make_env().num_envs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have specified a mini-batch size")
        # one after the other: the constructor seeds the global generators that learning draws from
        sb3 = PPO(policy, make_env(), seed=3, device="cpu", **arguments)
        theirs = learn_and_record(sb3, steps)
        plus = PPOPlus(policy, make_env(), seed=3, device="cpu", log_diagnostics=log_diagnostics, **arguments)
        ours = learn_and_record(plus, steps)
    assert_same_tensors(sb3, plus)
    assert len(theirs) == len(ours) == 5
    compared = 0
    for expected, actual in zip(theirs, ours, strict=True):
        for key, value in expected.items():
            if key not in ("time/fps", "time/time_elapsed"):
                assert same_number(actual[key], value), (key, actual[key], value)
                compared += 1
    assert compared > 40
    observation = plus.env.observation_space.sample()
    assert np.array_equal(
        sb3.predict(observation, deterministic=True)[0], plus.predict(observation, deterministic=True)[0]
    )


def test_equal_with_callbacks_that_use_the_policy(tmp_path: Any) -> None:
    """An evaluation in the middle of a rollout calls the policy, whose last distribution is then another."""
    models = []
    for algorithm in (PPO, PPOPlus):
        model = algorithm("MlpPolicy", "Pendulum-v1", n_steps=64, n_epochs=2, seed=5, device="cpu")
        model.learn(256, callback=EvalCallback(gym.make("Pendulum-v1"), eval_freq=50, n_eval_episodes=1, verbose=0))
        models.append(model)
    assert_same_tensors(*models)


def test_equal_over_several_calls_of_learn() -> None:
    models = []
    for algorithm in (PPO, PPOPlus):
        model = algorithm("MlpPolicy", "CartPole-v1", n_steps=64, n_epochs=2, seed=5, device="cpu")
        model.learn(128).learn(128, reset_num_timesteps=False).learn(64)
        models.append(model)
    assert_same_tensors(*models)


def test_the_comparison_notices_a_difference() -> None:
    """Guards the guard: one extra that is on must break the equality."""
    sb3 = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, n_epochs=2, seed=3, device="cpu").learn(128)
    plus = PPOPlus("MlpPolicy", "Pendulum-v1", n_steps=64, n_epochs=2, seed=3, device="cpu", kl_coef=0.1).learn(128)
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_same_tensors(sb3, plus)


def test_constructor_takes_sb3s_arguments_in_order_with_the_same_defaults() -> None:
    import inspect

    theirs = list(inspect.signature(PPO.__init__).parameters.values())
    ours = list(inspect.signature(PPOPlus.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])
    assert PPOPlus.policy_aliases == PPO.policy_aliases
