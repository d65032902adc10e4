"""Asks a task for everything once, before the first step, so that its mistakes come with an explanation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.draws import Generators, TensorDraw
from sb3_ppo_plus.envs.mujoco.physics import Physics
from sb3_ppo_plus.envs.mujoco.tensor_task import TensorTask
from sb3_ppo_plus.envs.tasks.base import Draw, MujocoTask, Outcome
from sb3_ppo_plus.errors import InvalidArgument

# Keys of infos that SB3 and the engine give a meaning of their own.
_RESERVED = ("episode", "terminal_observation", "TimeLimit.truncated", "diverged", EPISODE_RETURN, EPISODE_LENGTH)


def probe_spaces(task: MujocoTask, physics: Physics) -> tuple[spaces.Box, spaces.Box]:
    """
    Put the robot into its default pose and ask the task for everything once.

    :param task: the task, set up
    :param physics: the simulations
    :return: observation space and action space
    :raises InvalidArgument: when the shapes do not fit, or an actuator has no range
    """
    n, model = physics.n_envs, physics.model
    actions = action_space(model)
    throwaway = Generators(1)
    throwaway.seed([0])
    draw = throwaway.draw_arrays(np.zeros(1, int))
    check_start(task, draw if task.arrays else TensorDraw(draw), model)
    physics.begin(np.arange(n), np.tile(model.qpos0, (n, 1)), np.zeros((n, model.nv)))
    # The task itself, in its own numbers: what stands between it and the engine takes only what fits.
    data = physics.data if task.arrays else TensorTask(task, physics.data).data
    zeros = np.zeros((n, model.nu), np.float32)
    observation = check_answers(task, data, zeros if task.arrays else th.from_numpy(zeros))
    dtype = np.asarray(observation).dtype.type
    return spaces.Box(-np.inf, np.inf, observation.shape[1:], dtype), actions


def action_space(model: Any) -> spaces.Box:
    """
    :param model: the compiled model
    :return: what its actuators take
    :raises InvalidArgument: when there are none, or one has no range
    """
    low, high = model.actuator_ctrlrange.astype(np.float32).T
    unlimited = [model.actuator(index).name or str(index) for index in np.flatnonzero(low >= high)]
    if model.nu == 0 or unlimited:
        raise InvalidArgument(
            f"the model has {'no actuators' if model.nu == 0 else f'actuators without a ctrlrange: {unlimited}'}; a "
            "policy acts within the ctrlrange of each: give them in the MJCF, <motor joint=... ctrlrange='-1 1'/>"
        )
    return spaces.Box(low, high, dtype=np.float32)


def check_start(task: MujocoTask, draw: Draw, model: Any, m: int = 1) -> None:
    """
    Draw starts that nobody uses, and look at their shape.

    :param task: the task, set up
    :param draw: random numbers
    :param model: the compiled model
    :param m: number of starts that ``draw`` draws
    :raises InvalidArgument: when the shapes do not fit
    """
    state = task.initial_state(draw)
    what = f"{type(task).__name__}.initial_state()"
    if not isinstance(state, tuple) or len(state) != 2:
        raise InvalidArgument(f"{what} gave a {type(state).__name__}; return positions and velocities, two of them")
    for values, name, size in zip(state, ("positions", "velocities"), (model.nq, model.nv), strict=True):
        shape = list(getattr(values, "shape", ()))
        if shape != [m, size]:
            episodes = "one episode" if m == 1 else f"{m} episodes"
            raise InvalidArgument(f"{what} gave {name} of shape {shape} for {episodes}; the model needs [{m}, {size}]")


def check_answers(task: MujocoTask, data: Any, action: Any) -> Any:
    """
    Ask for everything that a step asks for.

    :param task: the task, set up
    :param data: fields of the simulation
    :param action: actions, arrays or tensors as the answers have to be [n, A]
    :return: the observation
    :raises InvalidArgument: when an answer has another form
    """
    n, name = len(action), type(task).__name__
    observation, tracked = task.observe(data), task.track(data)
    check = _RowsCheck(n, np.ndarray if isinstance(action, np.ndarray) else th.Tensor)
    check(f"{name}.observe()", observation, dims=2)
    if tracked is not None:
        check(f"{name}.track()", tracked, dims=2)
    outcome = task.evaluate(data, action, tracked, tracked)
    if not isinstance(outcome, Outcome):
        raise InvalidArgument(
            f"{name}.evaluate() gave a {type(outcome).__name__}; return Outcome(reward, terminated, stats)"
        )
    check(f"the reward of {name}.evaluate()", outcome.reward, dims=1)
    if outcome.terminated is not None:
        check(f"terminated of {name}.evaluate()", outcome.terminated, dims=1)
        if outcome.terminated.dtype not in (bool, th.bool):
            raise InvalidArgument(f"terminated of {name}.evaluate() is {outcome.terminated.dtype}; make it bool")
    for key, value in outcome.stats.items():
        if key in _RESERVED or key.startswith("randomization/"):
            raise InvalidArgument(f"stats of {name}.evaluate() has {key!r}, a name that infos use already; rename it")
        check(f"stats[{key!r}] of {name}.evaluate()", value)
    return observation


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
