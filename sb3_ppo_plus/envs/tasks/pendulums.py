"""InvertedPendulum-v5 and InvertedDoublePendulum-v5: a cart keeps one pole, or two on each other, upright."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.base import Draw, Fields, MujocoTask, Outcome
from sb3_ppo_plus.envs.tasks.common import is_finite, uniform_then_normal
from sb3_ppo_plus.envs.tasks.ops import Array
from sb3_ppo_plus.errors import InvalidArgument


class InvertedPendulum(MujocoTask):
    """
    Gymnasium's InvertedPendulum-v5 (``gymnasium/envs/mujoco/inverted_pendulum_v5.py``), batched.

    :param xml_file: MJCF; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param reset_noise_scale: half-width of the noise at reset
    :raises InvalidArgument: for negative noise
    """

    arrays = True

    camera: Mapping[str, Any] = {"trackbodyid": 0, "distance": 2.04}

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "inverted_pendulum.xml",
        frame_skip: int = 2,
        reset_noise_scale: float = 0.01,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: force on the cart asked for, in [-3, 3]
        :param before: not used
        :param after: not used
        :return: 1 while the pole is within 0.2 rad of upright
        """
        upright = (abs(data.qpos[:, 1]) <= 0.2) & is_finite(data)
        reward = ops.bonus(upright, 1.0, data.qpos)
        return Outcome(reward, ~upright, {"reward_survive": reward})


class InvertedDoublePendulum(MujocoTask):
    """
    Gymnasium's InvertedDoublePendulum-v5 (``gymnasium/envs/mujoco/inverted_double_pendulum_v5.py``), batched.

    :param xml_file: MJCF whose first site is the tip of the upper pole; a bare name is one of Gymnasium's own files
    :param frame_skip: physics steps per environment step
    :param healthy_reward: reward of every step with the tip above 1 m
    :param reset_noise_scale: half-width of the noise on positions, deviation of that on velocities, at reset
    :raises InvalidArgument: for negative noise; from :meth:`setup` when the model has no site
    """

    arrays = True

    needs = ("site_xpos", "qfrc_constraint")

    def __init__(
        self,
        xml_file: str | os.PathLike[str] = "inverted_double_pendulum.xml",
        frame_skip: int = 5,
        healthy_reward: float = 10.0,
        reset_noise_scale: float = 0.1,
    ) -> None:
        super().__init__(xml_file, frame_skip, reset_noise_scale)
        self.healthy_reward = healthy_reward

    def setup(self, model: Any) -> None:
        """
        :param model: the compiled model
        """
        super().setup(model)
        if not model.nsite:
            raise InvalidArgument(
                f"xml_file={self.model!r} has no site; its first one must be the tip of the upper pole"
            )

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        :param draw: random numbers
        :return: positions with uniform and velocities with normal noise
        """
        return uniform_then_normal(self, draw)

    def observe(self, data: Fields) -> Array:
        """
        :param data: fields of the simulation
        :return: position of the cart, sines and cosines of the angles, velocities and the constraint force on the cart,
            these two within [-10, 10] [n, 9]
        """
        angles = data.qpos[:, 1:]
        return ops.cat(
            (
                data.qpos[:, :1],
                ops.sin(angles),
                ops.cos(angles),
                ops.clip(data.qvel, -10.0, 10.0),
                ops.clip(data.qfrc_constraint[:, :1], -10.0, 10.0),
            )
        )

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        :param data: fields of the simulation
        :param action: force on the cart asked for, in [-1, 1]
        :param before: not used
        :param after: not used
        :return: a constant while the tip is above 1 m, less penalties of its place and of the poles' velocities
        """
        x, height = data.site_xpos[:, 0, 0], data.site_xpos[:, 0, 2]
        lower, upper = data.qvel[:, 1], data.qvel[:, 2]
        terminated = height <= 1.0
        reward_survive = ops.bonus(~terminated, self.healthy_reward, height)
        distance_penalty = 0.01 * x**2 + (height - 2.0) ** 2
        velocity_penalty = 0.001 * lower**2 + 0.005 * upper**2
        stats = {
            "reward_survive": reward_survive,
            "distance_penalty": -distance_penalty,
            "velocity_penalty": -velocity_penalty,
        }
        return Outcome(reward_survive - distance_penalty - velocity_penalty, terminated, stats)
