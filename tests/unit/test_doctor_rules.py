"""The rules of the doctor on series made up for them: each finds its fault, and is quiet beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_ppo_plus.doctor.catalogue import CATALOGUE
from sb3_ppo_plus.doctor.findings import Severity
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.journal import examine
from sb3_ppo_plus.doctor.rules import check_settings
from sb3_ppo_plus.doctor.settings import Settings
from sb3_ppo_plus.doctor.thresholds import LIMITS

UPDATES, ROWS = 60, 1024
INFO, WARNING, ALARM = Severity.INFO, Severity.WARNING, Severity.ALARM

HEALTHY = Settings(
    learning_rate=3e-4,
    n_steps=128,
    n_envs=8,
    batch_size=64,
    n_epochs=10,
    gamma=0.99,
    clip_range=0.2,
    ent_coef=0.0,
    vf_coef=0.5,
    max_grad_norm=0.5,
    total_timesteps=UPDATES * ROWS,
    max_entropy=math.log(4),
    continuous=False,
    normalizes_obs=False,
    normalizes_reward=False,
)


def rising(first: float, last: float) -> list[float]:
    return [float(value) for value in np.linspace(first, last, UPDATES)]


def then(before: float, after: float, at: int = 40) -> list[float]:
    """One value until an update, another one from there on."""
    return [before] * at + [after] * (UPDATES - at)


# A training as it should be: four choices, returns that rise, episodes of about 200 steps.
COLUMNS: dict[str, Any] = {
    "train/approx_kl": 0.01,
    "train/approx_kl_epoch_1": 0.004,
    "train/clip_fraction": 0.1,
    "train/clip_range": 0.2,
    "train/learning_rate": 3e-4,
    "train/entropy_loss": rising(-math.log(4), -0.6),
    "train/explained_variance": rising(0.1, 0.9),
    "train/value_loss": 10.0,
    "train/loss": 5.0,
    "train/grad_norm": 0.8,
    "train/grad_norm_max": 2.0,
    "train/ratio_max": 1.6,
    "rollout/ep_rew_mean": rising(20.0, 180.0),
    "rollout/ep_len_mean": rising(60.0, 200.0),
    "time/time_elapsed": rising(0.0, 600.0),
    "time/memory_mib": 400.0,
    "doctor/steps_per_second": 3000.0,
    "doctor/return_p99": 40.0,
    "doctor/return_max": 60.0,
    "doctor/return_std": 12.0,
    "doctor/reward_nonzero": 0.9,
    "doctor/reward_range": 2.0,
    "doctor/advantage_max": 5.0,
    "doctor/advantage_bias": 0.1,
    "doctor/ends_together": 0.2,
    "doctor/nonfinite": 0.0,
    "doctor/obs_constant": 0.0,
    "doctor/obs_std_max": 2.0,
    "doctor/obs_std_spread": 8.0,
    "doctor/ends": 24.0,
    "doctor/end_length": 0.0,
    "doctor/truncated_share": 0.0,
    "doctor/dead_units": 0.02,
    "doctor/rank": 30.0,
    "doctor/ratio_error": 1e-6,
}


def history(settings: dict[str, Any] | None = None, without: str = "", **changed: Any) -> History:
    """The healthy training with some columns changed; a dot in a name is written as two underscores."""
    made = History(replace(HEALTHY, **(settings or {})))
    names = {name.replace("__", "/"): value for name, value in changed.items()}
    columns = {**COLUMNS, **names}
    for update in range(UPDATES):
        row = {name: value[update] if isinstance(value, list) else value for name, value in columns.items()}
        kept = {name: value for name, value in row.items() if value is not None and not (without and without in name)}
        made.append((update + 1) * ROWS, kept)
    return made


def found(made: History) -> dict[str, Severity]:
    return {code: entry.finding.severity for code, entry in examine(made).entries.items()}


def test_a_healthy_training_has_no_finding() -> None:
    assert found(history()) == {}


STD = {"max_entropy": None, "continuous": True}
DEAF = "train/approx_kl_epoch"
Case = tuple[str, Severity, dict[str, Any], dict[str, Any]]
# Code, severity, columns of the fault, and columns that look like it and are none.
CASES: list[Case] = [
    ("kl-high", WARNING, {"train__approx_kl": 0.08}, {"train__approx_kl": 0.05}),
    ("kl-high", ALARM, {"train__approx_kl": 0.3, "train__approx_kl_epoch_1": 0.05}, {"train__approx_kl": 0.02}),
    (
        "kl-high",
        WARNING,
        {"train__approx_kl": 0.15, "settings": {"target_kl": 0.05}},
        {"train__approx_kl": 0.09, "settings": {"target_kl": 0.05}},
    ),
    (
        "kl-spike",
        ALARM,
        {"train__approx_kl": [0.01] * 50 + [0.9] + [0.01] * 9},
        {"train__approx_kl": [0.01] * 50 + [0.09] + [0.01] * 9},
    ),
    ("kl-drift", INFO, {"train__approx_kl": then(0.004, 0.05)}, {"train__approx_kl": then(0.001, 0.015)}),
    ("learning-rate-high", WARNING, {"train__approx_kl_epoch_1": 0.1}, {"train__approx_kl_epoch_1": 0.04}),
    (
        "learning-rate-high",
        WARNING,
        {"train__approx_kl": 0.2, "train__clip_fraction": 0.6, "without": DEAF},
        {"train__approx_kl": 0.2, "train__clip_fraction": 0.3, "without": DEAF},
    ),
    (
        "learning-rate-low",
        WARNING,
        {"train__approx_kl": 1e-6, "train__clip_fraction": 0.0},
        # the end of a schedule
        {"train__approx_kl": 1e-6, "train__clip_fraction": 0.0, "train__learning_rate": then(3e-4, 1e-6, 5)},
    ),
    (
        "learning-rate-stuck",
        WARNING,
        {"settings": {"rate_bounds": (1e-5, 1e-2)}, "train__learning_rate": 1e-2},
        {"settings": {"rate_bounds": (1e-5, 1e-2)}, "train__learning_rate": 1e-3},
    ),
    (
        "policy-frozen",
        ALARM,
        {"train__approx_kl": 0.0, "train__clip_fraction": 0.0, "train__ratio_max": 1.0},
        # it did move, and has stopped
        {"train__approx_kl": then(0.01, 0.0), "train__clip_fraction": 0.0, "train__ratio_max": 1.0},
    ),
    ("clip-fraction-high", INFO, {"train__clip_fraction": 0.35}, {"train__clip_fraction": 0.25}),
    (
        "clip-fraction-high",
        ALARM,
        {"train__clip_fraction": 0.8},
        # a range that has shrunk to nothing clips everything, and harms nothing
        {"train__clip_fraction": 0.8, "train__clip_range": 0.001},
    ),
    ("clip-fraction-low", INFO, {"train__clip_fraction": 0.0}, {"train__clip_fraction": 0.01}),
    ("clip-range-wide", WARNING, {"train__clip_range": rising(0.2, 0.9)}, {"train__clip_range": 0.4}),
    ("ratio-extreme", WARNING, {"train__ratio_max": 500.0}, {"train__ratio_max": 4.0}),
    ("ratio-start", ALARM, {"doctor__ratio_error": 0.2}, {"doctor__ratio_error": 1e-4}),
    ("epochs-many", WARNING, {"train__approx_kl": 0.1}, {"train__approx_kl": 0.1, "train__approx_kl_epoch_1": 0.05}),
    (
        "entropy-collapse",
        WARNING,
        {"train__entropy_loss": -0.01, "rollout__ep_rew_mean": 20.0},
        # a policy that has learned may be certain
        {"train__entropy_loss": rising(-1.38, -0.01)},
    ),
    (
        "entropy-collapse",
        WARNING,
        {"settings": STD, "train__std": 0.01, "rollout__ep_rew_mean": 20.0},
        {"settings": STD, "train__std": 0.1, "rollout__ep_rew_mean": 20.0},
    ),
    (
        "entropy-collapse",
        WARNING,
        {
            "settings": STD,
            "train__std": [1.0] * 20 + list(np.geomspace(1.0, 0.1, 10)) + [0.1] * 30,
            "rollout__ep_rew_mean": 20.0,
        },
        {"settings": STD, "train__std": list(np.geomspace(1.0, 0.5, 60)), "rollout__ep_rew_mean": 20.0},
    ),
    (
        "entropy-runaway",
        WARNING,
        {"settings": STD, "train__std": rising(1.0, 4.0)},
        {"settings": STD, "train__std": then(1.0, 2.5, 5)},  # high, and no longer rising
    ),
    (
        "entropy-stuck",
        WARNING,
        {"train__entropy_loss": -math.log(4), "settings": {"ent_coef": 0.08}},
        {"train__entropy_loss": -0.9 * math.log(4), "settings": {"ent_coef": 0.08}},
    ),
    ("entropy-stuck", INFO, {"train__entropy_loss": -math.log(4)}, {}),
    ("action-saturation", WARNING, {"doctor__saturation": 0.97}, {"doctor__saturation": 0.4}),
    (
        "critic-lagging",
        WARNING,
        {"train__explained_variance": 0.0},
        # a solved task: all states are worth the same, and there is nothing to explain
        {"train__explained_variance": 0.0, "doctor__return_std": 1.0},
    ),
    ("critic-blowup", WARNING, {"train__explained_variance": -3.0}, {"train__explained_variance": 0.3}),
    (
        "critic-blowup",
        ALARM,
        {"train__explained_variance": then(0.8, -0.5), "train__value_loss": then(10.0, 1e5)},
        {"train__explained_variance": 0.8, "train__value_loss": then(10.0, 1e5)},  # returns grew, the critic follows
    ),
    (
        "critic-blowup",
        WARNING,
        {"train__value_loss": [10.0] * 50 + [5e4, 20.0] * 5, "train__explained_variance": 0.3},
        # a solved task in which something fails for once: no more than there was before
        {"train__value_loss": [10.0] * 10 + [1e-3] * 45 + [8.0] * 5, "train__explained_variance": 0.3},
    ),
    ("reward-scale", WARNING, {"doctor__return_p99": 5e3}, {"doctor__return_p99": 90.0}),
    ("reward-scale", ALARM, {"doctor__return_p99": 5e6}, {}),
    (
        "reward-small",
        WARNING,
        {"doctor__return_p99": 1e-3, "doctor__return_std": 2e-4},
        {"doctor__return_p99": 50.0, "doctor__return_std": 2e-4},
    ),
    ("reward-sparse", WARNING, {"doctor__reward_nonzero": 0.0}, {"doctor__reward_nonzero": 0.01}),
    (
        "reward-constant",
        WARNING,
        {"doctor__reward_range": 0.0, "rollout__ep_len_mean": 200.0},
        {"doctor__reward_range": 0.0},  # one point a step, in episodes of different lengths
    ),
    ("advantage-outlier", WARNING, {"doctor__advantage_max": 90.0}, {"doctor__advantage_max": 9.0}),
    (
        "advantage-outlier",
        WARNING,
        {"doctor__return_max": [60.0] * 30 + [1e5] + [60.0] * 29},
        {"doctor__return_max": [60.0] * 30 + [900.0] + [60.0] * 29},
    ),
    ("advantage-bias", INFO, {"doctor__advantage_bias": 0.8}, {"doctor__advantage_bias": 0.4}),
    ("advantage-bias", WARNING, {"doctor__advantage_bias": 5.0, "train__explained_variance": 0.2}, {}),
    ("nonfinite", ALARM, {"doctor__nonfinite": then(0.0, 3.0)}, {}),
    ("nonfinite", ALARM, {"train__loss": then(5.0, math.nan)}, {"train__explained_variance": then(0.9, math.nan)}),
    ("envs-duplicate", ALARM, {"doctor__duplicate_envs": 7.0}, {"doctor__duplicate_envs": 0.0}),
    ("envs-synchronized", INFO, {"doctor__ends_together": 1.0}, {"doctor__ends_together": 0.6}),
    (
        "truncation-missing",
        WARNING,
        {"doctor__end_length": 200.0},
        {"doctor__end_length": 200.0, "doctor__truncated_share": 1.0},
    ),
    (
        "observation-scale",
        WARNING,
        {"doctor__obs_std_max": 40.0, "doctor__obs_std_spread": 400.0},
        {"doctor__obs_std_max": 40.0, "doctor__obs_std_spread": 400.0, "settings": {"normalizes_obs": True}},
    ),
    ("observation-constant", INFO, {"doctor__obs_constant": 0.2}, {}),
    ("observation-constant", ALARM, {"doctor__obs_constant": 1.0}, {}),
    ("gradient-spike", WARNING, {"train__grad_norm_max": [2.0] * 50 + [300.0] * 10}, {"train__grad_norm_max": 50.0}),
    ("gradient-clipped", INFO, {"train__grad_norm": 9.0, "train__grad_norm_max": 12.0}, {"train__grad_norm": 3.0}),
    ("dead-units", WARNING, {"doctor__dead_units": 0.7}, {"doctor__dead_units": 0.3}),
    ("rank-collapse", WARNING, {"doctor__rank": then(30.0, 3.0)}, {"doctor__rank": then(30.0, 15.0)}),
    ("memory-growth", WARNING, {"time__memory_mib": rising(400.0, 4000.0)}, {"time__memory_mib": rising(400.0, 700.0)}),
    (
        "return-collapse",
        WARNING,
        {"rollout__ep_rew_mean": [*rising(20.0, 200.0)[:40], *[30.0] * 20]},
        {"rollout__ep_rew_mean": [*rising(20.0, 200.0)[:40], *[110.0] * 20]},
    ),
    ("return-flat", INFO, {"rollout__ep_rew_mean": 20.0}, {"rollout__ep_rew_mean": rising(20.0, 40.0)}),
    ("horizon-short", INFO, {"settings": {"gamma": 0.9}}, {"settings": {"gamma": 0.98}}),
]


@pytest.mark.parametrize(("code", "severity", "fault", "harmless"), CASES, ids=[f"{c[0]}-{c[1].word}" for c in CASES])
def test_a_rule_finds_its_fault_and_nothing_beside_it(
    code: str, severity: Severity, fault: dict[str, Any], harmless: dict[str, Any]
) -> None:
    assert found(history(**fault)).get(code) == severity
    assert code not in found(history(**harmless))


def test_a_solved_task_in_the_log_of_sb3_alone_has_no_critic_to_blame() -> None:
    solved = {"train__explained_variance": [*rising(0.1, 0.9)[:30], *[-3.0] * 30], "without": "doctor/"}
    assert found(history(**solved)) == {}
    assert found(history(**solved, rollout__ep_rew_mean=20.0))["critic-blowup"] == WARNING


@pytest.mark.parametrize(
    ("speed", "seconds", "expected"),
    [(500.0, 600.0, {"throughput-decay": WARNING}), (1800.0, 600.0, {"throughput-decay": INFO}), (500.0, -500.0, {})],
    ids=["much", "some", "too short to tell"],
)
def test_long_trainings_are_watched_for_slowness(speed: float, seconds: float, expected: dict[str, Severity]) -> None:
    """Patience is long there: it needs many slow updates."""
    made = history()
    for update in range(UPDATES, 4 * UPDATES):
        row = {**COLUMNS, "doctor/steps_per_second": speed, "time/time_elapsed": seconds + update}
        made.append((update + 1) * ROWS, {name: v[-1] if isinstance(v, list) else v for name, v in row.items()})
    assert found(made) == expected


@pytest.mark.parametrize(
    ("evaluations", "severity"),
    [([100, 120, 90, 70, 40], WARNING), ([100, 120, 90, 95, 40], None), ([100, 120, 119, 118, 117], None)],
    ids=["falling", "not every time", "a little"],
)
def test_evaluations_that_fall_while_training_rises(evaluations: list[float], severity: Severity | None) -> None:
    made = history()
    for index, mean in enumerate(evaluations):
        made.add_evaluation((index + 1) * 10 * ROWS, mean)
    assert found(made).get("evaluation-falls") == severity
    flat = history(rollout__ep_rew_mean=100.0)
    flat.evaluations = made.evaluations
    assert "evaluation-falls" not in found(flat)


SETTINGS: list[tuple[str, Severity, dict[str, Any], dict[str, Any]]] = [
    ("learning-rate-high", WARNING, {"learning_rate": 0.03}, {"learning_rate": 3e-3}),
    ("learning-rate-low", WARNING, {"learning_rate": 1e-7}, {"learning_rate": 1e-5}),
    ("clip-range-wide", WARNING, {"clip_range": 1.0}, {"clip_range": 0.4}),
    ("clip-range-wide", ALARM, {"clip_range": 3.0}, {"clip_range": math.inf}),
    ("clip-range-narrow", WARNING, {"clip_range": 0.01}, {"clip_range": 0.1}),
    ("entropy-coef-high", WARNING, {"ent_coef": 0.5}, {"ent_coef": 0.05}),
    ("entropy-coef-negative", WARNING, {"ent_coef": -0.01}, {"ent_coef": 0.0}),
    ("critic-unweighted", ALARM, {"vf_coef": 0.0}, {"vf_coef": 0.1}),
    ("epochs-many", INFO, {"n_epochs": 30}, {"n_epochs": 20}),
    ("epochs-many", WARNING, {"n_epochs": 100}, {}),
    ("batch-small", WARNING, {"batch_size": 8}, {"batch_size": 32}),
    ("batch-small", INFO, {"batch_size": 16}, {}),
    ("batch-uneven", INFO, {"batch_size": 100}, {"batch_size": 256}),
    ("rollout-small", WARNING, {"n_steps": 4, "gamma": 0.95}, {"n_steps": 8, "gamma": 0.95}),
    ("gamma-odd", WARNING, {"gamma": 1.0}, {"gamma": 0.999}),
    ("gamma-odd", WARNING, {"gamma": 0.5}, {"gamma": 0.9}),
    ("horizon-long", INFO, {"gamma": 0.9999}, {"gamma": 0.995}),
]


@pytest.mark.parametrize(
    ("code", "severity", "fault", "harmless"), SETTINGS, ids=[f"{c[0]}-{c[1].word}" for c in SETTINGS]
)
def test_settings_are_judged_before_the_first_step(
    code: str, severity: Severity, fault: dict[str, Any], harmless: dict[str, Any]
) -> None:
    judged = {finding.code: finding.severity for finding in check_settings(replace(HEALTHY, **fault))}
    assert judged == {code: severity}
    assert check_settings(replace(HEALTHY, **harmless)) == []
    assert check_settings(Settings()) == []


# ------------------------------------------------ tables


# Of what is looked at before training; tests/unit/test_doctor_before.py has them.
BEFORE = {"env-check", "env-nondeterministic", "env-seed-ignored", "env-slow", "observation-bounds", "action-bounds"}
BEFORE |= {"episode-endless"}


def test_every_code_has_a_text_limits_and_a_test() -> None:
    assert CATALOGUE.keys() == LIMITS.keys()
    tested = {case[0] for case in (*CASES, *SETTINGS)} | {"evaluation-falls", "throughput-decay"} | BEFORE
    assert tested == CATALOGUE.keys()


@pytest.mark.parametrize("code", sorted(LIMITS))
def test_limits_are_ordered_and_have_a_source(code: str) -> None:
    limits = LIMITS[code]
    given = [limit for limit in (limits.info, limits.warning, limits.alarm) if limit is not None]
    assert given and limits.source and limits.what
    assert given == sorted(given, reverse=limits.below)
    assert limits.window >= 1 and limits.patience >= 1
    assert all(CATALOGUE[code].__dict__.values())


def test_findings_say_what_to_change_with_the_numbers_of_the_run() -> None:
    (finding,) = (entry.finding for entry in examine(history(train__approx_kl_epoch_1=0.1)).entries.values())
    assert finding.code == "learning-rate-high"
    assert finding.remedy == "learning_rate=3e-5, or target_kl=0.02"
    assert finding.window == (ROWS, 5 * ROWS) or finding.window[1] >= 3 * ROWS
    assert finding.sentence().startswith("learning-rate-high at step ")
    assert "0.1 where the limit is 0.06" in finding.sentence()
    assert type(finding).from_mapping(finding.to_mapping()) == finding


# ------------------------------------------------ the page


def section(code: str) -> str:
    """What docs/doctor.md says about a code: its text and its limits, which are written only once, in the tables."""
    meaning, limits = CATALOGUE[code], LIMITS[code]
    levels = (("info", limits.info), ("warning", limits.warning), ("alarm", limits.alarm))
    side = "at or below" if limits.below else "above"
    bounds = ", ".join(f"{name} {side} {limit:g}" for name, limit in levels if limit is not None)
    title = meaning.title[0].upper() + meaning.title[1:]
    return (
        f"### {code}\n\n{title}. {meaning.why}\n\n"
        f"- Measured: {limits.what}.\n"
        f"- Limits: {bounds}. Source: {limits.source}.\n"
        f"- Change `{meaning.argument}`: {meaning.remedy}.\n"
    )


def test_the_page_explains_every_code_with_the_limits_of_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert [code for code in CATALOGUE if section(code) not in page] == []
    assert page.count("\n### ") == len(CATALOGUE)
