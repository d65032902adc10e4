"""The command line on Unity games: train, evaluate, export, look, convert, and wrong input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from unity_games import make_build, player_log

from sb3_ppo_plus.cli import main
from sb3_ppo_plus.export import OnnxPolicy

TRAIN = ["train", "--no-graphics", "-n", "600", "--eval-episodes", "3", "--no-progress", "--set", "n_steps=64"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(folder: Path, scene: str, **options: Any) -> Path:
    (folder / "builds").mkdir(exist_ok=True)
    return make_build(folder / "builds", scene, "Game", player_log=folder / "player.log", **options)


def test_a_game_is_trained_evaluated_exported_and_verified(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(here, "echo", agents=3, periods="1,2")
    assert main([*TRAIN, "--unity", "builds/Game", "--n-workers", "2", "--time-scale", "5"]) == 0
    out = capsys.readouterr().out
    assert "unity:builds/Game: trained for" in out and "--video" not in out
    config = yaml.safe_load((here / "runs/Game_1/config.yml").read_text())
    assert config["env"] == "unity:builds/Game" and config["n_envs"] == 2 and config["vec_env"] == "unity"
    assert config["env_kwargs"] == {"time_scale": 5.0, "graphics": False}
    # two copies to train in, one to evaluate in, and no more
    assert sum("num_areas" in entry for entry in player_log(here)) == 3
    assert main(["eval", "runs/Game_1", "--episodes", "3"]) == 0
    assert "(3 episodes)" in capsys.readouterr().out
    assert main(["export", "runs/Game_1", "--target", "mlagents", "-o", "Game.onnx", "--episodes", "4"]) == 0
    assert main(["verify", "Game.onnx", "--model", "runs/Game_1", "--episodes", "4"]) == 0
    assert OnnxPolicy(here / "Game.onnx").spec["target"] == "mlagents"
    assert not any("error" in entry for entry in player_log(here))


@pytest.mark.slow
def test_a_run_is_repeated_from_its_own_configuration(here: Path) -> None:
    build(here, "two", agents=2)
    assert main([*TRAIN, "--unity", "builds/Game", "--behavior", "Goalie", "--set", "env_kwargs.others=random"]) == 0
    assert main(["train", "--config", "runs/Game_1/config.yml", "--no-progress"]) == 0
    assert (here / "runs/Game_2/model.zip").is_file()
    first, second = (yaml.safe_load((here / f"runs/Game_{n}/config.yml").read_text()) for n in (1, 2))
    assert {**first, "command": ""} == {**second, "command": ""}


@pytest.mark.slow
def test_masks_are_kept_in_training_and_evaluation(here: Path) -> None:
    build(here, "grid", agents=4)
    kwargs = "policy_kwargs={features_extractor_class: visual, features_extractor_kwargs: {cnn_output_dim: 16}}"
    assert main([*TRAIN, "--unity", "builds/Game", "--set", kwargs]) == 0
    assert main(["eval", "runs/Game_1", "--episodes", "3", "--stochastic"]) == 0
    assert main(["export", "runs/Game_1", "--target", "mlagents", "--episodes", "3"]) == 0
    assert not any("violations" in str(entry.get("statistic")) for entry in player_log(here))


def test_looking_into_a_game(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(here, "two", agents=3)
    assert main(["unity", "info", "builds/Game", "--no-graphics"]) == 0
    out = capsys.readouterr().out
    assert "Striker?team=0" in out and "3 continuous, branches []" in out and "3 at once" in out
    assert main(["unity", "info", "builds/Game", "--no-graphics", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["behaviors"]["Goalie?team=1"]["branches"] == [4]
    assert found["package_version"] == "3.0.0" and found["communication_version"] == "1.5.0"


def test_looking_sees_masks_groups_and_goals(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(here, "grid", agents=2)
    main(["unity", "info", "builds/Game", "--no-graphics"])
    assert "some forbidden at times" in (out := capsys.readouterr().out)
    assert ", a goal" in out and "image [3, 20, 20]" in out
    build(here, "group", agents=4)
    main(["unity", "info", "builds/Game", "--no-graphics"])
    assert "in 2 groups" in capsys.readouterr().out


def test_a_converted_configuration_trains(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(here, "balance", agents=4)
    document = {
        "behaviors": {"Balance": {"hyperparameters": {"buffer_size": 512, "batch_size": 64}, "max_steps": 600}},
        "env_settings": {"env_path": "builds/Game", "num_envs": 2},
        "engine_settings": {"no_graphics": True},
    }
    (here / "trainer.yaml").write_text(yaml.safe_dump(document))
    assert main(["unity", "convert", "trainer.yaml", "--n-agents", "4", "-o", "ours.yml"]) == 0
    assert "max_grad_norm: ML-Agents clips no gradients" in capsys.readouterr().out
    assert main(["train", "--config", "ours.yml", "--no-progress", "--eval-episodes", "2"]) == 0
    config = yaml.safe_load((here / "runs/Game_1/config.yml").read_text())
    assert config["n_steps"] == 64 and config["n_envs"] == 2 and config["vf_loss"] == "max"


@pytest.mark.parametrize(
    "words, told",
    [
        (["--unity", "builds/Nothing"], "there is no game at builds/Nothing"),
        (["--unity", "builds/Game"], "several behaviors, Goalie?team=1, Striker?team=0; say which"),
        (["--unity", "builds/Game", "--behavior", "Gaolie", "--timeout", "2"], "no agent of behavior 'Gaolie' asked"),
        (["--unity", "builds/Game", "--time-scale", "1000"], "time_scale=1000.0 has to be between 1"),
        (["--unity", "builds/Game", "--set", "env_kwargs.graphic=1"], "UnityVecEnv does not take it; did you mean"),
        (["--unity", "builds/Game", "--set", "env_kwargs.seed=1"], "seed belongs to the run; give seed (--seed)"),
        (["--unity", "builds/Game", "--env", "CartPole-v1"], "give one of them"),
        (["--unity", "builds/Game", "--vec-env", "subproc"], "is a Unity game; leave vec_env at auto"),
        (["--env", "CartPole-v1", "--vec-env", "unity"], "is no Unity game"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_told_before_anything_is_written(
    words: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(here, "two", agents=2)
    assert main([*TRAIN, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error, error
    assert not (here / "runs").exists()
    assert not subprocess.run(["pgrep", "-f", str(here)], capture_output=True).stdout


def test_a_game_is_not_filmed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(here, "echo", agents=2)
    assert main([*TRAIN, "--unity", "builds/Game"]) == 0
    assert main(["eval", "runs/Game_1", "--video", "x.gif"]) == 2
    assert "draws in its own window" in capsys.readouterr().err


def test_the_editor_is_trained_without_evaluations(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game = build(here, "echo", agents=2)
    player = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.5; exec {game} --mlagents-port 5004"])
    assert main([*TRAIN, "--unity", "editor"]) == 0
    assert player.wait(10) == 0
    assert "not evaluated" in capsys.readouterr().out and (here / "runs/editor_1/model.zip").is_file()
