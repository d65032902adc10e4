"""What several of Gymnasium's tasks share: checks of arguments, and arithmetic that equals NumPy's bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask
from sb3_ppo_plus.errors import InvalidArgument


def checked_noise(reset_noise_scale: float) -> float:
    """
    Check the size of the noise at reset.

    :param reset_noise_scale: what the user gave
    :return: the same
    :raises InvalidArgument: when it is negative or not finite
    """
    if not 0.0 <= reset_noise_scale < math.inf:
        raise InvalidArgument(f"reset_noise_scale={reset_noise_scale!r} must be 0 (no noise) or a positive number")
    return reset_noise_scale


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


def uniform_then_normal(task: MujocoTask, draw: Draw) -> tuple[th.Tensor, th.Tensor]:
    """
    Draw states with uniform noise on positions and normal noise on velocities.

    :param task: the task, set up
    :param draw: random numbers
    :return: positions [n, nq] and velocities [n, nv]
    """
    scale = task.reset_noise_scale
    return task.qpos0 + draw.uniform(-scale, scale, task.nq), scale * draw.normal(task.nv)


def place(data: Fields) -> dict[str, th.Tensor]:
    """
    Say where the root stands on the plane, in metres.

    :param data: fields of the simulation
    :return: ``x_position``, ``y_position`` and ``distance_from_origin``, each [n], none a view of the simulation
    """
    xy = data.qpos[:, :2].clone()
    return {
        "x_position": xy[:, 0],
        "y_position": xy[:, 1],
        "distance_from_origin": th.linalg.vector_norm(xy, dim=1),
    }


def sum_of_squares(action: th.Tensor) -> th.Tensor:
    """
    Give the energy of an action.

    On the processor NumPy adds it up: torch adds float32 numbers in another order, and the sum of six or more of them
    would differ from Gymnasium's in its last bits.

    :param action: actions [n, A]
    :return: sum of the squares, in the dtype of the action [n]
    """
    if action.device.type != "cpu":
        return action.square().sum(1)
    return th.from_numpy(np.square(action.numpy()).sum(1))


def sin_cos(angles: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Give sine and cosine.

    On the processor they are NumPy's: those of torch differ in the last bit of about one value in a thousand, and
    observations must equal Gymnasium's.

    :param angles: angles, in radians [n, k]
    :return: sine and cosine, each [n, k]
    """
    if angles.device.type != "cpu":
        return angles.sin(), angles.cos()
    values = angles.numpy()
    return th.from_numpy(np.sin(values)), th.from_numpy(np.cos(values))


def is_finite(data: Fields) -> th.Tensor:
    """
    Say whether positions and velocities are numbers.

    :param data: fields of the simulation
    :return: False where one is infinite or not a number [n]
    """
    # The largest number of a row with a NaN is NaN, and no comparison with it is true.
    return th.cat((data.qpos, data.qvel), dim=1).abs().amax(1) < math.inf
