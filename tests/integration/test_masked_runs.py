"""Whatever shows a model at work gives it the masks that it was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.masking import prediction_masks
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.evaluate import Agent
from sb3_ppo_plus.runs.video import VideoFormat, record_video
from sb3_ppo_plus.runs.window import show_agent


class Choosy(gym.Env):
    """Episodes of five steps in which every action but one is an error."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 50}
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(30)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert action == 29 - self.count, "this action was forbidden"
        self.count += 1
        return np.zeros(2, np.float32), 1.0, self.count == 5, False, {}

    def action_masks(self) -> np.ndarray:
        return np.arange(30) == 29 - self.count

    def render(self) -> np.ndarray:
        return np.zeros((24, 32, 3), np.uint8)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Choosy-v0", entry_point=Choosy)
    yield
    gym.registry.pop("Choosy-v0")


def agent(kind: Any, **arguments: Any) -> Agent:
    policy = "MlpPolicy"
    model = kind(policy, Choosy(), n_steps=8, batch_size=8, policy_kwargs={"net_arch": [2]}, device="cpu", **arguments)
    return Agent(model, Path("model.zip"), RunConfig("Choosy-v0"), None)


@pytest.mark.parametrize("kind", [PPOPlus, MaskablePPO])
def test_videos_and_windows_show_allowed_actions(kind: Any, tmp_path: Path) -> None:
    path = record_video(agent(kind), tmp_path / "video.gif", form=VideoFormat(width=32, height=24, seconds=0.4))
    assert path.is_file()
    assert show_agent(agent(kind), 2, deterministic=False).evaluation.returns == [5.0, 5.0]


def test_masks_are_given_to_models_that_take_them() -> None:
    masked, bare = DummyVecEnv([Choosy]), DummyVecEnv([lambda: gym.make("CartPole-v1")])
    masked.reset()
    assert prediction_masks(agent(PPOPlus).model, masked)()["action_masks"].sum() == 1
    assert prediction_masks(agent(MaskablePPO).model, masked)()["action_masks"].sum() == 1
    assert prediction_masks(agent(PPOPlus, use_masking=False).model, masked)() == {}
    assert prediction_masks(agent(PPOPlus).model, bare)() == {}
