"""sb3_ppo_plus.runs.window and views: a model shown in a window, without a window."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs import window
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.evaluate import Agent
from sb3_ppo_plus.runs.native import why_not_native
from sb3_ppo_plus.runs.views import Views, look_at
from sb3_ppo_plus.runs.window import CLOSED, FINISHED, INTERRUPTED, Pace, Window, WindowClosed, show_agent

DRAWN: list[int] = []


class Screened(gym.Env):
    """Episodes of four steps that note what would be drawn; ``ends_with`` is raised while drawing the fifth picture."""

    metadata = {"render_modes": ["human"], "render_fps": 100}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, ends_with: type[BaseException] | None = None) -> None:
        self.render_mode = render_mode
        self.ends_with = ends_with

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.count += 1
        if self.render_mode == "human":
            DRAWN.append(self.count)
            if self.ends_with is not None and len(DRAWN) == 5:
                raise self.ends_with("libscreen is missing")
        return np.zeros(2, np.float32), 2.0, self.count == 4, False, {}


class Blind(Screened):
    metadata = {"render_modes": []}


@pytest.fixture(autouse=True)
def registered() -> Any:
    DRAWN.clear()
    gym.register("Screened-v0", entry_point=Screened)
    gym.register("Blind-v0", entry_point=Blind)
    yield
    for name in ("Screened-v0", "Blind-v0"):
        gym.registry.pop(name)


def agent(env_id: str = "Screened-v0", **env_kwargs: Any) -> Agent:
    model = PPO("MlpPolicy", Screened(), n_steps=8, batch_size=8, policy_kwargs={"net_arch": [2]}, device="cpu")
    return Agent(model, Path("model.zip"), RunConfig(env_id, env_kwargs=env_kwargs), None)


def test_the_episodes_asked_for_are_shown_in_real_time() -> None:
    started = time.perf_counter()
    shown = show_agent(agent(), 3)
    assert time.perf_counter() - started >= 11 * 0.01  # 12 steps at 100 a second, the first at once
    assert DRAWN == [1, 2, 3, 4] * 3
    assert (shown.evaluation.returns, shown.evaluation.lengths, shown.ended) == ([8.0] * 3, [4] * 3, FINISHED)


@pytest.mark.parametrize(("ends_with", "ended"), [(WindowClosed, CLOSED), (KeyboardInterrupt, INTERRUPTED)])
def test_whoever_has_enough_gets_the_episodes_so_far(ends_with: type[BaseException], ended: str) -> None:
    shown = show_agent(agent(ends_with=ends_with), 3)
    assert (shown.evaluation.returns, shown.ended) == ([8.0], ended)


def test_a_window_that_cannot_be_is_explained() -> None:
    with pytest.raises(InvalidArgument, match=r"Blind-v0 draws nothing \(its render_modes are \[\]\)"):
        show_agent(agent("Blind-v0"), 1)
    with pytest.raises(InvalidArgument, match=r"window of Screened-v0 needs a package .*: libscreen is missing"):
        show_agent(agent(ends_with=ImportError), 3)


def test_late_steps_are_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [0.0], []
    monkeypatch.setattr(window.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(window.time, "sleep", slept.append)
    pace = Pace(rate=10.0)
    for now in (5.0, 5.02, 5.5, 5.51):
        clock[0] = now
        pace.wait()
    # Due at 5.0 (the first), 5.1, 5.2 (long past), 5.6.
    assert slept == pytest.approx([0.08, 0.09])


class FakeGlfw:
    """What GLFW does with callbacks; its window opens later."""

    KEY_ESCAPE = 256

    def __init__(self) -> None:
        self.window: Any = None
        self.keys: list[int] = []
        self.on_key: Any = lambda window, key, *rest: self.keys.append(key)
        self.interval: int | None = None

    def get_current_context(self) -> Any:
        return self.window

    def set_window_close_callback(self, window: Any, callback: Any) -> None:
        self.on_close = callback

    def set_key_callback(self, window: Any, callback: Any) -> Any:
        previous, self.on_key = self.on_key, callback
        return previous

    def swap_interval(self, interval: int) -> None:
        self.interval = interval


def test_a_glfw_window_ends_by_its_button_and_by_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    glfw = FakeGlfw()
    monkeypatch.setitem(sys.modules, "glfw", glfw)
    monkeypatch.delitem(sys.modules, "pygame", raising=False)
    watcher = Window()
    watcher.watch()
    assert glfw.interval is None
    glfw.window = object()
    watcher.watch()
    watcher.watch()  # hooks once, or a key would be handed on twice
    assert glfw.interval == 0
    glfw.on_key(glfw.window, 65, 0, 1, 0)
    assert glfw.keys == [65]
    with pytest.raises(WindowClosed):
        glfw.on_key(glfw.window, glfw.KEY_ESCAPE, 0, 1, 0)
    with pytest.raises(WindowClosed):
        glfw.on_close(glfw.window)


def test_a_pygame_window_ends_by_its_button(monkeypatch: pytest.MonkeyPatch) -> None:
    events: set[int] = set()
    open_now = [False]
    fake = SimpleNamespace(
        QUIT=7,
        display=SimpleNamespace(get_init=lambda: open_now[0]),
        event=SimpleNamespace(peek=lambda kind: kind in events),
    )
    monkeypatch.setitem(sys.modules, "pygame", fake)
    monkeypatch.delitem(sys.modules, "glfw", raising=False)
    watcher = Window()
    events.add(fake.QUIT)
    watcher.watch()  # of a window that is not there
    open_now[0] = True
    with pytest.raises(WindowClosed):
        watcher.watch()


def test_a_screen_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(init=lambda: True, get_primary_monitor=lambda: None)
    monkeypatch.setitem(sys.modules, "glfw", fake)
    with pytest.raises(InvalidArgument, match=r"the screen does not answer .* use --video FILE"):
        window._check_screen()
    fake.get_primary_monitor = object
    window._check_screen()


@pytest.mark.parametrize("kind", ["native", "dummy"])
def test_a_robot_is_seen_by_its_tracking_camera_unless_told_otherwise(kind: str) -> None:
    pytest.importorskip("mujoco")
    if kind == "native" and why_not_native():
        pytest.skip("MujocoVecEnv cannot be imported")
    views = look_at(RunConfig("HalfCheetah-v5", vec_env=kind))
    assert {"human", "rgb_array"} <= set(views.render_modes)
    assert views.tracking_camera({"ctrl_cost_weight": 0.2}) == 0
    assert views.tracking_camera({"camera_id": -1}) is None
    assert views.tracking_camera({"default_camera_config": {"distance": 9.0}}) is None


def test_what_is_not_mujoco_has_no_camera() -> None:
    assert look_at(RunConfig("Screened-v0")) == Views(("human",), None)
    assert look_at(RunConfig("Screened-v0")).tracking_camera({}) is None
