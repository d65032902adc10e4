"""What stands between the arguments of a user and a running batch: every check, and the choice of engine."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.arrays import where_rows
from sb3_ppo_plus.envs.mujoco.batch_physics import BatchPhysics
from sb3_ppo_plus.envs.mujoco.data_physics import DataPhysics
from sb3_ppo_plus.envs.mujoco.library import mujoco
from sb3_ppo_plus.envs.mujoco.physics import STATE_FIELDS, Physics
from sb3_ppo_plus.envs.mujoco.tensor_task import TensorTask
from sb3_ppo_plus.envs.tasks.base import MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.registry import TASKS, task_class
from sb3_ppo_plus.errors import InvalidArgument

# What mj_rnePostConstraint computes.
AFTER_CONSTRAINTS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
# What a step leaves as it was, or computes only for sensors that need it.
_NOT_COMPUTED = frozenset({"qfrc_inverse", "subtree_linvel", "subtree_angmom", "energy"})


def make_physics(
    model: mujoco.MjModel, n_envs: int, n_threads: int, needs: tuple[str, ...], model_needs: tuple[str, ...]
) -> Physics:
    """
    Choose the engine that computes what a task reads.

    :param model: the compiled model
    :param n_envs: number of simulations
    :param n_threads: threads
    :param needs: MjData fields beside qpos, qvel, ctrl and time
    :param model_needs: MjModel fields
    :return: the simulations, not yet begun
    :raises InvalidArgument: for a field that no step computes
    """
    for name in _NOT_COMPUTED.intersection(needs):
        raise InvalidArgument(
            f"a step does not compute {name!r}; add a sensor for it to the model and read 'sensordata' instead"
        )
    engine = DataPhysics if AFTER_CONSTRAINTS.intersection(needs) else BatchPhysics
    return engine(model, n_envs, n_threads, tuple(name for name in needs if name not in STATE_FIELDS), model_needs)


def make_task(task: str | MujocoTask, kwargs: Mapping[str, Any]) -> MujocoTask:
    """
    Find a task by its id, or take it as it is.

    :param task: id or task
    :param kwargs: arguments for a task given by id
    :return: the task
    :raises InvalidArgument: for an unknown id or argument, with the nearest valid one
    """
    if isinstance(task, MujocoTask):
        if kwargs:
            raise InvalidArgument(
                f"{', '.join(kwargs)}: not arguments of MujocoVecEnv; give a task's own arguments where the task is "
                "made"
            )
        return task
    if task not in TASKS:
        close = get_close_matches(str(task), TASKS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(TASKS)}"
        raise InvalidArgument(
            f"unknown task {task!r}; {hint} For a robot of your own pass a MujocoTask; any other Gymnasium id trains "
            "with "
            "SB3's make_vec_env"
        )
    kind = task_class(task)
    valid = list(inspect.signature(kind).parameters)
    for name in kwargs:
        if name not in valid:
            close = get_close_matches(name, valid, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(valid)}"
            raise InvalidArgument(f"{task} has no argument {name!r}; {hint}")
    return kind(**kwargs)


def probe_spaces(task: MujocoTask, physics: Physics) -> tuple[spaces.Box, spaces.Box]:
    """
    Put the robot into its default pose and ask the task for everything once.

    :param task: the task, set up
    :param physics: the simulations
    :return: observation space and action space
    :raises InvalidArgument: when the shapes do not fit, or an actuator has no range
    """
    n, model = physics.n_envs, physics.model
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    unlimited = [model.actuator(index).name or str(index) for index in np.flatnonzero(low >= high)]
    if model.nu == 0 or unlimited:
        raise InvalidArgument(
            f"the model has {'no actuators' if model.nu == 0 else f'actuators without a ctrlrange: {unlimited}'}; a "
            "policy acts within the ctrlrange of each: give them in the MJCF, <motor joint=... ctrlrange='-1 1'/>"
        )
    physics.begin(np.arange(n), np.tile(model.qpos0, (n, 1)), np.zeros((n, model.nv)))
    name = type(task).__name__
    # The task itself, in its own numbers: what stands between it and the engine takes only what fits.
    data = physics.data if task.arrays else TensorTask(task, physics.data).data
    zeros = np.zeros((n, model.nu), np.float32)
    observation, tracked = task.observe(data), task.track(data)
    check = _RowsCheck(n, np.ndarray if task.arrays else th.Tensor)
    check(f"{name}.observe()", observation, dims=2)
    if tracked is not None:
        check(f"{name}.track()", tracked, dims=2)
    outcome = task.evaluate(data, zeros if task.arrays else th.from_numpy(zeros), tracked, tracked)
    check(f"the reward of {name}.evaluate()", outcome.reward, dims=1)
    if outcome.terminated is not None:
        check(f"terminated of {name}.evaluate()", outcome.terminated, dims=1)
        if outcome.terminated.dtype not in (bool, th.bool):
            raise InvalidArgument(f"terminated of {name}.evaluate() is {outcome.terminated.dtype}; make it bool")
    for key, value in outcome.stats.items():
        check(f"stats[{key!r}] of {name}.evaluate()", value)
    dtype = np.asarray(observation).dtype.type
    return spaces.Box(-np.inf, np.inf, observation.shape[1:], dtype), spaces.Box(low, high, dtype=np.float32)


class _RowsCheck:
    """Checks that what a task returns has one row per environment, and is what it was given: arrays, or tensors."""

    def __init__(self, n: int, kind: type) -> None:
        self.n, self.kind = n, kind

    def __call__(self, what: str, value: Any, dims: int | None = None) -> None:
        n, fits = self.n, isinstance(value, self.kind)
        if not fits or value.ndim < 1 or len(value) != n or dims not in (None, value.ndim):
            shape = list(value.shape) if fits else f"a {type(value).__name__}"
            wanted = {1: f"[{n}]", 2: f"[{n}, k]", None: f"[{n}, ...]"}[dims]
            raise InvalidArgument(
                f"{what} gave {shape}; it has to be a {self.kind.__name__} {wanted}, one row per environment"
            )


def end_rows(outcome: Outcome, bad: np.ndarray) -> Outcome:
    """
    Take simulations out of an outcome: they end here, and what they would say counts as 0.

    :param outcome: what a step was worth
    :param bad: True for simulations that diverged [n]
    :return: the same for the others, and ``diverged`` among the figures
    """
    terminated = bad if outcome.terminated is None else bad | outcome.terminated
    stats = {name: where_rows(bad, np.zeros_like(value), value) for name, value in outcome.stats.items()}
    return Outcome(np.where(bad, 0.0, outcome.reward), terminated, {**stats, "diverged": bad})


def check_same_kind(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """
    :param state: a state to load
    :param mine: a state of the environment that is to load it
    :raises InvalidArgument: when task, number of robots or options differ
    """

    def kind(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return entry["task"], list(entry["physics"].shape), entry["randomizer"] is not None

    try:
        its, wanted = kind(state), kind(mine)
    except (KeyError, AttributeError) as missing:
        raise InvalidArgument(f"this is no state of a MujocoVecEnv ({missing!r} is missing)") from missing
    if its != wanted:
        raise InvalidArgument(
            f"the state is of {its[0]} with states of shape {its[1]}, randomization {its[2]}; this environment is "
            f"{wanted[0]} with {wanted[1]}, randomization {wanted[2]}: make it with the same arguments"
        )


def whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidArgument(f"{name} is {value!r}; give a whole number of at least 1")
    return int(value)


def time_limit(task: MujocoTask, given: int | None) -> int:
    limit = task.max_episode_steps if given is None else given
    if limit is None or limit == -1:
        return -1
    return whole("max_episode_steps (-1 for none)", limit)


def processors() -> int:
    """Processors this process may use; containers give it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
