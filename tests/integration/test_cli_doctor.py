"""``ppo-plus doctor``, and the doctor in ``ppo-plus train``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch as th

from sb3_ppo_plus import PPOPlus, cli

PENDULUM = [
    "train",
    "--env",
    "Pendulum-v1",
    "-n",
    "4096",
    "--eval-episodes",
    "1",
    "--eval-freq",
    "2048",
    "--no-progress",
]
SMALL = ["--n-envs", "4", "--set", "n_steps=128", "--set", "n_epochs=2", "--set", "use_sde=false"]


def train(folder: Path, *words: str) -> Path:
    assert cli.main([*PENDULUM, *SMALL, *words, "--run-dir", str(folder)]) == 0
    return folder / "Pendulum-v1_1"


def parameters(run: Path) -> th.Tensor:
    model = PPOPlus.load(run / "model.zip", device="cpu")
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose learning rate is far too high."""
    return train(tmp_path_factory.mktemp("runs"), "--set", "learning_rate=0.05")


def test_a_run_has_its_report_and_its_summary_names_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, "--set", "learning_rate=0.05")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  doctor ")]
    assert "learning-rate-high" in line and line.endswith(f"{run / 'doctor.html'}")
    data = json.loads((run / "doctor.json").read_text())
    assert data["updates"] == 8 and data["timesteps"] == 4096
    assert data["settings"]["learning_rate"] == 0.05
    assert "doctor/return_p99" in (run / "progress.csv").read_text()


def test_without_the_doctor_nothing_is_different_but_the_report(tmp_path: Path) -> None:
    watched, alone = train(tmp_path / "a"), train(tmp_path / "b", "--no-doctor")
    assert th.equal(parameters(watched), parameters(alone))
    assert not (alone / "doctor.json").exists() and (watched / "doctor.json").exists()
    assert "doctor/" not in (alone / "progress.csv").read_text()


def test_a_run_is_examined_after_the_fact(sick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["doctor", str(sick), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{sick}: 8 updates, 4,096 steps, from progress.csv\n")
    assert "kl-high: updates move the policy too far" in printed
    assert "         try      learning_rate=0.0" in printed
    assert (tmp_path / "doctor.html").is_file() and (tmp_path / "doctor.json").is_file()
    assert cli.main(["doctor", str(sick), "--strict", "--output", str(tmp_path)]) == 1


def test_a_crashed_run_of_any_length_is_examined(
    sick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the table, cut in the middle of a line, and nothing else."""
    text = (sick / "progress.csv").read_text()
    (tmp_path / "progress.csv").write_text(text[: int(0.8 * len(text))])
    assert cli.main(["doctor", str(tmp_path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert 3 <= data["updates"] < 8
    assert data["worst"] in ("warning", "alarm")


def test_a_configuration_is_examined_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--env", "Pendulum-v1"]) == 0
    printed = capsys.readouterr().out
    assert "10 cut by a time limit" in printed and "warning" not in printed
    words = ["doctor", "--env", "Pendulum-v1", "--set", "clip_range=1", "--strict", "--json"]
    assert cli.main(words) == 1
    data = json.loads(capsys.readouterr().out)
    assert "clip-range-wide" in [finding["code"] for finding in data["findings"]]
    assert data["facts"]["actions"] == "Box(-2.0, 2.0, (1,), float32)"


def test_alone_it_checks_the_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "ok       update             64 steps of CartPole-v1" in printed
    assert cli.main(["doctor", "--json"]) == 0
    assert {check["state"] for check in json.loads(capsys.readouterr().out)} <= {"ok", "missing"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/none"], "runs/none does not exist; give the folder of a run"),
        ([".", "--env", "Pendulum-v1"], "give a run, or --env and --config"),
        (["--output", "."], "--output is for the report of a run"),
        (["--set", "gamma=1"], "--set changes a configuration"),
        (["--env", "Pendulum-v9"], "Pendulum-v9"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *words]) == 2
    assert message in capsys.readouterr().err
