"""explain_config reads the model: each row is flipped by what its last column names."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common import atari_wrappers
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.utils import LinearSchedule as Sb3Linear
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.explain import Detail, explain_config
from sb3_ppo_plus.schedules import CosineSchedule, LinearSchedule


def pendulum(n_envs: int = 1) -> VecEnv:
    return make_vec_env("Pendulum-v1", n_envs=n_envs)


def ppo(env: Any = None, **overrides: Any) -> PPO:
    return PPO("MlpPolicy", env or pendulum(), device="cpu", **overrides)


def plus(env: Any = None, **overrides: Any) -> PPOPlus:
    return PPOPlus("MlpPolicy", env or pendulum(), device="cpu", **overrides)


def row(model: Any, number: int) -> Detail:
    return explain_config(model)[number]


class Images(gym.Env[np.ndarray, int]):
    """Images, and the action names that SB3's Atari wrappers look for."""

    observation_space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "RIGHT"]


class Warp(atari_wrappers.WarpFrame):
    """SB3's wrapper without its need for OpenCV, which only its step would use."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.ObservationWrapper.__init__(self, env)


def images(*wrappers: Any, n_envs: int = 1) -> VecEnv:
    def make_one() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = Images()
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return DummyVecEnv([make_one] * n_envs)


def cnn(env: VecEnv, **overrides: Any) -> PPO:
    return PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu", **overrides)


def test_there_are_37_in_five_groups() -> None:
    details = list(explain_config(ppo()))
    assert [detail.number for detail in details] == list(range(1, 38))
    groups = [detail.group for detail in details]
    sizes = {group: groups.count(group) for group in dict.fromkeys(groups)}
    assert sizes == {"core": 13, "atari": 9, "continuous": 9, "lstm": 5, "multidiscrete": 1}
    assert len({(detail.group, detail.name) for detail in details}) == 37
    assert all(detail.value and detail.argument for detail in details)


def test_sb3s_defaults_against_ppo2() -> None:
    explanation = explain_config(ppo())
    by_status = {status: [d.number for d in explanation if d.status == status] for status in explanation.counts()}
    # Annealing, value clipping and the four normalizations are off; SB3 weighs the value loss twice as much as PPO2.
    assert by_status["off"] == [4, 9, 28, 29, 30, 31]
    assert by_status["different"] == [10]
    assert by_status["not applicable"] == [*range(14, 23), *range(32, 38)]
    assert len(by_status["on"]) == 37 - 6 - 1 - 15


def test_the_ppo2_preset_in_a_normalized_environment_has_everything() -> None:
    env = VecNormalize(pendulum())
    assert explain_config(plus(env, preset="baselines_ppo2")).counts() == {"on": 22, "not applicable": 15}


def test_ppo_plus_without_extras_reads_as_sb3s_ppo() -> None:
    ours, theirs = explain_config(plus()), explain_config(ppo())
    assert [d.status for d in ours] == [d.status for d in theirs]


@pytest.mark.parametrize(
    ("number", "settings", "status", "value"),
    [
        (2, {"policy_kwargs": {"ortho_init": False}}, "off", "torch"),
        (3, {"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-8}}}, "different", "Adam, eps 1e-08"),
        (3, {"policy_kwargs": {"optimizer_class": th.optim.SGD}}, "different", "SGD, eps None"),
        (4, {"learning_rate": Sb3Linear(3e-4, 0.0, 1.0)}, "on", "0.0003 -> 0.00015 -> 0"),
        (4, {"learning_rate": LinearSchedule(3e-4, 1e-4)}, "different", "0.0003 -> 0.0002 -> 0.0001"),
        (4, {"learning_rate": LinearSchedule(3e-4, 0.0, unit="steps", end_step=9)}, "different", "LinearSchedule"),
        (4, {"learning_rate": lambda progress: progress * 3e-4}, "on", "0.0003"),
        (5, {"gae_lambda": 1.0}, "different", "returns"),
        (5, {"gae_lambda": 0.0}, "different", "one-step"),
        (6, {"n_steps": 64, "batch_size": 64}, "off", "whole rollout of 64"),
        (7, {"normalize_advantage": False}, "off", "over: none"),
        (8, {"clip_range": 0.1}, "on", "0.1"),
        (9, {"clip_range_vf": 0.3}, "different", "0.3, sb3 form"),
        (10, {"vf_coef": 0.25, "ent_coef": 0.01}, "on", "value 0.25, entropy 0.01"),
        (11, {"max_grad_norm": 1.0}, "different", "global norm 1"),
        (11, {"max_grad_norm": float("inf")}, "off", "none"),
        (23, {"use_sde": True}, "different", "gSDE"),
        (24, {"use_sde": True}, "different", "depends on the state"),
        (24, {"policy_kwargs": {"log_std_init": -1.0}}, "on", "mean -1"),
        (27, {"use_sde": True, "policy_kwargs": {"squash_output": True}}, "different", "tanh"),
    ],
)
def test_rows_that_sb3s_arguments_flip(number: int, settings: dict[str, Any], status: str, value: str) -> None:
    for model in (ppo(**settings), plus(**settings)):
        detail = row(model, number)
        assert (detail.status, value in detail.value) == (status, True), detail
    assert (row(ppo(), number).status, row(ppo(), number).value) != (status, row(ppo(**settings), number).value)


@pytest.mark.parametrize(
    ("number", "settings", "status", "value"),
    [
        (4, {"controllers": {"learning_rate": {"type": "kl_band", "target": 0.01}}}, "different", "from 0.0003, moved"),
        (5, {"recompute_advantages": True}, "different", "recomputed"),
        (7, {"advantage_scope": "batch"}, "different", "over: batch"),
        (7, {"advantage_scope": "none"}, "off", "over: none"),
        (8, {"clip_range": None, "kl_coef": 1.0}, "off", "no clipping"),
        (8, {"clip_range": (0.2, 0.28)}, "different", "low 0.2, high 0.28"),
        (8, {"dual_clip": 3.0}, "different", "0.2, dual clip 3"),
        (8, {"clip_range": CosineSchedule(0.2, 0.0)}, "on", "CosineSchedule(start=0.2, end=0.0)"),
        (9, {"clip_range_vf": 0.2, "vf_loss": "max"}, "on", "0.2, the larger"),
        (9, {"clip_range_vf": 0.2, "vf_loss": "huber"}, "different", "huber form"),
        (9, {"vf_loss": "huber"}, "off", "huber loss"),
        (9, {"vf_loss": "error_cap"}, "different", "capped at 10"),
        (10, {"vf_coef": 0.25, "kl_coef": 1.0}, "different", "plus kl_coef"),
        (10, {"vf_coef": 0.25, "kl_coef": LinearSchedule(1.0, 0.0)}, "different", "plus kl_coef"),
        (10, {"vf_coef": 0.25, "critic_learning_rate": 1e-3}, "different", "plus critic_learning_rate"),
        (
            10,
            {"vf_coef": 0.25, "controllers": {"ent_coef": {"type": "entropy_target", "target": 0.5}}},
            "on",
            "(controlled)",
        ),
        (12, {"log_diagnostics": True}, "on", "exact KL"),
    ],
)
def test_rows_that_the_extras_flip(number: int, settings: dict[str, Any], status: str, value: str) -> None:
    detail = row(plus(**settings), number)
    assert (detail.status, value in detail.value) == (status, True), detail
    assert value not in row(ppo(), number).value


def test_environments_and_minibatches_are_counted() -> None:
    with pytest.warns(UserWarning, match="truncated mini-batch of size 42"):
        model = ppo(pendulum(3), n_steps=64, batch_size=50)
    assert row(model, 1).value == "3 environment(s) x 64 steps"
    assert row(model, 6).value == "10 epochs x 4 minibatches of 50"  # 192 rows: three of 50 and one of 42


def test_vec_normalize_switches_four_rows() -> None:
    def statuses(env: VecEnv, **overrides: Any) -> list[str]:
        return [row(ppo(env, **overrides), number).status for number in (28, 29, 30, 31)]

    assert statuses(pendulum()) == ["off"] * 4
    assert statuses(VecNormalize(pendulum())) == ["on"] * 4
    # Also below another wrapper, which forwards attributes.
    assert statuses(VecMonitor(VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])))) == ["on"] * 4
    assert statuses(VecNormalize(pendulum(), norm_obs=False)) == ["off", "off", "on", "on"]
    assert statuses(VecNormalize(pendulum(), norm_reward=False)) == ["on", "on", "off", "off"]
    assert statuses(VecNormalize(pendulum(), clip_obs=5.0, clip_reward=np.inf)) == ["on", "different", "on", "off"]
    assert statuses(VecNormalize(pendulum(), gamma=0.9)) == ["on", "on", "different", "on"]
    assert statuses(VecNormalize(pendulum(), gamma=0.9), gamma=0.9) == ["on"] * 4


def test_gymnasiums_normalization_of_each_environment_is_different() -> None:
    env = make_vec_env("Pendulum-v1", wrapper_class=gym.wrappers.NormalizeObservation)
    assert row(ppo(env), 28).status == "different"
    assert row(ppo(env), 30).status == "off"


def test_atari_rows_need_images() -> None:
    statuses = {detail.status for detail in explain_config(cnn(images())) if detail.group == "atari"}
    assert statuses == {"on", "off"}
    assert [row(cnn(images()), number).status for number in (21, 22)] == ["on", "on"]


@pytest.mark.parametrize(
    ("number", "wrapper"),
    [
        (14, atari_wrappers.NoopResetEnv),
        (15, atari_wrappers.MaxAndSkipEnv),
        (16, atari_wrappers.EpisodicLifeEnv),
        (17, atari_wrappers.FireResetEnv),
        (18, Warp),
        (19, atari_wrappers.ClipRewardEnv),
    ],
)
def test_each_atari_wrapper_switches_its_row_alone(number: int, wrapper: Any) -> None:
    on = [detail.number for detail in explain_config(cnn(images(wrapper, n_envs=2))) if detail.status == "on"]
    assert [found for found in on if 14 <= found <= 20] == [number]


def test_a_wrapper_around_some_environments_does_not_count() -> None:
    env = DummyVecEnv([Images, lambda: atari_wrappers.ClipRewardEnv(Images())])
    assert row(cnn(env), 19).status == "off"


def test_frame_stack_counts_frames() -> None:
    assert row(cnn(VecFrameStack(images(), 4)), 20).status == "on"
    two = row(cnn(VecFrameStack(images(), 2)), 20)
    assert (two.status, two.value) == ("different", "2 frames")
    assert row(cnn(images()), 20).status == "off"


def test_networks_shared_or_separate() -> None:
    # A continuous task from images: the actor and the critic share the CNN unless told otherwise.
    def make(**policy_kwargs: Any) -> PPO:
        env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
        return PPO("CnnPolicy", env, n_steps=8, batch_size=8, policy_kwargs=policy_kwargs, device="cpu")

    shared, separate = make(), make(share_features_extractor=False)
    assert [row(shared, number).status for number in (13, 21, 26)] == ["on", "on", "off"]
    assert [row(separate, number).status for number in (13, 21, 26)] == ["on", "different", "on"]
    assert row(shared, 13).value != row(separate, 13).value


def test_images_that_are_not_scaled_and_an_mlp_on_images() -> None:
    env = images()
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"normalize_images": False}, device="cpu")
    assert [row(model, number).status for number in (21, 22)] == ["off", "off"]


def test_multidiscrete_and_discrete_actions() -> None:
    class Buttons(gym.Env[np.ndarray, np.ndarray]):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = spaces.MultiDiscrete([2, 3])

    detail = row(ppo(DummyVecEnv([Buttons])), 37)
    assert (detail.status, detail.value) == ("on", "2 independent categoricals")
    cart_pole = explain_config(ppo("CartPole-v1"))
    assert {detail.status for detail in cart_pole if detail.group in ("continuous", "multidiscrete")} == {
        "not applicable"
    }


def test_lstm_rows_apply_to_a_recurrent_policy() -> None:
    model = RecurrentPPO("MlpLstmPolicy", pendulum(), n_steps=8, batch_size=8, device="cpu")
    assert [row(model, number).status for number in range(32, 37)] == ["off", "on", "on", "on", "on"]
    # Why row 32 is off: an orthogonal matrix has W^T W = I, and sb3-contrib leaves the LSTM at torch's uniform values.
    weight = model.policy.lstm_actor.weight_hh_l0[:256]
    assert not th.allclose(weight.T @ weight, th.eye(256), atol=1e-2)


@pytest.mark.parametrize("make", [ppo, plus])
def test_a_model_without_environment_says_unknown(make: Any, tmp_path: Any) -> None:
    make(VecNormalize(pendulum(2))).save(tmp_path / "model.zip")
    loaded = (PPO if make is ppo else PPOPlus).load(tmp_path / "model.zip", device="cpu")
    explanation = explain_config(loaded)
    assert [d.number for d in explanation if d.status == "unknown"] == [28, 29, 30, 31]
    assert explanation[1].value == "2 environment(s) x 2048 steps"  # the count is saved


def test_atari_rows_without_environment_are_unknown(tmp_path: Any) -> None:
    cnn(images()).save(tmp_path / "model.zip")
    explanation = explain_config(PPO.load(tmp_path / "model.zip", device="cpu"))
    assert [d.number for d in explanation if d.status == "unknown"] == [14, 15, 16, 17, 18, 19, 20]


def test_an_engine_that_cannot_be_asked_for_wrappers_is_unknown() -> None:
    class Engine(DummyVecEnv):
        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            raise NotImplementedError

    assert row(cnn(Engine([Images])), 14).status == "unknown"


def test_the_table_is_aligned_and_complete() -> None:
    lines = str(explain_config(plus())).splitlines()
    # Two lines of head, 5 group names, 37 rows, one line of counts.
    assert len(lines) == 2 + 5 + 37 + 1
    rows = [line for line in lines if re.match(r"\d+ ", line)]
    assert len(rows) == 37 + 1  # the counts begin with a number as well
    column = lines[0].index("status")
    assert {line[column:].split("  ")[0] for line in rows[:-1]} == {"on", "off", "different", "not applicable"}
    assert lines[-1] == "37 details: 15 on, 6 off, 1 different, 15 not applicable"


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    explain_config(ppo())
    assert capsys.readouterr().out == ""


def test_wrong_models_and_numbers_say_so() -> None:
    with pytest.raises(InvalidArgument, match="DQN is no PPO"):
        explain_config(DQN("MlpPolicy", "CartPole-v1", buffer_size=10))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="A2C is no PPO"):
        explain_config(A2C("MlpPolicy", "CartPole-v1"))
    with pytest.raises(InvalidArgument, match="no networks yet"):
        explain_config(ppo(_init_setup_model=False))
    for number in (0, 38):
        with pytest.raises(InvalidArgument, match=f"no detail {number}"):
            row(ppo(), number)
