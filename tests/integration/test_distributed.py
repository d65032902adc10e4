"""Two processes learn one policy: as one would with the rows of both, bit for bit alike, and on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
import yaml
from rank_trainings import N_ENVS, N_STEPS, SIZE, UPDATES, outcome, run_ranks, update

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import checkpoints_in
from sb3_ppo_plus.cli.launch import launch_of_this_process
from sb3_ppo_plus.distributed import current_ranks, join
from sb3_ppo_plus.errors import InvalidArgument

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")

# Measured: up to 2e-6, by processor. Sums of a gradient are rounded in another order, and Adam divides by their size.
ROUNDING = 1e-5


def run(scenario: str, folder: Path) -> list[dict[str, Any]]:
    found = run_ranks(scenario, folder)
    assert all("error" not in each for each in found), "\n".join(each.get("error", "") for each in found)
    return found


# ------------------------------------------------ one update


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run("updates", tmp_path_factory.mktemp("updates"))


@pytest.mark.parametrize("case", UPDATES)
def test_an_update_is_that_of_one_process_with_the_rows_of_both(case: str, updates: list[dict[str, Any]]) -> None:
    first, second = (each[case] for each in updates)
    assert first == second  # to the last bit: parameters, decisions, log
    one = outcome(update(case, slice(None)))
    assert (first["steps"], first["epochs"]) == (one["steps"], one["epochs"])
    assert first["controllers"] == pytest.approx(one["controllers"], rel=1e-6)
    assert first["log"] == pytest.approx(one["log"], rel=1e-3, abs=1e-6)
    assert np.abs(np.subtract(first["parameters"], one["parameters"])).max() < ROUNDING


def test_the_kl_of_all_stops_an_update_that_neither_rank_alone_would_end_there() -> None:
    halves = [slice(0, N_ENVS), slice(N_ENVS, None)]
    alone = [update("stops", half).num_gradient_steps for half in halves]
    assert update("stops", slice(None)).num_gradient_steps not in alone


def test_advantages_standardized_apart_give_other_parameters(updates: list[dict[str, Any]]) -> None:
    one = outcome(update("plain", slice(None)))
    assert np.abs(np.subtract(updates[0]["alone"]["parameters"], one["parameters"])).max() > 100 * ROUNDING


# ------------------------------------------------ trainings


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run("learning", tmp_path_factory.mktemp("learning"))


@pytest.mark.parametrize("kind", ["numpy", "tensors"])
def test_ranks_stay_alike_and_see_what_is_theirs(kind: str, trainings: list[dict[str, Any]]) -> None:
    first, second = (each[kind] for each in trainings)
    for name in ("weights", "weights_at_end", "episodes", "mean", "var", "counts", "explained", "timesteps"):
        assert first[name] == second[name], name
    assert first["first_obs"] != second["first_obs"]
    assert first["actions"] != second["actions"]
    assert first["weights"] != first["weights_at_end"]


@pytest.mark.parametrize("kind", ["numpy", "tensors"])
def test_steps_and_statistics_count_those_of_all(kind: str, trainings: list[dict[str, Any]]) -> None:
    found = trainings[0][kind]
    per_step = SIZE * N_ENVS
    steps = 4 * N_STEPS
    assert found["timesteps"] == [per_step * (i + 1) for i in range(steps)]
    # Observations of the reset count as well, those of the reset that rank 0 made before, and 1e-4 to begin with; the
    # last call added two rollouts.
    more = found["ended_at"] - per_step * steps
    assert more == 2 * N_STEPS * per_step
    seen = per_step * steps + more
    assert found["counts"] == pytest.approx([seen + per_step + N_ENVS + 1e-4, seen + 1e-4], abs=1e-6)
    assert sum(length for _, length in found["episodes"]) > per_step * steps / 2
    assert found["explained"] < 1.0


@pytest.mark.parametrize("kind", ["numpy", "tensors"])
def test_only_the_first_rank_writes(kind: str, trainings: list[dict[str, Any]]) -> None:
    first, second = (each[kind] for each in trainings)
    assert any("events" in name for name in first["files"])
    assert second["files"] == []


def test_what_differs_is_told_on_every_rank(tmp_path: Path) -> None:
    first, second = run("refusals", tmp_path)
    assert first == second
    assert "n_epochs is 2 on rank 0 and 3 on rank 1" in first["epochs"]
    assert "total_timesteps is 64 on rank 0 and 128 on rank 1" in first["timesteps"]
    assert "state of the optimizer" in first["optimizer"]
    assert "['SaveCheckpoints']" in first["callbacks"] and "on every rank" in first["callbacks"]


# ------------------------------------------------ going on


@pytest.mark.slow
@pytest.mark.parametrize("end", ["killed", "terminated"])
def test_a_training_goes_on_exactly_after_one_rank_was_lost(end: str, tmp_path: Path) -> None:
    expected = run("whole", tmp_path)
    assert expected[0]["digest"] != expected[1]["digest"]  # environments and generators are each rank's own
    cut = run_ranks(end, tmp_path)
    if end == "killed":
        assert cut[1]["code"] == -signal.SIGKILL
        assert cut[0]["code"] != 0 and "RuntimeError" in cut[0]["error"]  # at once, not after a timeout
        boundary = 3 * 128
    else:
        assert cut == [{"signal": signal.SIGTERM}] * 2
        boundary = 3 * 128  # the rollout in which it came was finished, and learned from
    found = run("resumed", tmp_path)
    assert [each["from"] for each in found] == [boundary] * 2
    assert [each["digest"] for each in found] == [each["digest"] for each in expected]


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_and_says_that_it_is_not_exact(tmp_path: Path) -> None:
    found = {}
    for size in (1, 3):
        folder = tmp_path / str(size)
        folder.mkdir()
        run_ranks("killed", folder)
        found[size] = run_ranks("resumed", folder, size=size)
    assert [each.get("from") for each in found[1] + found[3]] == [3 * 128] * 4, found
    assert len({each["digest"] for each in found[3]}) == 3
    assert all("2 ranks have saved it" in note for each in found[1] + found[3] for note in each["told"])


# ------------------------------------------------ torchrun and the command line


def torchrun(*words: str, folder: Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SIZE}", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [*command, *words], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


TRAIN = ("-m", "sb3_ppo_plus", "train", "--env", "Pendulum-v1", "--n-envs", "2", "--seed", "4", "--no-progress")
SHORT = (
    *("-n", "1536", "--set", "n_steps=64", "--set", "n_epochs=2", "--set", "env_wrapper=dying.Dying"),
    *("--eval-episodes", "1", "--no-doctor"),
)


@pytest.mark.slow
def test_a_run_whose_rank_is_killed_is_started_again_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    output = finish(torchrun(*TRAIN, *SHORT, folder=tmp_path, options=("--max-restarts=1",)))
    assert (tmp_path / "killed").read_text() == "1"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["Pendulum-v1_1"]
    assert output.count("writing to") == 2 and "trained for 1,536 steps" in output
    cut = tmp_path / "runs" / "Pendulum-v1_1"
    assert json.loads((cut / "launch.json").read_text())["command"].startswith("ppo-plus train")
    with (cut / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["time/iterations"]]
    assert [int(row["time/total_timesteps"]) for row in rows] == [*range(256, 1537, 256)]
    # The wrapper kills but once: this one comes to its end without a break.
    finish(torchrun(*TRAIN, *SHORT, folder=tmp_path))
    whole = tmp_path / "runs" / "Pendulum-v1_2"
    models = [PPOPlus.load(folder / "model.zip", device="cpu") for folder in (cut, whole)]
    for one, two in zip(*(model.policy.parameters() for model in models), strict=True):
        assert th.equal(one, two)
    configs = [yaml.safe_load((folder / "config.yml").read_text()) for folder in (cut, whole)]
    assert configs[0] == configs[1] and configs[0]["seed"] == 4


DYING = '''
import os, signal
from pathlib import Path
import gymnasium as gym

class Dying(gym.Wrapper):
    """Kills the second rank in its third rollout, once."""

    steps = 0

    def step(self, action):
        Dying.steps += 1
        if Dying.steps == 2 * (2 * 64 + 20) and os.environ["RANK"] == "1" and not Path("killed").exists():
            Path("killed").write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)
'''


@pytest.mark.slow
def test_a_signal_to_torchrun_ends_all_ranks_with_a_checkpoint(tmp_path: Path) -> None:
    process = torchrun(*TRAIN, "-n", "1e7", "--set", "n_steps=64", "--eval-freq", "0", folder=tmp_path)
    checkpoints = tmp_path / "runs" / "Pendulum-v1_1" / "checkpoints"
    deadline = time.monotonic() + 90
    while len(checkpoints_in(checkpoints)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "interrupted after" in output and "ppo-plus resume" in output, output


# ------------------------------------------------ one process


def test_a_process_alone_joins_nobody() -> None:
    with join() as ranks:
        assert (ranks.rank, ranks.size, ranks.is_first, current_ranks()) == (0, 1, True, None)
        model = PPOPlus("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu").learn(64)
    other = PPOPlus("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu").learn(64)
    for one, two in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
        assert th.equal(one, two)


def test_a_timeout_that_cannot_work_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="timeout=0"), join(timeout=0.0):
        pass


def test_the_launcher_is_the_job_or_else_the_parent_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_of_this_process() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    launch = launch_of_this_process()
    assert launch is not None and (launch.key, launch.restarts) == ("job7", 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    launch = launch_of_this_process()
    assert launch is not None and launch.key.endswith(f":{os.getppid()}")
