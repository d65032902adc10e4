"""``ppo-plus benchmark`` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmark_folders import fill

from sb3_ppo_plus.benchmark.plan import plan_runs
from sb3_ppo_plus.benchmark.results import BenchmarkFolder
from sb3_ppo_plus.benchmark.suite import load_suite, suite_names
from sb3_ppo_plus.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, main
from sb3_ppo_plus.runs.curve import read_evaluations

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"n_envs": 2, "n_steps": 32, "batch_size": 32, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
BROKEN = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Broken(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 60:
            raise RuntimeError("the wheel came off")
        return super().step(action)

gym.register("Broken-v0", Broken)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_suite(path: Path, tasks: dict[str, int], **changes: Any) -> Path:
    content = {
        "name": "mine",
        "tasks": {env: {"n_timesteps": steps} for env, steps in tasks.items()},
        "variants": {"plus": {"set": SETTINGS}},
        "seeds": [3],
        "protocol": {"eval_episodes": 2, "evaluations": 2},
    }
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sb3_ppo_plus", "benchmark", *words]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def processes(folder: Path) -> list[int]:
    """Processes of runs in a folder that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "sb3_ppo_plus.benchmark.process" in words and any(str(folder) in word for word in words):
            found.append(int(path.parent.name))
    return found


def test_a_suite_is_trained_and_what_fails_does_not_stop_the_rest(
    here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(here))
    tasks = {"broken:Broken-v0": 256, "CartPole-v1": 256}
    words = ["benchmark", str(write_suite(here / "mine.yml", tasks)), "-j", "2"]
    assert main(words) == EXIT_FAILED
    out, err = capfd.readouterr()
    assert "suite mine: 2 runs, writing to benchmark_runs/mine" in out
    assert "error: plus · broken:Broken-v0 · seed 3 failed: RuntimeError: the wheel came off" in err
    assert "plus · CartPole-v1 · seed 3: return" in err
    folder = BenchmarkFolder(here / "benchmark_runs" / "mine")
    done = next(entry for entry in folder.read() if entry.done)
    assert done.steps == 256 and len(done.final_returns) == 2 and done.training_episodes > 3
    planned = next(run for run in plan_runs(load_suite(folder.suite)) if run.task == "CartPole-v1")
    place = folder.run(planned)
    curve = place.read_curve()
    assert curve is not None and curve.episodes.sum() == done.training_episodes and len(curve.eval_steps) == 3
    total = float(np.nansum(curve.returns * curve.episodes)) / done.training_episodes
    assert total == pytest.approx(done.training_return)
    # the same line goes on: what is done stays, what failed is tried again
    kept = place.curve.stat().st_mtime_ns
    (here / "broken.py").write_text(BROKEN.replace("> 60", "> 10_000"))
    assert main(words) == EXIT_OK
    assert place.curve.stat().st_mtime_ns == kept
    assert [entry.task for entry in folder.read() if entry.done] == ["CartPole-v1", "broken:Broken-v0"]
    assert "2 of the 2 runs" in (folder.report / "report.md").read_text()
    assert main(["benchmark", "status", str(folder.path), "--json"]) == EXIT_OK
    state = json.loads(capfd.readouterr().out.partition("{")[2].join(["{", ""]))
    assert state["done"] == 2 and state["missing"] == [] and state["failed"] == [] and not state["at_work"]


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_ctrl_c_ends_everything_and_loses_nothing_that_was_done(here: Path) -> None:
    suite = write_suite(here / "mine.yml", {"CartPole-v1": 10_000_000})
    process = start(str(suite), "-o", str(here / "out"))
    wait_for(lambda: list((here / "out").rglob("progress.json")))
    assert main(["benchmark", "status", str(here / "out")]) == EXIT_OK
    assert main(["benchmark", str(suite), "-o", str(here / "out")]) == EXIT_USAGE, "one process at a time"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert "interrupted: 0 of 1 runs are done; the same line goes on" in err and "Traceback" not in err
    assert processes(here / "out") == [] and BenchmarkFolder(here / "out").read() == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes")
def test_runs_end_with_a_runner_that_was_killed_and_begin_anew(here: Path) -> None:
    suite = write_suite(here / "mine.yml", {"CartPole-v1": 30_000})
    process = start(str(suite), "-o", str(here / "out"))
    wait_for(lambda: list((here / "out").rglob("progress.json")))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not processes(here / "out"))
    assert main(["benchmark", str(suite), "-o", str(here / "out"), "--no-progress"]) == EXIT_OK
    assert [entry.steps for entry in BenchmarkFolder(here / "out").read()] == [30_016]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes")
def test_a_run_that_was_killed_is_a_failure_with_a_reason(here: Path) -> None:
    suite = write_suite(here / "mine.yml", {"CartPole-v1": 10_000_000})
    process = start(str(suite), "-o", str(here / "out"))
    wait_for(lambda: list((here / "out").rglob("progress.json")))
    for number in processes(here / "out"):
        os.kill(number, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_FAILED and "its process ended with signal 9" in err
    assert not BenchmarkFolder(here / "out").read()[0].done


@pytest.mark.slow
def test_train_repeats_a_run_and_sb3_learns_the_same(here: Path) -> None:
    variants = {"plus": {"set": SETTINGS}, "sb3": {"kind": "sb3", "set": {**SETTINGS, "learning_rate": "lin_3e-4"}}}
    variants["plus"]["set"] = variants["sb3"]["set"]
    suite = write_suite(here / "mine.yml", {"Pendulum-v1": 2048}, variants=variants, baseline="sb3")
    assert main(["benchmark", str(suite), "-j", "2", "-o", "out"]) == EXIT_OK
    plus, sb3 = sorted(BenchmarkFolder(here / "out").read(), key=lambda entry: entry.variant)
    assert plus.final_returns == sb3.final_returns and plus.training_return == sb3.training_return
    planned = plan_runs(load_suite(here / "out" / "suite.yml"), variants=["plus"])[0]
    config = BenchmarkFolder(here / "out").run(planned).config
    assert main(["train", "--config", str(config), "--no-progress"]) == EXIT_OK
    assert tuple(read_evaluations(here / "runs/Pendulum-v1_1/evaluations.npz")[1][-1]) == plus.final_returns
    assert main(["eval", str(config.parent), "--episodes", "2"]) == EXIT_OK


def test_suites_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "list"]) == EXIT_OK
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == suite_names()


def test_report_from_what_is_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill(here / "out", {("plus", "CartPole-v1"): [1.0, 2.0]})
    assert main(["benchmark", "report", "out"]) == EXIT_OK
    assert "out/report/report.md" in capsys.readouterr().out
    assert "2 of the 16 runs" in (folder.report / "report.md").read_text()
    assert main(["benchmark", "status", "out"]) == EXIT_OK
    assert "small: 2 runs done, 14 to do, 0 failed; nobody is at work" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smoky"], "there is no suite 'smoky'; did you mean smoke?"),
        (["smoke", "somewhere"], "give the folder of the runs with --output somewhere"),
        (["status"], "benchmark status wants the folder of a benchmark"),
        (["report", "nowhere"], "nowhere is no folder of a benchmark"),
        (["smoke", "--tasks", "Pendulum-v0"], "tasks: the suite has no 'Pendulum-v0'; did you mean Pendulum-v1?"),
        (["smoke", "--seeds", "x"], "--seeds is 'x'; give different whole numbers"),
        (["smoke", "-j", "0"], "jobs is 0; give at least 1"),
        (["smoke", "-n", "few"], "n_timesteps is 'few'; give a whole number"),
        (["smoke", "--job", "a"], "argument -j/--jobs: invalid int value: 'a'"),
        (["unknown.yml"], "unknown environment 'CartPol-v1'; did you mean CartPole-v1"),
        (["smoke", "-o", "other"], "other holds the suite small; give smoke another --output"),
    ],
)
def test_wrong_input(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    write_suite(here / "unknown.yml", {"CartPol-v1": 100})
    fill(here / "other", {})
    assert main(["benchmark", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not (here / "benchmark_runs").exists()
