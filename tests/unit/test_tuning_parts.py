"""Objectives, pruning, seeds, and leases: what decides over trials."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")

import optuna
from optuna.trial import TrialState, create_trial
from tuning_studies import make

from sb3_ppo_plus import InvalidArgument
from sb3_ppo_plus.cli.tune.options import names, seconds, seeds, whole
from sb3_ppo_plus.tuning.lease import ATTEMPTS, LEASE, REASON, Lease, Watchman, claim, identify, is_gone
from sb3_ppo_plus.tuning.objective import Objective, area, final
from sb3_ppo_plus.tuning.samplers import SAMPLERS, CurvePruner, make_pruner, make_sampler
from sb3_ppo_plus.tuning.spec import differences, spec_from_json
from sb3_ppo_plus.tuning.study import SEED, create_study, prolong

STEPS = [0, 10, 20, 40]


def test_area_is_the_mean_height_of_the_curve() -> None:
    # trapezoids: 10 * 1, 10 * 3, 20 * 6, over 40
    assert area(STEPS, [0.0, 2.0, 4.0, 8.0]) == pytest.approx(160 / 40)
    assert area([0], [5.0]) == 5.0


def test_final_is_the_last_fifth() -> None:
    assert final([0.0] * 8 + [3.0, 5.0]) == 4.0
    assert final([1.0, 2.0]) == 2.0


def test_time_to_threshold() -> None:
    goal = Objective("time-to-threshold", 40, threshold=6.0)
    # between 4 at step 20 and 8 at step 40: half of the way
    assert goal.values(STEPS, [0.0, 2.0, 4.0, 8.0], 1.0) == (30.0,)
    assert goal.values(STEPS, [7.0, 2.0, 4.0, 8.0], 1.0) == (0.0,)
    # never: half of what was missing at the start is still missing
    assert goal.values(STEPS, [0.0, 2.0, 3.0, 1.0], 1.0) == (60.0,)
    near, far = (goal.values(STEPS, [0.0, 1.0, best, 0.0], 1.0)[0] for best in (5.9, 1.0))
    assert 40 < near < far
    assert goal.maximize == (False,)


def test_two_objectives() -> None:
    goal = Objective("return,wallclock", 40)
    assert goal.values(STEPS, [0.0, 2.0, 4.0, 8.0], 12.5) == (8.0, 12.5)
    assert goal.maximize == (True, False) and len(goal.names) == 2


@pytest.mark.parametrize(
    ("name", "threshold", "message"),
    [
        ("best", None, "choose of auc"),
        ("auc", 3.0, "the others take none"),
        ("time-to-threshold", None, "needs the return"),
    ],
)
def test_objectives_that_cannot_work(name: str, threshold: float | None, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Objective(name, 10, threshold)


def _study_with(curves: list[dict[int, float]], direction: str = "maximize"):
    study = optuna.create_study(direction=direction)
    for curve in curves:
        study.add_trial(create_trial(value=0.0, intermediate_values=curve))
    return study


def _prunes(study, pruner: CurvePruner, curve: dict[int, float]) -> bool:
    trial = study.ask()
    for step, value in curve.items():
        trial.report(value, step)
    return pruner.prune(study, study.get_trials()[trial.number])


def test_a_trial_is_pruned_when_it_stays_among_the_worst() -> None:
    study = _study_with([{10: value, 20: value, 30: value} for value in (0.0, 10.0, 20.0, 30.0, 40.0)])
    pruner = CurvePruner(75.0, warmup=20, n_startup_trials=5, patience=2)
    # the 25th percentile of 0, 10, 20, 30, 40 is 10
    assert _prunes(study, pruner, {10: 5.0, 20: 5.0})
    assert not _prunes(study, pruner, {10: 5.0, 20: 15.0}), "it has caught up"
    assert not _prunes(study, pruner, {10: 15.0, 20: 5.0}), "one bad evaluation is forgiven"
    assert not _prunes(study, pruner, {10: 5.0}), "warm-up"
    assert not _prunes(study, CurvePruner(75.0, 20, n_startup_trials=6), {10: 5.0, 20: 5.0}), "too little company"
    assert not _prunes(study, pruner, {11: 5.0, 22: 5.0}), "nobody was evaluated at that step"


def test_pruning_of_what_is_minimized() -> None:
    study = _study_with([{10: value, 20: value} for value in (0.0, 10.0, 20.0, 30.0, 40.0)], "minimize")
    pruner = CurvePruner(75.0, warmup=0)
    assert _prunes(study, pruner, {10: 35.0, 20: 35.0})
    assert not _prunes(study, pruner, {10: 25.0, 20: 25.0})


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws(name: str, tmp_path: Path) -> None:
    study = optuna.create_study(sampler=make_sampler(name, 0, n_startup_trials=3), direction="maximize")
    for _ in range(6):
        trial = study.ask()
        study.tell(trial, -((trial.suggest_float("x", -1, 1) - 0.3) ** 2) - trial.suggest_int("n", 1, 5))
    assert len(study.trials) == 6


def test_unknown_samplers_and_pruners() -> None:
    with pytest.raises(InvalidArgument, match="choose of tpe"):
        make_sampler("annealing", 0)
    with pytest.raises(InvalidArgument, match="choose of percentile"):
        make_pruner("hyperband", 100, 0.3, 5)


def test_draws_repeat_for_the_same_seed(tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "two"):
        opened = create_study(f"journal:{tmp_path}/{name}.log", make())
        prolong(opened, 4)
        opened.study.sampler = make_sampler("tpe", 7)
        trial = optuna.Trial(opened.study, claim(opened.storage, opened.study_id))
        drawn.append(trial.suggest_float("other", 0, 1))
    assert drawn[0] == drawn[1]


def test_trials_wait_with_their_seeds_and_known_configurations_first(tmp_path: Path) -> None:
    opened = create_study(f"journal:{tmp_path}/journal.log", make(seeds=(7, 8, 9)))
    assert prolong(opened, 5) == 5 and prolong(opened, 5) == 0 and prolong(opened, 7) == 2
    trials = opened.study.get_trials()
    assert [trial.user_attrs[SEED] for trial in trials] == [7, 8, 9, 7, 8, 9, 7]
    assert trials[0].user_attrs["origin"].startswith("zoo")
    assert {"sb3", "paper"} <= {word for trial in trials[:2] for word in trial.user_attrs["origin"].split(", ")}
    assert trials[0].system_attrs["fixed_params"] == {"n_epochs": 1, "clip_range": 0.2}


# ------------------------------------------------ leases


def _running(tmp_path: Path):
    opened = create_study(f"journal:{tmp_path}/journal.log", make())
    prolong(opened, 1)
    return opened, claim(opened.storage, opened.study_id)


def test_a_waiting_trial_is_taken_once(tmp_path: Path) -> None:
    opened = create_study(f"sqlite:///{tmp_path}/study.db", make())
    prolong(opened, 20)
    taken: list[int] = []

    def take() -> None:
        while (trial_id := claim(opened.storage, opened.study_id)) is not None:
            taken.append(trial_id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted({trial._trial_id for trial in opened.study.get_trials()})


def test_a_lease_beats_and_is_lost_when_somebody_else_takes_the_trial(tmp_path: Path) -> None:
    opened, trial_id = _running(tmp_path)
    with Lease(opened.storage, trial_id, identify("a"), interval=0.05) as lease:
        time.sleep(0.3)
        first = opened.storage.get_trial(trial_id).user_attrs
        assert first[LEASE]["count"] >= 3 and first[ATTEMPTS] == 1 and lease.is_held()
        # taken for dead, and taken over
        opened.storage.set_trial_state_values(trial_id, TrialState.WAITING)
        assert claim(opened.storage, opened.study_id) == trial_id
        with Lease(opened.storage, trial_id, identify("b"), interval=5.0) as second:
            time.sleep(0.3)
            assert lease.lost and not second.lost
            assert opened.storage.get_trial(trial_id).user_attrs[LEASE]["worker"] == "b"
            assert opened.storage.get_trial(trial_id).user_attrs[ATTEMPTS] == 2


def test_a_dead_process_is_known_at_once(tmp_path: Path) -> None:
    opened, trial_id = _running(tmp_path)
    code = "import json; from sb3_ppo_plus.tuning.lease import identify; print(json.dumps(vars(identify('x'))))"
    import json

    dead = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert is_gone(dead)
    assert not is_gone(vars(identify("me")))
    assert not is_gone({**dead, "host": "elsewhere"}), "of other machines nothing is known"
    assert is_gone({**vars(identify("me")), "birth": "1"}), "the number is used again by another process"
    opened.storage.set_trial_user_attr(trial_id, LEASE, {**dead, "token": "t", "count": 1})
    opened.storage.set_trial_user_attr(trial_id, ATTEMPTS, 1)
    assert Watchman(opened.storage, grace=1000, max_attempts=3).look(opened.study_id) == [0]
    assert opened.study.get_trials()[0].state == TrialState.WAITING


def test_a_silent_worker_of_another_machine_loses_its_trial_after_the_grace(tmp_path: Path) -> None:
    opened, trial_id = _running(tmp_path)
    lease = {"worker": "far", "host": "elsewhere", "pid": 1, "birth": "", "token": "t", "count": 1}
    opened.storage.set_trial_user_attr(trial_id, LEASE, lease)
    watchman = Watchman(opened.storage, grace=0.3, max_attempts=3)
    assert watchman.look(opened.study_id) == []
    time.sleep(0.2)
    opened.storage.set_trial_user_attr(trial_id, LEASE, {**lease, "count": 2})
    time.sleep(0.2)
    assert watchman.look(opened.study_id) == [], "it has given a sign of life"
    time.sleep(0.35)
    assert watchman.look(opened.study_id) == [0]


def test_a_trial_without_a_lease_is_put_back_as_well(tmp_path: Path) -> None:
    opened, _ = _running(tmp_path)  # its worker died between taking it and saying so
    watchman = Watchman(opened.storage, grace=0.1, max_attempts=3)
    watchman.look(opened.study_id)
    time.sleep(0.15)
    assert watchman.look(opened.study_id) == [0]


def test_a_trial_that_kills_its_workers_fails(tmp_path: Path) -> None:
    opened, trial_id = _running(tmp_path)
    opened.storage.set_trial_user_attr(trial_id, ATTEMPTS, 3)
    watchman = Watchman(opened.storage, grace=0.0, max_attempts=3)
    watchman.look(opened.study_id)
    time.sleep(0.01)
    assert watchman.look(opened.study_id) == [0]
    trial = opened.study.get_trials()[0]
    assert trial.state == TrialState.FAIL and "3 times" in trial.user_attrs[REASON]


# ------------------------------------------------ specifications and words


def test_a_specification_survives_its_storage() -> None:
    spec = make(seeds=(3, 4))
    assert spec_from_json(spec.to_json(), "here") == spec


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", '{"format": 99}', '{"format": 1, "novelty": 2}'])
def test_somebody_else_s_study_is_refused(text) -> None:
    with pytest.raises(InvalidArgument, match=r"was (not )?created by"):
        spec_from_json(text, "study 'x'")


def test_differences_name_package_and_environment() -> None:
    spec = make()
    assert differences(spec) == []
    other = type(spec)(**{**vars(spec), "versions": {**spec.versions, "gymnasium": "0.1"}})
    assert differences(other) == [f"gymnasium is {spec.versions['gymnasium']} here and 0.1 in the study"]
    moved = type(spec)(**{**vars(spec), "environment": {**spec.environment, "max_episode_steps": 7}})
    assert "max_episode_steps of CartPole-v1 is 500 here and 7 in the study" in differences(moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_evals": 0}, "n_evals is 0"),
        ({"seeds": ()}, "seeds is"),
        ({"seeds": (1, 1)}, "different whole numbers"),
        ({"sampler": "best"}, "sampler is 'best'"),
        ({"pruner": "best"}, "pruner is 'best'"),
        ({"pruning_warmup": 1.0}, "pruning_warmup is 1.0"),
        ({"objective": "speed"}, "objective is 'speed'"),
    ],
)
def test_studies_that_cannot_work_are_refused(options, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        make(**options)


def test_words_of_the_command_line() -> None:
    assert seeds("0-2,7") == (0, 1, 2, 7) and whole("1e6") == 1_000_000 and names("a, b") == ("a", "b")
    assert [seconds(text) for text in ("90", "30m", "1.5h")] == [90.0, 1800.0, 5400.0]
    for function, text in ((seeds, "a-b"), (whole, "1.5"), (seconds, "soon")):
        with pytest.raises(argparse.ArgumentTypeError):
            function(text)


def test_the_worker_leaves_when_its_parent_dies() -> None:
    from sb3_ppo_plus.tuning.process import StopRequest

    assert not StopRequest(os.getppid())()
    assert StopRequest(os.getppid() + 1)()
