"""HalfCheetah-v5: run forward, cheaply. The episode never terminates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import uniform_then_normal
from sb3_ppo_plus.envs.tasks.ops import Array


class HalfCheetah(MujocoTask):
    """
    Gymnasium's HalfCheetah-v5 (``gymnasium/envs/mujoco/half_cheetah_v5.py``), batched.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of forward velocity
    :param ctrl_cost_weight: cost per squared action, typically 0.01 to 1; larger gives a calmer, slower gait
    :param reset_noise_scale: half-width of the noise on positions, deviation of that on velocities, at reset
    :param exclude_current_positions_from_observation: leave out x, so that no policy depends on where it is
    :raises InvalidArgument: for negative noise
    """

    arrays = True

    camera: Mapping[str, Any] = {"distance": 4.0}

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "half_cheetah.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.skipped = int(exclude_current_positions_from_observation)

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        :param draw: random numbers
        :return: positions with uniform and velocities with normal noise
        """
        return uniform_then_normal(self, draw)

    def track(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: position of the root along x [n, 1]
        """
        return data.qpos[:, :1]

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x, velocities [n, 17]
        """
        return ops.cat((data.qpos[:, self.skipped :], data.qvel))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-1, 1]
        :param before: x before the step
        :param after: x after it
        :return: forward velocity less control cost
        """
        x_velocity = ((after - before) / self.dt)[:, 0]
        reward_forward = self.forward_reward_weight * x_velocity
        ctrl_cost = self.ctrl_cost_weight * ops.sum_of_squares(action)
        stats = {
            "x_position": after[:, 0],
            "x_velocity": x_velocity,
            "reward_forward": reward_forward,
            "reward_ctrl": -ctrl_cost,
        }
        return Outcome(reward_forward - ctrl_cost, None, stats)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the robot stands
        """
        return {"x_position": ops.copy(data.qpos[:, 0])}
