"""From a suite to its runs: one configuration for each variant, task and seed, and the key by which it is known."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO

from sb3_ppo_plus.benchmark.suite import Protocol, Suite, Task, Variant
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters, config_from_mapping
from sb3_ppo_plus.runs.hyperparameters import ppo_defaults
from sb3_ppo_plus.runs.ids import check_env_id
from sb3_ppo_plus.runs.layers import zoo_block
from sb3_ppo_plus.runs.naming import did_you_mean

# Counts up when runs of an earlier version are no longer comparable with those of this one.
_FORMAT = 1


@dataclass(frozen=True)
class PlannedRun:
    """
    One training of a suite.

    :param variant: name of the configuration
    :param kind: ``ppo_plus`` or ``sb3``
    :param config: configuration of the run, as ``ppo-plus train`` takes it
    :param last_episodes: training episodes whose mean is the training return
    """

    variant: str
    kind: str
    config: RunConfig
    last_episodes: int

    @property
    def task(self) -> str:
        """Id of the environment."""
        return self.config.env

    @property
    def seed(self) -> int:
        """Training seed."""
        return self.config.seed

    @property
    def key(self) -> str:
        """Hash of every setting that is not the default; a run with another key is another run."""
        # Without the defaults: a version that has a further setting, off, must not make all runs others.
        defaults = {**RunConfig("").to_mapping(), **complete_hyperparameters({})}
        settings = self.config.to_mapping()
        content = {
            "format": _FORMAT,
            "kind": self.kind,
            "last_episodes": self.last_episodes,
            "config": {name: value for name, value in settings.items() if defaults.get(name) != value},
        }
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{self.variant} · {self.task} · seed {self.seed}"

    @property
    def place(self) -> Path:
        """Its folder, inside that of all runs. The key is part of the name, so another configuration has another."""
        return Path(self.variant) / re.sub(r"[^\w.+-]+", "-", self.task) / f"seed_{self.seed}-{self.key}"


def plan_runs(
    suite: Suite,
    seeds: Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
) -> list[PlannedRun]:
    """
    List the runs of a suite, seed after seed, so that an early end leaves fewer seeds instead of fewer tasks.

    :param suite: the suite
    :param seeds: seeds instead of those of the suite; they may be others
    :param tasks: environment ids, None for all
    :param variants: names, None for all
    :return: the runs
    :raises InvalidArgument: for a task or variant that the suite does not have, or a configuration that cannot work
    """
    chosen_tasks = _chosen("tasks", tasks, {task.env: task for task in suite.tasks})
    chosen_variants = _chosen("variants", variants, {variant.name: variant for variant in suite.variants})
    pairs = [(variant, task) for task in chosen_tasks for variant in chosen_variants]
    return [
        plan_run(variant, task, seed, suite.protocol)
        for seed in (suite.seeds if seeds is None else seeds)
        for variant, task in pairs
    ]


def plan_run(variant: Variant, task: Task, seed: int, protocol: Protocol) -> PlannedRun:
    """
    :param variant: configuration
    :param task: environment and steps
    :param seed: training seed
    :param protocol: how it is measured
    :return: the run
    :raises InvalidArgument: when the configuration cannot work
    """
    base = zoo_block(task.env) if variant.base == "zoo" else {"n_envs": 1}
    values = {
        "threads": 1,  # runs share the machine, also where one would be given more
        **base,
        **variant.settings,
        **task.settings,
        "env": task.env,
        "seed": seed,
        "n_timesteps": task.n_timesteps,
        "eval_freq": max(1, task.n_timesteps // protocol.evaluations),
        "eval_episodes": protocol.eval_episodes,
    }
    try:
        config = config_from_mapping(values)
        if variant.kind == "sb3":
            check_sb3(config)
    except InvalidArgument as error:
        raise InvalidArgument(f"variant {variant.name}, task {task.env}: {error}") from error
    return PlannedRun(variant.name, variant.kind, config, protocol.last_episodes)


def check_environments(runs: Sequence[PlannedRun]) -> None:
    """
    :param runs: planned runs
    :raises InvalidArgument: for an environment id that nothing stands for
    """
    for env in dict.fromkeys(run.task for run in runs):
        check_env_id(env)


def sb3_arguments() -> set[str]:
    """
    :return: names of the arguments of SB3's PPO
    """
    return set(inspect.signature(PPO.__init__).parameters) & set(ppo_defaults())


def check_sb3(config: RunConfig) -> None:
    """
    :param config: configuration of a run of SB3's PPO
    :raises InvalidArgument: for a hyperparameter that only PPOPlus has
    """
    for name, value in config.hyperparameters.items():
        if name not in sb3_arguments():
            raise InvalidArgument(f"{name} is {value!r}, but Stable-Baselines3's PPO has no {name}; leave it out")


def with_timesteps(suite: Suite, n_timesteps: int) -> Suite:
    """
    :param suite: a suite
    :param n_timesteps: environment steps of each run of every task
    :return: the suite with these
    """
    return replace(suite, tasks=tuple(replace(task, n_timesteps=n_timesteps) for task in suite.tasks))


def _chosen(what: str, names: Sequence[str] | None, known: dict[str, Any]) -> list[Any]:
    for name in names or ():
        if name not in known:
            hint = did_you_mean(name, known) or f"there is {', '.join(known)}"
            raise InvalidArgument(f"{what}: the suite has no {name!r}; {hint}")
    return [entry for name, entry in known.items() if names is None or name in names]
