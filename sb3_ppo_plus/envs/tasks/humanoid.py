"""Humanoid-v5 and HumanoidStandup-v5: the same body walks forward, or stands up from the ground."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import checked_range, place
from sb3_ppo_plus.envs.tasks.ops import Array

# Numbers left out at the front of a flattened field: those of the world, or of the root's six degrees of freedom.
_UNOBSERVED = {"cinert": 10, "cvel": 6, "qfrc_actuator": 6, "cfrc_ext": 6}


class _Human(MujocoTask):
    """
    A body with tendons, whose contact forces cost.

    Without contact forces (a contact weight of 0, ``include_cfrc_ext_in_observation=False``) it does not ask for
    them, and may run on a faster engine.
    """

    arrays = True

    def __init__(
        self,
        xml_file: str | os.PathLike[str],
        frame_skip: int,
        ctrl_cost_weight: float,
        contact_cost_weight: float,
        contact_cost_range: tuple[float, float],
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
        included: dict[str, bool],
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.contact_cost_range = contact_cost_range
        self.skipped = 2 * int(exclude_current_positions_from_observation)
        self.observed = tuple(name for name in _UNOBSERVED if included[name])
        contacts = {"cfrc_ext"} if contact_cost_weight else set()
        self.needs = ("ten_length", "ten_velocity", *sorted(contacts.union(self.observed)))

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: positions without x and y, velocities, inertias and velocities of the bodies, forces of the actuators,
            contact forces [n, 348]
        """
        fields = [ops.flat(getattr(data, name))[:, _UNOBSERVED[name] :] for name in self.observed]
        return ops.cat((data.qpos[:, self.skipped :], data.qvel, *fields))

    def ctrl_cost(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: cost of the controls [n]
        """
        return self.ctrl_cost_weight * ops.sum_of_squares(data.ctrl)

    def contact_cost(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: cost of the contact forces, clipped [n]
        """
        if self.contact_cost_weight:
            cost = self.contact_cost_weight * ops.sum_of_squares(ops.flat(data.cfrc_ext))
        else:
            cost = ops.zeros(data.qpos[:, 0])
        return ops.clip(cost, *self.contact_cost_range)

    @staticmethod
    def tendons(data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: lengths and velocities of the k tendons, copies, each [n, k]
        """
        return {"tendon_length": ops.copy(data.ten_length), "tendon_velocity": ops.copy(data.ten_velocity)}


class Humanoid(_Human):
    """
    Gymnasium's Humanoid-v5 (``gymnasium/envs/mujoco/humanoid_v5.py``), batched.

    Without contact forces (``contact_cost_weight=0``, ``include_cfrc_ext_in_observation=False``) it does not ask for
    them, and may run on a faster engine.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param forward_reward_weight: reward per m/s of the mass centre's forward velocity
    :param ctrl_cost_weight: cost per squared control, typically 0.01 to 1; larger gives a calmer gait
    :param contact_cost_weight: cost per squared contact force, typically 0 to 1e-6
    :param contact_cost_range: limits that the contact cost is clipped to
    :param healthy_reward: reward of every healthy step; larger favours standing over walking
    :param terminate_when_unhealthy: end the episode at the first unhealthy step
    :param healthy_z_range: limits of the torso's height, in m, themselves excluded
    :param reset_noise_scale: half-width of the noise at reset
    :param exclude_current_positions_from_observation: leave out x and y, so that no policy depends on where it is
    :param include_cinert_in_observation: observe inertia and mass of each body
    :param include_cvel_in_observation: observe the velocity of each body
    :param include_qfrc_actuator_in_observation: observe the forces of the actuators
    :param include_cfrc_ext_in_observation: observe the contact forces
    :raises InvalidArgument: for an empty range or negative noise
    """

    model_needs = ("body_mass",)
    camera: Mapping[str, Any] = {
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 2.0)),
        "elevation": -20.0,
    }

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "humanoid.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1.25,
        ctrl_cost_weight: float = 0.1,
        contact_cost_weight: float = 5e-7,
        contact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
        healthy_reward: float = 5.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (1.0, 2.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file,
            frame_skip,
            ctrl_cost_weight,
            contact_cost_weight,
            checked_range("contact_cost_range", contact_cost_range),
            reset_noise_scale,
            exclude_current_positions_from_observation,
            {
                "cinert": include_cinert_in_observation,
                "cvel": include_cvel_in_observation,
                "qfrc_actuator": include_qfrc_actuator_in_observation,
                "cfrc_ext": include_cfrc_ext_in_observation,
            },
        )
        self.needs = ("xipos", *self.needs)
        self.forward_reward_weight = forward_reward_weight
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = checked_range("healthy_z_range", healthy_z_range)

    def track(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: mass centre on the plane [n, 2]
        """
        mass = data.body_mass  # [nbody], or [n, nbody] where each simulation has its own
        return (mass[..., None] * data.xipos[..., :2]).sum(1) / mass.sum(-1)[..., None]

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-0.4, 0.4]
        :param before: mass centre before the step
        :param after: mass centre after it
        :return: forward velocity and being healthy, less the costs of control and contacts
        """
        low, high = self.healthy_z_range
        height = data.qpos[:, 2]
        healthy = (low < height) & (height < high)
        velocity = (after - before) / self.dt
        x_velocity, y_velocity = velocity[:, 0], velocity[:, 1]
        reward_forward = self.forward_reward_weight * x_velocity
        reward_survive = ops.bonus(healthy, self.healthy_reward, x_velocity)
        ctrl_cost, contact_cost = self.ctrl_cost(data), self.contact_cost(data)
        stats = {
            **place(data),
            **self.tendons(data),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_survive": reward_survive,
            "reward_forward": reward_forward,
            "reward_ctrl": -ctrl_cost,
            "reward_contact": -contact_cost,
        }
        terminated = ~healthy if self.terminate_when_unhealthy else None
        return Outcome(reward_forward + reward_survive - (ctrl_cost + contact_cost), terminated, stats)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the robot stands, and its tendons
        """
        return {**place(data), **self.tendons(data)}


class HumanoidStandup(_Human):
    """
    Gymnasium's HumanoidStandup-v5 (``gymnasium/envs/mujoco/humanoidstandup_v5.py``), batched. It never terminates.

    Without contact forces (``impact_cost_weight=0``, ``include_cfrc_ext_in_observation=False``) it does not ask for
    them, and may run on a faster engine.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param uph_cost_weight: taken as Gymnasium takes it, and without effect as there: the height's weight stays 1
    :param ctrl_cost_weight: cost per squared control, typically 0.01 to 1; larger gives calmer movements
    :param impact_cost_weight: cost per squared contact force, typically 0 to 1e-6
    :param impact_cost_range: limits that the contact cost is clipped to
    :param reset_noise_scale: half-width of the noise at reset
    :param exclude_current_positions_from_observation: leave out x and y, so that no policy depends on where it is
    :param include_cinert_in_observation: observe inertia and mass of each body
    :param include_cvel_in_observation: observe the velocity of each body
    :param include_qfrc_actuator_in_observation: observe the forces of the actuators
    :param include_cfrc_ext_in_observation: observe the contact forces
    :raises InvalidArgument: for an empty range or negative noise
    """

    camera: Mapping[str, Any] = {
        "trackbodyid": 1,
        "distance": 4.0,
        "lookat": np.array((0.0, 0.0, 0.8925)),
        "elevation": -20.0,
    }

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "humanoidstandup.xml",
        frame_skip: int = 5,
        uph_cost_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        impact_cost_weight: float = 0.5e-6,
        impact_cost_range: tuple[float, float] = (-float("inf"), 10.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
    ) -> None:
        super().__init__(
            xml_file,
            frame_skip,
            ctrl_cost_weight,
            impact_cost_weight,
            checked_range("impact_cost_range", impact_cost_range),
            reset_noise_scale,
            exclude_current_positions_from_observation,
            {
                "cinert": include_cinert_in_observation,
                "cvel": include_cvel_in_observation,
                "qfrc_actuator": include_qfrc_actuator_in_observation,
                "cfrc_ext": include_cfrc_ext_in_observation,
            },
        )
        self.uph_cost_weight = uph_cost_weight

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        self.timestep = float(model.opt.timestep)
        self.z0 = float(self.qpos0[2])

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-0.4, 0.4]
        :param before: not used
        :param after: not used
        :return: height over the duration of a physics step, less the costs of control and contacts, plus 1
        """
        reward_linup = data.qpos[:, 2] / self.timestep
        ctrl_cost, contact_cost = self.ctrl_cost(data), self.contact_cost(data)
        stats = {
            **self.reset_stats(data),
            "reward_linup": reward_linup,
            "reward_quadctrl": -ctrl_cost,
            "reward_impact": -contact_cost,
        }
        return Outcome(reward_linup - ctrl_cost - contact_cost + 1.0, None, stats)

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        :param data: fields of the simulation
        :return: where the torso is, and the tendons
        """
        xyz = ops.copy(data.qpos[:, :3])
        return {
            "x_position": xyz[:, 0],
            "y_position": xyz[:, 1],
            "z_distance_from_origin": xyz[:, 2] - self.z0,
            **self.tendons(data),
        }
