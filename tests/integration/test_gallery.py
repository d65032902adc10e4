"""The models that come with the package: complete, small, safe to open, as good as their cards say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import slow_but
from stable_baselines3 import PPO

from sb3_ppo_plus.cli import EXIT_OK, EXIT_USAGE, main
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
from sb3_ppo_plus.runs.exporting import open_source, verify_source
from sb3_ppo_plus.runs.gallery import CARD, ONNX, gallery_folder, gallery_names

ROOT = Path(__file__).resolve().parents[2]
NAMES = gallery_names()
#: episodes and seed of the cards, see benchmarks/gallery.py
EPISODES, SEED = 100, 4_000_000


def card(name: str) -> tuple[float, float]:
    """Mean and standard deviation of the return as the card has them."""
    text = (gallery_folder(name) / CARD).read_text(encoding="utf-8")
    found = re.search(r"^Return (-?[\d,.]+) ± ([\d,.]+) in 100 episodes", text, re.MULTILINE)
    assert found is not None, f"the card of {name} does not begin with its return"
    mean, spread = (float(part.replace(",", "")) for part in found.groups())
    return mean, spread


def test_all_robots_of_gymnasium_are_there_and_small() -> None:
    assert len(NAMES) == 11 and "HalfCheetah-v5" in NAMES
    files = [path for path in (ROOT / "gallery").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10 * 2**20


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_complete_and_opens_in_sb3(name: str) -> None:
    folder = gallery_folder(name)
    files = {path.name for path in folder.iterdir()}
    assert files == {"README.md", "config.yml", "model.zip", "policy.onnx", "vecnormalize.pkl"}
    agent = load_agent(folder)
    theirs = PPO.load(folder / "model.zip", device="cpu")
    observation = agent.make_env(1, seed=0).reset()
    ours = agent.model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(ours, theirs.predict(observation, deterministic=True)[0])


@pytest.mark.parametrize("name", slow_but(["HalfCheetah-v5", "Humanoid-v5"], NAMES))
def test_the_file_acts_as_the_model(name: str) -> None:
    folder = gallery_folder(name)
    assert verify_source(open_source(folder), folder / ONNX, n_random=200, n_episodes=1, store=False).passed


def test_the_cheetah_runs() -> None:
    mean, spread = card("HalfCheetah-v5")
    returns = evaluate_agent(load_agent(gallery_folder("HalfCheetah-v5")), 5, seed=SEED).returns
    assert np.median(returns) > mean - 2 * spread


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_as_good_as_its_card_says(name: str) -> None:
    mean, spread = card(name)
    returns = evaluate_agent(load_agent(gallery_folder(name)), EPISODES, seed=SEED).returns
    # Other processors round otherwise, and a robot that runs soon runs elsewhere.
    error = float(np.hypot(spread, np.std(returns))) / np.sqrt(EPISODES)
    assert abs(np.mean(returns) - mean) <= 4 * error + 1e-2 * abs(mean)


# ------------------------------------------------ enjoy


def test_the_gallery_is_listed_with_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enjoy", "--list"]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all("Return " in line for line in lines)


def test_a_robot_of_the_gallery_plays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert main(["enjoy", "--from-gallery", "InvertedPendulum-v5", "--episodes", "2"]) == EXIT_OK
    said = capsys.readouterr()
    assert "no screen here" in said.err and "--video FILE" in said.err
    assert "(2 episodes)" in said.out


MISTAKES = {
    "a name with a typing error": (["--from-gallery", "HalfCheeta-v5"], "did you mean HalfCheetah-v5?"),
    "a name of nothing": (["--from-gallery", "Chess"], "there is Ant-v5, "),
    "nothing to watch": ([], "`ppo-plus enjoy --list`"),
    "two things to watch": ([".", "--from-gallery", "Ant-v5"], "give either"),
    "no run folder": (["nowhere"], "there is no nowhere"),
    "no episode": (["--from-gallery", "Ant-v5", "--episodes", "0"], "--episodes"),
    "no video format": (["--from-gallery", "Ant-v5", "--video", "a.avi"], ".gif or .mp4"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(
    mistake: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words, text = MISTAKES[mistake]
    assert main(["enjoy", *words]) == EXIT_USAGE
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_cannot_lead_out_of_the_gallery() -> None:
    with pytest.raises(InvalidArgument, match="the gallery has no"):
        gallery_folder("../tuning")
