"""What several of Gymnasium's tasks share: checks of arguments, and figures that many report."""

from __future__ import annotations

from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask
from sb3_ppo_plus.envs.tasks.ops import Array
from sb3_ppo_plus.errors import InvalidArgument


def checked_range(name: str, limits: tuple[float, float]) -> tuple[float, float]:
    """
    Check a pair of limits.

    :param name: the argument's name
    :param limits: what the user gave
    :return: lower and upper limit
    :raises InvalidArgument: when it is no pair, or leaves no room between its limits
    """
    try:
        low, high = limits
        fits = bool(low < high)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise InvalidArgument(
            f"{name}={limits!r} must be a pair (low, high) with low < high; use -inf or inf for a side without limit"
        )
    return low, high


def body_id(model: Any, body: int | str, reason: str) -> int:
    """
    Find a body of the model.

    :param model: the compiled ``mujoco.MjModel``
    :param body: its name, or its number counted from the world's 0
    :param reason: what asks for it, for the message
    :return: its number
    :raises InvalidArgument: when the model has no such body
    """
    names = [model.body(index).name for index in range(model.nbody)]
    if isinstance(body, str) and body in names:
        return names.index(body)
    if not isinstance(body, str) and body in range(model.nbody):
        return int(body)
    raise InvalidArgument(
        f"{reason}: the model has no body {body!r}; its bodies, counted from 0, are {', '.join(names)}"
    )


def uniform_then_normal(task: MujocoTask, draw: Draw) -> tuple[Array, Array]:
    """
    Draw states with uniform noise on positions and normal noise on velocities.

    :param task: the task, set up
    :param draw: random numbers
    :return: positions [n, nq] and velocities [n, nv]
    """
    scale = task.reset_noise_scale
    return task.qpos0 + draw.uniform(-scale, scale, task.nq), scale * draw.normal(task.nv)


def place(data: Fields) -> dict[str, Array]:
    """
    Say where the root stands on the plane, in metres.

    :param data: fields of the simulation
    :return: ``x_position``, ``y_position`` and ``distance_from_origin``, each [n], none a view of the simulation
    """
    xy = ops.copy(data.qpos[:, :2])
    return {"x_position": xy[:, 0], "y_position": xy[:, 1], "distance_from_origin": ops.norm(xy)}


def is_finite(data: Fields) -> Array:
    """
    Say whether positions and velocities are numbers.

    :param data: fields of the simulation
    :return: False where one is infinite or not a number [n]
    """
    return ops.finite(ops.cat((data.qpos, data.qvel)))
