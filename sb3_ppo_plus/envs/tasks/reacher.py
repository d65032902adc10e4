"""Reacher-v5: a planar arm of two links brings its fingertip to a random target. The episode never terminates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import body_id
from sb3_ppo_plus.envs.tasks.ops import Array


class Reacher(MujocoTask):
    """
    Gymnasium's Reacher-v5 (``gymnasium/envs/mujoco/reacher_v5.py``), batched.

    :param xml_file: MJCF with the bodies "fingertip" and "target", whose last two joints move the target; a bare name
        is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param reward_dist_weight: cost per metre between fingertip and target
    :param reward_control_weight: cost per squared action, typically 0.01 to 1; larger gives slower, calmer reaching
    :raises InvalidArgument: from :meth:`setup` when a body is missing
    """

    arrays = True

    needs = ("xpos",)
    camera: Mapping[str, Any] = {"trackbodyid": 0}

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "reacher.xml",
        frame_skip: int = 2,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 1.0,
    ) -> None:
        super().__init__(xml_file, frame_skip, max_episode_steps=50)
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        self.fingertip = body_id(model, "fingertip", "Reacher")
        self.target = body_id(model, "target", "Reacher")

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        :param draw: random numbers
        :return: the arm nearly straight and at rest, the target at rest within 0.2 m of its root
        """
        qpos = draw.uniform(-0.1, 0.1, self.nq) + self.qpos0
        target = draw.uniform_where(-0.2, 0.2, 2, lambda place: ops.norm(place) < 0.2)
        qvel = draw.uniform(-0.005, 0.005, self.nv)
        return ops.cat((qpos[:, :-2], target)), ops.cat((qvel[:, :-2], ops.zeros(target)))

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: cosines and sines of the angles, the target's position, angular velocities, from target to fingertip
            [n, 10]
        """
        angles = data.qpos[:, :2]
        to_fingertip = data.xpos[:, self.fingertip, :2] - data.xpos[:, self.target, :2]
        return ops.cat((ops.cos(angles), ops.sin(angles), data.qpos[:, 2:], data.qvel[:, :2], to_fingertip))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-1, 1]
        :param before: not used
        :param after: not used
        :return: less the distance to the target, less control cost
        """
        distance = ops.norm(data.xpos[:, self.fingertip] - data.xpos[:, self.target])
        reward_dist = -self.reward_dist_weight * distance
        reward_ctrl = -self.reward_control_weight * ops.sum_of_squares(action)
        return Outcome(reward_dist + reward_ctrl, None, {"reward_dist": reward_dist, "reward_ctrl": reward_ctrl})
