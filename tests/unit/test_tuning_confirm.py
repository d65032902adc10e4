"""The confirmation: who races, who is dropped, what is compared, and the block at the end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("optuna")

from optuna.trial import TrialState, create_trial
from tuning_studies import make

from sb3_ppo_plus import InvalidArgument
from sb3_ppo_plus.runs.config import complete_hyperparameters
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.tuning.confirm import Confirmation, Plan, baseline_config, best_trials, read_decision
from sb3_ppo_plus.tuning.lease import REASON
from sb3_ppo_plus.tuning.origin import origin_of
from sb3_ppo_plus.tuning.reading import importances, read_progress, read_study
from sb3_ppo_plus.tuning.study import EVALUATIONS, JOB, SEED, SETTINGS, Opened, create_study
from sb3_ppo_plus.tuning.zoo_block import block_of, write_block

PLAN = Plan(top_k=3, race_seeds=(100, 101, 102, 103, 104), seeds=(200, 201, 202, 203))


def study(tmp_path: Path, values: list[Any], **options: Any) -> Opened:
    """A study whose trials are said to have come to these values; each has a clip range of its own."""
    opened = create_study(f"journal:{tmp_path}/journal.log", make(**options))
    space = {parameter.label: parameter.distribution() for parameter in opened.spec.read_space().parameters}
    for number, value in enumerate(values):
        clip = round(0.1 + 0.01 * number, 4)
        opened.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if value is not None else TrialState.FAIL,
                values=value if isinstance(value, list) or value is None else [value],
                params={"n_epochs": 2, "clip_range": clip},
                distributions=space,
                user_attrs={SETTINGS: {"n_epochs": 2, "clip_range": clip}, SEED: 0, EVALUATIONS: {}},
            )
        )
    return opened


def play(
    confirmation: Confirmation, worth: dict[str, float], noise: float = 0.0, fails: str = ""
) -> list[dict[str, Any]]:
    """Run every job as a worker would, with scores made up; give the jobs in the order in which they were run."""
    draws, done = random.Random(0), []
    opened = confirmation.opened
    while confirmation.advance():
        for trial in opened.study.get_trials(states=(TrialState.WAITING,)):
            job = trial.user_attrs[JOB]
            done.append(job)
            if job["candidate"] == fails:
                opened.storage.set_trial_user_attr(trial._trial_id, REASON, "it exploded")
                opened.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                continue
            score = worth.get(job["candidate"], 0.0) + noise * draws.gauss(0, 1)
            opened.storage.set_trial_user_attr(trial._trial_id, EVALUATIONS, {"steps": [0, 9], "returns": [0.0, score]})
            opened.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [score])
    return done


def test_the_race_drops_who_lags_and_the_winner_meets_the_baselines(tmp_path: Path) -> None:
    opened = study(tmp_path, [1.0, 5.0, 9.0, 7.0, None])
    confirmation = Confirmation(opened, PLAN)
    assert list(confirmation.entrants) == ["trial 2", "trial 3", "trial 1"]
    jobs = play(confirmation, {"trial 2": 3.0, "trial 3": 8.0, "trial 1": 1.0, "current": 2.0, "sb3": 1.0}, noise=0.1)
    candidates, comparisons = read_decision(opened)
    # 4 pairs of the same sign: p = 1/16
    assert {c.name: c.dropped for c in candidates[3:]} == {
        name: "behind trial 3 after 4 seeds (p = 0.062)" for name in ("trial 2", "trial 1")
    }
    assert candidates[0].name == "trial 3" and [c.name for c in candidates[1:3]] == ["current", "sb3"]
    raced = [job for job in jobs if job["stage"] == "race"]
    assert len(raced) == 3 * 4, "the fifth seed was not needed"
    final = [job for job in jobs if job["stage"] == "final"]
    assert {(job["candidate"], job["seed"]) for job in final} == {
        (name, seed) for name in ("trial 3", "current", "sb3") for seed in PLAN.seeds
    }
    assert all(comparison.beats for comparison in comparisons)
    assert comparisons[0].difference == pytest.approx(6.0, abs=0.2) and comparisons[0].probability == 1.0
    assert not confirmation.advance(), "all is done"
    lines = origin_of(opened, "trial 3", candidates[0], comparisons)
    assert "200, 201, 202, 203" in lines[2] and "what the study started from: +6" in lines[3]


def test_close_candidates_race_to_the_end(tmp_path: Path) -> None:
    opened = study(tmp_path, [1.0, 2.0])
    jobs = play(Confirmation(opened, PLAN), {}, noise=1.0)
    assert len([job for job in jobs if job["stage"] == "race"]) == 2 * 5
    assert not any(comparison.beats for comparison in read_decision(opened)[1])


def test_what_is_minimized(tmp_path: Path) -> None:
    opened = study(tmp_path, [30.0, 10.0], objective="time-to-threshold", threshold=100.0)
    assert [trial.number for trial in best_trials(opened)] == [1, 0]
    play(Confirmation(opened, PLAN), {"trial 0": 5.0, "trial 1": 9.0, "current": 20.0, "sb3": 30.0}, noise=0.1)
    candidates, comparisons = read_decision(opened)
    assert candidates[0].name == "trial 0" and candidates[0].scores[200] == pytest.approx(5.0, abs=0.5)
    assert comparisons[0].difference == pytest.approx(15.0, abs=0.5) and comparisons[0].beats


def test_two_objectives_race_by_the_first(tmp_path: Path) -> None:
    opened = study(tmp_path, [[5.0, 9.0], [4.0, 3.0], [3.0, 4.0]], objective="return,wallclock")
    assert opened.spec.pruner == "none"
    assert list(Confirmation(opened, PLAN).entrants) == ["trial 0", "trial 1"], "the third is on no front"


def test_a_confirmation_goes_on_where_it_was_left(tmp_path: Path) -> None:
    opened = study(tmp_path, [1.0, 2.0])
    first = Confirmation(opened, PLAN)
    first.advance()
    waiting = first.opened.count()
    Confirmation(opened, PLAN).advance()
    assert first.opened.count() == waiting, "the same jobs are not added again"
    play(Confirmation(opened, PLAN), {"trial 0": 4.0}, noise=0.1)
    more = Plan(**{**vars(PLAN), "seeds": (*PLAN.seeds, 204, 205)})
    jobs = play(Confirmation(opened, more), {"trial 0": 4.0}, noise=0.1)
    assert {job["seed"] for job in jobs} == {204, 205}


def test_candidates_that_fail_lose_and_a_baseline_that_fails_is_an_error(tmp_path: Path) -> None:
    opened = study(tmp_path, [1.0, 2.0])
    play(Confirmation(opened, PLAN), {"trial 0": 1.0}, noise=0.1, fails="trial 1")
    candidates, _ = read_decision(opened)
    assert candidates[0].name == "trial 0" and "it exploded" in candidates[-1].dropped
    (tmp_path / "b").mkdir()
    with pytest.raises(InvalidArgument, match=r"a baseline cannot be run: sb3 \(it exploded\)"):
        play(Confirmation(study(tmp_path / "b", [1.0]), PLAN), {}, fails="sb3")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(seeds=(0, 1, 2, 3)), r"seeds \[0, 1, 2, 3\] are used by the search and by the comparison"),
        (Plan(race_seeds=(1, 100)), "by the search and by the race"),
        (Plan(seeds=(100, 201, 202)), "by the race and by the comparison"),
        (Plan(seeds=(200, 201)), "at least 3"),
        (Plan(baselines=("zoo",)), "choose of current, sb3"),
        (Plan(top_k=0), "top_k is 0"),
    ],
)
def test_plans_that_would_deceive_are_refused(plan: Plan, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=message):
        Confirmation(study(tmp_path, [1.0]), plan)


def test_nothing_to_confirm(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no finished trial"):
        Confirmation(study(tmp_path, [None]), PLAN)


def test_baselines_share_the_task_and_nothing_else() -> None:
    spec = make(settings=["gamma=0.9", "env_kwargs={render_mode: rgb_array}"])
    current, sb3 = (baseline_config(spec, name) for name in ("current", "sb3"))
    assert current["gamma"] == 0.9 and current["n_steps"] == 32
    assert (sb3["gamma"], sb3["n_steps"], sb3["batch_size"], sb3["n_envs"], sb3["normalize"]) == (
        0.99,
        2048,
        64,
        1,
        False,
    )
    assert sb3["policy_kwargs"] is None if "policy_kwargs" in sb3 else True
    for key in ("env", "n_timesteps", "eval_freq", "eval_episodes", "env_kwargs"):
        assert current[key] == sb3[key]


def test_importances_find_the_parameter_that_matters(tmp_path: Path) -> None:
    # what comes to these values depends on the clip range alone
    opened = study(tmp_path, [float(number) for number in range(20)])
    found = importances(opened)
    assert next(iter(found)) == "clip_range" and sum(found.values()) == pytest.approx(1.0)
    assert importances(study_with_few(tmp_path)) == {}
    record = read_study(opened)
    assert record.importances == found and len(record.trials) == 20 and record.dimensions[0].name == "n_epochs"
    assert read_progress(opened).best == (19, (19.0,))


def study_with_few(tmp_path: Path) -> Opened:
    (tmp_path / "few").mkdir()
    return study(tmp_path / "few", [1.0, 2.0, 3.0])


# ------------------------------------------------ the block of a zoo file

ZOO = """# A comment at the top.

default:
  n_timesteps: 1.0e+6  # many
  gamma: 0.99

# About the cart.
CartPole-v1:
  # Tuned by hand.
  n_timesteps: 1.0e+5
  policy: MlpPolicy

# About the pendulum.
Pendulum-v1:
  n_timesteps: 1.0e+5
"""


def block(env: str = "CartPole-v1") -> dict[str, Any]:
    return block_of(assemble(env, settings=["gamma=0.93", "learning_rate=lin_0.002"], flags={"n_timesteps": 777}))


@pytest.mark.parametrize("env", ["CartPole-v1", "default", "Pendulum-v1", "Acrobot-v1"])
def test_a_block_takes_its_place_and_the_rest_stays(env: str, tmp_path: Path) -> None:
    path = tmp_path / "ppo_plus.yml"
    path.write_text(ZOO)
    before = yaml.safe_load(ZOO)
    write_block(path, env, block(), ["Tuned: trial 1.", "Confirmed."])
    text, after = path.read_text(), yaml.safe_load(path.read_text())
    assert after.pop(env)["gamma"] == 0.93
    before.pop(env, None)
    assert after == before
    assert f"{env}:\n  # Tuned: trial 1.\n  # Confirmed.\n  n_timesteps: 777\n" in text
    for comment in ("# A comment at the top.", "# About the cart.", "# About the pendulum."):
        assert text.count(comment) == 1
    if env == "CartPole-v1":
        assert "Tuned by hand" not in text
        assert text.index("# About the pendulum.") > text.index("gamma: 0.93")
    write_block(path, env, block(), ["Tuned: trial 2."])
    assert "trial 1" not in path.read_text() and path.read_text().count(f"\n{env}:") == 1


def test_a_block_reads_as_the_configuration_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ppo_plus.yml"
    config = assemble("HalfCheetah-v5", settings=["controllers.kl_coef={type: kl_band, target: 0.01}", "kl_coef=0.5"])
    write_block(path, "HalfCheetah-v5", block_of(config), [])
    read = assemble("HalfCheetah-v5", config_file=path, zoo_file=_empty(tmp_path))
    assert {**complete_hyperparameters({}), **read.to_mapping()} == {
        **complete_hyperparameters({}),
        **config.to_mapping(),
    }
    assert path.read_text().startswith("HalfCheetah-v5:\n")


def test_a_file_that_is_no_yaml_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ppo_plus.yml"
    path.write_text("CartPole-v1: {n_envs: 4\n")
    with pytest.raises(InvalidArgument, match="cannot read"):
        write_block(path, "CartPole-v1", block(), [])
    assert path.read_text() == "CartPole-v1: {n_envs: 4\n"


def _empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.yml"
    path.write_text("{}\n")
    return path
