"""An exported file acts as ``model.predict(deterministic=True)`` does, to 1e-6, for every policy and space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from export_models import CASES, env_maker, trained
from gymnasium import spaces
from helpers import slow_but
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import TensorVecFrameStack, TensorVecNormalize
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export import OnnxPolicy, export_onnx, verify_onnx
from sb3_ppo_plus.export.reference import FilePolicy, Reference, difference, sample_observations
from sb3_ppo_plus.export.stages import read_wrappers, wrappers_of

onnx = pytest.importorskip("onnx")

# What Unity has nothing for.
NOT_FOR_UNITY = {"PPO sees discrete", "PPO sees multidiscrete", "PPO sees multibinary", "PPO sees dict"}
NOT_FOR_UNITY |= {"two extractors", "RecurrentPPO shared", *(case for case in CASES if "frames" in case)}
SLOW = {"two extractors", "frames of images", "frames of a dict"}
SLOW |= {"RecurrentPPO normalized frames", "RecurrentPPO shared", "RecurrentPPO one LSTM"}


def some_later(cases: Iterable[str]) -> list[Any]:
    """These cases, of which those that take long wait for the slow tests."""
    cases = list(cases)
    return slow_but([case for case in cases if case not in SLOW], cases)


@pytest.mark.parametrize("case", some_later(CASES))
def test_the_generic_file_acts_as_the_model(case: str, tmp_path: Path) -> None:
    model, path = trained(case), tmp_path / "policy.onnx"
    report = export_onnx(
        model, path, stochastic=True, values=True, make_env=env_maker(case, model), n_episodes=6, n_random=1000
    )
    proof = report.verification
    assert proof.passed and proof.n_random == 1000
    assert proof.random_difference <= 1e-6
    assert proof.loop is not None and proof.loop.recorded_difference <= 1e-6 and proof.loop.n_recorded >= 48
    assert np.allclose(proof.loop.model_returns, proof.loop.file_returns, atol=1e-4)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", some_later(case for case in CASES if case not in NOT_FOR_UNITY))
def test_the_file_for_unity_acts_as_the_model(case: str, tmp_path: Path) -> None:
    model = trained(case)
    report = export_onnx(model, tmp_path / "p.onnx", "mlagents", make_env=env_maker(case, model), n_episodes=4)
    assert report.verification.random_difference <= 1e-6
    assert report.opset == 9
    assert report.inputs[0] == "obs_0"


@pytest.mark.parametrize("target", ["generic", "mlagents"])
@pytest.mark.parametrize("actions", ["discrete", "multidiscrete"])
def test_a_model_trained_with_masks_has_the_graph_of_maskable_ppo(actions: str, target: str, tmp_path: Path) -> None:
    graphs = []
    for case in (f"PPOPlus masked {actions}", f"MaskablePPO {actions}"):
        model = trained(case)
        model.save(tmp_path / "model.zip")  # what is known without environments has to do
        export_onnx(type(model).load(tmp_path / "model.zip"), tmp_path / "p.onnx", target, n_random=100)
        graph = onnx.load(tmp_path / "p.onnx").graph
        ports = [[(p.name, p.type.SerializeToString()) for p in ports] for ports in (graph.input, graph.output)]
        graphs.append((ports, [(node.op_type, list(node.input), list(node.output)) for node in graph.node]))
    assert graphs[0] == graphs[1]
    assert "action_masks" in [name for name, _ in graphs[0][0][0]]


@pytest.mark.parametrize("case", some_later(sorted(NOT_FOR_UNITY)))
def test_what_unity_has_nothing_for_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Unity"):
        export_onnx(trained(case), tmp_path / "p.onnx", "mlagents")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", slow_but([9, 18, 23], [9, 11, 13, 15, 18, 20, 21, 23]))
@pytest.mark.parametrize("case", ["normalized", "MaskablePPO multidiscrete", "RecurrentPPO"])
def test_the_opset_in_the_file_is_the_one_asked_for(case: str, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "p.onnx"
    report = export_onnx(trained(case), path, opset=opset, values=True, n_random=100)
    written = [entry.version for entry in onnx.load(path).opset_import if entry.domain == ""]
    assert written == [opset] == [report.opset]


@pytest.mark.parametrize("opset", slow_but([25], [21, 25]))
def test_every_kind_of_action_survives_the_newer_exporter(opset: int, tmp_path: Path) -> None:
    for case in ("PPOPlus uneven", "PPOPlus multibinary", "PPO sees image", "gSDE squashed", "frames of normalized"):
        report = export_onnx(trained(case), tmp_path / "p.onnx", opset=opset, stochastic=opset == 21, n_random=100)
        assert report.verification.passed


def test_values_are_the_critics(tmp_path: Path) -> None:
    import onnxruntime as ort
    import torch as th

    for case in ("PPOPlus box", "two extractors", "RecurrentPPO", "RecurrentPPO one LSTM", "RecurrentPPO shared"):
        model, path = trained(case), tmp_path / "p.onnx"
        export_onnx(model, path, values=True, n_random=20)
        policy = OnnxPolicy(path)
        obs = sample_observations(read_wrappers(model.get_env())[0], 7, np.random.default_rng(0))
        fed = policy._batch(obs)[0] | policy._state_rows(None, None, 7)
        values = ort.InferenceSession(str(path)).run(["values"], fed)[0]
        tensors, _ = model.policy.obs_to_tensor(_first_channels(obs))
        with th.no_grad():
            if "Recurrent" in case:
                lstm = model.policy.lstm_critic or model.policy.lstm_actor
                zeros = th.zeros(lstm.num_layers, 7, lstm.hidden_size)
                expected = model.policy.predict_values(tensors, (zeros, zeros), th.zeros(7))
            else:
                expected = model.policy.predict_values(tensors)
        assert np.abs(values - expected.numpy().ravel()).max() < 1e-5


def _first_channels(obs: object) -> object:
    """What VecTransposeImage does."""
    if isinstance(obs, dict):
        return {key: part.transpose(0, 3, 1, 2) if part.ndim == 4 else part for key, part in obs.items()}
    return obs


def test_a_mean_far_from_zero_costs_no_digits(tmp_path: Path) -> None:
    """In float32 alone, x - mean would be off by 6e-5 here, three hundred times the deviation of what is left."""
    model = trained("normalized")
    normalizer = model.get_vec_normalize_env()
    normalizer.obs_rms.mean[:] = 1000.0001234
    normalizer.obs_rms.var[:] = 0.01**2
    report = export_onnx(model, tmp_path / "p.onnx")
    assert report.verification.random_difference <= 1e-6


class Heavy(gym.Env[np.ndarray, np.ndarray]):
    """Observes its mass, as Humanoid does, whose float32 neighbour is three of the normalizer's deviations away."""

    MASS = 8.907462370478262

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        super().reset(seed=seed)
        self.left = 30
        return np.array([self.MASS, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self.left -= 1
        return np.array([self.MASS, self.np_random.normal()]), 1.0, False, self.left == 0, {}


def heavy(n_envs: int, seed: int) -> VecNormalize:
    env = VecNormalize(make_vec_env(Heavy, n_envs, seed=seed), training=False, norm_reward=False)
    env.obs_rms.mean[:], env.obs_rms.var[:] = (Heavy.MASS, 0.0), (0.0, 1.0)
    env.epsilon = (0.3 * abs(np.float64(np.float32(Heavy.MASS)) - Heavy.MASS)) ** 2
    return env


def test_what_rounding_an_observation_does_is_told_and_not_blamed_on_the_file(tmp_path: Path) -> None:
    model = PPOPlus("MlpPolicy", heavy(2, 0), n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    found = export_onnx(model, tmp_path / "p.onnx", make_env=heavy, n_episodes=4).verification
    assert found.loop is not None and found.passed
    assert found.loop.recorded_rounding > 1e-3 and found.loop.recorded_difference <= 1e-6
    assert "rounding them to float32" in found.text()
    with th.no_grad():
        model.policy.action_net.bias += 1e-4  # far less than what rounding does
    moved = verify_onnx(tmp_path / "p.onnx", model, make_env=heavy, n_episodes=4)
    assert moved.loop is not None and moved.loop.recorded_difference == pytest.approx(1e-4, rel=0.1)
    assert not moved.passed


def test_wrappers_that_are_not_in_the_file_are_no_rounding(tmp_path: Path) -> None:
    def light(n_envs: int, seed: int, mean: float = 0.0) -> VecNormalize:
        env = heavy(n_envs, seed)
        env.obs_rms.mean[:], env.obs_rms.var[:] = (Heavy.MASS, mean), 1.0
        return env

    model = PPOPlus("MlpPolicy", light(2, 0), n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(64)
    export_onnx(model, tmp_path / "p.onnx", make_env=light, n_episodes=4)
    found = verify_onnx(
        tmp_path / "p.onnx", model, env=light(1, 0), make_env=lambda n, seed: light(n, seed, mean=0.5), n_episodes=4
    )
    assert found.loop is not None and found.loop.recorded_difference > 1e-4 and not found.passed


def test_the_tensor_wrappers_are_read_as_sb3s_are(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    from sb3_ppo_plus.envs import MujocoVecEnv

    env = TensorVecFrameStack(TensorVecNormalize(MujocoVecEnv("Hopper-v5", 4, seed=0)), 3)
    model = PPOPlus("MlpPolicy", env, n_steps=64, batch_size=64, seed=0).learn(512)
    path = tmp_path / "p.onnx"
    report = export_onnx(model, path, "robot")
    assert report.inputs == ["obs", "frames_in"] and report.verification.random_difference <= 1e-6
    # Once more on what the environment itself gives, through its own wrappers.
    env.training = env.venv.training = False
    file, reference = FilePolicy(OnnxPolicy(path)), Reference(model, wrappers_of(env))
    seen, begins = env.reset(), np.ones(4, bool)
    for _ in range(40):
        raw = env.venv.old_obs
        assert np.allclose(reference.transform(raw, begins), seen, atol=1e-6)
        actions, _ = model.predict(seen, deterministic=True)
        assert difference(file.step(raw, begins, None), actions) <= 1e-6
        seen, _, begins, _ = env.step(actions)
