"""Presets: plain data that equals its sources, fills in only what the caller left alone, and trains."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.benchmark.suite import find_suite, load_suite
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.presets import PRESETS, apply_preset
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.schedules import LinearSchedule, parse_schedule

DEFAULTS = {name: item.default for name, item in inspect.signature(PPOPlus.__init__).parameters.items()}


def given(**overrides: Any) -> dict[str, Any]:
    return {**DEFAULTS, "policy": "MlpPolicy", "env": None, **overrides}


def make(preset: str, **overrides: Any) -> PPOPlus:
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    return PPOPlus("MlpPolicy", env, preset=preset, seed=0, device="cpu", **overrides)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_plain_data_about_real_arguments(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert json.loads(json.dumps(preset.arguments)) == preset.arguments
    assert set(preset.arguments) < set(DEFAULTS)
    assert preset.note
    assert preset.source


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_saves_and_loads(name: str, tmp_path: Any) -> None:
    # rsl_rl: 6 * 2 environments; massively_parallel is made for thousands of them
    batch_size = {"rsl_rl": 12, "massively_parallel": 32, "continuous_control": 128}.get(name, 64)
    n_steps = 24 if name == "rsl_rl" else 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no truncated minibatch, no unleashed policy
        model = make(name, n_steps=n_steps, batch_size=batch_size, n_epochs=2)
    model.learn(2 * n_steps)
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())
    model.save(tmp_path / "model.zip")
    loaded = PPOPlus.load(tmp_path / "model.zip", device="cpu")
    assert loaded.preset == name
    observation = np.zeros((1, 3), dtype=np.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]


def test_baselines_ppo2_sets_what_ppo2_has() -> None:
    model = make("baselines_ppo2")
    # PPO2's rate is 3e-4 * f: 1.5e-4 half-way.
    assert model.lr_schedule(0.5) == pytest.approx(1.5e-4)
    assert model.lr_schedule(0.0) == 0.0
    # 0.5 * 0.5 * mean(max(e^2, e_clipped^2)) in PPO2; ours has no inner 0.5.
    assert (model.vf_coef, model.vf_loss) == (0.25, "max")
    assert model.clip_range_vf is not None
    assert (model.clip_range(1.0), model.clip_range_vf(1.0)) == (0.2, 0.2)
    assert (model.n_steps, model.batch_size, model.n_epochs) == (2048, 64, 10)
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-5


def test_continuous_control_is_the_default_block_and_what_was_measured() -> None:
    wanted = assemble("SomeRobot-v0").hyperparameters
    suite = load_suite(find_suite("mujoco_1m"))
    for settings in (wanted, dict(suite.variants[0].settings)):
        settings.pop("compile_update", None)
        network = settings.pop("policy_kwargs")
        arguments = {name: value for name, value in settings.items() if name not in ("n_envs", "normalize")}
        preset = dict(PRESETS["continuous_control"].arguments)
        assert preset.pop("policy_kwargs")["log_std_init"] == network["log_std_init"]
        rate = parse_schedule(preset.pop("learning_rate"), "learning_rate")
        theirs = parse_schedule(arguments.pop("learning_rate"), "learning_rate")
        assert [rate(left) for left in (1.0, 0.3, 0.0)] == [theirs(left) for left in (1.0, 0.3, 0.0)]
        assert arguments == preset


def test_paper_penalty_has_no_clipping_and_the_papers_rule() -> None:
    model = make("paper_penalty")
    assert model.clip_range(1.0) == float("inf")
    controller = model._controllers["kl_coef"]
    assert controller.value == 1.0
    assert controller.update(0.0151) == 2.0  # above 1.5 * 0.01: doubled
    assert controller.update(0.012) == 2.0  # between 0.01 / 1.5 = 0.0067 and 0.015: kept
    assert controller.update(0.0066) == 1.0  # below: halved


def test_rsl_rl_moves_the_rate_by_its_rule_and_builds_its_networks() -> None:
    model = make("rsl_rl", batch_size=12)
    controller = model._controllers["learning_rate"]
    assert controller.every == "minibatch"
    assert controller.update(0.021) == pytest.approx(1e-3 / 1.5)  # above 2 * 0.01
    assert controller.update(0.004) == pytest.approx(1e-3)  # below 0.01 / 2
    assert [controller.update(1.0) for _ in range(20)][-1] == 1e-5
    assert [controller.update(0.001) for _ in range(40)][-1] == 1e-2
    assert [type(layer).__name__ for layer in model.policy.mlp_extractor.policy_net] == ["Linear", "ELU"] * 3
    assert model.policy.optimizer.param_groups[0]["eps"] == 1e-8
    assert model.advantage_scope == "batch"


def test_massively_parallel_fits_a_thousand_environments_and_more() -> None:
    rows = [PRESETS["massively_parallel"].arguments["n_steps"] * n for n in (1024, 4096, 16384)]
    assert [n % PRESETS["massively_parallel"].arguments["batch_size"] for n in rows] == [0, 0, 0]
    model = make("massively_parallel", batch_size=32)
    controller = model._controllers["learning_rate"]
    assert controller.every == "epoch"
    assert controller.update(0.021) == pytest.approx(3e-4 / 1.5)
    assert model.device_options == {"matmul_precision": "high"}
    assert model.clip_range_vf is None and model.n_epochs == 4


def test_what_the_caller_set_wins() -> None:
    settings = apply_preset("baselines_ppo2", given(n_steps=256, learning_rate=LinearSchedule(1e-3, 0)), DEFAULTS)
    assert settings["n_steps"] == 256
    assert settings["learning_rate"] == LinearSchedule(1e-3, 0)
    assert settings["clip_range_vf"] == 0.2
    assert settings["gamma"] == 0.99


def test_a_spelled_out_default_cannot_be_told_from_none() -> None:
    settings = apply_preset("baselines_ppo2", given(learning_rate=3e-4), DEFAULTS)
    assert parse_schedule(settings["learning_rate"], "learning_rate") == LinearSchedule(3e-4, 0)


def test_policy_kwargs_are_merged_by_key() -> None:
    settings = apply_preset("rsl_rl", given(policy_kwargs={"net_arch": [32]}), DEFAULTS)
    assert settings["policy_kwargs"] == {
        "net_arch": [32],
        "activation_fn": th.nn.ELU,
        "ortho_init": False,
        "log_std_init": 0.0,
        "optimizer_kwargs": {"eps": 1e-8},
    }


def test_values_that_do_not_compare_count_as_set() -> None:
    pair = np.array([0.1, 0.3])  # `pair == 0.2` is an array, not a bool
    assert apply_preset("rsl_rl", given(clip_range=pair), DEFAULTS)["clip_range"] is pair


def test_nothing_is_shared_with_the_preset_or_the_caller() -> None:
    before, arguments = copy.deepcopy(PRESETS["rsl_rl"]), given()
    settings = apply_preset("rsl_rl", arguments, DEFAULTS)
    settings["controllers"]["learning_rate"]["target"] = 1.0
    settings["policy_kwargs"]["net_arch"]["pi"].append(1)
    assert PRESETS["rsl_rl"] == before
    assert arguments == given()


def test_every_argument_comes_back() -> None:
    assert set(apply_preset("paper_penalty", given(seed=7), DEFAULTS)) == set(DEFAULTS) | {"policy", "env"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsl-rl", r"preset='rsl-rl' is unknown; did you mean 'rsl_rl'\? Valid: continuous_control, baselines_ppo2"),
        ("fast", "preset='fast' is unknown; valid: continuous_control, baselines_ppo2"),
    ],
)
def test_an_unknown_name_lists_the_presets(name: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        PPOPlus("MlpPolicy", "Pendulum-v1", preset=name)


def test_presets_can_be_listed_without_loading_torch() -> None:
    code = "import sys, sb3_ppo_plus.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
