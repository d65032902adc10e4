"""What stands between the arguments of a user and a running batch: every check, and the choice of engine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.mujoco.batch_physics import BatchPhysics
from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.data_physics import DataPhysics
from sb3_ppo_plus.envs.mujoco.physics import STATE_FIELDS, Physics
from sb3_ppo_plus.envs.tasks.base import MujocoTask
from sb3_ppo_plus.envs.tasks.registry import TASKS, task_class
from sb3_ppo_plus.errors import InvalidArgument

# What mj_rnePostConstraint computes.
AFTER_CONSTRAINTS = frozenset({"cacc", "cfrc_int", "cfrc_ext"})
# What a step leaves as it was, or computes only for sensors that need it.
_NOT_COMPUTED = frozenset({"qfrc_inverse", "subtree_linvel", "subtree_angmom", "energy"})


def check_engine(engine: str, device: Any, engine_options: Any) -> None:
    """
    :param engine: what an environment on the processor was asked for
    :param device: likewise
    :param engine_options: likewise
    :raises InvalidArgument: unless it is the engine that computes there
    """
    if engine == "warp":
        raise InvalidArgument(
            "engine='warp' is another class; call MujocoVecEnv itself, or derive yours from "
            "sb3_ppo_plus.envs.mujoco.warp_vec_env.WarpVecEnv"
        )
    if engine != "cpu":
        raise InvalidArgument(f"engine={engine!r}; there is 'cpu' and 'warp'")
    if str(device) != "cpu" or engine_options:
        given = f"device={str(device)!r}" if str(device) != "cpu" else f"engine_options={engine_options!r}"
        raise InvalidArgument(f"{given} goes with engine='warp'; engine='cpu' computes on the processor's threads")


def make_physics(
    model: mujoco.MjModel, n_envs: int, n_threads: int, needs: Sequence[str], model_needs: Sequence[str]
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
    check_needs(needs, model_needs)
    engine = DataPhysics if AFTER_CONSTRAINTS.intersection(needs) else BatchPhysics
    return engine(
        model, n_envs, n_threads, tuple(name for name in needs if name not in STATE_FIELDS), tuple(model_needs)
    )


def check_needs(needs: Sequence[str], model_needs: Sequence[str]) -> None:
    """
    :param needs: MjData fields that a task asks for
    :param model_needs: MjModel fields
    :raises InvalidArgument: for a field that no step computes, and for a forgotten comma
    """
    if isinstance(needs, str) or isinstance(model_needs, str):
        raise InvalidArgument(
            f"needs={needs!r}, model_needs={model_needs!r}: give tuples, ('sensordata',) with its comma"
        )
    for name in _NOT_COMPUTED.intersection(needs):
        raise InvalidArgument(
            f"a step does not compute {name!r}; add a sensor for it to the model and read 'sensordata' instead"
        )


def make_task(task: str | MujocoTask, kwargs: Mapping[str, Any], options: Sequence[str] = ()) -> MujocoTask:
    """
    Find a task by its id, or take it as it is.

    :param task: id or task
    :param kwargs: arguments for a task given by id
    :param options: the environment's own arguments, for hints about misspelled ones
    :return: the task
    :raises InvalidArgument: for an unknown id or argument, with the nearest valid one
    """
    if isinstance(task, MujocoTask):
        for name in kwargs:
            close = get_close_matches(name, options, n=1)
            hint = f"did you mean {close[0]}?" if close else "give a task's own arguments where the task is made"
            raise InvalidArgument(f"MujocoVecEnv has no argument {name!r}; {hint}")
        if not hasattr(task, "frame_skip"):
            raise InvalidArgument(f"{type(task).__name__}.__init__() has to call super().__init__(model, ...)")
        return task
    if inspect.isclass(task):
        raise InvalidArgument(f"task is the class {task.__name__}; give an instance of it, {task.__name__}()")
    if task not in TASKS:
        close = get_close_matches(str(task), TASKS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(TASKS)}"
        raise InvalidArgument(
            f"unknown task {task!r}; {hint} For a robot of your own pass a MujocoTask; any other Gymnasium id trains "
            "with SB3's make_vec_env"
        )
    kind = task_class(task)
    valid = list(inspect.signature(kind).parameters)
    for name in kwargs:
        if name not in valid:
            close = get_close_matches(name, [*valid, *options], n=1)
            hint = f"did you mean {close[0]}?" if close else f"there is {', '.join([*valid, *options])}"
            raise InvalidArgument(f"{task} has no argument {name!r}; {hint}")
    return kind(**kwargs)


def check_same_kind(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """
    :param state: a state to load
    :param mine: a state of the environment that is to load it
    :raises InvalidArgument: when task, number of robots or options differ
    """

    def kind(entry: Mapping[str, Any]) -> dict[str, Any]:
        randomized = entry["randomizer"]
        signals = {name: part for name, part in entry["signals"].items() if name != "generator"}
        return {
            "task": entry["task"],
            "physics": list(entry["physics"].shape),
            "observations": list(entry["observations"].shape),
            "randomization": None if randomized is None else sorted(randomized["values"]),
            "signals": {name: [list(value.shape) for value in part.values()] for name, part in signals.items()},
        }

    wanted = kind(mine)
    try:
        its = kind(state)
    except (KeyError, AttributeError, TypeError) as missing:
        raise InvalidArgument(f"this is no state of a MujocoVecEnv ({missing!r} is missing)") from missing
    for name, value in its.items():
        if value != wanted[name]:
            raise InvalidArgument(
                f"the state is of another environment: its {name} is {value}, here it is {wanted[name]}; make the "
                "environment with the same arguments"
            )


def whole(name: str, value: Any, low: int = 1) -> int:
    """
    :param name: name of an argument
    :param value: what was given
    :param low: smallest value
    :return: the value
    :raises InvalidArgument: when it is no whole number, or too small
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise InvalidArgument(f"{name} is {value!r}; give a whole number of at least {low}")
    return int(value)


def time_limit(task: MujocoTask, given: int | None) -> int:
    """
    :param task: the task, whose own limit counts unless another is given
    :param given: steps, -1 for no limit, None for the task's own
    :return: steps, -1 for no limit
    :raises InvalidArgument: for anything else
    """
    limit = task.max_episode_steps if given is None else given
    if limit is None or limit == -1:
        return -1
    return whole("max_episode_steps (-1 for none)", limit)
