"""How an environment can be looked at: what it draws by itself, and from where a MuJoCo robot stays in sight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.envs import EnvMaker
from sb3_ppo_plus.runs.native import choose_vec_env, gymnasium_kwargs, make_native

# The camera that moves with the robot, in Gymnasium's own MJCF files and by convention in others.
TRACKING_CAMERA = "track"
_CAMERA_CHOICES = ("camera_id", "camera_name", "default_camera_config")


@dataclass(frozen=True)
class Views:
    """
    What an environment can show.

    :param render_modes: what it can draw by itself
    :param model: its ``mujoco.MjModel``, None when another program simulates or draws it
    """

    render_modes: tuple[str, ...]
    model: Any

    def tracking_camera(self, env_kwargs: dict[str, Any]) -> int | None:
        """
        :param env_kwargs: arguments of the environment
        :return: number of the camera named ``track``; None when there is none, or the arguments choose another view
        """
        if self.model is None or any(name in env_kwargs for name in _CAMERA_CHOICES):
            return None
        names = [self.model.camera(index).name for index in range(self.model.ncam)]
        return names.index(TRACKING_CAMERA) if TRACKING_CAMERA in names else None


def look_at(config: RunConfig) -> Views:
    """
    Build an environment to find out what it can show.

    :param config: environment and its arguments
    :return: what it can show
    """
    kind = choose_vec_env(config)
    if kind == "native":
        robots = make_native(config, 1, 0, config.env_kwargs)
        model = robots.get_attr("model")[0]
        robots.close()
        # Its metadata names the mode that it was made with, as SB3's do.
        return Views(("human", "rgb_array"), model)
    env: gym.Env = EnvMaker(config.env)(
        **(gymnasium_kwargs(config.env_kwargs) if kind == "torch" else config.env_kwargs)
    )
    modes = env.metadata.get("render_modes") or ()
    model = getattr(env.unwrapped, "model", None) if hasattr(env.unwrapped, "mujoco_renderer") else None
    env.close()
    return Views(tuple(modes), model)
