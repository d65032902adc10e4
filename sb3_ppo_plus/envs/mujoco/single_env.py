"""One robot of a batch, for whoever asks for a single environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.single_env import SingleEnv

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.mujoco.face import MujocoFace


class MujocoSingleEnv(SingleEnv):
    """
    One robot of a :class:`~sb3_ppo_plus.envs.MujocoVecEnv`.

    :param venv: the robots
    :param index: number of this one
    """

    venv: MujocoFace

    @property
    def model(self) -> mujoco.MjModel:
        """
        :return: its model, with what was randomized
        """
        return self.venv.physics.get_model(self.index)

    @property
    def data(self) -> mujoco.MjData:
        """
        :return: its data as of now; a copy
        """
        return self.venv.physics.get_data(self.index)

    def render(self) -> np.ndarray | None:
        """
        :return: a picture of it
        """
        return self.venv.render_env(self.index)
