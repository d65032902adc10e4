"""A pole on a cart that is pushed left or right (Barto, Sutton and Anderson 1983), as Gymnasium computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.classic.task import Moved, TorchTask, low_and_high

_GRAVITY, _MASS_POLE, _TOTAL_MASS, _LENGTH = 9.8, 0.1, 0.1 + 1.0, 0.5
_POLE_MASS_LENGTH = _MASS_POLE * _LENGTH
_FORCE, _DT = 10.0, 0.02
_MAX_ANGLE, _MAX_POSITION = 12 * 2 * math.pi / 360, 2.4


class CartPole(TorchTask):
    """
    Gymnasium's ``CartPole-v1``. State: position in m, velocity, angle in rad, angular velocity [4, N].

    :param sutton_barto_reward: 0 for each step and -1 for the fall, in place of 1 for each step
    """

    env_id = "CartPole-v1"
    n_draws = 4

    def __init__(self, sutton_barto_reward: bool = False) -> None:
        self.max_episode_steps = 500
        self.sutton_barto_reward = sutton_barto_reward
        high = np.array([_MAX_POSITION * 2, np.inf, _MAX_ANGLE * 2, np.inf], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def start_bounds(self, options: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
        """
        :param options: ``low`` and ``high`` of all four numbers of the state
        :return: bounds [4]
        """
        low, high = low_and_high("CartPole", options, -0.05, 0.05)
        return [low] * 4, [high] * 4

    def start(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: the state itself [4, N]
        :return: states [4, N]
        """
        return numbers

    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        """
        :param state: states [4, N]
        :param actions: 1 pushes to the right, 0 to the left [N]
        :param first: not used [N]
        :return: what came of it; a fall is an angle beyond 12 degrees or a position beyond 2.4 m
        """
        x, speed, angle, turn = state.unbind()
        force = th.where(actions == 1, _FORCE, -_FORCE).to(state.dtype)
        cos, sin = th.cos(angle), th.sin(angle)
        temp = (force + _POLE_MASS_LENGTH * turn.square() * sin) / _TOTAL_MASS
        turn_rate = (_GRAVITY * sin - cos * temp) / (_LENGTH * (4.0 / 3.0 - _MASS_POLE * cos.square() / _TOTAL_MASS))
        rate = temp - _POLE_MASS_LENGTH * turn_rate * cos / _TOTAL_MASS
        # Gymnasium's Euler step: positions move with the velocities of before.
        after = th.stack((x + _DT * speed, speed + _DT * rate, angle + _DT * turn, turn + _DT * turn_rate))
        terminated = (after[0].abs() > _MAX_POSITION) | (after[2].abs() > _MAX_ANGLE)
        rewards = -terminated.to(state.dtype) if self.sutton_barto_reward else th.ones_like(x)
        return Moved(after, rewards, terminated)

    def observe(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: states [4, N]
        :return: the same, float32 [N, 4]
        """
        return state.T.to(th.float32, memory_format=th.contiguous_format)
