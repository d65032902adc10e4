"""Studies whose workers are killed: nothing is lost, nothing is done twice, whatever the storage."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from tuning_studies import ROOT, make, postgres, proxy

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.lease import ATTEMPTS, LEASE, REASON
from sb3_ppo_plus.tuning.study import EVALUATIONS, Opened, create_study, open_study, prolong
from sb3_ppo_plus.tuning.supervisor import Supervisor

N_TRIALS = 40
FAST = {"heartbeat": 0.5, "grace": 20.0, "checkpoint_interval": 0.0, "poll": 0.2}
FINISHED = {"COMPLETE", "PRUNED", "FAIL"}


@pytest.fixture(params=["journal", "sqlite", "postgresql", "grpc"])
def storage(request: pytest.FixtureRequest, tmp_path: Path):
    """Give a URL, and a function that counts how often each trial came to an end."""
    if request.param == "journal":
        yield f"journal:{tmp_path}/journal.log", lambda: _ends_in_journal(tmp_path / "journal.log")
    elif request.param == "postgresql":
        with postgres(tmp_path) as url:
            yield url, lambda: _ends_in_postgres(url)
    else:
        with ExitStack() as stack:
            url = f"sqlite:///{tmp_path}/study.db"
            outside = stack.enter_context(proxy(url, tmp_path)) if request.param == "grpc" else url
            yield outside, lambda: _ends_in_sqlite(tmp_path / "study.db")


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_do_nothing_twice(storage, tmp_path: Path) -> None:
    """40 trials, two workers, one of which is killed at a random moment again and again."""
    url, ends = storage
    opened = create_study(url, make(n_timesteps=2048))
    _audit(url, tmp_path)
    prolong(opened, N_TRIALS)
    supervisor = Supervisor(opened, tmp_path / "study", 2, dict(FAST))
    killed = _run_and_kill(supervisor, random.Random(0), kills=10)
    trials = open_study(url).study.get_trials()
    assert len(trials) == N_TRIALS
    assert {trial.state.name for trial in trials} <= FINISHED, Counter(trial.state.name for trial in trials)
    assert ends() == {trial.number: 1 for trial in trials}
    # Kills hit trials, and these trials were finished by somebody else.
    assert len(killed) == 10
    again = [trial for trial in trials if trial.user_attrs[ATTEMPTS] > 1]
    assert again
    assert all(trial.state.name != "FAIL" or REASON in trial.user_attrs for trial in trials)
    for trial in again:
        if trial.state.name == "COMPLETE":
            assert trial.user_attrs[EVALUATIONS]["steps"] == [0, 1024, 2048]


def test_a_killed_worker_costs_no_trial_in_a_journal(tmp_path: Path) -> None:
    """The same in short, for every run of the tests."""
    url = f"journal:{tmp_path}/journal.log"
    opened = create_study(url, make(n_timesteps=2048))
    prolong(opened, 4)
    supervisor = Supervisor(opened, tmp_path / "study", 2, dict(FAST))
    _run_and_kill(supervisor, random.Random(1), kills=1)
    trials = open_study(url).study.get_trials()
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert _ends_in_journal(tmp_path / "journal.log") == {number: 1 for number in range(4)}
    assert max(trial.user_attrs[ATTEMPTS] for trial in trials) >= 2


@pytest.mark.slow
def test_resume_after_everything_was_killed(tmp_path: Path) -> None:
    """Supervisor and workers at once, and the journal's last line half written: as a power cut leaves it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["--env", "CartPole-v1", "-n", "4096", "--n-trials", "4", "--n-evals", "4", "--eval-episodes", "1"]
    words += ["--heartbeat", "0.3", "--checkpoint-interval", "0.01", "--no-confirm", "--set", "n_epochs=1"]
    process = subprocess.Popen(_tune("run", *words), cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    url = f"journal:{tmp_path}/studies/CartPole-v1/journal.log"
    opened = _wait_for_progress(url, 1024)
    leases = [trial.user_attrs[LEASE] for trial in opened.study.get_trials() if LEASE in trial.user_attrs]
    for pid in (process.pid, *(lease["pid"] for lease in leases)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    journal = Path(url.removeprefix("journal:"))
    with open(journal, "ab") as file:
        file.write(b'{"op_code":8,"worker_id":"half a li')
    before = {trial.number: trial.user_attrs.get(EVALUATIONS) for trial in open_study(url).study.get_trials()}
    done = subprocess.run(
        _tune("resume", "CartPole-v1"), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    trials = open_study(url).study.get_trials()
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert _ends_in_journal(journal) == {number: 1 for number in range(4)}
    # What was in the middle went on from its checkpoint: evaluations were not made again.
    middle = next(trial for trial in trials if trial.user_attrs[ATTEMPTS] == 2)
    kept = before[middle.number]["returns"]
    assert len(kept) >= 2 and middle.user_attrs[EVALUATIONS]["returns"][: len(kept)] == kept


@pytest.mark.slow
def test_two_machines_join_one_study(tmp_path: Path) -> None:
    """Two command lines that know nothing of each other share the trials of one study."""
    url = f"sqlite:///{tmp_path}/study.db"
    prolong(create_study(url, make(n_timesteps=2048)), 8)
    words = ["worker", "--storage", url, "--study-name", "study", "--heartbeat", "0.5", "--no-progress"]
    both = [
        subprocess.Popen(_tune(*words, "--dir", str(tmp_path / name)), cwd=tmp_path, stdout=subprocess.DEVNULL)
        for name in ("one", "two")
    ]
    assert [process.wait(90) for process in both] == [0, 0]
    trials = open_study(url).study.get_trials()
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert all(trial.user_attrs[ATTEMPTS] == 1 for trial in trials)
    assert len({trial.user_attrs[LEASE]["worker"] for trial in trials}) == 2


CRASHING = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Crashing(CartPoleEnv):
    def __init__(self, deadly=False, wrong=False, sick=False):
        super().__init__()
        self.deadly, self.sick, self.steps = deadly, sick, 0
        if wrong:
            raise ValueError("this level does not exist")
    def step(self, action):
        self.steps += 1
        if self.deadly and self.steps > 30:
            os.abort()
        obs, reward, *rest = super().step(action)
        return (obs, float("nan") if self.sick else reward, *rest)

gym.register("Crashing-v0", Crashing, max_episode_steps=100)
"""


@pytest.mark.slow
def test_a_trial_that_takes_its_process_down_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort of the simulator, an error of the constructor, rewards that are no numbers: one trial each."""
    (tmp_path / "crashing_env.py").write_text(CRASHING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    space = {name: {"choices": [False, True]} for name in ("env_kwargs.deadly", "env_kwargs.wrong", "env_kwargs.sick")}
    spec = make(env="crashing_env:Crashing-v0", space=space, sampler="grid", max_attempts=2, max_failures=9)
    opened = create_study(f"journal:{tmp_path}/journal.log", spec)
    prolong(opened, 8)
    Supervisor(opened, tmp_path / "study", 2, dict(FAST)).run(lambda: True)
    reasons = {}
    for trial in opened.study.get_trials():
        drawn = tuple(trial.params[name] == "true" for name in space)
        reasons[drawn] = trial.user_attrs.get(REASON, "")
        assert trial.state.name == ("FAIL" if any(drawn) else "COMPLETE")
    assert "worker was lost 2 times" in reasons[True, False, False]
    assert "this level does not exist" in reasons[False, True, False]
    assert "nan" in reasons[False, False, True]
    error = (tmp_path / "study" / "trials").glob("*/error.txt")
    assert any("this level does not exist" in path.read_text() for path in error)


def test_a_study_that_fails_over_and_over_stops_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing_env.py").write_text(CRASHING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = make(env="crashing_env:Crashing-v0", settings=["env_kwargs.sick=true"], max_failures=3)
    opened = create_study(f"journal:{tmp_path}/journal.log", spec)
    prolong(opened, 20)
    Supervisor(opened, tmp_path / "study", 1, dict(FAST)).run(lambda: True)
    states = Counter(trial.state.name for trial in opened.study.get_trials())
    assert states == {"FAIL": 3, "WAITING": 17}
    assert "the last 3 trials failed" in opened.stopped() and "tune resume" in opened.stopped()


def _tune(*words: str) -> list[str]:
    return [sys.executable, "-m", "sb3_ppo_plus", "tune", *words]


def _run_and_kill(supervisor: Supervisor, draws: random.Random, kills: int) -> list[int]:
    """Work, and kill a worker that runs a trial at random moments."""
    killed: list[int] = []
    next_kill = time.monotonic() + draws.uniform(0.5, 2.0)

    def look() -> bool:
        nonlocal next_kill
        if len(killed) < kills and time.monotonic() > next_kill:
            busy = {
                trial.user_attrs[LEASE]["pid"]
                for trial in supervisor.opened.study.get_trials(deepcopy=False)
                if trial.state.name == "RUNNING" and LEASE in trial.user_attrs
            }
            alive = [child.process.pid for child in supervisor._children if child.process.poll() is None]
            victims = sorted(busy & set(alive))
            if victims:
                killed.append(draws.choice(victims))
                os.kill(killed[-1], signal.SIGKILL)
                next_kill = time.monotonic() + draws.uniform(0.2, 2.0)
        return True

    supervisor.run(look, interval=0.05)
    return killed


def _wait_for_progress(url: str, steps: int) -> Opened:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
        try:
            opened = open_study(url)
        except InvalidArgument:
            continue  # not there yet
        for trial in opened.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING" and trial.user_attrs.get(LEASE, {}).get("step", 0) >= steps:
                return opened
    raise AssertionError("no trial came so far")


def _ends_in_journal(path: Path) -> dict[int, int]:
    """How often the journal says that a trial ended; ids and numbers agree where there is one study."""
    ends: Counter[int] = Counter()
    for line in path.read_text().splitlines():
        operation = json.loads(line)
        if operation["op_code"] == 6 and operation["state"] in (1, 2, 3):  # SET_TRIAL_STATE_VALUES, an end
            ends[operation["trial_id"]] += 1
    return dict(ends)


SQLITE_AUDIT = """
create table audit (trial integer);
create trigger ends after update of state on trials
when new.state in ('COMPLETE', 'PRUNED', 'FAIL') and old.state is not new.state
begin insert into audit values (new.number); end;
create trigger again after update of state on trials
when old.state in ('COMPLETE', 'PRUNED', 'FAIL') begin insert into audit values (new.number); end;
"""
POSTGRES_AUDIT = """
create table audit (trial integer);
create function note() returns trigger as $$
begin
  if new.state::text in ('COMPLETE', 'PRUNED', 'FAIL') or old.state::text in ('COMPLETE', 'PRUNED', 'FAIL') then
    insert into audit values (new.number);
  end if;
  return new;
end $$ language plpgsql;
create trigger ends after update of state on trials for each row execute function note();
"""


def _audit(url: str, folder: Path) -> None:
    """Let the database itself count how often trials end."""
    if (folder / "study.db").exists():
        with sqlite3.connect(folder / "study.db") as database:
            database.executescript(SQLITE_AUDIT)
    elif url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as connection:
            connection.execute(POSTGRES_AUDIT)


def _ends_in_sqlite(path: Path) -> dict[int, int]:
    with sqlite3.connect(path) as database:
        return dict(database.execute("select trial, count(*) from audit group by trial").fetchall())


def _ends_in_postgres(url: str) -> dict[int, int]:
    import psycopg

    with psycopg.connect(url) as connection:
        return dict(connection.execute("select trial, count(*) from audit group by trial").fetchall())
