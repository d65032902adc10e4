"""The doctor before training and for the installation."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_ppo_plus.doctor import installation
from sb3_ppo_plus.doctor.before import check_before
from sb3_ppo_plus.doctor.configured import check_configuration
from sb3_ppo_plus.doctor.findings import Severity
from sb3_ppo_plus.doctor.settings import Settings
from sb3_ppo_plus.runs.layers import assemble

INFO, WARNING, ALARM = Severity.INFO, Severity.WARNING, Severity.ALARM


class Walk(gym.Env):
    """A walk on a line, with one thing wrong where a test asks for it."""

    def __init__(self, fault: str = "", high: float = 1.0) -> None:
        self.fault, self.t, self.place = fault, 0, np.zeros(2, np.float32)
        self.observation_space = spaces.Box(-1e5, 1e5, (2,), np.float32)
        self.action_space = spaces.Box(-high, high, (1,), np.float32)
        self.chance = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        self.place = self.np_random.normal(size=2).astype(np.float32)
        if self.fault == "alike":
            self.place[:] = 0.5
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        if self.fault == "slow":
            time.sleep(0.02)
        self.t += 1
        noise = self.chance if self.fault == "own generator" else self.np_random
        self.place += noise.normal(size=2).astype(np.float32) * 0.1
        over = self.t >= 50 and self.fault != "endless"
        reward = {"no reward": 0.0, "large": 1e4}.get(self.fault, float(self.place[0]))
        if self.fault == "nan" and self.t == 30:
            reward = float("nan")
        limit = self.fault != "limit as failure"
        return self._seen(), reward, over and not limit, over and limit, {}

    def _seen(self) -> Any:
        if self.fault == "blind":
            return np.ones(2, np.float32)
        if self.fault == "outside":
            return self.place * np.float32(1e6)
        if self.fault == "uneven":
            return self.place * np.array([1.0, 400.0], np.float32)
        return "no array" if self.fault == "text" else self.place.copy()


CASES = [
    ("text", "env-check", ALARM),
    ("own generator", "env-nondeterministic", WARNING),
    ("alike", "env-seed-ignored", INFO),
    ("slow", "env-slow", INFO),
    ("endless", "episode-endless", INFO),
    ("blind", "observation-constant", ALARM),
    ("uneven", "observation-scale", WARNING),
    ("nan", "nonfinite", ALARM),
    ("large", "reward-scale", ALARM),
    ("no reward", "reward-sparse", INFO),
    ("limit as failure", "truncation-missing", WARNING),
]


def codes(fault: str = "", high: float = 1.0, **settings: Any) -> dict[str, Severity]:
    known = Settings(**{"normalizes_obs": False, "normalizes_reward": False, "gamma": 0.99, **settings})
    return {finding.code: finding.severity for finding in check_before(lambda: Walk(fault, high), known).findings}


def test_a_good_environment_has_no_finding() -> None:
    assert codes() == {}


@pytest.mark.parametrize(("fault", "code", "severity"), CASES, ids=[case[0] for case in CASES])
def test_faults_of_an_environment(fault: str, code: str, severity: Severity) -> None:
    assert codes(fault)[code] == severity


def test_observations_outside_of_their_space() -> None:
    """SB3's checker refuses most of them at the first observation; what leaves the space later is found in play."""

    class Leaves(Walk):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            obs, *rest = super().step(action)
            return (obs * np.float32(1e6) if self.t > 45 else obs), *rest

    findings = check_before(Leaves, Settings()).findings
    assert [(finding.code, finding.severity) for finding in findings] == [("observation-bounds", WARNING)]
    assert findings[0].value > 100  # five steps of each episode, 40 episodes


@pytest.mark.parametrize(
    ("high", "severity", "threshold"), [(0.01, WARNING, 0.1), (50.0, INFO, 10.0), (500.0, WARNING, 100.0)]
)
def test_action_spaces_far_from_one(high: float, severity: Severity, threshold: float) -> None:
    (finding,) = check_before(lambda: Walk(high=high), Settings()).findings
    assert (finding.code, finding.severity, finding.threshold) == ("action-bounds", severity, threshold)
    assert finding.value == pytest.approx(high)


def test_a_normalizer_answers_for_scales() -> None:
    assert codes("uneven", normalizes_obs=True) == {}
    assert codes("large", normalizes_reward=True) == {}


def test_the_facts_are_those_of_the_environment() -> None:
    facts = check_before(Walk, Settings()).facts
    assert facts["actions"] == "Box(-1.0, 1.0, (1,), float32)"
    assert facts["episodes"] == "40 in 2,000 random steps, 50 to 50 steps, 40 cut by a time limit"
    assert facts["speed"].endswith("steps per second, one environment")


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "HalfCheetah-v5", "Acrobot-v1"])
def test_blocks_of_the_zoo_have_no_warning(env: str) -> None:
    checkup = check_configuration(assemble(env))
    assert [finding.code for finding in checkup.findings if finding.severity >= WARNING] == []


def test_a_configuration_is_judged_with_its_defaults() -> None:
    config = assemble("Hopper-v5", None, ["normalize=false", "clip_range=3", "ent_coef=0.5"])
    found = {finding.code: finding.severity for finding in check_configuration(config).findings}
    assert found["clip-range-wide"] == ALARM
    assert found["entropy-coef-high"] == WARNING


# ------------------------------------------------ the installation


def test_the_installation_is_checked_by_using_it() -> None:
    checks = {check.name: check for check in installation.check_installation()}
    assert [name for name, check in checks.items() if check.state == installation.FAILED] == []
    assert checks["update"].detail.startswith("64 steps of CartPole-v1 and an update in ")
    assert {"torch", "stable-baselines3", "GPU", "compiler", "[mujoco]"} <= checks.keys()


def test_what_does_not_work_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(installation, "_tiny_model", broken)
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    monkeypatch.setattr(installation, "_CORE", ("torch", "a-package-that-is-not-there"))
    checks = {check.name: check for check in installation.check_installation()}
    assert checks["update"] == installation.Check("update", installation.FAILED, "RuntimeError: no such thing")
    assert checks["a-package-that-is-not-there"].state == installation.FAILED
    assert checks["[tune]"].detail == 'ppo-plus tune: pip install "sb3-ppo-plus[tune]"'
    assert "export" not in checks


def test_an_update_that_changes_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installation._tiny_model

    def frozen() -> Any:
        model = real()
        model.learning_rate = 0.0
        model._setup_lr_schedule()
        return model

    monkeypatch.setattr(installation, "_tiny_model", frozen)
    with pytest.raises(RuntimeError, match="no changed, finite parameters"):
        installation._tiny_update()
