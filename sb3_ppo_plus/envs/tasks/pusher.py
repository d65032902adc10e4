"""Pusher-v5: an arm of seven joints pushes a cylinder to a goal. The episode never terminates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import body_id
from sb3_ppo_plus.envs.tasks.ops import Array


class Pusher(MujocoTask):
    """
    Gymnasium's Pusher-v5 (``gymnasium/envs/mujoco/pusher_v5.py``), batched.

    :param xml_file: MJCF with the bodies "tips_arm", "object" and "goal", whose last four joints move object and goal;
        a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param reward_near_weight: cost per metre between fingertip and object
    :param reward_dist_weight: cost per metre between object and goal
    :param reward_control_weight: cost per squared action, typically 0.01 to 1; larger gives slower, calmer pushing
    :raises InvalidArgument: from :meth:`setup` when a body is missing
    """

    arrays = True

    needs = ("xpos",)
    camera: Mapping[str, Any] = {"trackbodyid": -1, "distance": 4.0}

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "pusher_v5.xml",
        frame_skip: int = 5,
        reward_near_weight: float = 0.5,
        reward_dist_weight: float = 1.0,
        reward_control_weight: float = 0.1,
    ) -> None:
        super().__init__(xml_file, frame_skip, max_episode_steps=100)
        self.reward_near_weight = reward_near_weight
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        self.fingertip = body_id(model, "tips_arm", "Pusher")
        self.object = body_id(model, "object", "Pusher")
        self.goal = body_id(model, "goal", "Pusher")

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        :param draw: random numbers
        :return: the arm at rest, the object at rest more than 0.17 m from the goal
        """
        cylinder = draw.uniform_where((-0.3, -0.2), (0.0, 0.2), 2, lambda place: ops.norm(place) > 0.17)
        goal = ops.zeros(cylinder)
        qvel = draw.uniform(-0.005, 0.005, self.nv)
        arm = ops.zeros(qvel[:, : self.nq - 4]) + self.qpos0[:-4]
        return ops.cat((arm, cylinder, goal)), ops.cat((qvel[:, :-4], goal, goal))

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: angles and angular velocities of the arm, positions of fingertip, object and goal [n, 23]
        """
        bodies = (data.xpos[:, self.fingertip], data.xpos[:, self.object], data.xpos[:, self.goal])
        return ops.cat((data.qpos[:, :7], data.qvel[:, :7], *bodies))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: torques asked for, in [-2, 2]
        :param before: not used
        :param after: not used
        :return: less the distances from fingertip to object and from object to goal, less control cost
        """
        cylinder = data.xpos[:, self.object]
        near = ops.norm(cylinder - data.xpos[:, self.fingertip])
        distance = ops.norm(cylinder - data.xpos[:, self.goal])
        stats = {
            "reward_dist": -self.reward_dist_weight * distance,
            "reward_ctrl": -self.reward_control_weight * ops.sum_of_squares(action),
            "reward_near": -self.reward_near_weight * near,
        }
        return Outcome(stats["reward_dist"] + stats["reward_ctrl"] + stats["reward_near"], None, stats)
