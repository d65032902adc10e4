"""What a suite is: tasks, configurations, seeds, how results are measured, and what others have published."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_files, resource_path
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import read_yaml, require_number

FOLDER = "benchmark_suites"
KINDS = ("ppo_plus", "sb3")
BASES = ("none", "zoo")
#: which of the two numbers of a run a score is
TRAINING, EVALUATION = "training", "evaluation"
# What the suite says for all configurations; a set: cannot say otherwise.
_OF_THE_SUITE = {
    "env": "the tasks",
    "seed": "seeds:",
    "n_timesteps": "the tasks",
    "eval_freq": "protocol: {evaluations: ...}",
    "eval_episodes": "protocol: {eval_episodes: ...}",
}
_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class Task:
    """
    An environment and how long it is trained in.

    :param env: environment id, as ``ppo-plus train`` takes it
    :param n_timesteps: environment steps of each run
    :param settings: configuration keys for this task, over those of every variant
    :param low: return that counts as 0 where tasks are pooled, usually that of random actions; None leaves it out
    :param high: return that counts as 1, usually a published one; None leaves the task out
    """

    env: str
    n_timesteps: int
    settings: dict[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Variant:
    """
    A configuration that is trained on every task.

    :param name: its name, also of its folder
    :param kind: ``ppo_plus``, or ``sb3`` for Stable-Baselines3's own PPO in the same environments
    :param base: ``none`` starts from the defaults of the class, ``zoo`` from the block of the task as ``ppo-plus
        train`` does
    :param settings: configuration keys over the base, for all tasks
    """

    name: str
    kind: str = "ppo_plus"
    base: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """
    A published result.

    :param mean: mean return
    :param std: standard deviation over seeds, None where it was not published
    :param seeds: number of seeds, None where it was not published
    """

    mean: float
    std: float | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Published:
    """
    Results of others, never rerun here.

    :param label: whose, on which version of the environments
    :param source: where they were published
    :param protocol: ``training`` or ``evaluation``: which of our numbers is set beside them
    :param scores: by environment id
    """

    label: str
    source: str
    protocol: str
    scores: dict[str, Score]


@dataclass(frozen=True)
class Protocol:
    """
    How a run is measured.

    :param last_episodes: training episodes whose mean is the training return of a run, usually 100
    :param eval_episodes: episodes of each evaluation with the policy's mode; more is slower and less noisy
    :param evaluations: evaluations on the way, the final one included; their time is not counted as training
    """

    last_episodes: int = 100
    eval_episodes: int = 10
    evaluations: int = 10


@dataclass(frozen=True)
class Suite:
    """
    A benchmark as data.

    :param name: its name
    :param description: what it is for
    :param tasks: in the order of the report
    :param variants: in the order of the report
    :param seeds: training seeds of every variant on every task
    :param protocol: how a run is measured
    :param baseline: variant that the others are compared with, None for none
    :param published: results of others
    """

    name: str
    description: str
    tasks: tuple[Task, ...]
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    protocol: Protocol
    baseline: str | None = None
    published: tuple[Published, ...] = ()

    def write(self, path: Path) -> None:
        """
        :param path: file to write, which :func:`load_suite` reads
        """
        atomic_write(path, yaml.safe_dump(_mapping(self), sort_keys=False, default_flow_style=None, width=110))


def suite_names() -> list[str]:
    """
    :return: names of the suites that come with the package
    """
    return [name.removesuffix(".yml") for name in resource_files(FOLDER)]


def find_suite(name: str) -> Path:
    """
    :param name: name of a suite of the package, or path of a file
    :return: path of the file
    :raises InvalidArgument: when there is neither
    """
    if name in suite_names():
        return resource_path(FOLDER, f"{name}.yml")
    if Path(name).is_file():
        return Path(name)
    hint = did_you_mean(name, suite_names()) or f"there is {', '.join(suite_names())}, or give the path of a file"
    raise InvalidArgument(f"there is no suite {name!r}; {hint}")


def load_suite(path: Path) -> Suite:
    """
    Read a suite and check everything that can be wrong with it, but for whether its environments are there.

    :param path: YAML file
    :return: the suite
    :raises InvalidArgument: naming the file, the key and the value
    """
    try:
        return suite_from_mapping(read_yaml(path))
    except InvalidArgument as error:
        text = str(error)
        raise InvalidArgument(text if str(path) in text else f"{path}: {text}") from error


def suite_from_mapping(content: Mapping[str, Any]) -> Suite:
    """
    :param content: what a file of a suite holds
    :return: the suite
    :raises InvalidArgument: naming the key and the value
    """
    needed = ("name", "tasks", "variants", "seeds")
    _check_keys("a suite", content, (*needed, "description", "protocol", "baseline", "published"), needed)
    tasks = tuple(_task(env, entry) for env, entry in _entries("tasks", content["tasks"]))
    variants = tuple(_variant(name, entry) for name, entry in _entries("variants", content["variants"]))
    baseline = content.get("baseline")
    if baseline is not None and baseline not in [variant.name for variant in variants]:
        names = ", ".join(variant.name for variant in variants)
        raise InvalidArgument(f"baseline is {baseline!r}; name one of the variants ({names}), or leave it out")
    published = content.get("published") or []
    if not isinstance(published, list):
        raise InvalidArgument(f"published is {published!r}; give a list of label, source, protocol, scores")
    return Suite(
        name=_name("name", content["name"]),
        description=" ".join(str(content.get("description") or "").split()),
        tasks=tasks,
        variants=variants,
        seeds=parse_seeds("seeds", content["seeds"]),
        protocol=_protocol(content.get("protocol") or {}),
        baseline=baseline,
        published=tuple(_published(index, entry, tasks) for index, entry in enumerate(published)),
    )


def parse_seeds(name: str, value: Any) -> tuple[int, ...]:
    """
    :param name: where they were given, for the message
    :param value: a number, a list of numbers, or text such as ``0-4`` or ``0,1,10-12``
    :return: the seeds, in the given order
    :raises InvalidArgument: when it is none of these, or a seed is there twice
    """
    seeds: list[int] = []
    try:
        for part in value if isinstance(value, list) else str(value).split(","):
            if isinstance(part, bool | float):
                raise ValueError
            first, dash, last = str(part).partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds):
        raise InvalidArgument(f"{name} is {value!r}; give different whole numbers of at least 0, such as 0-4 or 0,1,2")
    return tuple(seeds)


def _task(env: str, entry: Any) -> Task:
    where = f"tasks.{env}"
    _check_keys(where, entry, ("n_timesteps", "set", "low", "high"), ("n_timesteps",))
    low, high = (_number(f"{where}.{key}", entry.get(key)) for key in ("low", "high"))
    if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
        raise InvalidArgument(f"{where}: low is {low} and high {high}; give both, low below high, or neither")
    steps = int(require_number(f"{where}.n_timesteps", entry["n_timesteps"], minimum=1))
    return Task(env, steps, _settings(where, entry.get("set")), low, high)


def _variant(name: str, entry: Any) -> Variant:
    where = f"variants.{_name('variants', name)}"
    entry = {} if entry is None else entry
    _check_keys(where, entry, ("kind", "base", "set"))
    kind, base = entry.get("kind", "ppo_plus"), entry.get("base", "none")
    for key, value, known in (("kind", kind, KINDS), ("base", base, BASES)):
        if value not in known:
            raise InvalidArgument(f"{where}.{key} is {value!r}; give {' or '.join(known)}")
    return Variant(name, kind, base, _settings(where, entry.get("set")))


def _settings(where: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InvalidArgument(f"{where}.set is {value!r}; give a mapping of configuration keys, as in a config.yml")
    settings = dict(value or {})
    for key, place in _OF_THE_SUITE.items():
        if key in settings:
            raise InvalidArgument(f"{where}.set.{key} is {settings[key]!r}, but {key} comes from {place} of the suite")
    return settings


def _protocol(entry: Any) -> Protocol:
    known = ("last_episodes", "eval_episodes", "evaluations")
    _check_keys("protocol", entry, known)
    return Protocol(**{key: int(require_number(f"protocol.{key}", entry[key], minimum=1)) for key in entry})


def _published(index: int, entry: Any, tasks: Sequence[Task]) -> Published:
    where, needed = f"published[{index}]", ("label", "source", "protocol", "scores")
    _check_keys(where, entry, needed, needed)
    if entry["protocol"] not in (TRAINING, EVALUATION):
        raise InvalidArgument(f"{where}.protocol is {entry['protocol']!r}; give {TRAINING} or {EVALUATION}")
    known, scores = [task.env for task in tasks], {}
    for env, score in _entries(f"{where}.scores", entry["scores"]):
        if env not in known:
            hint = did_you_mean(env, known) or f"there is {', '.join(known)}"
            raise InvalidArgument(f"{where}.scores.{env} is for no task of the suite; {hint}")
        _check_keys(f"{where}.scores.{env}", score, ("mean", "std", "seeds"), ("mean",))
        mean, std = (_number(f"{where}.scores.{env}.{key}", score.get(key)) for key in ("mean", "std"))
        seeds = score.get("seeds")
        if mean is None:
            raise InvalidArgument(f"{where}.scores.{env}.mean is {mean}; give a number")
        if seeds is not None:
            seeds = int(require_number(f"{where}.scores.{env}.seeds", seeds, minimum=1))
        scores[env] = Score(mean, std, seeds)
    return Published(str(entry["label"]), str(entry["source"]), entry["protocol"], scores)


def _check_keys(where: str, entry: Any, known: Sequence[str], needed: Sequence[str] = ()) -> None:
    if not isinstance(entry, Mapping):
        raise InvalidArgument(f"{where} is {entry!r}; give a mapping of {', '.join(known)}")
    for key in entry:
        if key not in known:
            hint = did_you_mean(str(key), known) or f"there is {', '.join(known)}"
            raise InvalidArgument(f"{where} has an unknown key {key!r} (value {entry[key]!r}); {hint}")
    for key in needed:
        if entry.get(key) is None:
            raise InvalidArgument(f"{where} has no {key}; it needs {', '.join(needed)}")


def _entries(where: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidArgument(f"{where} is {value!r}; give a mapping with at least one entry")
    for name in value:
        if not isinstance(name, str):
            raise InvalidArgument(f"{where}: {name!r} is no text; put it in quotes, as YAML wants on, off and numbers")
    return list(value.items())


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidArgument(f"{where}: {value!r} is no name; use letters, digits, and _ . + -")
    return value


def _number(where: str, value: Any) -> float | None:
    return None if value is None else float(require_number(where, value, minimum=-float("inf"), whole=False))


def _mapping(suite: Suite) -> dict[str, Any]:
    """The form of the file, without what equals its default."""
    tasks = {
        task.env: _filled(n_timesteps=task.n_timesteps, set=task.settings, low=task.low, high=task.high)
        for task in suite.tasks
    }
    variants = {v.name: _filled(kind=v.kind, base=v.base, set=v.settings) for v in suite.variants}
    published = [
        {**vars(entry), "scores": {env: _filled(**vars(score)) for env, score in entry.scores.items()}}
        for entry in suite.published
    ]
    return _filled(
        name=suite.name,
        description=suite.description,
        tasks=tasks,
        variants=variants,
        seeds=list(suite.seeds),
        protocol=dict(vars(suite.protocol)),
        baseline=suite.baseline,
        published=published,
    )


def _filled(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != {} and value != []}
