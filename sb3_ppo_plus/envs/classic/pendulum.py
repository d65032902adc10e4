"""A pendulum that is swung up by a weak motor, as Gymnasium computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.classic.task import Moved, TorchTask, named_numbers

_MAX_SPEED, _MAX_TORQUE, _DT, _MASS, _LENGTH = 8.0, 2.0, 0.05, 1.0, 1.0


class Pendulum(TorchTask):
    """
    Gymnasium's ``Pendulum-v1``. State: angle in rad, 0 is upright, and angular velocity in rad/s [2, N].

    :param g: gravity in m/s^2, 10 for Gymnasium's; smaller is easier
    """

    env_id = "Pendulum-v1"
    n_draws = 2

    def __init__(self, g: float = 10.0) -> None:
        self.max_episode_steps = 200
        self.g = float(g)
        high = np.array([1.0, 1.0, _MAX_SPEED], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Box(-_MAX_TORQUE, _MAX_TORQUE, (1,), np.float32)

    def start_bounds(self, options: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
        """
        :param options: ``x_init`` and ``y_init``, largest angle and largest velocity to begin with
        :return: bounds [2]
        """
        found = named_numbers("Pendulum", options, {"x_init": math.pi, "y_init": 1.0})
        high = [found["x_init"], found["y_init"]]
        return [-value for value in high], high

    def start(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: the state itself [2, N]
        :return: states [2, N]
        """
        return numbers

    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        """
        :param state: states [2, N]
        :param actions: torques in N m, clipped here, float32 [N, 1]
        :param first: not used [N]
        :return: what came of it; an episode never ends by itself
        """
        angle, turn = state.unbind()
        # What concerns the torque alone is float32 in Gymnasium, because the action is.
        torque = actions[:, 0].clamp(-_MAX_TORQUE, _MAX_TORQUE).contiguous()
        upright = (angle + math.pi) % (2 * math.pi) - math.pi
        costs = upright.square() + 0.1 * turn.square() + 0.001 * torque.square()
        push = 3 * self.g / (2 * _LENGTH) * th.sin(angle) + 3.0 / (_MASS * _LENGTH**2) * torque
        turn = (turn + push * _DT).clamp(-_MAX_SPEED, _MAX_SPEED)
        return Moved(th.stack((angle + turn * _DT, turn)), -costs, th.zeros_like(first))

    def observe(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: states [2, N]
        :return: cosine and sine of the angle, and the velocity, float32 [N, 3]
        """
        angle, turn = state.unbind()
        return th.stack((th.cos(angle), th.sin(angle), turn), dim=1).float()
