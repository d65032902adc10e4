"""``ppo-plus export``, ``verify`` and ``run``: from a run folder to a file that plays, and every mistake on the way."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from export_models import RandomEnv, trained
from gymnasium import register, registry
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.callbacks import EvaluateAndSave, ExportOnBest
from sb3_ppo_plus.cli import main
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export import OnnxPolicy, export_onnx, verify_onnx
from sb3_ppo_plus.export.metadata import SPEC, VERIFICATION, load_onnx, read_json, read_metadata
from sb3_ppo_plus.runs.models import load_model

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short, normalized training of a pendulum."""
    root = tmp_path_factory.mktemp("runs")
    words = ["train", "--env", "Pendulum-v1", "-n", "2048", "--eval-episodes", "2", "--run-dir", str(root)]
    assert main([*words, "--no-progress", "--set", "normalize=true"]) == 0
    return root / "Pendulum-v1_1"


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def metadata(path: Path, key: str) -> dict[str, Any]:
    return read_json(read_metadata(load_onnx(path)), key)


def test_export_verify_and_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--episodes", "4", "--stochastic", "--values"]) == 0
    path = folder / "best_model.onnx"
    told = capsys.readouterr().out
    assert "acts as the model does" in told and "return of the file" in told
    spec, proof = metadata(path, SPEC), metadata(path, VERIFICATION)
    assert proof["passed"] and proof["episodes"] == 4 and proof["recorded_max_difference"] <= 1e-6
    training = spec["training"]
    assert training["env_id"] == "Pendulum-v1"
    zip_hash = hashlib.sha256((folder / "best_model.zip").read_bytes()).hexdigest()
    assert training["checkpoint_sha256"] == zip_hash
    with np.load(folder / "evaluations.npz") as evaluations:
        assert training["return"] == pytest.approx(evaluations["results"].mean(axis=1).max())

    words = ["verify", str(path), "--model", str(folder), "--episodes", "3", "--random", "100"]
    assert main([*words, "--no-store"]) == 0
    assert metadata(path, VERIFICATION) == proof
    assert main(words) == 0
    assert metadata(path, VERIFICATION)["episodes"] == 3
    capsys.readouterr()

    assert main(["run", str(path), "--episodes", "2"]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out
    assert main(["run", str(path), "--episodes", "1", "--stochastic"]) == 0


def test_run_imports_neither_torch_nor_sb3(folder: Path) -> None:
    assert main(["export", str(folder), "--episodes", "2"]) == 0
    source = f"""
import sys
from sb3_ppo_plus.cli import main
assert main(["run", {str(folder / "best_model.onnx")!r}, "--episodes", "1"]) == 0
assert not {{"torch", "stable_baselines3"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


def test_a_file_of_another_model_does_not_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "policy.onnx"
    assert main(["export", str(folder), "-o", str(path), "--episodes", "2"]) == 0
    other = PPOPlus("MlpPolicy", "Pendulum-v1", seed=9)
    other.save(folder / "best_model.zip")
    assert main(["verify", str(path), "--model", str(folder), "--episodes", "2"]) == 1
    assert "DIFFERS from the model" in capsys.readouterr().out
    assert metadata(path, VERIFICATION)["passed"] is False


@pytest.mark.parametrize("size", ["fp16", "int8"])
def test_a_smaller_file_comes_with_what_it_loses(folder: Path, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "p.onnx"
    assert main(["export", str(folder), "-o", str(path), "--size", size, "--episodes", "4"]) == 0
    assert "loss of return" in capsys.readouterr().out
    small = path.with_suffix(f".{size}.onnx")
    assert small.stat().st_size < path.stat().st_size
    told = metadata(small, VERIFICATION)
    assert told["size"] == size and np.isfinite(told["return_loss"]) and told["episodes"] == 4
    assert 1e-7 < told["recorded_max_difference"] < 0.3
    assert OnnxPolicy(small).predict(np.zeros(3))[0].shape == (1,)
    assert main(["verify", str(small), "--model", str(folder), "--episodes", "4"]) == 0


def test_a_zip_without_its_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv("vector", "box")]))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, seed=0).learn(64)
    model.save(tmp_path / "mine.zip")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    assert main(["export", str(tmp_path / "mine.zip")]) == 0
    told = capsys.readouterr().out
    assert "no environment was given" in told
    raw = np.full((1, 5), 4.0, np.float32)
    env.training = False
    expected, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    assert np.allclose(OnnxPolicy(tmp_path / "mine.onnx").predict(raw)[0], expected, atol=1e-6)
    assert main(["verify", str(tmp_path / "mine.onnx"), "--model", str(tmp_path / "mine.zip")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "mine.zip"), "--size", "int8"]) == 2
    assert "give --env" in capsys.readouterr().err


def test_every_algorithm_is_opened_by_its_class(tmp_path: Path) -> None:
    models = [trained(case) for case in ("A2C", "MaskablePPO discrete", "RecurrentPPO", "PPOPlus box", "PPO sees dict")]
    models.append(TRPO("MlpPolicy", "Pendulum-v1", n_steps=64, seed=0))
    for model in models:
        model.save(tmp_path / "model.zip")
        loaded = load_model(tmp_path / "model.zip")
        expected = PPOPlus if type(model) is PPO else type(model)
        assert type(loaded) is expected
        assert export_onnx(loaded, tmp_path / "p.onnx", n_random=20).verification.passed
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save(tmp_path / "dqn.zip")
    with pytest.raises(InvalidArgument, match="no algorithm that is known"):
        load_model(tmp_path / "dqn.zip")


def test_a_masked_model_plays_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "Masked-v0" not in registry:
        register("Masked-v0", entry_point=lambda: RandomEnv("vector", "discrete"))
    trained("MaskablePPO discrete").save(tmp_path / "masked.zip")
    words = [str(tmp_path / "masked.zip"), "--env", "Masked-v0"]
    assert main(["export", *words, "--episodes", "3"]) == 0
    assert main(["run", str(tmp_path / "masked.onnx"), "--env", "Masked-v0", "--episodes", "2"]) == 0
    assert main(["eval", *words, "--episodes", "2"]) == 0


def test_the_best_model_is_exported_while_it_trains(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    env, eval_env = (VecNormalize(DummyVecEnv([lambda: RandomEnv("vector", "box")]), norm_reward=False) for _ in "ab")
    saved: list[dict[str, Any]] = []
    evaluation = EvaluateAndSave(eval_env, n_eval_episodes=1, eval_freq=64)
    export = ExportOnBest(path, n_random=20)
    export.parent, export_step = evaluation, export.on_step
    evaluation.callback_on_new_best = export

    def noting() -> bool:
        result = export_step()
        saved.append(metadata(path, SPEC)["training"])
        return result

    export.on_step = noting  # type: ignore[method-assign]
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=32, seed=0)
    model.learn(256, callback=evaluation)
    assert saved and saved[0]["steps"] == 0
    assert metadata(path, VERIFICATION)["passed"]


def test_the_callback_refuses_at_once_and_survives_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument, match="target='unity'"):
        ExportOnBest(tmp_path / "p.onnx", target="unity")
    callback = ExportOnBest(tmp_path / "p.onnx")
    with pytest.raises(InvalidArgument, match="cannot be exported"):
        callback.init_callback(DQN("MlpPolicy", "CartPole-v1", buffer_size=10))
    callback.init_callback(trained("PPOPlus box"))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("sb3_ppo_plus.export.api.verify_onnx", fail)
    assert callback.on_step() is True
    assert "no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


MISTAKES: list[tuple[list[str], str]] = [
    (["export", "nowhere"], "there is no nowhere"),
    (["export", "text.zip"], "text.zip is damaged: it wasn't a zip-file"),
    (["export", "run", "--target", "unity"], "target='unity' is not known; there is generic, robot, mlagents"),
    (["export", "run", "--opset", "8"], "9 to 25"),
    (["export", "run", "--opset", "17", "--target", "mlagents"], "9 only"),
    (["export", "run", "--opset", "23", "--stochastic"], "no random operators"),
    (["export", "run", "-o", "."], "is a folder"),
    (["export", "run", "--size", "int4"], "int4"),
    (["export", "run", "--env", "CartPole-v1"], "does not fit CartPole-v1"),
    (["export", "run", "--target", "robot"], "there is none"),
    (["export", "run", "--episodes", "0"], "--episodes"),
    (["export", "run", "--values", "--target", "mlagents"], "no place in a file for Unity"),
    (["export", "run", "--size", "fp16", "--target", "mlagents"], "float32 files only"),
    (["export", "run", "--size", "int8", "--opset", "10"], "int8 needs opset 11"),
    (["export", "run", "--metadata", "text.zip"], "text.zip"),
    (["verify", "nowhere.onnx", "--model", "run"], "there is no file nowhere.onnx"),
    (["verify", "text.zip", "--model", "run"], "is no ONNX model"),
    (["verify", "text.zip"], "--model"),
    (["run", "nowhere.onnx", "--env", "Pendulum-v1"], "there is no file"),
    (["run", "text.zip", "--env", "Pendulum-v1"], "cannot open"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_explained_and_leave_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("text.zip").write_text("not: a: model")
    before = sorted(folder.parent.rglob("*"))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("error: ")
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_names_the_extra(
    folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    before = sorted(folder.rglob("*"))
    assert main(["export", str(folder)]) == 1
    assert 'pip install "sb3-ppo-plus[export]"' in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_policies_that_act_their_own_way_are_refused(tmp_path: Path) -> None:
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Stubborn(ActorCriticPolicy):
        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            return super()._predict(observation, deterministic) * 0

    with pytest.raises(InvalidArgument, match=r"Stubborn overrides _predict\(\)"):
        export_onnx(A2C(Stubborn, "Pendulum-v1"), tmp_path / "p.onnx")
    with pytest.raises(InvalidArgument, match="DQN with DQNPolicy cannot be exported"):
        export_onnx(DQN("MlpPolicy", "CartPole-v1", buffer_size=10), tmp_path / "p.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    import torch as th
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class Spectral(FlattenExtractor):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            return th.linalg.svd(observations.unsqueeze(1))[2].flatten(1)[:, : self.features_dim]

    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"features_extractor_class": Spectral})
    with pytest.raises(InvalidArgument, match="cannot be written with opset 17"):
        export_onnx(model, tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_acts_differently_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extractor counts its calls, which no graph can."""
    import torch as th
    from stable_baselines3.common.torch_layers import FlattenExtractor

    class Counting(FlattenExtractor):
        calls = 0

        def forward(self, observations: th.Tensor) -> th.Tensor:
            self.calls += 1
            return super().forward(observations) * self.calls

    model = PPO("MlpPolicy", "Pendulum-v1", policy_kwargs={"features_extractor_class": Counting}, seed=0)
    path = tmp_path / "p.onnx"
    path.write_text("an earlier file")
    with pytest.raises(InvalidArgument, match="would not act as the model does"):
        export_onnx(model, path)
    assert path.read_text() == "an earlier file" and list(tmp_path.iterdir()) == [path]


def test_entries_of_the_user_go_into_the_file(folder: Path) -> None:
    (folder / "extra.yml").write_text(yaml.safe_dump({"joint_names": ["hinge"], "anchor_body_name": "pole"}))
    words = ["export", str(folder), "--target", "robot", "--metadata", str(folder / "extra.yml"), "--episodes", "2"]
    assert main(words) == 0
    flat = read_metadata(load_onnx(folder / "best_model.onnx"))
    assert flat["anchor_body_name"] == "pole" and flat["joint_names"] == "hinge"
    assert json.loads(flat[SPEC])["robot"]["joint_names"] == ["hinge"]


def test_entries_of_the_user_cannot_damage_what_the_file_says(folder: Path) -> None:
    model, path = load_model(folder / "best_model.zip"), folder / "p.onnx"
    export_onnx(model, path, metadata={"outputs": [], "weight": np.float32(1.5), "limit": np.inf}, n_random=20)
    spec = metadata(path, SPEC)
    assert spec["user"] == {"outputs": [], "weight": 1.5, "limit": None}
    assert [entry["name"] for entry in spec["outputs"]] == ["actions"]
    with pytest.raises(InvalidArgument, match=r"user\.when is a date"):
        export_onnx(model, folder / "q.onnx", metadata={"when": datetime.date(2026, 1, 1)})
    assert not (folder / "q.onnx").exists()


def test_a_wrapped_environment_is_not_played_bare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((folder / "config.yml").read_text())
    config["env_wrapper"] = "gymnasium.wrappers.ClipAction"
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    assert main(["export", str(folder), "--episodes", "2"]) == 0
    assert main(["run", str(folder / "best_model.onnx")]) == 2
    assert "trained with env_wrapper" in capsys.readouterr().err
    assert main(["run", str(folder / "best_model.onnx"), "--env", "gymnasium:Pendulum-v1", "--episodes", "1"]) == 0


def test_options_of_the_training_are_no_arguments_of_the_task(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    words = ["train", "--env", "InvertedPendulum-v5", "-n", "2048", "--eval-episodes", "1", "--run-dir", str(tmp_path)]
    settings = ["--set", "env_kwargs.observation_noise=0.01", "--set", "env_kwargs.reset_noise_scale=0.02"]
    assert main([*words, *settings, "--no-progress"]) == 0
    run = tmp_path / "InvertedPendulum-v5_1"
    assert main(["export", str(run), "--episodes", "2"]) == 0
    assert metadata(run / "best_model.onnx", SPEC)["training"]["env_kwargs"] == {"reset_noise_scale": 0.02}
    assert main(["run", str(run / "best_model.onnx"), "--episodes", "1"]) == 0


def test_an_environment_without_masks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = MaskablePPO("MlpPolicy", DummyVecEnv([lambda: RandomEnv("vector", "discrete")]), n_steps=16, batch_size=16)

    def bare(n_envs: int, seed: int) -> DummyVecEnv:
        return DummyVecEnv([lambda: Maskless("vector", "discrete")] * n_envs)

    with pytest.raises(InvalidArgument, match="no method action_masks"):
        export_onnx(model, tmp_path / "p.onnx", make_env=bare, n_random=20)
    assert list(tmp_path.iterdir()) == []


class Maskless(RandomEnv):
    """The same environment, which offers no masks."""

    @property
    def action_masks(self) -> Any:  # type: ignore[override]
        raise AttributeError("action_masks")


def test_a_variant_is_judged_with_an_environment_only(folder: Path) -> None:
    path = folder / "p.onnx"
    assert main(["export", str(folder), "-o", str(path), "--size", "fp16", "--episodes", "2"]) == 0
    with pytest.raises(InvalidArgument, match="judged by its return"):
        verify_onnx(path.with_suffix(".fp16.onnx"), load_model(folder / "best_model.zip"))
