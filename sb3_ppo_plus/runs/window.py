"""A trained model at work in a window, as fast as it is in reality."""

from __future__ import annotations

import sys
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from gymnasium import error
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.screen import screen_answers
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.masking import prediction_masks
from sb3_ppo_plus.runs.envs import remedy
from sb3_ppo_plus.runs.evaluate import Agent, Evaluation
from sb3_ppo_plus.runs.views import look_at

FINISHED, CLOSED, INTERRUPTED = "finished", "closed", "interrupted"
# Of MuJoCo's window; other environments decide by themselves.
_SIZE = {"width": 960, "height": 720}
# mjCAMERA_FIXED of MuJoCo's mjtCamera: one of the model's own cameras, moving with the robot or not.
_MODEL_CAMERA = 2


class WindowClosed(Exception):
    """Somebody closed the window."""


@dataclass(frozen=True)
class Shown:
    """
    What was seen.

    :param evaluation: the episodes that were seen to their end
    :param ended: ``finished``, ``closed`` (the window), or ``interrupted`` (Ctrl-C)
    """

    evaluation: Evaluation
    ended: str


def show_agent(agent: Agent, n_episodes: int, seed: int = 2_000_000, deterministic: bool = True) -> Shown:
    """
    Show a model at work, one episode after the other, until all were seen or somebody had enough.

    The environment draws its own window (``render_mode="human"``). MuJoCo opens none when MUJOCO_GL is egl or osmesa at
    its first import, so the caller sees to that before.

    :param agent: model with its environment
    :param n_episodes: number of episodes
    :param seed: seed of the environment and of sampled actions
    :param deterministic: take the mode of the policy instead of sampling
    :return: what was seen
    :raises InvalidArgument: when the environment draws no window, or none can be opened
    """
    set_random_seed(seed)
    seen = Evaluation([], [])
    ended = FINISHED
    try:
        with closing(_open(agent, seed)) as env:
            _play(agent, env, n_episodes, deterministic, seen)
    except WindowClosed:
        ended = CLOSED
    except KeyboardInterrupt:
        ended = INTERRUPTED
    except (ImportError, error.DependencyNotInstalled) as missing:
        raise InvalidArgument(
            f"the window of {agent.config.env} needs a package that is not there: {remedy(str(missing))}"
        ) from missing
    return Shown(seen, ended)


def _play(agent: Agent, env: VecEnv, n_episodes: int, deterministic: bool, seen: Evaluation) -> None:
    """Play in real time, and note every episode that came to its end."""
    pace = Pace(float(env.get_attr("metadata")[0].get("render_fps") or 30))
    window = Window()
    masks = prediction_masks(agent.model, env)
    observation = env.reset()
    while len(seen.returns) < n_episodes:
        window.watch()
        action, _ = agent.model.predict(
            observation,  # type: ignore[arg-type]
            deterministic=deterministic,
            **masks(),
        )
        observation, _, _, infos = env.step(action)
        pace.wait()
        if "episode" in infos[0]:
            seen.returns.append(float(infos[0]["episode"]["r"]))
            seen.lengths.append(int(infos[0]["episode"]["l"]))


class Pace:
    """
    Keeps steps from coming faster than they do in reality.

    :param rate: steps per second; where they take longer than that, they are not hurried afterwards
    """

    def __init__(self, rate: float) -> None:
        self.step = 1.0 / rate
        self.due = 0.0

    def wait(self) -> None:
        """Wait until the next step is due."""
        now = time.perf_counter()
        if now < self.due:
            time.sleep(self.due - now)
        self.due = max(self.due, now) + self.step


class Window:
    """
    The window that an environment opened by itself, and whether somebody closed it.

    Gymnasium's own viewers go on drawing into a window that is gone. The two libraries that they draw with are asked
    where they are loaded anyway.
    """

    def __init__(self) -> None:
        self._watched = False

    def watch(self) -> None:
        """
        Look at what happened to the window; before each step.

        :raises WindowClosed: when it was closed, here or while the environment draws the next picture
        """
        glfw, pygame = sys.modules.get("glfw"), sys.modules.get("pygame")
        if glfw is not None and not self._watched:
            self._watched = self._watch_glfw(glfw)
        if pygame is not None and pygame.display.get_init() and pygame.event.peek(pygame.QUIT):
            raise WindowClosed

    def _watch_glfw(self, glfw: Any) -> bool:
        """Have GLFW raise when the window is to be closed; False while there is no window."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns when it is asked before its first window
            window = glfw.get_current_context()
        if not window:
            return False

        def on_close(_: Any) -> None:
            raise WindowClosed

        def on_key(window: Any, key: int, *rest: Any) -> None:
            if key == glfw.KEY_ESCAPE:
                raise WindowClosed
            if others is not None:
                others(window, key, *rest)

        glfw.set_window_close_callback(window, on_close)
        others = glfw.set_key_callback(window, on_key)
        # Waiting for the screen would slow down robots with more steps a second than it has pictures.
        glfw.swap_interval(0)
        return True


def _open(agent: Agent, seed: int) -> VecEnv:
    """The environment, ready to draw its window."""
    config = agent.config
    views = look_at(config)
    if not {"human", "rgb_array"}.intersection(views.render_modes):
        raise InvalidArgument(
            f"{config.env} draws nothing (its render_modes are {list(views.render_modes)}); leave out --render"
        )
    kwargs: dict[str, Any] = {"render_mode": "human"}
    if views.model is not None:
        _check_screen()
        kwargs |= {name: value for name, value in _SIZE.items() if name not in config.env_kwargs}
    camera = views.tracking_camera(config.env_kwargs)
    native = config.vec_env == "native"
    if camera is not None and native:
        kwargs["default_camera_config"] = _camera(camera)
    env = agent.make_env(1, seed, kwargs)
    if camera is not None and not native:
        # Not all of Gymnasium's MuJoCo environments take a camera as an argument, but all have this.
        renderer = env.get_attr("mujoco_renderer")[0]
        renderer.default_cam_config = {**(renderer.default_cam_config or {}), **_camera(camera)}
    return env


def _check_screen() -> None:
    if not screen_answers():
        raise InvalidArgument(
            "no window opens: the screen does not answer (is DISPLAY right?); use --video FILE, which needs none"
        )


def _camera(number: int) -> dict[str, int]:
    return {"type": _MODEL_CAMERA, "fixedcamid": number}
