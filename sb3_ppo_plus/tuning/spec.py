"""What a study is: everything that makes its trials comparable, frozen when it is created."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from gymnasium.error import Error as GymError

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters, config_from_mapping, package_versions
from sb3_ppo_plus.runs.envs import is_vector, probe_spaces
from sb3_ppo_plus.runs.ids import find_task, is_unity
from sb3_ppo_plus.runs.prepare import resolve
from sb3_ppo_plus.tuning.objective import Objective
from sb3_ppo_plus.tuning.samplers import check_sampler, make_pruner
from sb3_ppo_plus.tuning.settings import check_space
from sb3_ppo_plus.tuning.space import Space, space_from_mapping

# A later version that cannot read an earlier one's studies counts up.
FORMAT = 1
# Where another version may change what a configuration is worth.
_COMPARED = ("sb3-ppo-plus", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco", "optuna")


@dataclass(frozen=True)
class StudySpec:
    """
    A study as it was created.

    :param name: name of the study
    :param base: flat configuration of the runs; a trial replaces what it draws
    :param space_name: name of the search space
    :param space: the search space itself
    :param objective: ``auc``, ``final``, ``time-to-threshold`` or ``return,wallclock``
    :param threshold: return to reach, for ``time-to-threshold``
    :param sampler: ``tpe``, ``gp``, ``cmaes``, ``random``, ``qmc`` or ``grid``
    :param sampler_seed: seed of the draws
    :param n_startup_trials: random trials before the sampler learns; more explores more
    :param pruner: ``percentile``, ``median`` or ``none``
    :param pruning_warmup: part of a trial before which nothing is pruned, 0 to 1; larger is safer and saves less
    :param seeds: training seeds; each trial takes one, in turn
    :param n_evals: evaluations per trial; more gives a finer curve and costs more
    :param max_attempts: how often a trial is begun before a worker that dies over it counts as its failure
    :param max_failures: failures in a row after which the study stops
    :param environment: what the environment looked like
    :param versions: packages that it was created with
    :param command: how it was created
    """

    name: str
    base: dict[str, Any]
    space_name: str
    space: dict[str, Any]
    objective: str = "auc"
    threshold: float | None = None
    sampler: str = "tpe"
    sampler_seed: int = 0
    n_startup_trials: int = 10
    pruner: str = "percentile"
    pruning_warmup: float = 0.3
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_evals: int = 20
    max_attempts: int = 3
    max_failures: int = 5
    environment: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    command: str = ""

    @property
    def env(self) -> str:
        """Id of the environment."""
        return str(self.base["env"])

    @property
    def n_timesteps(self) -> int:
        """Environment steps of a trial."""
        return int(self.base["n_timesteps"])

    @property
    def goal(self) -> Objective:
        """How trials are ranked."""
        return Objective(self.objective, self.n_timesteps, self.threshold)

    def read_space(self) -> Space:
        """
        :return: the search space
        """
        return space_from_mapping(self.space_name, self.space)

    def to_json(self) -> str:
        """
        :return: the form that the storage keeps
        """
        return json.dumps({"format": FORMAT, **asdict(self)})

    def write(self, path: Path) -> None:
        """
        :param path: file to write for readers
        """
        content = json.loads(self.to_json())
        atomic_write(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110))


def spec_from_json(text: Any, where: str) -> StudySpec:
    """
    :param text: what ``to_json`` gave
    :param where: storage and study, for the message
    :return: the study's specification
    :raises InvalidArgument: when it is of something else, or of a version that this one does not know
    """
    try:
        content = json.loads(text)
        found = content.pop("format")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidArgument(
            f"{where} was not created by `ppo-plus tune`: nothing says what its trials are; give another --study-name"
        ) from error
    known = {entry.name for entry in fields(StudySpec)}
    if found != FORMAT or not content.keys() <= known:
        raise InvalidArgument(
            f"{where} was created by another version of sb3-ppo-plus (format {found}, here {FORMAT}); use that version"
        )
    return StudySpec(**{**content, "seeds": tuple(content["seeds"])})


def make_spec(config: RunConfig, space: Space, **options: Any) -> StudySpec:
    """
    Freeze a study, after everything that can be wrong with it was checked.

    :param config: configuration of its runs
    :param space: search space
    :param options: further fields of ``StudySpec``
    :return: the specification
    :raises InvalidArgument: for whatever cannot work
    """
    for name, least in {"n_evals": 1, "max_attempts": 1, "max_failures": 1, "n_startup_trials": 1}.items():
        if name in options and options[name] < least:
            raise InvalidArgument(f"{name} is {options[name]!r}; give at least {least}")
    seeds = options.get("seeds", (0,))
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise InvalidArgument(f"seeds is {list(seeds)}; give different whole numbers of at least 0")
    check_sampler(options.get("sampler", "tpe"))
    make_pruner(options.get("pruner", "percentile"), 1, options.get("pruning_warmup", 0.3), 1)
    if not 0 <= options.get("pruning_warmup", 0.3) < 1:
        raise InvalidArgument(f"pruning_warmup is {options['pruning_warmup']!r}; give a part from 0 to below 1")
    n_evals = options.get("n_evals", 20)
    observation_space, _ = probe_spaces(config)
    normalize = is_vector(observation_space) if config.normalize == "auto" else config.normalize
    base = {
        **config.to_mapping(),
        **complete_hyperparameters(config.hyperparameters),
        "policy": resolve(config, observation_space).policy,
        "normalize": normalize,
        # Small networks are fastest with one, and workers share the processor.
        "threads": config.threads or 1,
        "eval_freq": max(1, config.n_timesteps // n_evals),
    }
    base = json.loads(json.dumps(base))  # what the storage gives back: lists for tuples
    spec = StudySpec(
        base=base, space_name=space.name, space=dict(space.source), versions=compared_versions(), **options
    )
    if len(spec.goal.maximize) > 1 and spec.pruner != "none":
        spec = StudySpec(**{**vars(spec), "pruner": "none"})  # Optuna cannot prune where two numbers count
    check_space(space, base)
    return StudySpec(**{**vars(spec), "environment": describe_environment(config_from_mapping(base))})


def compared_versions() -> dict[str, str]:
    """
    :return: versions that must agree among the workers of a study
    """
    found = {**package_versions(), "optuna": version("optuna")}
    # A build of torch for another processor is the same version.
    return {name: found[name].partition("+")[0] for name in _COMPARED if name in found}


def describe_environment(config: RunConfig) -> dict[str, Any]:
    """
    Say what an environment is, so that a worker notices that its own is another one.

    :param config: configuration of a run
    :return: spaces, time limit, and a hash of the source of its module
    """
    observation_space, action_space = probe_spaces(config)
    described: dict[str, Any] = {"observation_space": str(observation_space), "action_space": str(action_space)}
    task = find_task(config.env)
    if is_unity(config.env):
        return described
    if isinstance(task, type):
        return {**described, "source": _source_hash(task.__module__)}
    try:
        known = gym.spec(config.env.rpartition(":")[2])
    except GymError:
        return described
    entry = known.entry_point if isinstance(known.entry_point, str) else getattr(known.entry_point, "__module__", "")
    return {
        **described,
        "max_episode_steps": known.max_episode_steps,
        "entry_point": entry,
        "source": _source_hash(entry.partition(":")[0]),
    }


def differences(spec: StudySpec) -> list[str]:
    """
    Compare a study with what is installed here.

    :param spec: the study
    :return: one line for each difference that would make trials incomparable
    """
    here, found = compared_versions(), []
    for name, there in (spec.versions or {}).items():
        if here.get(name) != there:
            found.append(f"{name} is {here.get(name, 'not installed')} here and {there} in the study")
    environment = describe_environment(config_from_mapping(spec.base))
    for name, there in (spec.environment or {}).items():
        if environment.get(name) != there:
            found.append(f"{name} of {spec.env} is {environment.get(name)!r} here and {there!r} in the study")
    return found


def _source_hash(module: str) -> str:
    """Of the file that defines a module; empty where there is none."""
    try:
        source = inspect.getsource(importlib.import_module(module))
    except (ImportError, OSError, TypeError, ValueError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]
