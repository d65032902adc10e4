"""The command line with MujocoVecEnv: the same runs as through Gymnasium, robots of one's own, videos, windows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from PIL import Image, ImageGrab, features

from sb3_ppo_plus import PPOPlus, cli
from sb3_ppo_plus.cli.rendering import BACKENDS, renderer_works
from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
from sb3_ppo_plus.runs.native import why_not_native

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(why_not_native() is not None, reason="MujocoVecEnv cannot be imported")

SMALL = ["-n", "128", "--n-envs", "2", "--no-progress", "--eval-freq", "0", "--eval-episodes", "2"]
SMALL += [word for setting in ("n_steps=32", "batch_size=32", "n_epochs=2") for word in ("--set", setting)]
# Episodes of half a second, in small pictures.
SHORT = {"max_episode_steps": 10, "width": 160, "height": 120}
CHEETAH = ["train", "--env", "HalfCheetah-v5", *SMALL, "--set", f"env_kwargs={SHORT}"]


# Several in one process, which saves seconds.
EACH_WORD_IS_A_COMMAND = """
import sys
from sb3_ppo_plus.cli import main
print([main(command.split()) for command in sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training, once natively and once through Gymnasium."""
    root = tmp_path_factory.mktemp("runs")
    found = {}
    for kind in ("auto", "dummy"):
        assert cli.main([*CHEETAH, "--vec-env", kind, "--run-dir", str(root / kind)]) == 0
        found[kind] = root / kind / "HalfCheetah-v5_1"
    return found


def parameters(run: Path) -> dict[str, th.Tensor]:
    return PPOPlus.load(run / "model.zip", device="cpu").policy.state_dict()


def results(run: Path) -> np.ndarray:
    with np.load(run / "evaluations.npz") as arrays:
        return arrays["results"]


def test_native_threads_train_as_gymnasium_does_to_rounding(runs: dict[str, Path]) -> None:
    words = [yaml.safe_load((runs[kind] / "config.yml").read_text())["vec_env"] for kind in ("auto", "dummy")]
    assert words == ["native", "dummy"]
    ours, theirs = parameters(runs["auto"]), parameters(runs["dummy"])
    assert all(th.allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-6) for key in theirs)
    np.testing.assert_allclose(results(runs["auto"]), results(runs["dummy"]), rtol=1e-4, atol=1e-4)


def test_the_written_config_repeats_a_native_run(runs: dict[str, Path], tmp_path: Path) -> None:
    config = str(runs["auto"] / "config.yml")
    assert cli.main(["train", "--config", config, "--run-dir", str(tmp_path), "--no-progress"]) == 0
    again = tmp_path / "HalfCheetah-v5_1"
    ours, theirs = parameters(runs["auto"]), parameters(again)
    assert all(th.equal(ours[key], theirs[key]) for key in ours)
    np.testing.assert_array_equal(results(runs["auto"]), results(again))


def test_both_are_evaluated_alike_and_a_bare_zip_natively(runs: dict[str, Path], tmp_path: Path) -> None:
    agents = [load_agent(runs[kind]) for kind in ("auto", "dummy")]
    assert [agent.config.vec_env for agent in agents] == ["native", "dummy"]
    first, second = (evaluate_agent(agent, 3, seed=5) for agent in agents)
    assert first == second
    assert first.lengths == [10, 10, 10]
    shutil.copy(runs["dummy"] / "model.zip", tmp_path)
    assert load_agent(tmp_path / "model.zip", "HalfCheetah-v5").config.vec_env == "native"
    other = load_agent(runs["auto"], "gymnasium:HalfCheetah-v5").config
    assert (other.vec_env, other.env_kwargs) == ("dummy", {})


def python(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *words], cwd=folder, env=path, capture_output=True, text=True)


@pytest.mark.slow
def test_a_robot_of_ones_own_is_found_in_the_current_folder(tmp_path: Path) -> None:
    for name in ("own_robot.py", "balancer.xml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    # As the console script: its own folder is on the path, the current one is not.
    script = tmp_path / "bin" / "ppo-plus"
    script.parent.mkdir()
    script.write_text(EACH_WORD_IS_A_COMMAND)
    settings = "--set env_kwargs.speed=0.3 --set env_kwargs.observation_noise=0.01"
    train = f"train --env own_robot:Balancer {' '.join(SMALL)} {settings}"
    done = python([str(script), train, "eval runs/own_robot-Balancer_1 --episodes 3"], tmp_path)
    assert done.stdout.splitlines()[-1] == "[0, 0]", done.stderr
    assert "(3 episodes)" in done.stdout
    run = tmp_path / "runs" / "own_robot-Balancer_1"
    config = yaml.safe_load((run / "config.yml").read_text())
    assert (config["env"], config["vec_env"]) == ("own_robot:Balancer", "native")
    assert config["env_kwargs"] == {"speed": 0.3, "observation_noise": 0.01}


@pytest.mark.slow
def test_videos_are_recorded_without_a_screen(runs: dict[str, Path], tmp_path: Path) -> None:
    backend = next(filter(renderer_works, BACKENDS), None)
    if backend is None:
        pytest.skip("neither EGL nor OSMesa draws here")
    # A process of its own: which renderer MuJoCo uses is decided once per process.
    words = [f"eval {run} --episodes 1 --video {kind}.gif" for kind, run in runs.items()]
    done = python(["-c", EACH_WORD_IS_A_COMMAND, *words], tmp_path, DISPLAY="", WAYLAND_DISPLAY="", MUJOCO_GL=backend)
    assert done.stdout.splitlines()[-1] == "[0, 0]", done.stderr
    assert done.stderr == ""
    for kind in runs:
        with Image.open(tmp_path / f"{kind}.gif") as gif:
            assert gif.size == (160, 120)
            shown = set()
            for frame in range(gif.n_frames):
                gif.seek(frame)
                shown.add(gif.convert("RGB").tobytes())
        assert len(shown) > 50
    assert {path.name for path in tmp_path.iterdir()} == {"auto.gif", "dummy.gif"}


@pytest.fixture
def screen() -> Iterator[str]:
    """A screen that nobody sees, with OpenGL on it."""
    if shutil.which("Xvfb") is None or not features.check("xcb"):
        pytest.skip("needs Xvfb, and Pillow with XCB for a look at it")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "320x240x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            display = f":{server.stdout.readline().strip()}"
            opens = "import glfw, sys; sys.exit(not (glfw.init() and glfw.create_window(9, 9, '', None, None)))"
            if python(["-c", opens], ROOT, DISPLAY=display).returncode != 0:
                pytest.skip("this Xvfb has no OpenGL")
            yield display
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["auto", "dummy"])
def test_a_window_shows_the_robot(kind: str, runs: dict[str, Path], screen: str, tmp_path: Path) -> None:
    words = ["-m", "sb3_ppo_plus", "eval", str(runs[kind]), "--render", "--episodes", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DISPLAY": screen, "MUJOCO_GL": "egl"}
    log = tmp_path / "log.txt"
    seen: set[bytes] = set()
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=environment, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                picture = ImageGrab.grab(xdisplay=screen)
                if np.asarray(picture).any():
                    seen.add(picture.tobytes())
                time.sleep(0.05)
        finally:
            process.kill()
    assert process.wait() == 0, log.read_text()
    assert "(4 episodes)" in log.read_text()
    assert "episode length   10.0 ± 0.0" in log.read_text()
    assert len(seen) > 3, "the robot moves"
