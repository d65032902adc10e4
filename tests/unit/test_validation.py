"""Each wrong argument raises before anything is allocated, naming the value and the remedy."""

from __future__ import annotations

import math
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import make_model

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import LinearSchedule

BAND = {"type": "kl_band", "target": 0.01}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"preset": "papper_penalty"}, "papper_penalty.*did you mean 'paper_penalty'"),
    ({"vf_loss": "mse"}, "vf_loss='mse' is unknown; choose one of sb3, max, huber, error_cap"),
    ({"vf_loss": "max"}, "give clip_range_vf"),
    ({"huber_delta": 0.0}, "huber_delta=0.0 must be greater than 0"),
    ({"vf_error_cap": -1.0}, "vf_error_cap=-1.0 must be greater than 0"),
    ({"kl_stop": "epochs", "target_kl": 0.1}, "kl_stop='epochs' is unknown"),
    ({"kl_stop": "rollback"}, "give target_kl"),
    ({"target_kl": 0.0}, "target_kl=0.0 must be greater than 0.*None never stops"),
    ({"target_kl": float("nan")}, "target_kl=nan"),
    ({"dual_clip": 1.0}, "dual_clip=1.0 must be greater than 1"),
    ({"advantage_scope": "rollout"}, "advantage_scope='rollout' is unknown"),
    ({"advantage_scope": "env", "normalize_advantage": False}, "contradict each other"),
    ({"critic_epochs": -1}, "critic_epochs=-1 must be a whole number of at least 0"),
    ({"critic_epochs": 1.5}, "critic_epochs=1.5 must be a whole number"),
    ({"critic_learning_rate": -1e-3}, "critic_learning_rate.*-0.001"),
    ({"learning_rate": -1e-3}, "learning_rate.*-0.001"),
    ({"learning_rate": float("nan")}, "learning_rate.*nan"),
    ({"learning_rate": "fast"}, "learning_rate.*'fast'"),
    ({"learning_rate": lambda progress: float("nan")}, "learning_rate.*nan"),
    ({"learning_rate": lambda progress: progress - 0.5}, "learning_rate.*-0.5"),
    ({"learning_rate": {"type": "linaer", "start": 1e-3, "end": 0}}, "learning_rate.*linaer.*linear"),
    ({"ent_coef": lambda progress: math.log(progress) if progress else -math.inf}, "ent_coef.*inf"),
    ({"ent_coef": None}, "ent_coef.*None"),
    ({"vf_coef": -0.5}, "vf_coef.*-0.5"),
    ({"kl_coef": -1.0}, "kl_coef.*-1.0"),
    ({"clip_range": -0.2}, "clip_range.*must be positive, got -0.2.*None to deactivate"),
    ({"clip_range": 0.0}, "clip_range.*must be positive"),
    ({"clip_range": (0.1, 0.2, 0.3)}, r"clip_range=\(0.1, 0.2, 0.3\) must be one number"),
    ({"clip_range": (-0.1, 0.2)}, "clip_range's lower part.*-0.1"),
    ({"clip_range": (1.5, 0.2)}, "clip_range's lower part.*1.5"),
    ({"clip_range_vf": -0.2}, "clip_range_vf.*must be positive, got -0.2"),
    ({"clip_range_vf": LinearSchedule(0.2, -0.1, 1.0)}, "clip_range_vf.*-0.1"),
    ({"batch_size": 1}, "`batch_size` must be greater than 1, got 1"),
    ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
    ({"n_steps": 0}, "n_steps=0"),
    ({"n_steps": 32.0}, "n_steps=32.0 must be a whole number"),
    ({"n_epochs": 0}, "n_epochs=0"),
    ({"gamma": 1.01}, "gamma=1.01 must be between 0.0 and 1.0"),
    ({"gae_lambda": -0.1}, "gae_lambda=-0.1"),
    ({"max_grad_norm": 0.0}, "max_grad_norm=0.0 must be greater than 0"),
    ({"controllers": {"kl_coeff": BAND}}, "did you mean 'kl_coef'"),
    ({"controllers": {"gamma": BAND}}, "no controller can move 'gamma'"),
    ({"controllers": {"kl_coef": BAND}}, "kl_coef=0 stays 0; give a start"),
    ({"controllers": [BAND]}, "must map coefficients to controllers"),
    (
        {"controllers": {"learning_rate": BAND}, "learning_rate": LinearSchedule(1e-3, 0.0, 1.0)},
        "one number can have one mover",
    ),
    ({"controllers": {"learning_rate": BAND}, "learning_rate": "lin_3e-4"}, "one number can have one mover"),
    ({"controllers": {"learning_rate": BAND}, "learning_rate": 0.5}, "outside its controller's bounds"),
    (
        {"controllers": {"ent_coef": {"type": "entropy_target", "target": 1}}, "ent_coef": lambda p: 0.01 * p},
        "one number can have one mover",
    ),
    ({"reference_kl_coef": 0.1}, "needs a reference_policy"),
    ({"reference_policy": "nowhere.zip"}, "reference_policy has no weight"),
    ({"reference_policy": "nowhere.zip", "reference_kl_coef": 0.1}, "there is no such file"),
    ({"reference_policy": 3, "reference_kl_coef": 0.1}, "reference_policy=3 must be"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=[f"{index}-{next(iter(a))}" for index, (a, _) in enumerate(WRONG)]
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make_model(**arguments)


def test_nothing_is_allocated_before_the_arguments_are_checked() -> None:
    """The environment is not even made."""
    made = []

    class Counting(gym.Env):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = spaces.Box(-1, 1, (1,))

        def __init__(self) -> None:
            made.append(self)

    gym.register("Counting-v0", Counting)
    try:
        for arguments, _ in WRONG:
            if arguments.get("reference_policy") is None:
                with pytest.raises(InvalidArgument):
                    make_model(env="Counting-v0", **arguments)
        assert not made
    finally:
        gym.registry.pop("Counting-v0")


def test_invalid_argument_is_what_sb3s_users_catch() -> None:
    assert issubclass(InvalidArgument, ValueError) and issubclass(InvalidArgument, AssertionError)


class TupleActions(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,))])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, dtype=np.float32), 0.0, False, False, {}


def test_unsupported_action_space() -> None:
    with pytest.raises(
        InvalidArgument, match=r"only supports Box, Discrete, MultiDiscrete, MultiBinary.*Tuple.*flatten"
    ):
        PPOPlus("MlpPolicy", TupleActions())


def test_a_rollout_of_one_row_cannot_be_normalized() -> None:
    with pytest.raises(InvalidArgument, match=r"`n_steps \* n_envs` must be greater than 1. Currently n_steps=1"):
        make_model(n_steps=1)
    make_model(n_steps=1, normalize_advantage=False, batch_size=1).learn(2)


def test_one_step_per_env_cannot_be_standardized_per_env() -> None:
    with pytest.raises(InvalidArgument, match="n_steps=1 is too few"):
        make_model(n_steps=1, advantage_scope="env", normalize_advantage=True, env=_two_envs())


def _two_envs() -> Any:
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env("Pendulum-v1", n_envs=2)


def test_truncated_minibatch_warns_as_in_sb3() -> None:
    with pytest.warns(UserWarning, match="there will be a truncated mini-batch of size 4"):
        make_model(n_steps=64, batch_size=30)


def test_no_trust_region_warns() -> None:
    with pytest.warns(UserWarning, match="nothing keeps the new policy near the old one"):
        make_model(clip_range=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_model(preset="paper_penalty", n_steps=64, batch_size=32)


def test_a_schedule_that_turns_nan_later_is_named() -> None:
    """Between the moments that the constructor looks at."""
    model = make_model(vf_coef=lambda progress: float("nan") if 0.6 < progress < 0.8 else 0.5)
    with pytest.raises(InvalidArgument, match="vf_coef became NaN at step 64"):
        model.learn(4 * 64)


def test_critic_settings_need_a_critic_of_its_own() -> None:
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Merged(ActorCriticPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            del self.mlp_extractor.value_net

    with pytest.raises(InvalidArgument, match=r"critic_learning_rate.*Merged.*value_net"):
        make_model(policy=Merged, critic_learning_rate=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": 0.0},
        {"max_grad_norm": math.inf},
        {"gamma": 1.0, "gae_lambda": 0.0},
        {"ent_coef": -0.01},
        {"clip_range": LinearSchedule(0.2, 0.0, 1.0)},
        {"target_kl": np.float64(0.1)},
        {"batch_size": np.int64(32)},
        {"learning_rate": 1},
        {"clip_range": [0.1, 0.3]},
        {"controllers": {}},
    ],
)
def test_unusual_but_meant(arguments: dict[str, Any]) -> None:
    make_model(**arguments).learn(64)
