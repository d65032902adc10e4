"""What MuJoCo's environments share whatever steps them: the task and its model, pictures, single robots."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.mujoco.bindings import compile_model, mujoco
from sb3_ppo_plus.envs.mujoco.building import make_task, time_limit
from sb3_ppo_plus.envs.mujoco.physics import Simulations
from sb3_ppo_plus.envs.mujoco.rendering import Renderer, View
from sb3_ppo_plus.envs.mujoco.single_env import MujocoSingleEnv
from sb3_ppo_plus.envs.single_env import SingleEnv
from sb3_ppo_plus.envs.tasks.base import MujocoTask
from sb3_ppo_plus.errors import InvalidArgument


class MujocoFace(TensorVecEnv):
    """n robots, not yet moving. A subclass calls :meth:`_set_task` first."""

    #: the environment's own arguments, beside those of a task
    options: ClassVar[tuple[str, ...]] = ()
    task: MujocoTask
    physics: Simulations

    def _set_task(
        self,
        task: str | MujocoTask,
        kwargs: Mapping[str, Any],
        max_episode_steps: int | None,
        view: View,
        device: th.device | None,
    ) -> mujoco.MjModel:
        """Find the task and set it up for arrays (None) or tensors on a device, and give the compiled model."""
        self.task = make_task(task, kwargs, self.options)
        self.spec = gym.spec(task) if isinstance(task, str) else None
        self.max_episode_steps = time_limit(self.task, max_episode_steps)
        model = compile_model(self.task.model)
        view.check(model)
        self.task.device = th.device("cpu") if device is None and not self.task.arrays else device
        self.task.setup(model)
        if not hasattr(self.task, "dt"):
            raise InvalidArgument(f"{type(self.task).__name__}.setup() has to call super().setup(model)")
        self.render_mode, self._view = view.render_mode, view
        self._renderer: Renderer | None = None
        return model

    @property
    def provides_episodes(self) -> bool:
        """
        :return: True, return and length of each episode are counted here
        """
        return True

    # ------------------------------------------------ looking at it

    def render_env(self, index: int) -> np.ndarray | None:
        """
        Draw one robot.

        :param index: its number
        :return: the picture, None for a window or without a render_mode
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = Renderer(self.physics, self._view, self.task.camera)
        return self._renderer.render(index)

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """
        :param mode: None for the mode given at construction
        :return: all robots in one picture for rgb_array; None for depths (``get_images()`` has them) and for a window
        """
        if self.render_mode == "human" and mode in (None, "human"):
            return self.render_env(0)
        return super().render(mode)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """
        :param attr_name: attribute to set, of the robots together
        :param value: its value
        :param indices: None, or all of them
        :raises InvalidArgument: for what is fixed when the environment is made
        """
        if attr_name in self.options or attr_name in ("num_envs", "observation_space", "action_space"):
            raise InvalidArgument(f"{attr_name} is fixed when the environment is made; make another MujocoVecEnv")
        super().set_attr(attr_name, value, indices)

    def single_env(self, index: int) -> SingleEnv:
        """
        :param index: number of a robot
        :return: its face: ``model``, ``data`` (copies, of MuJoCo's own types), ``render()``
        """
        return MujocoSingleEnv(self, index)

    def close(self) -> None:
        """Stop threads and free pictures and windows; doing it twice is fine."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.physics.close()


def options_of(kind: type) -> tuple[str, ...]:
    """
    :param kind: class of an environment
    :return: names of its arguments, without the task's
    """
    return tuple(name for name in inspect.signature(kind).parameters if name not in ("task", "task_kwargs"))
