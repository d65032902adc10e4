"""Ant-v5: run forward on four legs, without jumping or falling, and without hard contacts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import (
    body_id,
    checked_range,
    is_finite,
    place,
    uniform_then_normal,
)
from sb3_ppo_plus.envs.tasks.ops import Array


class Ant(MujocoTask):
    """
    Gymnasium's Ant-v5 (``gymnasium/envs/mujoco/ant_v5.py``), batched.

    Without contact forces (``contact_cost_weight=0``, ``include_cfrc_ext_in_observation=False``) it does not ask for
    them, and may run on a faster engine.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of the main body's forward velocity
    :param ctrl_cost_weight: cost per squared action, typically 0.05 to 1; larger gives a calmer gait
    :param contact_cost_weight: cost per squared contact force, after clipping, typically 0 to 1e-3
    :param healthy_reward: reward of every healthy step; larger favours standing over running
    :param main_body: number or name of the body whose velocity is rewarded
    :param terminate_when_unhealthy: end the episode at the first unhealthy step
    :param healthy_z_range: limits of the torso's height, in m, themselves included
    :param contact_force_range: limits that contact forces are clipped to, in N and N m
    :param reset_noise_scale: half-width of the noise on positions, deviation of that on velocities, at reset
    :param exclude_current_positions_from_observation: leave out x and y, so that no policy depends on where it is
    :param include_cfrc_ext_in_observation: observe the clipped contact forces
    :raises InvalidArgument: for an empty range or negative noise; from :meth:`setup` for an unknown main body
    """

    arrays = True

    camera: Mapping[str, Any] = {"distance": 4.0}

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "ant.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.5,
        contact_cost_weight: float = 5e-4,
        healthy_reward: float = 1.0,
        main_body: int | str = 1,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.2, 1.0),
        contact_force_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.healthy_reward = healthy_reward
        self.main_body = main_body
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = checked_range("healthy_z_range", healthy_z_range)
        self.contact_force_range = checked_range("contact_force_range", contact_force_range)
        self.skipped = 2 * int(exclude_current_positions_from_observation)
        self.observes_contacts = include_cfrc_ext_in_observation
        self.needs = ("xpos", "cfrc_ext") if contact_cost_weight or include_cfrc_ext_in_observation else ("xpos",)

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        self.main_body_id = body_id(model, self.main_body, f"main_body={self.main_body!r}")

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        :param draw: random numbers
        :return: positions with uniform and velocities with normal noise
        """
        return uniform_then_normal(self, draw)

    def track(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: position of the main body on the plane [n, 2]
        """
        return data.xpos[:, self.main_body_id, :2]

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x and y, velocities, contact forces of all bodies but the world [n, 105]
        """
        position = data.qpos[:, self.skipped :]
        if not self.observes_contacts:
            return ops.cat((position, data.qvel))
        forces = ops.clip(ops.flat(data.cfrc_ext)[:, 6:], *self.contact_force_range)
        return ops.cat((position, data.qvel, forces))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-1, 1]
        :param before: position of the main body before the step
        :param after: its position after it
        :return: forward velocity and being healthy, less the costs of control and contacts
        """
        low, high = self.healthy_z_range
        height = data.qpos[:, 2]
        healthy = (low <= height) & (height <= high) & is_finite(data)
        velocity = (after - before) / self.dt
        x_velocity, y_velocity = velocity[:, 0], velocity[:, 1]
        reward_forward = self.forward_reward_weight * x_velocity
        reward_survive = ops.bonus(healthy, self.healthy_reward, x_velocity)
        ctrl_cost = self.ctrl_cost_weight * ops.sum_of_squares(action)
        contact_cost = self.contact_cost(data)
        stats = {
            **place(data),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": reward_forward,
            "reward_ctrl": -ctrl_cost,
            "reward_contact": -contact_cost,
            "reward_survive": reward_survive,
        }
        terminated = ~healthy if self.terminate_when_unhealthy else None
        return Outcome(reward_forward + reward_survive - (ctrl_cost + contact_cost), terminated, stats)

    def contact_cost(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: cost of the clipped contact forces, the world's included [n]
        """
        if not self.contact_cost_weight:
            return ops.zeros(data.qpos[:, 0])
        forces = ops.clip(ops.flat(data.cfrc_ext), *self.contact_force_range)
        return self.contact_cost_weight * ops.sum_of_squares(forces)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the robot stands
        """
        return place(data)
