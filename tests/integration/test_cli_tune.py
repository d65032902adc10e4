"""``ppo-plus tune`` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from optuna.trial import TrialState
from tuning_studies import ROOT, SETTINGS, free_port, make

from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_NOT_BETTER, EXIT_NOTHING, EXIT_OK, EXIT_USAGE, main
from sb3_ppo_plus.cli.tune.options import COMMANDS
from sb3_ppo_plus.tuning.confirm import Confirmation, Plan, read_decision
from sb3_ppo_plus.tuning.lease import LEASE, identify
from sb3_ppo_plus.tuning.study import EVALUATIONS, create_study, open_study, prolong
from sb3_ppo_plus.tuning.study import SETTINGS as DRAWN

SMALL = ["--env", "CartPole-v1", "-n", "512", "--n-envs", "2", "--n-evals", "2", "--eval-episodes", "1"]
SMALL += [word for setting in SETTINGS for word in ("--set", setting)]
URL = "journal:studies/CartPole-v1/journal.log"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(url: str = URL, **scores: float) -> Any:
    """Let the waiting trials of a study come to made-up values, better with larger clip ranges."""
    opened = open_study(url, scores.pop("name", None))  # type: ignore[arg-type]
    for number, trial in enumerate(opened.study.get_trials(states=(TrialState.WAITING,))):
        asked = opened.study.ask()
        values = {"clip_range": round(0.1 + 0.01 * number, 3), "learning_rate": 1e-3, "n_epochs": 2}
        asked.storage.set_trial_user_attr(asked._trial_id, DRAWN, values)
        asked.storage.set_trial_user_attr(asked._trial_id, EVALUATIONS, {"steps": [0, 512], "returns": [9.0, number]})
        asked.suggest_float("clip_range", 0.05, 0.4)
        opened.study.tell(trial.number, float(number))
    return opened


def decide(opened: Any, winner: float, others: float) -> None:
    """Let the confirmation come to made-up scores."""
    confirmation = Confirmation(opened, Plan(top_k=1, seeds=(200, 201, 202)))
    while confirmation.advance():
        for trial in confirmation.opened.study.get_trials(states=(TrialState.WAITING,)):
            job = trial.user_attrs["job"]
            score = (winner if job["candidate"].startswith("trial") else others) + job["seed"] / 1000
            store = confirmation.opened.storage
            store.set_trial_user_attr(trial._trial_id, EVALUATIONS, {"steps": [0, 512], "returns": [0.0, score]})
            store.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [score])


@pytest.mark.slow
def test_run_searches_confirms_and_reports(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--n-trials", "3", "--top-k", "1", "--confirm-seeds", "200-202", "--workers", "2", "--heartbeat", "1"]
    code = main(["tune", "run", *SMALL, *words, "--baselines", "current"])
    out, err = capfd.readouterr()
    # with so little training anything may win; which way it went is said and done
    assert code in (EXIT_OK, EXIT_NOT_BETTER), err
    assert "3 finished" in out or "pruned" in out
    assert "winner of the race" in out and "Confirmed on training seeds 200, 201, 202" in out
    assert "3/3 trials" in err and "with seed 202" in err
    assert (here / "studies/CartPole-v1/report/report.html").is_file()
    assert (here / "zoo_configs/ppo_plus.yml").is_file() == (code == EXIT_OK)
    candidates, comparisons = read_decision(open_study(URL))
    assert len(candidates[0].scores) == 3 and [c.baseline for c in comparisons] == ["current"]
    # a finished trial is a run folder: it can be evaluated
    folder = here / "studies/CartPole-v1/confirmation/0"
    assert main(["eval", str(folder), "--episodes", "2"]) == EXIT_OK
    # the same line again does nothing twice
    assert main(["tune", "run", "--env", "CartPole-v1", "--no-confirm"]) == EXIT_OK
    assert open_study(URL).count() == 3


def test_create_then_look_at_it_from_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "create", *SMALL, "--n-trials", "12", "--study-name", "CartPole-v1"]) == EXIT_OK
    assert "tune worker CartPole-v1" in capsys.readouterr().out
    assert yaml.safe_load((here / "studies/CartPole-v1/study.yml").read_text())["base"]["n_steps"] == 32
    assert main(["tune", "importance"]) == EXIT_NOTHING
    fill()
    capsys.readouterr()
    assert main(["tune", "status"]) == EXIT_OK
    assert "12/12 trials · best mean return over the training 11.0 (trial 11)" in capsys.readouterr().out
    assert main(["tune", "status", "studies/CartPole-v1", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)[0]["counts"]["finished"] == 12
    assert main(["tune", "importance", "--json"]) == EXIT_OK
    assert "clip_range" in json.loads(capsys.readouterr().out)
    assert main(["tune", "report", "CartPole-v1", "--format", "html,md"]) == EXIT_OK
    assert (here / "studies/CartPole-v1/report/report.md").is_file()


def test_only_what_was_confirmed_is_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "3"])
    opened = fill()
    assert main(["tune", "export"]) == EXIT_USAGE
    assert "is not confirmed" in capsys.readouterr().err
    decide(opened, winner=1.0, others=2.0)
    assert main(["tune", "confirm", "--top-k", "1", "--confirm-seeds", "200-202"]) == EXIT_NOT_BETTER
    assert main(["tune", "export"]) == EXIT_USAGE
    assert "does not beat the baselines" in capsys.readouterr().err
    assert not (here / "zoo_configs").exists()
    assert main(["tune", "export", "--unconfirmed", "--trial", "1", "--dry-run"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert "Not confirmed" in shown and yaml.safe_load(shown)["CartPole-v1"]["clip_range"] == 0.11
    assert main(["tune", "export", "--unconfirmed", "--trial", "7"]) == EXIT_USAGE
    assert main(["tune", "export", "--trial", "1"]) == EXIT_USAGE
    assert "add --unconfirmed" in capsys.readouterr().err


def test_a_confirmed_winner_becomes_a_block_that_trains(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "3"])
    decide(fill(), winner=5.0, others=2.0)
    assert main(["tune", "confirm", "--top-k", "1", "--confirm-seeds", "200-202"]) == EXIT_OK
    assert main(["tune", "export"]) == EXIT_OK
    text = (here / "zoo_configs/ppo_plus.yml").read_text()
    assert "# Confirmed on training seeds 200, 201, 202" in text and "Against SB3's defaults: +3.0" in text
    words = ["train", "--env", "CartPole-v1", "--config", "zoo_configs/ppo_plus.yml", "--no-progress"]
    assert main([*words, "--eval-episodes", "1"]) == EXIT_OK
    trained = yaml.safe_load((here / "runs/CartPole-v1_1/config.yml").read_text())
    assert (trained["clip_range"], trained["n_steps"], trained["n_timesteps"]) == (0.12, 32, 512)


def test_options_from_a_file_and_the_line_wins(here: Path) -> None:
    (here / "mine.yml").write_text(
        "env: CartPole-v1\nn-timesteps: 1e3\nseeds: [5, 6]\nspace: own.yml\n"
        "set: {n_epochs: 1, policy_kwargs: {net_arch: [8]}}\nn_trials: 2\nsampler: random\n"
    )
    (here / "own.yml").write_text("clip_range: {type: float, low: 0.1, high: 0.3}\n")
    assert main(["tune", "create", "--config", "mine.yml", "--sampler", "qmc"]) == EXIT_OK
    spec = open_study(URL).spec
    assert (spec.seeds, spec.sampler, spec.n_timesteps) == ((5, 6), "qmc", 1000)
    assert spec.base["policy_kwargs"] == {"net_arch": [8]} and spec.space["clip_range"]["high"] == 0.3
    assert main(["tune", "create", "--sampler", "qmc", "--config", "mine.yml", "--study-name", "two"]) == EXIT_OK
    assert open_study("journal:studies/two/journal.log").spec.sampler == "qmc"


def test_a_study_of_the_package_by_name() -> None:
    assert main(["tune", "create", "--config", "hopper", "-n", "1000"]) == EXIT_OK
    spec = open_study("journal:studies/hopper/journal.log").spec
    assert (spec.env, spec.n_timesteps, spec.space_name) == ("Hopper-v5", 1000, "core")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "name the environment with --env"),
        (["run", "--env", "CartPol-v1"], "did you mean CartPole-v1"),
        (["run", *SMALL, "--space", "cor"], "did you mean core"),
        (["run", *SMALL, "--space", "bad.yml"], "clip_rage: unknown parameter; did you mean clip_range"),
        (["run", *SMALL, "--space", "wide.yml"], "gamma = 1.5 cannot work"),
        (["run", *SMALL, "--objective", "best"], "objective is 'best'"),
        (["run", *SMALL, "--objective", "time-to-threshold"], "needs the return to reach"),
        (["run", *SMALL, "--sampler", "best"], "sampler is 'best'"),
        (["run", *SMALL, "--workers", "0"], "workers is 0"),
        (["run", *SMALL, "--n-trials", "0"], "n_trials is 0"),
        (["run", *SMALL, "--n-trials", "x"], "'x' is no whole number"),
        (["run", *SMALL, "--grace", "1"], "at least three heartbeats"),
        (["run", *SMALL, "--seeds", "a"], "are no seeds"),
        (["run", *SMALL, "--storage", "redis://x"], "give journal:PATH"),
        (["run", "--config", "none.yml"], "cannot read none.yml"),
        (["run", "--config", "typo.yml"], "unknown option 'n-trails'; did you mean n_trials"),
        (["status"], "which study"),
        (["status", "nothing"], "there is no study 'nothing'"),
        (["status", "--storage", "journal:none.log"], "there is no study in"),
        (["serve"], "needs the --storage"),
        (["launch"], "invalid choice"),
        (["run", *SMALL, "--nonsense"], "unknown argument '--nonsense'"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "bad.yml").write_text("clip_rage: {type: float, low: 0.1, high: 0.3}\n")
    (here / "wide.yml").write_text("gamma: {type: float, low: 0.9, high: 1.5}\n")
    (here / "typo.yml").write_text("n-trails: 3\n")
    assert main(["tune", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not list(here.glob("studies/*/trials"))


def test_a_study_stays_what_it_was(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "2"])
    assert main(["tune", "create", *SMALL]) == EXIT_USAGE
    assert "there is a study" in capsys.readouterr().err
    assert main(["tune", "run", "--env", "CartPole-v1", "--sampler", "random"]) == EXIT_USAGE
    assert "was made with sampler 'tpe', not 'random'" in capsys.readouterr().err
    assert main(["tune", "run", "--env", "CartPole-v1", "--set", "gamma=0.9"]) == EXIT_USAGE
    assert "was made with gamma 0.98, not 0.9" in capsys.readouterr().err
    (here / "own.yml").write_text("n_epochs: {type: int, low: 1, high: 3}\n")
    assert main(["tune", "run", "--env", "CartPole-v1", "--space", "own.yml"]) == EXIT_USAGE
    assert "was made with space" in capsys.readouterr().err
    fill()
    assert main(["tune", "run", *SMALL, "--space", "core", "--no-confirm"]) == EXIT_OK, "the same line goes on"


def test_status_tells_of_each_worker(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "3"])
    opened = open_study(URL)
    trial = opened.study.ask()
    lease = {**vars(identify("desk-0")), "token": "t", "count": 1, "beat": time.time(), "step": 256, "total": 512}
    trial.set_user_attr(LEASE, {**lease, "evaluation": 12.25})
    trial = opened.study.ask()
    trial.set_user_attr(LEASE, {**lease, "worker": "far-1", "host": "far", "beat": time.time() - 300})
    capsys.readouterr()
    assert main(["tune", "status"]) == EXIT_OK
    out = capsys.readouterr().out
    assert "desk-0: trial 0  50% · evaluation 12.2" in out
    assert "far-1: trial 1  50% · silent for 300 s" in out
    assert main(["tune", "resume", "--dry-run"]) == EXIT_OK
    assert "worker far-1: last sign of life 300 s ago" in capsys.readouterr().out


def test_a_worker_with_another_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    spec = make(n_timesteps=256)
    other = type(spec)(**{**vars(spec), "versions": {**(spec.versions or {}), "torch": "1.0"}})
    prolong(create_study("sqlite:///study.db", other), 1)
    words = ["tune", "worker", "--storage", "sqlite:///study.db", "--no-progress"]
    assert main(words) == EXIT_USAGE
    assert "torch is" in capsys.readouterr().err
    assert open_study("sqlite:///study.db").count(TrialState.WAITING) == 1
    assert main([*words, "--allow-mismatch"]) == EXIT_OK
    assert open_study("sqlite:///study.db").count(TrialState.COMPLETE) == 1


def test_a_study_that_stops_itself_has_an_exit_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # an environment that is fine at first and breaks in training: every trial fails
    (here / "sick_env.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Sick(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        raise RuntimeError('the motor is on fire')\n"
        "gym.register('Sick-v0', Sick, max_episode_steps=50)\n"
    )
    words = ["tune", "run", *SMALL, "--env", "sick_env:Sick-v0", "--max-failures", "2", "--no-progress"]
    assert main([*words, "--study-name", "sick", "--n-trials", "9"]) == EXIT_NOTHING
    error = capsys.readouterr().err
    assert "the motor is on fire" in error and "tune resume" in error
    assert open_study("journal:studies/sick/journal.log").count(TrialState.FAIL) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_its_trials_and_goes_on(here: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["tune", "run", "--env", "CartPole-v1", "-n", "200000", "--n-trials", "2", "--heartbeat", "0.3"]
    command = [sys.executable, "-m", "sb3_ppo_plus", *words, "--no-confirm"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not _begun():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(40) == EXIT_INTERRUPTED
    assert process.stderr is not None and "ppo-plus tune resume" in process.stderr.read()
    trials = open_study(URL).study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.WAITING] * 2, "it was put back, not lost"
    assert (here / "studies/CartPole-v1/trials/0/checkpoint.json").is_file()
    assert main(["tune", "resume", "--dry-run"]) == EXIT_OK


def _begun() -> bool:
    try:
        return any(trial.user_attrs.get(LEASE, {}).get("step") for trial in open_study(URL).study.get_trials())
    except ValueError:
        return False


@pytest.mark.slow
def test_a_time_limit_leaves_the_rest_for_later(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "run", "--env", "CartPole-v1", "-n", "1e6", "--n-trials", "2", "--timeout", "2", "--no-progress"]
    assert main([*words, "--no-confirm"]) == EXIT_INTERRUPTED
    assert "tune resume" in capsys.readouterr().out
    assert open_study(URL).count(TrialState.RUNNING) == 0


@pytest.mark.slow
def test_failed_trials_begin_anew_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "1"])
    opened = open_study(URL)
    trial = opened.study.ask()
    trial.suggest_float("clip_range", 0.05, 0.4)
    opened.study.tell(trial.number, state=TrialState.FAIL)
    for _ in range(2):
        assert main(["tune", "resume", "--retry-failed", "--no-progress"]) == EXIT_OK
    trials = open_study(URL).study.get_trials()
    assert [each.state.name for each in trials] == ["FAIL", "COMPLETE"]
    assert trials[0].params["clip_range"] == trials[1].params["clip_range"]


@pytest.mark.slow
def test_workers_through_a_proxy(here: Path) -> None:
    pytest.importorskip("grpc")
    prolong(create_study("sqlite:///study.db", make(n_timesteps=256)), 2)
    port = free_port()
    serving = [sys.executable, "-m", "sb3_ppo_plus", "tune", "serve", "--storage", "sqlite:///study.db"]
    process = subprocess.Popen([*serving, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and f"grpc://127.0.0.1:{port}" in process.stdout.readline()
        assert main(["tune", "worker", "--storage", f"grpc://127.0.0.1:{port}", "--no-progress"]) == EXIT_OK
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == EXIT_INTERRUPTED
    assert open_study("sqlite:///study.db").count(TrialState.COMPLETE) == 2


@pytest.mark.slow
def test_a_slurm_array(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "2"])
    words = ["tune", "submit", "--n-jobs", "16", "--time", "8:00:00", "--sbatch=--partition=cpu", "--workers", "2"]
    monkeypatch.setenv("PATH", str(here))
    assert main(words) == EXIT_USAGE
    assert "there is no sbatch" in capsys.readouterr().err
    # a stand-in for sbatch that runs the first task of the array, as a cluster would
    (here / "sbatch").write_text(f"#!/bin/sh\nPATH={here}:/usr/bin:/bin /bin/sh -e $1 && echo Submitted batch job 7\n")
    (here / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    for name in ("sbatch", "srun"):
        (here / name).chmod(0o755)
    assert main(words) == EXIT_OK
    assert "Submitted batch job 7" in capsys.readouterr().out
    script = (here / "studies/CartPole-v1/workers.sbatch").read_text()
    for line in (
        "--array=0-15",
        "--time=8:00:00",
        "--partition=cpu",
        "--cpus-per-task=2",
        "--requeue",
        "--signal=TERM@60",
    ):
        assert f"#SBATCH {line}\n" in script
    assert open_study(URL).count(TrialState.WAITING) == 0, "the script's worker has done its work"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "soon"], "time is 'soon'"),
        (["--n-jobs", "0"], "n_jobs is 0"),
        (["--sbatch", "partition"], "is no option"),
        (["--engine", "pbs"], "choose slurm or local"),
    ],
)
def test_arrays_that_cannot_work(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", "create", *SMALL, "--n-trials", "2"])
    assert main(["tune", "submit", "--dry-run", *words]) == EXIT_USAGE
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_local_workers_through_submitit(here: Path) -> None:
    pytest.importorskip("submitit")
    main(["tune", "create", *SMALL, "--n-trials", "2"])
    assert main(["tune", "submit", "--engine", "local", "--n-jobs", "1"]) == EXIT_OK
    deadline = time.monotonic() + 60
    while open_study(URL).count(TrialState.COMPLETE, TrialState.PRUNED) < 2:
        assert time.monotonic() < deadline, [path.read_text() for path in here.glob("studies/*/submitit/*.err")]
        time.sleep(0.5)


def test_every_command_is_in_the_table() -> None:
    asked = "create, run, worker, resume, status, confirm, export, report, importance, serve, submit"
    assert set(asked.split(", ")) <= set(COMMANDS)
