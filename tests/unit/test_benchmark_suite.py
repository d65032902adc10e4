"""Suites: what a file may say, what it may not, and which runs follow from it."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_ppo_plus.benchmark import plan
from sb3_ppo_plus.benchmark.plan import plan_runs, with_timesteps
from sb3_ppo_plus.benchmark.suite import (
    find_suite,
    load_suite,
    parse_seeds,
    suite_from_mapping,
    suite_names,
)
from sb3_ppo_plus.errors import InvalidArgument

ROOT = Path(__file__).resolve().parents[2]


def content(**changes: Any) -> dict[str, Any]:
    """A suite as a file holds it."""
    base = {
        "name": "small",
        "tasks": {"CartPole-v1": {"n_timesteps": 100, "low": 20, "high": 500}, "Pendulum-v1": {"n_timesteps": 200}},
        "variants": {"ppo_plus": {"set": {"n_envs": 2, "n_steps": 8}}, "sb3": {"kind": "sb3", "set": {"n_steps": 8}}},
        "seeds": "0-1",
        "baseline": "sb3",
        "published": [
            {
                "label": "somebody",
                "source": "https://example.org",
                "protocol": "training",
                "scores": {"CartPole-v1": {"mean": 490.0, "std": 6.1, "seeds": 3}},
            }
        ],
    }
    return {**copy.deepcopy(base), **changes}


def edited(path: str, value: Any) -> dict[str, Any]:
    """The same with one value replaced, or removed for None."""
    suite = content()
    *outer, last = path.split(".")
    inner: Any = suite
    for key in outer:
        inner = inner[int(key) if key.isdecimal() else key]
    inner[last] = value
    return suite


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_the_package_can_be_read_and_planned(name: str) -> None:
    suite = load_suite(find_suite(name))
    assert suite.name == name and suite.description
    assert len(plan_runs(suite)) == len(suite.tasks) * len(suite.variants) * len(suite.seeds)


def test_the_suite_of_small_images_can_be_read_and_planned() -> None:
    suite = load_suite(ROOT / "benchmarks" / "pixels.yml")
    assert {task.env for task in suite.tasks} == {
        f"minatar_pixels:MinAtarPixels/{game}-v1" for game in ("Breakout", "SpaceInvaders")
    }
    assert len(plan_runs(suite)) == 10


def test_the_mujoco_suite_is_what_it_is_called() -> None:
    suite = load_suite(find_suite("mujoco_1m"))
    assert {task.env for task in suite.tasks} == {
        f"{name}-v5"
        for name in (
            *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
            *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
        )
    }
    assert {task.n_timesteps for task in suite.tasks} == {1_000_000} and suite.seeds == (0, 1, 2, 3, 4)
    assert not any(task.settings for task in suite.tasks), "one configuration for all tasks"
    assert all(entry.source.startswith("https://") for entry in suite.published)


def test_the_suite_of_the_documentation_can_be_run() -> None:
    text = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(plan_runs(suite_from_mapping(yaml.safe_load(block)))) == 60


def test_a_written_suite_is_read_as_the_same(tmp_path: Path) -> None:
    suite = suite_from_mapping(content())
    suite.write(tmp_path / "suite.yml")
    assert load_suite(tmp_path / "suite.yml") == suite


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("task", {}, r"a suite has an unknown key 'task'.*did you mean tasks"),
        ("tasks.CartPole-v1.timesteps", 5, r"tasks\.CartPole-v1 has an unknown key 'timesteps'.*n_timesteps"),
        ("tasks.CartPole-v1.n_timesteps", None, r"tasks\.CartPole-v1 has no n_timesteps"),
        ("tasks.CartPole-v1.n_timesteps", "many", r"n_timesteps is 'many'; give a whole number"),
        ("tasks.CartPole-v1.low", 500, r"low is 500.0 and high 500.0; give both, low below high"),
        ("tasks.CartPole-v1.high", None, r"low is 20.0 and high None"),
        ("tasks", {}, r"tasks is \{\}; give a mapping with at least one entry"),
        ("variants.sb3.kind", "sb4", r"variants\.sb3\.kind is 'sb4'; give ppo_plus or sb3"),
        ("variants.sb3.base", "mine", r"variants\.sb3\.base is 'mine'; give none or zoo"),
        ("variants.sb3.set", 3, r"variants\.sb3\.set is 3; give a mapping"),
        ("variants.sb3.set", {"seed": 3}, r"set\.seed is 3, but seed comes from seeds: of the suite"),
        ("variants.a/b", {}, r"'a/b' is no name"),
        ("variants", {False: {}}, r"variants: False is no text; put it in quotes"),
        ("seeds", "0-0,0", r"seeds is '0-0,0'; give different whole numbers"),
        ("seeds", [0.5], r"seeds is \[0\.5\]"),
        ("protocol", {"episodes": 3}, r"protocol has an unknown key 'episodes'.*eval_episodes"),
        ("protocol", {"evaluations": 0}, r"protocol\.evaluations is 0"),
        ("baseline", "sb4", r"baseline is 'sb4'; name one of the variants \(ppo_plus, sb3\)"),
        ("published.0.protocol", "best", r"published\[0\]\.protocol is 'best'; give training or evaluation"),
        ("published.0.scores", {"Cartpole-v1": {"mean": 1}}, r"for no task of the suite; did you mean CartPole-v1"),
        ("published.0.scores", {"CartPole-v1": {"std": 1}}, r"has no mean"),
        ("published.0.source", None, r"published\[0\] has no source"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        suite_from_mapping(edited(path, value))


def test_a_message_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(yaml.safe_dump(content(task={})))
    with pytest.raises(InvalidArgument, match=r"mine\.yml: a suite has an unknown key"):
        load_suite(file)


def test_an_unknown_suite_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match="there is no suite 'smok'; did you mean smoke"):
        find_suite("smok")


@pytest.mark.parametrize(
    ("given", "seeds"), [("0-4", (0, 1, 2, 3, 4)), ("7", (7,)), (3, (3,)), ([2, 1], (2, 1)), ("0,5-6", (0, 5, 6))]
)
def test_seeds(given: Any, seeds: tuple[int, ...]) -> None:
    assert parse_seeds("seeds", given) == seeds


@pytest.mark.parametrize("given", ["", "a", "-1", "1.5", [True], [1, 1], None])
def test_seeds_that_are_none(given: Any) -> None:
    with pytest.raises(InvalidArgument, match="give different whole numbers"):
        parse_seeds("seeds", given)


def test_settings_of_a_task_win_over_those_of_a_variant() -> None:
    suite = suite_from_mapping(edited("tasks.CartPole-v1.set", {"n_steps": 16, "env_kwargs": {"a": 1}}))
    runs = {(run.variant, run.task): run.config for run in plan_runs(suite, seeds=[5])}
    assert runs["ppo_plus", "CartPole-v1"].hyperparameters["n_steps"] == 16
    assert runs["ppo_plus", "Pendulum-v1"].hyperparameters["n_steps"] == 8
    assert runs["sb3", "CartPole-v1"].env_kwargs == {"a": 1}
    config = runs["ppo_plus", "Pendulum-v1"]
    assert (config.seed, config.n_timesteps, config.eval_freq, config.threads) == (5, 200, 20, 1)


def test_base_none_is_free_of_the_zoo_and_base_zoo_is_not() -> None:
    suite = suite_from_mapping(content(variants={"plain": {}, "tuned": {"base": "zoo"}}, baseline=None))
    runs = {run.variant: run.config for run in plan_runs(suite, [0], ["CartPole-v1"])}
    assert runs["plain"].hyperparameters == {} and runs["plain"].n_envs == 1
    assert runs["tuned"].hyperparameters["gae_lambda"] == 0.8 and runs["tuned"].n_envs == 8


def test_seed_after_seed() -> None:
    runs = plan_runs(suite_from_mapping(content()))
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4


def test_a_choice_of_tasks_and_variants() -> None:
    suite = suite_from_mapping(content())
    assert [run.title for run in plan_runs(suite, [3], ["Pendulum-v1"], ["sb3"])] == ["sb3 · Pendulum-v1 · seed 3"]
    with pytest.raises(InvalidArgument, match="tasks: the suite has no 'Pendulum-v0'; did you mean Pendulum-v1"):
        plan_runs(suite, [3], ["Pendulum-v0"])


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"set": {"n_stepps": 1}}, r"variant v, task CartPole-v1: unknown hyperparameter 'n_stepps'"),
        ({"kind": "sb3", "set": {"compile_update": True}}, "Stable-Baselines3's PPO has no compile_update"),
    ],
)
def test_settings_that_nothing_takes(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        plan_runs(suite_from_mapping(content(variants={"v": variant}, baseline=None)))


def test_the_key_follows_what_decides_the_outcome_and_nothing_else() -> None:
    def key(changed: dict[str, Any] | None = None) -> str:
        return plan_runs(suite_from_mapping(changed or content()), [0])[0].key

    assert key() == key()
    assert key() == key(edited("description", "other words"))
    assert key() == key(edited("tasks.CartPole-v1.high", 400))
    assert key() == key(edited("variants.ppo_plus.set", {"n_envs": 2, "n_steps": 8, "gamma": 0.99})), "the default"
    others = [
        key(edited("variants.ppo_plus.set", {"n_envs": 2, "n_steps": 8, "gamma": 0.9})),
        key(edited("tasks.CartPole-v1.n_timesteps", 101)),
        key(edited("tasks.CartPole-v1.set", {"env_kwargs": {"a": 1}})),
        key(edited("variants.ppo_plus.kind", "sb3")),
        key(content(protocol={"last_episodes": 50})),
        key(content(protocol={"eval_episodes": 3})),
        plan_runs(suite_from_mapping(content()), [1])[0].key,
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_a_further_setting_that_is_off_leaves_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs() -> list[str]:
        return [run.key for run in plan_runs(suite_from_mapping(content()))]

    before, defaults = runs(), plan.complete_hyperparameters
    monkeypatch.setattr(plan, "complete_hyperparameters", lambda given: {**defaults(given), "novelty": 0.0})
    assert runs() == before


def test_other_timesteps_for_all_tasks() -> None:
    suite = with_timesteps(suite_from_mapping(content()), 50)
    assert {run.config.n_timesteps for run in plan_runs(suite)} == {50}
