"""What holds on the host holds on a GPU: SB3's numbers, the compiled update, every extra, zips, rollouts, files."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import assert_same_tensors, learn_and_record, make_model, record_logs, same_number, tensors_of
from integration.test_hybrid import Forbidding
from integration.test_hybrid import make as make_hybrid
from parity import test_compiled_update as compiling
from parity import test_maskable as masking
from parity.test_equals_sb3 import CASES as SB3_CASES
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from toy_envs import DictPointMass, DiscretePointMass, PointMass

from sb3_ppo_plus import PPOPlus, cli, compile_choice, graphs
from sb3_ppo_plus.compiled import CannotCompile, CompiledUpdate
from sb3_ppo_plus.envs import TensorVecEnv, TensorVecFrameStack, TensorVecMonitor, TensorVecNormalize
from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.envs.contract import TensorVecEnvContract
from sb3_ppo_plus.types import Observations, TensorStep

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32: torch's default on a GPU, TF32, rounds to 10 bits."""
    monkeypatch.setattr(th.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in the same order every time, which a GPU promises only when asked."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    th.use_deterministic_algorithms(True)
    yield
    th.use_deterministic_algorithms(False)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and differentiate as always, but leave out Triton, which takes seconds a graph."""
    monkeypatch.setattr(graphs, "compile_step", partial(graphs.compile_step, backend="aot_eager"))


def make(**overrides: Any) -> PPOPlus:
    return make_model(**{"device": DEVICE, **overrides})


def assert_sound(model: Any) -> None:
    """It is on the GPU, and every number is one."""
    assert all(p.device.type == DEVICE for p in model.policy.parameters())
    assert all(tensor.isfinite().all() for tensor in tensors_of(model).values())


def assert_same_logs(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    assert len(theirs) == len(ours) > 1
    for expected, actual in zip(theirs, ours, strict=True):
        for key in expected.keys() - {"time/fps", "time/time_elapsed"}:
            assert same_number(actual[key], expected[key]), (key, actual[key], expected[key])


# ------------------------------------------------ SB3's numbers


@pytest.mark.parametrize("case", SB3_CASES)
def test_equal_to_sb3_bit_for_bit(case: str, repeatable: None) -> None:
    policy, make_env, arguments = SB3_CASES[case]
    steps = 3 * arguments["n_steps"] * make_env().num_envs
    # one after the other: the constructor seeds the global generators that learning draws from
    sb3 = PPO(policy, make_env(), seed=3, device=DEVICE, **arguments)
    theirs = learn_and_record(sb3, steps)
    plus = PPOPlus(policy, make_env(), seed=3, device=DEVICE, **arguments)
    ours = learn_and_record(plus, steps)
    assert_same_tensors(sb3, plus)
    assert_same_logs(theirs, ours)
    assert_sound(plus)


@pytest.mark.parametrize("discrete", [False, True])
def test_images_of_ataris_size_too(discrete: bool, repeatable: None) -> None:
    models = []
    for kind in (PPO, PPOPlus):
        env = make_vec_env(lambda: FakeImageEnv(n_channels=4, discrete=discrete), 2, seed=1)
        for space in env.get_attr("observation_space"):
            space.seed(1)
        models.append(kind("CnnPolicy", env, seed=3, device=DEVICE, n_steps=32, batch_size=16, n_epochs=2).learn(128))
    assert_same_tensors(*models)
    assert_sound(models[1])


@pytest.mark.parametrize("name", ["discrete", "multidiscrete"])
def test_masked_equal_to_maskable_ppo_bit_for_bit(name: str, repeatable: None) -> None:
    ours, theirs = [masking.make(kind, name, 3, device=DEVICE).learn(400) for kind in (PPOPlus, MaskablePPO)]
    masking.assert_equal(ours, theirs)
    assert_sound(ours)
    assert masking.forbidden_actions(ours) == 0


# ------------------------------------------------ the compiled update


@pytest.mark.parametrize("name", compiling.POLICIES)
def test_every_policy_in_a_graph(name: str, traced: None) -> None:
    compiling.assert_learns_the_same({**compiling.POLICIES[name], "device": DEVICE})


@pytest.mark.parametrize("name", compiling.EXTRAS)
def test_every_extra_in_a_graph(name: str, traced: None) -> None:
    compiling.assert_learns_the_same({**compiling.EXTRAS[name], "device": DEVICE})


# Each of these is another kind of kernel, or another graph.
_POLICIES_FOR_TRITON = ("Box", "Discrete", "MultiBinary", "MultiInputPolicy", "CnnPolicy", "gSDE squashed", "SGD")
_EXTRAS_FOR_TRITON = ("stop by minibatch", "rows that do not count", "critic epochs", "rate by minibatch", "rollback")


@pytest.mark.parametrize("name", _POLICIES_FOR_TRITON)
def test_policies_with_triton(name: str) -> None:
    compiling.assert_learns_the_same({**compiling.POLICIES[name], "device": DEVICE})


@pytest.mark.parametrize("name", _EXTRAS_FOR_TRITON)
def test_extras_with_triton(name: str) -> None:
    compiling.assert_learns_the_same({**compiling.EXTRAS[name], "device": DEVICE})


def test_networks_that_draw_draw_the_same_with_triton() -> None:
    overrides = {**compiling.POLICIES["draws in training"], "device": DEVICE}
    states = []
    for compiled in (False, True):
        model, _ = compiling.learn(compiled, overrides)
        states.append((th.cuda.get_rng_state(), model.policy.action_net.weight))
    assert th.equal(states[0][0], states[1][0])
    th.testing.assert_close(states[0][1], states[1][1], rtol=1e-3, atol=2e-5)


def learn_as_the_eager_one(make_it: Callable[..., PPOPlus]) -> PPOPlus:
    eager, compiled = [make_it(compile_update=way).learn(256) for way in (False, True)]
    assert isinstance(compiled._update_passes, CompiledUpdate) and not compiled._update_passes.failed
    for name, value in eager.policy.state_dict().items():
        th.testing.assert_close(compiled.policy.state_dict()[name], value, rtol=1e-3, atol=2e-5)
    assert_sound(compiled)
    return compiled


@pytest.mark.parametrize("name", masking.ENVS)
def test_masks_with_triton(name: str) -> None:
    model = learn_as_the_eager_one(partial(masking.make, PPOPlus, name, device=DEVICE, kl_coef=0.1))
    assert masking.forbidden_actions(model) == 0


def test_hybrid_actions_with_triton() -> None:
    learn_as_the_eager_one(partial(make_hybrid, Forbidding, device=DEVICE, kl_coef=0.1))


def test_images_with_triton_chosen_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_choice, "MIN_GRADIENT_STEPS", 1)
    env = make_vec_env(lambda: FakeImageEnv(n_channels=4), 2, seed=1)
    model = PPOPlus("CnnPolicy", env, 1e-4, 32, 16, 2, device=DEVICE, compile_update="auto").learn(128)
    assert isinstance(model._update_passes, CompiledUpdate)
    assert_sound(model)


def test_an_epoch_done_again_draws_what_it_would_have_drawn(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {**compiling.POLICIES["draws in training"], "device": DEVICE}
    eager, _ = compiling.learn(False, overrides, updates=1)
    take = CompiledUpdate._take_steps

    def fail_late(self: CompiledUpdate, *args: Any) -> Any:
        take(self, *args)
        raise CannotCompile("something else is here now")

    monkeypatch.setattr(CompiledUpdate, "_take_steps", fail_late)
    monkeypatch.setattr("sb3_ppo_plus.flat_adam.FlatAdam.scatter", lambda *args, **kwargs: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, _ = compiling.learn(True, overrides, updates=1)
    for name, tensor in tensors_of(eager).items():
        th.testing.assert_close(tensors_of(again)[name], tensor, rtol=1e-4, atol=1e-6)


# ------------------------------------------------ beside the host


@pytest.mark.parametrize("compiled", [False, True])
def test_an_update_is_that_of_the_host_to_rounding(compiled: bool, tmp_path: Path) -> None:
    host = make(device="cpu", kl_coef=0.1, critic_epochs=1, advantage_scope="batch").learn(64)
    host.save(tmp_path / "model.zip")
    gpu = PPOPlus.load(tmp_path / "model.zip", device=DEVICE, compile_update=compiled)
    gpu.rollout_buffer = copy.deepcopy(host.rollout_buffer)
    gpu.rollout_buffer.device = gpu.device
    gpu._last_obs, gpu._last_episode_starts = host._last_obs, host._last_episode_starts
    for model in (host, gpu):
        record_logs(model)
        np.random.seed(5)
        model.train()
    assert_sound(gpu)
    ours, theirs = tensors_of(gpu), tensors_of(host)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        th.testing.assert_close(ours[name].cpu(), tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_zips_go_to_the_host_and_back(compiled: bool, tmp_path: Path, traced: None) -> None:
    first = make(compile_update=compiled, critic_learning_rate=1e-3, reference_policy=make(), reference_kl_coef=0.1)
    first.learn(128).save(tmp_path / "gpu.zip")
    host = PPOPlus.load(tmp_path / "gpu.zip", env=first.get_env(), device="cpu")
    ours = tensors_of(host)
    assert all(tensor.device.type == "cpu" for tensor in ours.values())
    assert all(th.equal(ours[name], tensor.cpu()) for name, tensor in tensors_of(first).items())
    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for other in (host, PPO.load(tmp_path / "gpu.zip", device="cpu")):
        assert np.allclose(first.predict(obs, deterministic=True)[0], other.predict(obs, deterministic=True)[0], 1e-5)
    host.learn(64).save(tmp_path / "host.zip")
    back = PPOPlus.load(tmp_path / "host.zip", env=first.get_env(), device=DEVICE)
    assert all(th.equal(tensors_of(back)[name].cpu(), tensor) for name, tensor in tensors_of(host).items())
    assert_sound(back.learn(128))
    assert next(back._reference.parameters()).device.type == DEVICE


@pytest.mark.parametrize("compiled", [False, True])
def test_resuming_from_a_zip_is_exact(compiled: bool, tmp_path: Path, traced: None, repeatable: None) -> None:
    first = make(compile_update=compiled).learn(128)
    first.save(tmp_path / "model.zip")
    second = PPOPlus.load(tmp_path / "model.zip", device=DEVICE)
    second.rollout_buffer = copy.deepcopy(first.rollout_buffer)
    second._last_obs, second._last_episode_starts = first._last_obs, first._last_episode_starts
    for model in (first, second):
        record_logs(model)
        np.random.seed(5)
        model.train()
    # SB3 loads Adam's count of steps to the GPU, where a model that began there keeps it on the host
    ours, theirs = tensors_of(second), tensors_of(first)
    assert all(th.equal(ours[name].cpu(), tensor.cpu()) for name, tensor in theirs.items())


# ------------------------------------------------ rollouts in tensors


def to_gpu(value: Any) -> Any:
    return map_observations(lambda tensor: tensor.to(DEVICE), value)


class OnGpu(PointMass):
    """Mixed into point masses: what moves them stays on the host, and what they answer lies on the GPU."""

    def __init__(self, n_envs: int, seed: int | None = None, limit: int = 12) -> None:
        super().__init__(n_envs, seed, limit)
        self.device = th.device(DEVICE)

    def reset_tensors(self) -> Observations:
        obs = super().reset_tensors()
        self.reset_stats = to_gpu(self.reset_stats)
        return to_gpu(obs)

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        assert actions.device.type == DEVICE
        step = super().step_tensors(actions.cpu())
        self.reset_stats = to_gpu(self.reset_stats)
        return TensorStep(*(to_gpu(part) for part in step))


class GpuPointMass(OnGpu):
    """The plain one."""


class GpuDictPointMass(OnGpu, DictPointMass):
    """Position and velocity apart."""


class GpuDiscretePointMass(OnGpu, DiscretePointMass):
    """Pushed by choices."""


class TestEnvironmentOnTheGpu(TensorVecEnvContract):
    device = DEVICE

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return GpuPointMass(n_envs, seed)


class TestWrappersOnTheGpu(TensorVecEnvContract):
    device = DEVICE
    running_statistics = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return TensorVecNormalize(TensorVecFrameStack(TensorVecMonitor(GpuDictPointMass(n_envs, seed)), 2))


def test_statistics_are_those_of_the_host_to_rounding() -> None:
    envs = [TensorVecNormalize(kind(4, seed=3)) for kind in (PointMass, GpuPointMass)]
    for env in envs:
        env.reset_tensors()
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = th.as_tensor(rng.uniform(-1, 1, (4, 1)).astype(np.float32))
        host, gpu = [env.step_tensors(actions.to(env.device)) for env in envs]
        th.testing.assert_close(gpu.obs.cpu(), host.obs, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(gpu.rewards.cpu(), host.rewards, rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        mine, theirs = [getattr(env.obs_rms, name) for env in envs]
        # float32 observations: the host averages them as they are, as SB3 does
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-7)


class Sb3Rollout(PPOPlus):
    """The same algorithm with SB3's loop, on the NumPy face of the environment."""

    collect_rollouts = OnPolicyAlgorithm.collect_rollouts
    _init_callback = OnPolicyAlgorithm._init_callback


@pytest.mark.parametrize("kind", [PointMass, DictPointMass, DiscretePointMass, GpuPointMass, GpuDiscretePointMass])
def test_tensor_rollouts_are_sb3s(kind: Any, repeatable: None) -> None:
    policy = "MultiInputPolicy" if issubclass(kind, DictPointMass) else "MlpPolicy"
    arguments = {"policy": policy, "n_steps": 39, "batch_size": 39, "n_epochs": 2, "seed": 0, "device": DEVICE}
    models = [algorithm(env=kind(3, seed=4), **arguments).learn(3 * 3 * 39) for algorithm in (PPOPlus, Sb3Rollout)]
    ours, theirs = [model.rollout_buffer for model in models]
    for name in ("actions", "rewards", "values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5, err_msg=name)
    for name, tensor in tensors_of(models[1]).items():
        th.testing.assert_close(tensors_of(models[0])[name], tensor, rtol=1e-3, atol=1e-5)
    assert_sound(models[0])


@pytest.mark.parametrize("extras", [{}, {"use_sde": True, "sde_sample_freq": 4}, {"recompute_advantages": True}])
def test_mujoco_on_the_host_and_a_compiled_learner_on_the_gpu(extras: dict[str, Any]) -> None:
    pytest.importorskip("mujoco.batch")
    from sb3_ppo_plus.envs import MujocoVecEnv

    env = TensorVecNormalize(MujocoVecEnv("HalfCheetah-v5", n_envs=4, seed=0, max_episode_steps=20))
    model = PPOPlus("MlpPolicy", env, n_steps=32, batch_size=64, seed=0, device=DEVICE, compile_update=True, **extras)
    logs = learn_and_record(model, 3 * 4 * 32)
    assert isinstance(model._update_passes, CompiledUpdate)
    assert all(np.isfinite(value) for dump in logs for key, value in dump.items() if key.startswith("train/"))
    assert_sound(model)


# ------------------------------------------------ around it


def test_the_profile_adds_up() -> None:
    model = make()
    model.profile.detailed = True
    model.learn(256)
    assert model.profile.totals["gradient"] > 0 < model.profile.totals["policy"]
    assert sum(model.profile.totals.values()) == pytest.approx(model.profile.wall)


@pytest.mark.parametrize("images", [False, True])
def test_a_file_acts_as_the_model(images: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from sb3_ppo_plus.export import export_onnx

    model = make().learn(128)
    if images:
        env = make_vec_env(lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1), 1, seed=1)
        model = PPOPlus("CnnPolicy", env, n_steps=16, batch_size=16, device=DEVICE).learn(16)
    report = export_onnx(model, tmp_path / "policy.onnx", values=True, stochastic=True, n_random=200)
    assert report.verification.passed
    assert_sound(model)


def test_the_command_line_trains_on_it_and_evaluates_on_the_host(tmp_path: Path) -> None:
    command = [
        "train",
        "--env",
        "Pendulum-v1",
        "-n",
        "256",
        "--device",
        DEVICE,
        "--no-progress",
        "--eval-episodes",
        "1",
    ]
    command += ["--set", "n_steps=64", "--set", "batch_size=32", "--run-dir", str(tmp_path), "--profile"]
    assert cli.main(command) == 0
    (run,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert PPOPlus.load(run / "model.zip", device="cpu").num_timesteps == 256
