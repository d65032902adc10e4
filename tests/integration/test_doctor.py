"""The doctor at trainings: what it sees, that it changes nothing unless asked, that it goes on, and what it can do."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import assert_same_tensors, make_model
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import SaveCheckpoints, checkpoints_in, resume
from sb3_ppo_plus.doctor import DoctorCallback, Finding, Severity, examine_run
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.errors import InvalidArgument

SHORT: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 4, "device": "cpu", "seed": 0}
WARNING = Severity.WARNING


def cartpoles(n_envs: int = 4, **options: Any) -> DummyVecEnv:
    env = make_vec_env("CartPole-v1", n_envs, seed=0, **options)
    assert isinstance(env, DummyVecEnv)
    return env


def told(doctor: DoctorCallback) -> dict[str, Severity]:
    return {code: entry.finding.severity for code, entry in doctor.journal.entries.items()}


# ------------------------------------------------ it changes nothing


@pytest.mark.parametrize("kind", ["gymnasium", "normalized gsde", "native", "sb3"])
def test_its_presence_changes_no_bit(kind: str, tmp_path: Path) -> None:
    def train(callback: BaseCallback | None) -> PPO:
        if kind == "native":
            model: Any = PPOPlus("MlpPolicy", MujocoVecEnv("HalfCheetah-v5", 4, seed=0), **SHORT)
        elif kind == "normalized gsde":
            env = VecNormalize(make_vec_env("Pendulum-v1", 4, seed=0))
            model = PPOPlus("MlpPolicy", env, use_sde=True, sde_sample_freq=4, **SHORT)
        else:
            model = (PPO if kind == "sb3" else PPOPlus)("MlpPolicy", cartpoles(), **SHORT)
        model.learn(6 * 256, callback=callback)
        return model

    doctor = DoctorCallback(tmp_path)
    watched, alone = train(doctor), train(None)
    assert_same_tensors(watched, alone)
    assert np.array_equal(watched._last_obs, alone._last_obs)
    assert len(doctor.history) == 6
    assert doctor.history.steps == [256 * (update + 1) for update in range(6)]
    for name in ("train/approx_kl", "train/explained_variance", "doctor/return_p99", "doctor/obs_std_max"):
        assert len(doctor.history.every(name)) in (2, 6), name  # short updates are looked at every fourth time
    assert not any(type(output).__name__.startswith("_") for output in watched.logger.output_formats)


def test_what_it_saw_equals_what_the_log_says(tmp_path: Path) -> None:
    """Live and after the fact the same findings, from one history."""
    doctor = DoctorCallback()
    model = PPOPlus("MlpPolicy", cartpoles(), **{**SHORT, "learning_rate": 0.05, "n_epochs": 32})
    model.set_logger(configure(str(tmp_path), ["csv"]))
    evaluation = EvalCallback(Monitor(gym.make("CartPole-v1")), eval_freq=200, n_eval_episodes=2, verbose=0)
    model.learn(20 * 256, callback=[doctor, evaluation])
    after = examine_run(tmp_path / "progress.csv")
    live, read = doctor.history, after.history
    assert read.steps == live.steps
    assert [step for step, _ in read.evaluations] == [step for step, _ in live.evaluations]
    for name in ("train/approx_kl", "train/clip_fraction", "doctor/return_p99", "doctor/rank"):
        # the last update of a training is not in SB3's log any more
        wanted = np.array(live.columns[name][:-1])
        assert np.allclose(np.array(read.columns[name][:-1]), wanted, equal_nan=True), name
    severe = {code for code, severity in told(doctor).items() if severity >= WARNING}
    assert {"learning-rate-high", "kl-high"} <= severe
    assert "kl-high" in after.journal.entries


def test_it_refuses_what_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="act='cure' is not known; give one of tell, stop, repair"):
        DoctorCallback(act="cure")
    with pytest.raises(InvalidArgument, match="'kl-hi', which is no code"):
        DoctorCallback(ignore=["kl-high", "kl-hi"])
    with pytest.raises(InvalidArgument, match="max_repairs=-1"):
        DoctorCallback(max_repairs=-1)
    with pytest.raises(InvalidArgument, match="SAC is none"):
        SAC("MlpPolicy", "Pendulum-v1", device="cpu").learn(1, callback=DoctorCallback())


# ------------------------------------------------ what only a training can show


class Broken(gym.Wrapper):
    """CartPole with one thing wrong."""

    def __init__(self, env: gym.Env, fault: str) -> None:
        super().__init__(env)
        self.fault, self.t = fault, 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        if self.fault == "one seed" and kwargs.get("seed") is not None:
            kwargs["seed"] = 5
        self.t = 0
        obs, info = self.env.reset(**kwargs)
        return (np.ones_like(obs) if self.fault == "blind" else obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.t += 1
        if self.fault == "blind":
            obs = np.ones_like(obs)
        if self.fault.startswith("limit"):
            if terminated:
                obs, _ = self.env.reset()
            over = self.t == 10
            terminated, truncated = over and self.fault == "limit as failure", over and self.fault == "limit"
        return obs, (0.0 if self.fault == "no reward" else reward), terminated, truncated, info


def broken(fault: str) -> DummyVecEnv:
    env = DummyVecEnv([lambda: Monitor(Broken(gym.make("CartPole-v1"), fault)) for _ in range(4)])
    env.seed(0)
    return env


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("one seed", "envs-duplicate"),
        ("blind", "observation-constant"),
        ("limit as failure", "truncation-missing"),
        ("no reward", "reward-sparse"),
    ],
)
def test_faults_of_the_environment_are_found(fault: str, code: str) -> None:
    doctor = DoctorCallback()
    PPOPlus("MlpPolicy", broken(fault), **{**SHORT, "n_epochs": 1}).learn(30 * 256, callback=doctor)
    assert told(doctor)[code] >= WARNING


@pytest.mark.parametrize("fault", ["limit", "none"])
def test_environments_that_only_look_like_it_are_not_blamed(fault: str) -> None:
    doctor = DoctorCallback()
    PPOPlus("MlpPolicy", broken(fault), **SHORT).learn(12 * 256, callback=doctor)
    assert {code for code, severity in told(doctor).items() if severity >= WARNING} == set()


class AlwaysAlike(gym.Env):
    """Begins in the same state whatever the seed, as many tasks do."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return obs, float(action), bool(self.np_random.random() < 0.1), False, {}


def test_equal_starts_with_different_seeds_are_no_copies() -> None:
    doctor = DoctorCallback()
    env = DummyVecEnv([lambda: Monitor(AlwaysAlike()) for _ in range(4)])
    env.seed(0)
    PPOPlus("MlpPolicy", env, **SHORT).learn(4 * 256, callback=doctor)
    assert "envs-duplicate" not in told(doctor)


class WithDropout(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor.policy_net.add_module("dropout", th.nn.Dropout(0.2))


def test_dropout_is_named_with_its_place() -> None:
    doctor = DoctorCallback()
    PPOPlus(WithDropout, cartpoles(), **SHORT).learn(256, callback=doctor)
    assert doctor.journal.entries["ratio-start"].finding.detail == "mlp_extractor.policy_net.dropout"


def test_an_actor_without_gradients_is_frozen() -> None:
    model = PPOPlus("MlpPolicy", cartpoles(), **SHORT)
    for part in (model.policy.mlp_extractor.policy_net, model.policy.action_net):
        part.requires_grad_(False)
    doctor = DoctorCallback()
    model.learn(14 * 256, callback=doctor)
    assert told(doctor)["policy-frozen"] == Severity.ALARM


def test_dead_units_are_counted() -> None:
    model = PPOPlus("MlpPolicy", cartpoles(), **SHORT)
    with th.no_grad():
        for layer in (model.policy.mlp_extractor.policy_net[0], model.policy.mlp_extractor.policy_net[2]):
            layer.bias[:48] = 40.0  # of 64
    doctor = DoctorCallback()
    model.learn(256, callback=doctor)
    # the actor's layers have dead units, the critic's have none
    assert doctor.history.every("doctor/dead_units")[0] == pytest.approx(0.75, abs=0.05)
    assert doctor.history.every("doctor/ratio_error")[0] < 1e-5


# ------------------------------------------------ telling, once


def test_each_finding_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sb3_ppo_plus"):
        model = PPOPlus("MlpPolicy", cartpoles(), **{**SHORT, "learning_rate": 0.5})
        model.learn(40 * 256, callback=DoctorCallback())
    lines = [record.message for record in caplog.records if record.message.startswith("doctor:")]
    assert any(line.startswith("doctor: learning-rate-high: the learning rate is too high") for line in lines)
    codes = [line.split(":")[1].split(" at step")[0] for line in lines]
    assert max(codes.count(code) for code in codes) <= 2  # a warning may become an alarm
    assert all("Try: " in line and "docs/doctor.md#" in line for line in lines)


def test_ignored_codes_are_not_told() -> None:
    doctor = DoctorCallback(ignore=["learning-rate-high", "kl-high"])
    PPOPlus("MlpPolicy", cartpoles(), **{**SHORT, "learning_rate": 0.5}).learn(12 * 256, callback=doctor)
    assert not {"learning-rate-high", "kl-high"} & told(doctor).keys()
    assert told(doctor)


# ------------------------------------------------ acting


def test_it_stops_a_training_after_an_alarm_when_asked_to(tmp_path: Path) -> None:
    model = PPOPlus("MlpPolicy", cartpoles(), **{**SHORT, "learning_rate": 0.5})
    model.learn(60 * 256, callback=DoctorCallback(tmp_path, act="stop"))
    assert model.num_timesteps < 30 * 256
    (action,) = json.loads((tmp_path / "doctor.json").read_text())["actions"]
    assert action["what"] == "the training was stopped"
    assert "stopped" in (tmp_path / "doctor.html").read_text()


class SetsRate(BaseCallback):
    """Makes the learning rate a hundred times as large at one update."""

    def __init__(self, update: int) -> None:
        super().__init__()
        self.update, self.rollouts = update, 0
        self.before: dict[str, th.Tensor] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += 1
        if self.rollouts == self.update:
            self.before = {name: tensor.clone() for name, tensor in self.model.policy.state_dict().items()}
            self.model.lr_schedule = lambda progress: 0.5


def test_it_repairs_with_the_last_good_state_and_half_the_rate(tmp_path: Path) -> None:
    settings = {**SHORT, "n_steps": 256, "batch_size": 128, "n_epochs": 10}
    model = PPOPlus("MlpPolicy", cartpoles(), **settings)
    doctor, accident = DoctorCallback(tmp_path, act="repair", max_repairs=2), SetsRate(8)
    states: list[dict[str, th.Tensor]] = []

    class Watches(BaseCallback):
        def _on_step(self) -> bool:
            if doctor.journal.actions and not states:
                states.append({name: tensor.clone() for name, tensor in self.model.policy.state_dict().items()})
            return True

    model.learn(10 * 1024, callback=[doctor, Watches(), accident])
    first = doctor.journal.actions[0]
    assert first.code in ("kl-spike", "kl-high", "learning-rate-high")
    assert re.match(r"policy and optimizer restored as they were at step [78],[\d]{3}; ", first.what)
    assert "learning rate lowered from 0.5 to 0.25" in first.what
    assert all(th.equal(states[0][name], accident.before[name]) for name in accident.before)
    assert json.loads((tmp_path / "doctor.json").read_text())["actions"][0]["what"] == first.what


# ------------------------------------------------ going on


def test_a_resumed_training_goes_on_with_what_was_seen(tmp_path: Path) -> None:
    def callbacks(name: str) -> list[BaseCallback]:
        return [DoctorCallback(), SaveCheckpoints(tmp_path / name, keep=99, cost=0.0, signals=False)]

    settings = {**SHORT, "learning_rate": 0.02}
    whole = PPOPlus("MlpPolicy", cartpoles(), **settings)
    complete = callbacks("whole")
    whole.learn(12 * 256, callback=complete)
    middle = next(path for step, path in checkpoints_in(tmp_path / "whole") if step == 5 * 256)
    rest = callbacks("rest")
    continued = resume(middle, cartpoles())
    continued.learn(12 * 256, callback=rest)
    assert_same_tensors(whole, continued)
    one, other = complete[0], rest[0]
    assert isinstance(one, DoctorCallback) and isinstance(other, DoctorCallback)
    assert other.history.steps == one.history.steps
    timed = ("doctor/steps_per_second", "time/")
    for name in one.history.columns:
        if not name.startswith(timed):
            assert np.array_equal(one.history.columns[name], other.history.columns[name], equal_nan=True), name
    assert told(one) == told(other)
    assert told(one)
    assert one.ends.state_dict() == other.ends.state_dict()


@pytest.mark.parametrize("kind", [PPO, PPOPlus])
def test_a_second_call_of_learn_begins_anew_or_goes_on_as_its_steps_do(kind: type[PPO]) -> None:
    doctor = DoctorCallback()
    model = kind("MlpPolicy", cartpoles(), **SHORT)
    model.learn(2 * 256, callback=doctor)
    model.learn(3 * 256, callback=doctor)
    assert doctor.history.steps == [256, 512, 768]
    model.learn(2 * 256, callback=doctor, reset_num_timesteps=False)
    assert doctor.history.steps == [256, 512, 768, 1024, 1280]


def test_a_mistake_of_the_doctor_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(history: History) -> list[Finding]:
        raise ZeroDivisionError("a rule divides by zero")

    monkeypatch.setattr("sb3_ppo_plus.doctor.journal.RULES", (mistaken,))
    model = PPOPlus("MlpPolicy", cartpoles(), **SHORT)
    model.learn(5 * 256, callback=DoctorCallback())
    assert model.num_timesteps == 5 * 256
    assert caplog.text.count("the doctor failed") == 1 and "a rule divides by zero" in caplog.text


def test_a_training_that_breaks_leaves_a_report_with_the_reason(tmp_path: Path) -> None:
    class Breaks(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps > 700:
                raise RuntimeError("the power went out")
            return True

    with pytest.raises(RuntimeError):
        PPOPlus("MlpPolicy", cartpoles(), **SHORT).learn(2048, callback=[DoctorCallback(tmp_path), Breaks()])
    data = json.loads((tmp_path / "doctor.json").read_text())
    assert data["ended_by"] == "RuntimeError: the power went out"
    assert data["updates"] == 2
    assert "the power went out" in (tmp_path / "doctor.html").read_text()


def test_a_report_that_cannot_be_written_does_not_end_a_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    model = make_model()
    model.learn(model.n_steps * model.n_envs, callback=DoctorCallback(tmp_path / "file" / "folder"))
    assert "report cannot be written" in caplog.text
