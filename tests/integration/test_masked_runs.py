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

from sb3_ppo_plus import PPOPlus, cli
from sb3_ppo_plus.masking import prediction_masks
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.evaluate import Agent, evaluate_agent
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


@pytest.mark.parametrize("kind", [PPOPlus, MaskablePPO])
def test_evaluations_play_allowed_actions(kind: Any) -> None:
    for deterministic in (True, False):
        found = evaluate_agent(agent(kind), 3, deterministic=deterministic)
        assert found.returns == [5.0] * 3 and found.lengths == [5] * 3


def test_a_run_is_trained_evaluated_and_shown_with_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Choosy raises at the first forbidden action, so that any path without masks would end in an error."""
    words = ["--env", "Choosy-v0", "-n", "64", "--n-envs", "2", "--run-dir", str(tmp_path), "--no-progress"]
    small = ["--set", "n_steps=16", "--set", "batch_size=16", "--eval-freq", "32", "--eval-episodes", "2"]
    assert cli.main(["train", *words, *small]) == 0
    run = tmp_path / "Choosy-v0_1"
    with np.load(run / "evaluations.npz") as arrays:
        assert (arrays["results"] == 5.0).all()
    assert cli.main(["eval", str(run), "--episodes", "2", "--stochastic", "--video", str(tmp_path / "v.gif")]) == 0
    assert "5.0 ± 0.0 (2 episodes)" in capsys.readouterr().out and (tmp_path / "v.gif").is_file()
