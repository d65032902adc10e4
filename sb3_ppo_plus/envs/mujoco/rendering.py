"""Pictures of simulations, by Gymnasium's renderer: in memory, or in a window."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.physics import Simulations
from sb3_ppo_plus.envs.screen import screen_answers
from sb3_ppo_plus.errors import InvalidArgument

RENDER_MODES = ("rgb_array", "depth_array", "human")


@dataclass(frozen=True)
class View:
    """
    How a robot is looked at, in the words of Gymnasium's MuJoCo environments.

    :param render_mode: rgb_array, depth_array or human (a window); None for no pictures
    :param width: width of a picture, in pixels
    :param height: its height, in pixels
    :param camera_id: number of a camera of the model; None for a free camera
    :param camera_name: its name instead
    :param default_camera_config: distance, elevation, azimuth, lookat and trackbodyid of the free camera
    :param max_geom: most geoms that are drawn
    :param visual_options: flags of MuJoCo's visualizer
    """

    render_mode: str | None = None
    width: int = 480
    height: int = 480
    camera_id: int | None = None
    camera_name: str | None = None
    default_camera_config: Mapping[str, Any] | None = None
    max_geom: int = 1000
    visual_options: Mapping[int, bool] = field(default_factory=dict)

    def check(self, model: mujoco.MjModel) -> None:
        """
        :param model: the model to look at; its buffer grows to the size of the pictures
        :raises InvalidArgument: for an unknown mode or camera
        """
        if self.render_mode not in (None, *RENDER_MODES):
            raise InvalidArgument(
                f"render_mode is {self.render_mode!r}; give one of {', '.join(RENDER_MODES)}, or None"
            )
        if self.camera_id is not None and self.camera_name is not None:
            raise InvalidArgument("camera_id and camera_name are both given; give one")
        cameras = [model.camera(index).name for index in range(model.ncam)]
        if self.camera_name is not None and self.camera_name not in cameras:
            raise InvalidArgument(f"camera_name is {self.camera_name!r}; the model has {cameras or 'no cameras'}")
        if self.camera_id is not None and not -1 <= self.camera_id < model.ncam:
            raise InvalidArgument(f"camera_id is {self.camera_id}; the model has {model.ncam} cameras, counted from 0")
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgument(f"{name} is {value!r}; give a number of pixels of at least 1")
        if self.render_mode == "human" and not screen_answers():
            raise InvalidArgument(
                "render_mode is 'human', and no screen answers (is DISPLAY right? is glfw installed?); use rgb_array, "
                "or ppo-plus eval --video, which need none"
            )
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)


class Renderer:
    """
    Draws any simulation of a batch, one at a time.

    Which driver MuJoCo draws with is decided by MUJOCO_GL when it is first imported: egl or osmesa without a screen.

    :param physics: the simulations
    :param view: how to look at them
    :param camera: the task's own camera configuration, which the view overrides
    """

    def __init__(self, physics: Simulations, view: View, camera: Mapping[str, Any]) -> None:
        self.physics, self.view = physics, view
        # A copy, to be drawn with what each simulation was randomized to.
        self.model = copy.copy(physics.model)
        self.data = mujoco.MjData(self.model)
        config = {**camera, **(view.default_camera_config or {})}
        vectors = {key: np.asarray(value, float) for key, value in config.items() if np.ndim(value)}
        try:
            # Asks for imageio and glfw, which nothing else needs.
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
        except ImportError as missing:
            raise ImportError(f'pictures need pip install "sb3-ppo-plus[mujoco]" ({missing})') from missing
        self._renderer = MujocoRenderer(
            self.model,
            self.data,
            {**config, **vectors},
            view.width,
            view.height,
            view.max_geom,
            view.camera_id,
            view.camera_name,
            dict(view.visual_options),
        )

    def render(self, index: int) -> np.ndarray | None:
        """
        :param index: number of the simulation
        :return: the picture [height, width, 3], depths [height, width], or None for a window
        """
        spec = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        state = np.empty(mujoco.mj_stateSize(self.model, spec))
        mujoco.mj_getState(self.model, self.physics.get_data(index), state, spec)
        mujoco.mj_setState(self.model, self.data, state, spec)
        for name, values in self.physics.expanded.items():
            if not name.startswith("opt."):
                getattr(self.model, name)[...] = values[index]
        mujoco.mj_forward(self.model, self.data)
        return self._renderer.render(self.view.render_mode)

    def close(self) -> None:
        """Free windows and buffers."""
        self._renderer.close()
