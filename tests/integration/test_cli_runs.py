"""The command line with short trainings: run folders, repeated runs, evaluation, videos, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_ppo_plus import PPOPlus, cli
from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import prepare_run
from sb3_ppo_plus.runs.train import train_run

SMALL = [
    "--no-progress",
    "--eval-episodes",
    "2",
    "--set",
    "n_steps=32",
    "--set",
    "batch_size=32",
    "--set",
    "n_epochs=2",
]
PENDULUM = ["train", "--env", "Pendulum-v1", "-n", "256", "--n-envs", "2", "--eval-freq", "100", *SMALL]


class Stills(gym.Env):
    """Five steps of gray pictures; needs no graphics to render."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Dict({"place": gym.spaces.Box(-1.0, 1.0, (2,)), "phase": gym.spaces.Discrete(3)})
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, explode_at: int = -1) -> None:
        self.render_mode = render_mode
        self.explode_at = explode_at
        self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return {"place": np.zeros(2, np.float32), "phase": 0}, {}

    def step(self, action):
        self.count += 1
        self.total += 1
        if self.total == self.explode_at:
            raise RuntimeError("the robot caught fire")
        return {"place": np.zeros(2, np.float32), "phase": self.count % 3}, 1.0, self.count == 5, False, {}

    def render(self):
        return np.full((600, 800, 3), 40 * self.count, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def stills() -> None:
    gym.register("Stills-v0", entry_point=Stills)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a normalizer."""
    root = tmp_path_factory.mktemp("runs")
    assert cli.main([*PENDULUM, "--run-dir", str(root), "--seed", "3", "--set", "normalize=true"]) == 0
    return root / "Pendulum-v1_1"


def parameters(path: Path) -> dict[str, th.Tensor]:
    return PPOPlus.load(path, device="cpu").policy.state_dict()


def test_a_run_folder_holds_everything(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "config.yml",
        "model.zip",
        "best_model.zip",
        "checkpoints",
        "vecnormalize.pkl",
        "best_vecnormalize.pkl",
        "evaluations.npz",
        "progress.csv",
        "learning_curve.png",
        "doctor.json",
        "doctor.html",
    }
    config = yaml.safe_load((run / "config.yml").read_text())
    assert (config["env"], config["seed"], config["n_timesteps"]) == ("Pendulum-v1", 3, 256)
    assert config["normalize"] == {"gamma": config["gamma"]}
    assert config["vf_loss"] == "sb3"  # a default, written out
    with np.load(run / "evaluations.npz") as arrays:
        assert arrays["timesteps"].tolist() == [0, 100, 200, 256]
        assert arrays["results"].shape == (4, 2)
    assert "train/loss" in (run / "progress.csv").read_text()


def test_the_written_config_repeats_the_run_bit_for_bit(run: Path, tmp_path: Path) -> None:
    assert cli.main(["train", "--config", str(run / "config.yml"), "--run-dir", str(tmp_path), "--no-progress"]) == 0
    again = tmp_path / "Pendulum-v1_1"
    for name in ("model.zip", "best_model.zip"):
        first, second = parameters(run / name), parameters(again / name)
        assert first.keys() == second.keys()
        assert all(th.equal(first[key], second[key]) for key in first)
    with np.load(run / "evaluations.npz") as first_arrays, np.load(again / "evaluations.npz") as second_arrays:
        np.testing.assert_array_equal(first_arrays["results"], second_arrays["results"])
    written = [yaml.safe_load((folder / "config.yml").read_text()) for folder in (run, again)]
    assert {key: value for key, value in written[0].items() if key != "command"} == {
        key: value for key, value in written[1].items() if key != "command"
    }


def test_another_seed_is_another_run(run: Path, tmp_path: Path) -> None:
    words = ["train", "--config", str(run / "config.yml"), "--run-dir", str(tmp_path), "--no-progress", "--seed", "4"]
    assert cli.main(words) == 0
    first, second = parameters(run / "model.zip"), parameters(tmp_path / "Pendulum-v1_1" / "model.zip")
    assert not th.equal(first["action_net.weight"], second["action_net.weight"])


def test_the_summary_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--env", "CartPole-v1", "-n", "64", "--n-envs", "2", "--run-dir", str(tmp_path), "--verbose"]
    assert cli.main([*words, "--eval-freq", "0", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "| rollout/ " in out
    assert re.search(r"return before +[\d.]+ ± [\d.]+ \(2 episodes\)\n", out)
    assert re.search(r"return after +[\d.]+ ± [\d.]+ \(2 episodes\)\n", out)
    assert f"run folder       {tmp_path / 'CartPole-v1_1'}" in out
    assert not (tmp_path / "CartPole-v1_1" / "vecnormalize.pkl").exists()


def test_a_run_is_evaluated_with_its_own_normalizer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", str(run), "--episodes", "3", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert f"Pendulum-v1: {run / 'best_model.zip'} with best_vecnormalize.pkl" in out
    found = evaluate_agent(load_agent(run), 3, seed=5).returns
    assert f"{np.mean(found):,.1f} ± {np.std(found):,.1f} (3 episodes)" in out
    assert f"worst, best      {min(found):,.1f}, {max(found):,.1f}" in out
    assert "episode length   200.0 ± 0.0" in out
    assert cli.main(["eval", str(run), "--episodes", "3", "--last"]) == 0
    assert f"{run / 'model.zip'} with vecnormalize.pkl" in capsys.readouterr().out


def test_sampled_actions_give_other_returns_and_repeat_with_their_seed(run: Path) -> None:
    agent = load_agent(run)
    sampled = evaluate_agent(agent, 2, seed=5, deterministic=False).returns
    assert sampled == evaluate_agent(agent, 2, seed=5, deterministic=False).returns
    assert sampled != evaluate_agent(agent, 2, seed=5).returns


def test_a_bare_zip_of_sb3_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, policy_kwargs={"net_arch": [8]})
    model.save(tmp_path / "ppo.zip")
    assert cli.main(["eval", str(tmp_path / "ppo.zip")]) == cli.EXIT_USAGE
    assert "does not say which environment" in capsys.readouterr().err
    agent = load_agent(tmp_path / "ppo", "CartPole-v1")
    found = evaluate_agent(agent, 4, seed=9)
    assert found.returns == [float(length) for length in found.lengths]  # CartPole pays 1 a step
    env = Monitor(gym.make("CartPole-v1"))
    env.reset(seed=9)
    assert found.returns[0] == _first_return(model, seed=9)
    assert evaluate_policy(model, env, n_eval_episodes=1)[0] > 0


def _first_return(model: PPO, seed: int) -> float:
    """One episode, stepped by hand."""
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    total, done = 0.0, False
    while not done:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(reward), terminated or truncated
    return total


@pytest.mark.parametrize(
    ("env", "message"),
    [("Pendulum-v1", "observes Box"), ("MountainCar-v0", "observes Box"), ("Nope-v0", "unknown env")],
)
def test_a_zip_for_another_environment_is_refused(
    env: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, policy_kwargs={"net_arch": [8]}).save(tmp_path / "a.zip")
    assert cli.main(["eval", str(tmp_path / "a.zip"), "--env", env]) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_what_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.zip").write_text("not a zip")
    assert cli.main(["eval", str(tmp_path / "text.zip"), "--env", "CartPole-v1"]) == cli.EXIT_USAGE
    assert "text.zip is damaged: it wasn't a zip-file" in capsys.readouterr().err


def test_mixed_observations_are_trained_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")  # no probing: this environment draws by itself
    assert (
        cli.main(["train", "--env", "Stills-v0", "-n", "64", "--n-envs", "2", "--run-dir", str(tmp_path), *SMALL]) == 0
    )
    run = tmp_path / "Stills-v0_1"
    config = yaml.safe_load((run / "config.yml").read_text())
    assert (config["policy"], config["normalize"]) == ("MultiInputPolicy", False)
    video = tmp_path / "video.gif"
    assert cli.main(["eval", str(run), "--episodes", "2", "--video", str(video)]) == 0
    assert "5.0 ± 0.0 (2 episodes)" in capsys.readouterr().out
    with Image.open(video) as gif:
        assert gif.size == (320, 240)
        shown = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shown.append((int(np.asarray(gif.convert("RGB"))[0, 0, 0]), gif.info["duration"]))
    # 7 seconds at 10 pictures a second; a step shows 40 times its number, and the fifth starts anew.
    assert sum(duration for _, duration in shown) == 7000
    assert [round(gray / 40) for gray, _ in shown[:7]] == [0, 1, 2, 3, 4, 0, 1]


def test_a_video_that_cannot_be_made_is_no_failure(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sb3_ppo_plus.cli.rendering.choose_mujoco_renderer", lambda: "install libegl1")
    monkeypatch.setattr("sb3_ppo_plus.runs.ids.uses_mujoco", lambda env_id: True)
    video = tmp_path / "video.gif"
    assert cli.main(["eval", str(run), "--episodes", "1", "--video", str(video)]) == 0
    captured = capsys.readouterr()
    assert "return " in captured.out
    assert captured.err == "no video: install libegl1\n"
    assert not video.exists()


def test_an_exception_in_training_leaves_the_latest_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "--env",
        "Stills-v0",
        "-n",
        "640",
        "--n-envs",
        "1",
        "--run-dir",
        str(tmp_path),
        "--eval-freq",
        "50",
    ]
    # An evaluation environment makes 5 steps an evaluation: the first to reach step 120 is the one of training.
    assert cli.main([*words, *SMALL, "--set", "env_kwargs.explode_at=120"]) == cli.EXIT_FAILED
    assert "RuntimeError: the robot caught fire" in capsys.readouterr().err
    run = tmp_path / "Stills-v0_1"
    with np.load(run / "evaluations.npz") as arrays:
        assert arrays["timesteps"].tolist() == [0, 50, 100]
    assert evaluate_agent(load_agent(run, best=False), 1).returns == [5.0]
    assert (run / "learning_curve.png").is_file()


def test_ctrl_c_saves_the_model_and_exits_with_130(tmp_path: Path) -> None:
    words = ["train", "--env", "CartPole-v1", "-n", "1e9", "--n-envs", "2", "--vec-env", "subproc", "--eval-freq", "0"]
    command = [sys.executable, "-m", "sb3_ppo_plus", *words, "--run-dir", str(tmp_path), *SMALL]
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        # Its own group, as a terminal gives it: Ctrl-C reaches the workers as well. A shell's background job, which the
        # tests may run in, ignores SIGINT and hands that down.
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            progress = tmp_path / "CartPole-v1_1" / "progress.csv"
            deadline = time.monotonic() + 120
            # The first evaluation is the first row; two iterations more make three.
            while time.monotonic() < deadline and not (progress.is_file() and progress.read_text().count("\n") >= 4):
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    printed = log.read_text()
    assert "interrupted after" in printed
    assert "Traceback" not in printed
    run = tmp_path / "CartPole-v1_1"
    model = PPOPlus.load(run / "model.zip", device="cpu")
    assert model.num_timesteps >= 64
    assert len(evaluate_agent(load_agent(run, best=False), 1).returns) == 1


@pytest.mark.slow
def test_processes_train_as_one_process_does(tmp_path: Path) -> None:
    """Where the environments run changes nothing: the same seeds, the same parameters."""
    trained = []
    for vec_env in ("dummy", "subproc"):
        settings = ["n_steps=32", "batch_size=32", "n_epochs=1", "n_timesteps=64", "eval_episodes=1", "eval_freq=0"]
        config = assemble("CartPole-v1", settings=[*settings, f"vec_env={vec_env}", "n_envs=2"])
        result = train_run(prepare_run(config), tmp_path)
        trained.append(parameters(result.folder.model(best=False)))
    assert all(th.equal(trained[0][key], trained[1][key]) for key in trained[0])
