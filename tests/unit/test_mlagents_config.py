"""Configurations of mlagents-learn, converted."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import config_from_mapping
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.mlagents_config import convert

BALL = """
behaviors:
  3DBall:
    trainer_type: ppo
    hyperparameters:
      batch_size: 64
      buffer_size: 12000
      learning_rate: 0.0003
      beta: 0.001
      epsilon: 0.2
      lambd: 0.99
      num_epoch: 3
      learning_rate_schedule: linear
    network_settings: {normalize: true, hidden_units: 128, num_layers: 2, vis_encode_type: simple}
    reward_signals:
      extrinsic: {gamma: 0.99, strength: 1.0}
    keep_checkpoints: 5
    max_steps: 500000
    time_horizon: 1000
    summary_freq: 12000
env_settings: {env_path: builds/3DBall, num_envs: 2, base_port: 6000, seed: 7, max_lifetime_restarts: 3}
engine_settings: {time_scale: 10, width: 100, height: 100, no_graphics: true}
environment_parameters:
  gravity:
    curriculum:
      - {value: 3.0, completion_criteria: {measure: reward, behavior: 3DBall, threshold: 50, min_lesson_length: 10}}
      - {value: 9.81}
"""


def read(text: str) -> Any:
    return yaml.safe_load(text)


def test_a_whole_file() -> None:
    result = convert(read(BALL), n_agents=12)
    config = result.config
    assert result.behavior == "3DBall"
    assert config["env"] == "unity:builds/3DBall" and config["n_envs"] == 2 and config["seed"] == 7
    assert config["n_timesteps"] == 500_000
    # a buffer of 12,000 steps of 2 x 12 agents
    assert config["n_steps"] == 500 and config["batch_size"] == 64 and config["n_epochs"] == 3
    assert config["learning_rate"] == {"type": "linear", "start": 0.0003, "end": 1e-10}
    assert config["ent_coef"] == {"type": "linear", "start": 0.001, "end": 1e-5}
    assert config["clip_range"] == config["clip_range_vf"] == {"type": "linear", "start": 0.2, "end": 0.1}
    assert config["vf_loss"] == "max" and config["gae_lambda"] == 0.99 and config["gamma"] == 0.99
    assert config["normalize"] == {"norm_obs": True, "norm_reward": False, "clip_obs": 5.0}
    kwargs = config["policy_kwargs"]
    assert kwargs["net_arch"] == [128, 128] and kwargs["features_extractor_kwargs"]["encoder"] == "simple"
    assert config["env_kwargs"] == {
        "behavior": "3DBall",
        "base_port": 6000,
        "max_restarts": 3,
        "time_scale": 10,
        "graphics": False,
        "engine": {"width": 100, "height": 100},
        "environment_parameters": read(BALL)["environment_parameters"],
    }
    assert any(note.startswith("time_horizon:") for note in result.notes)
    assert not any("not known" in note for note in result.notes)


def test_what_comes_out_is_a_configuration_that_runs_read() -> None:
    config = config_from_mapping(convert(read(BALL), n_agents=12).config)
    assert config.env == "unity:builds/3DBall" and config.n_envs == 2
    assert build_policy_kwargs(config.hyperparameters["policy_kwargs"])["features_extractor_class"] is not None


def test_what_a_file_leaves_out_is_what_mlagents_would_do() -> None:
    result = convert({"behaviors": {"A": None}})
    config = result.config
    assert config["n_timesteps"] == 500_000 and config["n_epochs"] == 3 and config["batch_size"] == 1024
    assert config["n_steps"] == 10_240 and config["policy_kwargs"]["net_arch"] == [128, 128]
    assert config["learning_rate"]["start"] == 3e-4 and config["normalize"] is False
    assert "env" not in config and any("--n-agents" in note for note in result.notes)


def test_schedules_of_their_own_and_default_settings() -> None:
    text = """
    default_settings: {hyperparameters: {learning_rate: 0.001, learning_rate_schedule: constant, batch_size: 32}}
    behaviors:
      A: {hyperparameters: {beta_schedule: linear, buffer_size: 16}}
    """
    config = convert(read(text)).config
    assert config["learning_rate"] == 0.001 and config["clip_range"] == 0.2
    assert config["ent_coef"] == {"type": "linear", "start": 0.005, "end": 1e-5}
    assert config["batch_size"] == 16, "no more than a rollout"


@pytest.mark.parametrize(
    "settings, note",
    [
        ({"self_play": {"window": 10}}, "self_play: there is none; play others with a model"),
        ({"reward_signals": {"curiosity": {"strength": 0.1}}}, "reward_signals.curiosity: there is no intrinsic"),
        ({"reward_signals": {"extrinsic": {"strength": 0.5}}}, "strength=0.5: scale the rewards in the game"),
        ({"network_settings": {"memory": {"memory_size": 64}}}, "network_settings.memory: no recurrent policies"),
        ({"network_settings": {"vis_encode_type": "resnet"}}, "resnet is not offered"),
        ({"behavioral_cloning": {"demo_path": "x"}}, "behavioral_cloning: there is no imitation"),
        ({"hyperparameters": {"shared_critic": True}}, "hyperparameters.shared_critic: not known here"),
        ({"surprise": 1}, "surprise: not known here"),
    ],
)
def test_what_has_no_equivalent_is_told(settings: dict[str, Any], note: str) -> None:
    notes = convert({"behaviors": {"A": settings}}).notes
    assert any(note in line for line in notes), notes


def test_other_behaviors_are_told() -> None:
    notes = convert({"behaviors": {"Striker": {}, "Goalie": {}}}, "Striker").notes
    assert any("Goalie can be played by" in note for note in notes)


@pytest.mark.parametrize(
    "document, behavior, words",
    [
        ({}, None, "no behaviors"),
        ({"behaviors": {"A": {}, "B": {}}}, None, "the behaviors A, B; choose one"),
        ({"behaviors": {"Striker": {}}}, "Stricker", "no behavior 'Stricker'; did you mean"),
        ({"behaviors": {"A": {"trainer_type": "sac"}}}, None, "trainer_type='sac' and this is PPO; SB3 has SAC"),
        ({"behaviors": {"A": {"hyperparameters": {"learning_rate_schedule": "cosine"}}}}, None, "linear and constant"),
    ],
)
def test_files_that_cannot_be_converted(document: Any, behavior: str | None, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        convert(document, behavior)
