"""Swimmer-v5: three links that swim forward in a viscous fluid. The episode never terminates."""

from __future__ import annotations

import os
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import place
from sb3_ppo_plus.envs.tasks.ops import Array


class Swimmer(MujocoTask):
    """
    Gymnasium's Swimmer-v5 (``gymnasium/envs/mujoco/swimmer_v5.py``), batched.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of forward velocity
    :param ctrl_cost_weight: cost per squared action, typically 1e-5 to 1e-2; larger gives calmer strokes
    :param reset_noise_scale: half-width of the noise at reset
    :param exclude_current_positions_from_observation: leave out x and y, so that no policy depends on where it is
    :raises InvalidArgument: for negative noise
    """

    arrays = True

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "swimmer.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-4,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.skipped = 2 * int(exclude_current_positions_from_observation)

    def track(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: position of the tip on the plane [n, 2]
        """
        return data.qpos[:, :2]

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x and y, velocities [n, 8]
        """
        return ops.cat((data.qpos[:, self.skipped :], data.qvel))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-1, 1]
        :param before: x and y before the step
        :param after: x and y after it
        :return: forward velocity less control cost
        """
        velocity = (after - before) / self.dt
        x_velocity, y_velocity = velocity[:, 0], velocity[:, 1]
        reward_forward = self.forward_reward_weight * x_velocity
        ctrl_cost = self.ctrl_cost_weight * ops.sum_of_squares(action)
        stats = {
            **place(data),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": reward_forward,
            "reward_ctrl": -ctrl_cost,
        }
        return Outcome(reward_forward - ctrl_cost, None, stats)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the robot is
        """
        return place(data)
