"""A car too weak for its hill, with continuous actions (Moore 1990), as Gymnasium computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.classic.task import Moved, TorchTask, low_and_high

_LEFT, _RIGHT, _MAX_SPEED, _GOAL = -1.2, 0.6, 0.07, 0.45
_POWER, _SLOPE = 0.0015, 0.0025


class MountainCarContinuous(TorchTask):
    """
    Gymnasium's ``MountainCarContinuous-v0``. State: position and velocity [2, N].

    Gymnasium computes the first step of an episode in float64 and the others in float32. With float64 states this
    task rounds where Gymnasium does; with float32 states all of it is float32.

    :param goal_velocity: smallest velocity at the goal that counts as having reached it, 0 for Gymnasium's
    """

    env_id = "MountainCarContinuous-v0"
    n_draws = 1

    def __init__(self, goal_velocity: float = 0.0) -> None:
        self.max_episode_steps = 999
        self.goal_velocity = float(goal_velocity)
        low, high = np.array([_LEFT, -_MAX_SPEED], np.float32), np.array([_RIGHT, _MAX_SPEED], np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def start_bounds(self, options: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
        """
        :param options: ``low`` and ``high`` of the position
        :return: bounds [1]
        """
        low, high = low_and_high("MountainCarContinuous", options, -0.6, -0.4)
        return [low], [high]

    def start(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: the position [1, N]
        :return: states, at rest [2, N]
        """
        return th.cat((numbers, th.zeros_like(numbers)))

    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        """
        :param state: states [2, N]
        :param actions: forces, clipped here, float32 [N, 1]
        :param first: True where the state is one that was drawn, and so not rounded to float32 [N]
        :return: what came of it; an episode ends at the goal, with 100 for the last reward
        """

        position, velocity = state.unbind()

        def rounded(exact: th.Tensor) -> th.Tensor:
            # Sums and products of float32 numbers, computed in float64 and rounded, are those computed in float32.
            return th.where(first, exact, _single(exact))

        def constant(value: float) -> th.Tensor:
            return rounded(th.full_like(position, value))

        force = actions[:, 0].to(state.dtype).contiguous()
        # Gymnasium puts a Python float, not rounded to float32, in place of a force beyond the bounds.
        power = th.where(force.abs() > 1.0, force.clamp(-1.0, 1.0) * _POWER, _single(force * _single_float(_POWER)))
        pull = _SLOPE * th.cos(rounded(3.0 * position))
        push = th.where(force.abs() > 1.0, power - pull, _single(power - _single(pull)))
        velocity = rounded(velocity + rounded(push))
        top = constant(_MAX_SPEED)
        velocity = th.minimum(th.maximum(velocity, -top), top)
        left, right = constant(_LEFT), constant(_RIGHT)
        position = rounded(position + velocity)
        position = th.minimum(th.maximum(position, left), right)
        velocity = th.where((position == left) & (velocity < 0), 0.0, velocity)
        terminated = (position >= constant(_GOAL)) & (velocity >= constant(self.goal_velocity))
        rewards = 100.0 * terminated - force.square() * 0.1
        return Moved(_single(th.stack((position, velocity))), rewards, terminated)

    def observe(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: states [2, N]
        :return: the same, float32 [N, 2]
        """
        return state.T.to(th.float32, memory_format=th.contiguous_format)


def _single(value: th.Tensor) -> th.Tensor:
    return value.float().to(value.dtype)


def _single_float(value: float) -> float:
    return float(np.float32(value))
