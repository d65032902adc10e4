"""Hopper-v5 and Walker2d-v5: run forward on one leg or two, without falling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import checked_range
from sb3_ppo_plus.envs.tasks.ops import Array


class _PlanarRunner(MujocoTask):
    """
    A robot in a plane that runs along x, and is healthy while some of its state stays between limits.

    Its positions begin with x, height and the angle of the torso.
    """

    arrays = True

    #: limits that the columns of :meth:`posture` keep, themselves excluded, each [k]
    low: Array
    high: Array

    def __init__(
        self,
        xml_file: str | os.PathLike[str],
        frame_skip: int,
        forward_reward_weight: float,
        ctrl_cost_weight: float,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: tuple[float, float],
        healthy_angle_range: tuple[float, float],
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = checked_range("healthy_z_range", healthy_z_range)
        self.healthy_angle_range = checked_range("healthy_angle_range", healthy_angle_range)
        self.skipped = int(exclude_current_positions_from_observation)

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        self.z0 = float(self.qpos0[1])
        self.low, self.high = (
            self.constant(limits) for limits in zip(self.healthy_z_range, self.healthy_angle_range, strict=True)
        )

    def posture(self, data: Fields) -> Array:
        """
        Give the part of the state that must stay between its limits for the robot to be healthy.

        :param data: fields of the simulation
        :return: height and angle of the torso [n, 2]
        """
        return data.qpos[:, 1:3]

    def track(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: position of the root along x [n, 1]
        """
        return data.qpos[:, :1]

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x, velocities within [-10, 10] [n, O]
        """
        return ops.cat((data.qpos[:, self.skipped :], ops.clip(data.qvel, -10.0, 10.0)))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-1, 1]
        :param before: x before the step
        :param after: x after it
        :return: forward velocity and being healthy, less control cost
        """
        posture = self.posture(data)
        healthy = ((self.low < posture) & (posture < self.high)).all(1)
        x_velocity = ((after - before) / self.dt)[:, 0]
        reward_forward = self.forward_reward_weight * x_velocity
        reward_survive = ops.bonus(healthy, self.healthy_reward, x_velocity)
        ctrl_cost = self.ctrl_cost_weight * ops.sum_of_squares(action)
        stats = {
            "x_position": after[:, 0],
            "z_distance_from_origin": data.qpos[:, 1] - self.z0,
            "x_velocity": x_velocity,
            "reward_forward": reward_forward,
            "reward_ctrl": -ctrl_cost,
            "reward_survive": reward_survive,
        }
        terminated = ~healthy if self.terminate_when_unhealthy else None
        return Outcome(reward_forward + reward_survive - ctrl_cost, terminated, stats)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the robot stands
        """
        return {"x_position": ops.copy(data.qpos[:, 0]), "z_distance_from_origin": data.qpos[:, 1] - self.z0}


class Hopper(_PlanarRunner):
    """
    Gymnasium's Hopper-v5 (``gymnasium/envs/mujoco/hopper_v5.py``), batched.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of forward velocity
    :param ctrl_cost_weight: cost per squared action, typically 1e-4 to 0.1; larger gives calmer hops
    :param healthy_reward: reward of every healthy step; larger favours standing over hopping
    :param terminate_when_unhealthy: end the episode at the first unhealthy step
    :param healthy_state_range: limits of every position and velocity but x and height, in rad, m/s and rad/s
    :param healthy_z_range: limits of the torso's height, in m
    :param healthy_angle_range: limits of the torso's angle, in rad
    :param reset_noise_scale: half-width of the noise at reset
    :param exclude_current_positions_from_observation: leave out x, so that no policy depends on where it is
    :raises InvalidArgument: for an empty range or negative noise
    """

    camera: Mapping[str, Any] = {
        "trackbodyid": 2,
        "distance": 3.0,
        "lookat": np.array((0.0, 0.0, 1.15)),
        "elevation": -20.0,
    }

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "hopper.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_state_range: tuple[float, float] = (-100.0, 100.0),
        healthy_z_range: tuple[float, float] = (0.7, float("inf")),
        healthy_angle_range: tuple[float, float] = (-0.2, 0.2),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file,
            frame_skip,
            forward_reward_weight,
            ctrl_cost_weight,
            healthy_reward,
            terminate_when_unhealthy,
            healthy_z_range,
            healthy_angle_range,
            reset_noise_scale,
            exclude_current_positions_from_observation,
        )
        self.healthy_state_range = checked_range("healthy_state_range", healthy_state_range)

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        low, high = self.healthy_state_range
        # The height keeps its own limits, the angle both its own and those of the state.
        rest = self.nq + self.nv - 3
        (low_z, high_z), (low_angle, high_angle) = self.healthy_z_range, self.healthy_angle_range
        self.low = self.constant([low_z, max(low, low_angle), *[low] * rest])
        self.high = self.constant([high_z, min(high, high_angle), *[high] * rest])

    def posture(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x, velocities [n, nq - 1 + nv]
        """
        return ops.cat((data.qpos[:, 1:], data.qvel))


class Walker2d(_PlanarRunner):
    """
    Gymnasium's Walker2d-v5 (``gymnasium/envs/mujoco/walker2d_v5.py``), batched.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of forward velocity
    :param ctrl_cost_weight: cost per squared action, typically 1e-4 to 0.1; larger gives a calmer gait
    :param healthy_reward: reward of every healthy step; larger favours standing over walking
    :param terminate_when_unhealthy: end the episode at the first unhealthy step
    :param healthy_z_range: limits of the torso's height, in m
    :param healthy_angle_range: limits of the torso's angle, in rad
    :param reset_noise_scale: half-width of the noise at reset
    :param exclude_current_positions_from_observation: leave out x, so that no policy depends on where it is
    :raises InvalidArgument: for an empty range or negative noise
    """

    camera: Mapping[str, Any] = {
        "trackbodyid": 2,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 1.15)),
        "elevation": -20.0,
    }

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "walker2d_v5.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.8, 2.0),
        healthy_angle_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file,
            frame_skip,
            forward_reward_weight,
            ctrl_cost_weight,
            healthy_reward,
            terminate_when_unhealthy,
            healthy_z_range,
            healthy_angle_range,
            reset_noise_scale,
            exclude_current_positions_from_observation,
        )
