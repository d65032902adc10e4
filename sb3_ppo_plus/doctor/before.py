"""The doctor before training: the environment and the settings, in seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env

from sb3_ppo_plus.doctor.catalogue import CATALOGUE
from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.measures import measure_observations
from sb3_ppo_plus.doctor.rules import check_settings
from sb3_ppo_plus.doctor.rules.grading import graded
from sb3_ppo_plus.doctor.settings import Settings
from sb3_ppo_plus.doctor.thresholds import LIMITS

# Steps of random play, and seconds after which it is enough.
_STEPS, _SECONDS = 2000, 5.0
_TRACE = 40

MakeEnv = Callable[[], gym.Env]


@dataclass(frozen=True)
class Checkup:
    """
    What came of a look at an environment.

    :param findings: what is wrong
    :param facts: what was measured, by name, in words
    """

    findings: list[Finding]
    facts: dict[str, str]


@dataclass
class _Play:
    """Random play: what was seen in it."""

    observations: np.ndarray | None
    rewards: np.ndarray
    lengths: list[int]
    truncated: int
    outside: int
    nonfinite: int
    steps_per_second: float


def check_before(make: MakeEnv, settings: Settings, seed: int = 0) -> Checkup:
    """
    Look at an environment and at the settings of a run that has not begun.

    :param make: makes one environment, wrapped as for training, without a normalizer
    :param settings: settings of the run
    :param seed: seed of the play
    :return: what was found
    """
    findings = check_settings(settings)
    findings += _gymnasium_rules(make)
    if any(finding.severity == Severity.ALARM for finding in findings):
        return Checkup(findings, {})
    findings += _repeats(make, seed)
    env = make()
    try:
        play = _random_play(env, seed)
        findings += _judge_play(env, play, settings)
        return Checkup(findings, _facts(env, play))
    finally:
        env.close()


def _gymnasium_rules(make: MakeEnv) -> list[Finding]:
    """What Stable-Baselines3's checker says; its warnings count less than its errors."""
    env = make()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                check_env(env, skip_render_check=True)
            except Exception as error:  # a broken environment may raise anything
                return [_found("env-check", Severity.ALARM, 1.0, f"{type(error).__name__}: {_line(error)}")]
    finally:
        env.close()
    messages = {_line(warning.message) for warning in caught if issubclass(warning.category, UserWarning)}
    # A hint about the range of actions has a code of its own, the others are worth a look.
    hints = [message for message in sorted(messages) if "symmetric and normalized" not in message]
    return [_found("env-check", Severity.INFO, 1.0, message) for message in hints[:1]]


def _repeats(make: MakeEnv, seed: int) -> list[Finding]:
    """The same seed twice, and another one."""
    first, again, other = (_trace(make, each) for each in (seed, seed, seed + 1))
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=False)):
        return [_found("env-nondeterministic", Severity.WARNING, 1.0)]
    if np.array_equal(first[0], other[0], equal_nan=True):
        return [_found("env-seed-ignored", Severity.INFO, 1.0)]
    return []


def _trace(make: MakeEnv, seed: int) -> list[np.ndarray]:
    env = make()
    try:
        env.action_space.seed(0)
        seen = [_flat(env.reset(seed=seed)[0])]
        for _ in range(_TRACE):
            obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append(np.append(_flat(obs), float(reward)))
            if terminated or truncated:
                break
        return seen
    finally:
        env.close()


def _random_play(env: gym.Env, seed: int) -> _Play:
    env.action_space.seed(seed)
    obs, _ = env.reset(seed=seed)
    seen, rewards, lengths = [_flat(obs)], list[float](), list[int]()
    truncations = outside = nonfinite = length = 0
    bounded = not isinstance(env.observation_space, (spaces.Dict, spaces.Tuple))
    stepping = 0.0
    begin = time.perf_counter()
    while len(rewards) < _STEPS and time.perf_counter() - begin < _SECONDS:
        action = env.action_space.sample()
        started = time.perf_counter()
        obs, reward, terminated, truncated, _ = env.step(action)
        stepping += time.perf_counter() - started
        flat, length = _flat(obs), length + 1
        seen.append(flat)
        rewards.append(float(reward))
        outside += bounded and not env.observation_space.contains(obs)
        nonfinite += not np.isfinite(flat).all() or not np.isfinite(rewards[-1])
        if terminated or truncated:
            lengths.append(length)
            truncations += truncated and not terminated
            obs, _ = env.reset()
            length = 0
    vectors = np.stack(seen) if seen[0].size <= 4096 and len({part.size for part in seen}) == 1 else None
    speed = len(rewards) / max(stepping, 1e-9)
    return _Play(vectors, np.array(rewards), lengths, truncations, outside, nonfinite, speed)


def _judge_play(env: gym.Env, play: _Play, settings: Settings) -> list[Finding]:
    history = History(settings)
    found: list[Finding] = []
    if play.nonfinite:
        found.append(_found("nonfinite", Severity.ALARM, play.nonfinite, "steps of random play"))
    if play.outside:
        found.append(_found("observation-bounds", Severity.WARNING, play.outside, "steps of random play"))
    if not play.lengths:
        found.append(_found("episode-endless", Severity.INFO, len(play.rewards)))
    same = len(set(play.lengths)) == 1 and play.lengths[0] >= LIMITS["truncation-missing"].more["length"]
    if len(play.lengths) >= 2 and same and not play.truncated:
        detail = f"{len(play.lengths)} episodes of {play.lengths[0]} steps"
        found.append(_found("truncation-missing", Severity.WARNING, 0.0, detail))
    found += graded(history, "env-slow", play.steps_per_second, detail="steps per second")
    return found + _judge_ranges(env, play, settings, history)


def _judge_ranges(env: gym.Env, play: _Play, settings: Settings, history: History) -> list[Finding]:
    found: list[Finding] = []
    space = env.action_space
    if isinstance(space, spaces.Box) and space.is_bounded():
        size = float(np.abs([space.low, space.high]).max())
        tiny = LIMITS["action-bounds"].more["tiny"]
        if size < tiny:
            found.append(replace(_found("action-bounds", Severity.WARNING, size, "largest bound"), threshold=tiny))
        found += graded(history, "action-bounds", size, detail="largest bound")
    if play.observations is not None and not isinstance(env.observation_space, spaces.Discrete):
        measured = measure_observations(play.observations.astype(np.float64))
        if measured["doctor/obs_constant"] >= 1.0:
            found.append(_found("observation-constant", Severity.ALARM, 1.0))
        wide = measured.get("doctor/obs_std_spread", 0.0) > LIMITS["observation-scale"].more["spread"]
        if settings.normalizes_obs is False and wide:
            found += graded(history, "observation-scale", measured["doctor/obs_std_max"])
    if play.rewards.size and not play.rewards.any():
        found.append(_found("reward-sparse", Severity.INFO, 0.0, "no reward in random play"))
    if settings.normalizes_reward is False and play.rewards.size and settings.gamma and settings.gamma < 1.0:
        horizon = min(1.0 / (1.0 - settings.gamma), max(play.lengths, default=len(play.rewards)))
        found += graded(history, "reward-scale", float(np.abs(play.rewards).mean()) * horizon)
    return found


def _facts(env: gym.Env, play: _Play) -> dict[str, str]:
    facts = {
        "observations": str(env.observation_space),
        "actions": str(env.action_space),
        "speed": f"{play.steps_per_second:,.0f} steps per second, one environment",
        "rewards": f"{play.rewards.min():.4g} to {play.rewards.max():.4g}, mean {play.rewards.mean():.4g}",
        "episodes": f"{len(play.lengths)} in {len(play.rewards):,} random steps",
    }
    if play.lengths:
        facts["episodes"] += f", {min(play.lengths)} to {max(play.lengths)} steps, {play.truncated} cut by a time limit"
    if play.observations is not None:
        low, high = float(play.observations.min()), float(play.observations.max())
        facts["observed"] = f"{low:.4g} to {high:.4g}"
    return facts


def _found(code: str, severity: Severity, value: float, detail: str = "") -> Finding:
    limits = LIMITS[code]
    limit = {Severity.INFO: limits.info, Severity.WARNING: limits.warning, Severity.ALARM: limits.alarm}[severity]
    return Finding(code, severity, float(value), float(limit or 0.0), (0, 0), CATALOGUE[code].remedy, detail)


def _flat(obs: Any) -> np.ndarray:
    if isinstance(obs, dict):
        return np.concatenate([_flat(value) for value in obs.values()])
    if isinstance(obs, tuple):
        return np.concatenate([_flat(value) for value in obs])
    return np.asarray(obs, np.float64).reshape(-1)


def _line(message: object) -> str:
    return " ".join(str(message).split())
