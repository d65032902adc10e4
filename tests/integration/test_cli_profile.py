"""``ppo-plus train --profile``: a table that accounts for all of the time; ``--compile``: what it stands for."""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path
from typing import Any

import pytest

from sb3_ppo_plus import cli
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import prepare_run
from sb3_ppo_plus.runs.train import Options, RunResult, train_run

SETTINGS = ["n_steps=32", "batch_size=32", "n_epochs=2", "n_timesteps=256", "n_envs=2", "eval_episodes=2"]
SETTINGS += ["normalize=true", "compile_update=false"]  # compiling takes longer than these trainings
WORDS = ["--no-progress", "--eval-freq", "100", *(word for setting in SETTINGS for word in ("--set", setting))]
PENDULUM = ["train", "--env", "Pendulum-v1", *WORDS]
ROW = re.compile(r"^  (\w+) +([\d.]+) +([\d.]+) %(?: +([\d.,]+) us per (\w+ step))?$", re.MULTILINE)
SUM = re.compile(r"^  sum +([\d.]+) +([\d.]+) %   of ([\d.]+) s wall time$", re.MULTILINE)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A short training that was asked where its time went."""
    config = assemble("Pendulum-v1", settings=[*SETTINGS, "eval_freq=100"])
    prepared = prepare_run(config)
    with prepared.model.profile.section("before the training"):
        pass
    return train_run(prepared, tmp_path_factory.mktemp("runs"), options=Options(profile=True))


def test_the_table_accounts_for_all_of_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PENDULUM, "--profile", "--run-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    table = (tmp_path / "Pendulum-v1_1" / "profile.txt").read_text()
    assert out.endswith("\n\n" + table)  # after the summary
    assert "128 vector steps, 16 gradient steps, torch on 1 thread\n" in table
    rows = {name: (float(seconds), float(share)) for name, seconds, share, _, _ in ROW.findall(table)}
    assert {"policy", "env", "gradient", "evaluation", "other"} <= rows.keys()
    found = SUM.search(table)
    assert found is not None
    total, share, wall = (float(number) for number in found.groups())
    assert total == wall > 0
    assert share == 100.0
    # what is shown adds up as well: thousandths of a second, tenths of a percent
    assert sum(round(seconds * 1000) for seconds, _ in rows.values()) == round(wall * 1000)
    assert sum(round(part * 10) for _, part in rows.values()) == 1000
    assert [seconds for seconds, _ in rows.values()] == sorted((s for s, _ in rows.values()), reverse=True)
    units = {name: unit for name, _, _, _, unit in ROW.findall(table)}
    assert (units["policy"], units["gradient"], units["evaluation"]) == ("vector step", "gradient step", "")


def test_the_report_holds_the_whole_training(profiled: RunResult) -> None:
    report = profiled.profile
    assert report is not None
    assert sum(report.seconds.values()) == pytest.approx(report.wall, rel=1e-12)
    assert report.wall > profiled.seconds - 1e-6  # the clock starts before the training and is read after it
    assert (report.vector_steps, report.gradient_steps, report.threads) == (128, 16, 1)
    assert "before the training" not in report.seconds
    # four evaluations of two episodes took time; so did everything else that a training does
    assert all(report.seconds[section] > 0 for section in ("evaluation", "policy", "env", "gradient"))
    start, end, most = report.memory
    if start is not None and end is not None:
        assert most is not None and most >= end > 0


def test_the_log_has_the_time_of_each_iteration(profiled: RunResult) -> None:
    report = profiled.profile
    assert report is not None
    with open(profiled.folder.progress) as file:
        rows = list(csv.DictReader(file))
    told = [row for row in rows if row["time/memory_mib"]]
    assert len(told) == 4  # 256 steps are four rollouts of 2 x 32
    for section, seconds in report.seconds.items():
        logged = sum(float(row.get(f"time/{section}_seconds") or 0.0) for row in told)
        # the log is written before an update: the last update and the last evaluation are in the totals only
        assert logged <= seconds + 1e-6
    assert sum(float(row["time/evaluation_seconds"]) for row in told) > 0


def test_without_the_flag_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PENDULUM, "--verbose", "--run-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "total_timesteps" in out  # SB3's table is there, without the new keys
    assert "_seconds" not in out
    assert "memory" not in out
    assert "wall time  " in out and "s wall time" not in out
    assert not (tmp_path / "Pendulum-v1_1" / "profile.txt").exists()
    assert "time/memory_mib" in (tmp_path / "Pendulum-v1_1" / "progress.csv").read_text()


def test_a_training_that_is_interrupted_tells_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare_run(assemble("Pendulum-v1", settings=[*SETTINGS, "eval_freq=0"]))

    def train() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared.model, "train", train)
    result = train_run(prepared, tmp_path, options=Options(profile=True))
    assert result.interrupted
    assert result.profile is not None
    assert (result.profile.vector_steps, result.profile.gradient_steps) == (32, 0)
    assert sum(result.profile.seconds.values()) == pytest.approx(result.profile.wall, rel=1e-12)
    assert "per gradient step" not in result.folder.profile.read_text()


def configurations(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Collect what would be trained instead of training it."""
    found: list[RunConfig] = []

    def note(config: RunConfig, *args: Any, **options: Any) -> argparse.Namespace:
        found.append(config)
        return argparse.Namespace(signal=None)

    monkeypatch.setattr("sb3_ppo_plus.cli.train.train_and_report", note)
    return found


@pytest.mark.parametrize(("word", "value"), [("auto", "auto"), ("on", True), ("off", False)])
def test_compile_is_an_argument_of_the_model(word: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = configurations(monkeypatch)
    assert cli.main([*PENDULUM, "--compile", word]) == 0
    assert found[0].hyperparameters["compile_update"] == value
    assert cli.main(PENDULUM) == 0
    assert found[1].hyperparameters["compile_update"] is False  # as --set has it


def test_compile_takes_three_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*PENDULUM, "--compile", "sometimes"]) == cli.EXIT_USAGE
    assert re.search(r"--compile: invalid choice: 'sometimes' .*auto.*on.*off", capsys.readouterr().err)
