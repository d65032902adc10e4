"""The demo, with few steps: the whole way from training to the video."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.video import VideoFormat, render_kwargs

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


def test_the_demo_trains_evaluates_and_says_where_everything_lies(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    # A process of its own: which renderer MuJoCo uses is decided once per process.
    words = [sys.executable, str(DEMO), "--env", "Reacher-v5", "-n", "2048", "--run-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[1])}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "Reacher-v5_1"
    assert "return before" in done.stdout and "(8 episodes)" in done.stdout
    assert "(20 episodes)" in done.stdout
    assert str(run / "learning_curve.png") in done.stdout
    assert done.stdout.count("acts as the model does") == 2 and (run / "policy.onnx").is_file()
    video = run / "video.gif"
    if video.is_file():
        assert video.stat().st_size < 3e6
        assert str(video) in done.stdout
        with Image.open(video) as gif:
            # Pictures that equal the one before are written as one.
            assert gif.n_frames > 100  # type: ignore[attr-defined]
    else:
        assert "no video: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Reacher-v5_1"]


def test_a_robot_is_recorded_by_its_tracking_camera_and_mujoco_litters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    config = RunConfig("HalfCheetah-v5", env_kwargs={"width": 64})
    kwargs = render_kwargs(config, VideoFormat(width=320, height=240))
    assert kwargs == {"render_mode": "rgb_array", "width": 64, "height": 240, "camera_name": "track"}
    # MuJoCo would print what is deprecated in Gymnasium's file, and write it to MUJOCO_LOG.TXT.
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_explains_what_it_cannot_do(tmp_path: Path) -> None:
    words = [sys.executable, str(DEMO), "--env", "HalfCheeta-v5", "--run-dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[1]), "MUJOCO_GL": "egl"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "did you mean HalfCheetah-v5" in done.stderr
