"""Runs whose rows stay on a GPU: nobody waits, graphs compute what operations compute, and something is learned."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import learn_and_record, tensors_of
from stable_baselines3.common.callbacks import EvalCallback

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.passes import DeviceUpdate, GraphedStep
from sb3_ppo_plus.device.scan import sums_by_halves, sums_by_step
from sb3_ppo_plus.envs import StaggeredStart, TensorVecEnv, TensorVecNormalize, TorchVecEnv
from sb3_ppo_plus.errors import NonFinite

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not th.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore:You have specified a mini-batch size"),
]
STEERED = {
    "controllers": {"learning_rate": {"type": "kl_band", "target": 1e-3, "every": "minibatch"}},
    "target_kl": 0.05,
}


def make_env(name: str = "Pendulum-v1", n_envs: int = 64) -> TensorVecEnv:
    env = TorchVecEnv(name, n_envs, seed=0, device=DEVICE, dtype="float32", max_episode_steps=20)
    return TensorVecNormalize(StaggeredStart(env))


def make(env: TensorVecEnv | None = None, **overrides: Any) -> PPOPlus:
    arguments: dict[str, Any] = {"n_steps": 16, "batch_size": 256, "n_epochs": 2, "seed": 0, "device": DEVICE}
    return PPOPlus("MlpPolicy", env or make_env(), **{**arguments, **overrides})


@pytest.mark.parametrize("n_steps", [1, 24, 129])
def test_sums_of_the_gpu_are_those_of_the_host(n_steps: int) -> None:
    generator = th.Generator().manual_seed(0)
    terms = th.randn(n_steps, 300, generator=generator)
    decays = 0.94 * (th.rand(n_steps, 300, generator=generator) > 0.05)
    expected = sums_by_step(terms, decays)
    for way in (sums_by_step, sums_by_halves):
        th.testing.assert_close(way(terms.to(DEVICE), decays.to(DEVICE)).cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_chosen_by_itself_without_sb3s_advice_and_as_graphs(name: str, caplog: Any) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "You have specified")
        model = make(make_env(name), **STEERED)
        logs = learn_and_record(model, 4 * 16 * 64)
    assert not caplog.records, "nothing fell back to operations one by one"
    assert isinstance(model.rollout_buffer, DeviceBuffer) and isinstance(model._update_passes, DeviceUpdate)
    steps = model._update_passes._steps.values()
    assert steps and all(isinstance(step, GraphedStep) and step._replay is not None for step in steps)
    assert model.rollout_buffer.actor is not None and model.rollout_buffer.actor._act._replay is not None
    assert all(np.isfinite(value) for key, value in logs[-1].items() if key.startswith("train/"))
    assert len(model.ep_info_buffer) == 100 and isinstance(model._last_obs, np.ndarray)


def waits(part: str, n_steps: int, **overrides: Any) -> int:
    """How often the host waits in the last rollout or update of a training."""
    model = make(n_steps=n_steps, **overrides)
    original, counts = getattr(model, part), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            th.cuda.set_sync_debug_mode("warn")
            try:
                result = original(*args, **kwargs)
            finally:
                th.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
        return result

    setattr(model, part, counted)
    model.learn(3 * 64 * n_steps)
    return counts[-1]


@pytest.mark.parametrize("options", [{}, {"cuda_graphs": False}, {"autocast": "bfloat16"}])
def test_the_host_does_not_wait_for_steps(options: dict[str, Any]) -> None:
    short, long = (waits("collect_rollouts", n_steps, device_options=options) for n_steps in (8, 64))
    assert short == long <= 4


@pytest.mark.parametrize("overrides", [{}, STEERED, {"kl_coef": 0.1}, {"advantage_scope": "batch"}])
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": False}])
def test_the_host_does_not_wait_for_minibatches(overrides: dict[str, Any], options: dict[str, Any]) -> None:
    settings = {**overrides, "batch_size": 64, "device_options": options, "log_diagnostics": False}
    few, many = (waits("train", n_steps, **settings) for n_steps in (8, 32))
    assert few == many


@pytest.mark.parametrize("overrides", [{}, STEERED, {"critic_epochs": 1, "critic_learning_rate": 1e-3}])
def test_updates_as_graphs_are_those_of_operations(overrides: dict[str, Any]) -> None:
    first = make(n_epochs=1, **overrides).learn(16 * 64)
    models = []
    for graphs in (True, False):
        model = make(device_options={"cuda_graphs": graphs}, **overrides)
        model._setup_learn(10**6)
        model.policy.load_state_dict(first.policy.state_dict())
        model.rollout_buffer = copy.deepcopy(first.rollout_buffer)
        model._last_episode_starts = first._last_episode_starts
        model.set_logger(first.logger)
        th.manual_seed(3)
        model.train()
        models.append(tensors_of(model))
    for name, tensor in models[1].items():
        th.testing.assert_close(models[0][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_it_learns_in_every_precision() -> None:
    for options in ({}, {"matmul_precision": "high"}, {"autocast": "bfloat16"}):
        env = TorchVecEnv("CartPole-v1", 1024, seed=0, device=DEVICE, dtype="float32")
        model = PPOPlus("MlpPolicy", env, 2e-3, 32, 8192, 5, seed=0, device=DEVICE, device_options=options)
        model.learn(2_000_000)
        assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 300, options


def test_nan_is_found_when_the_rollout_ends() -> None:
    model = make()
    with th.no_grad():
        model.policy.log_std.fill_(float("nan"))
    with pytest.raises(NonFinite, match="action of environment 0 is nan at timestep 64"):
        model.learn(16 * 64)


def test_it_is_evaluated_saved_and_goes_on(tmp_path: Path) -> None:
    inner = StaggeredStart(TorchVecEnv("Pendulum-v1", 4, seed=9, device=DEVICE), active=False)
    evaluating = EvalCallback(TensorVecNormalize(inner, training=False), eval_freq=16, verbose=0)
    model = make().learn(2 * 16 * 64, evaluating)
    assert np.isfinite(evaluating.last_mean_reward)
    model.save(tmp_path / "model.zip")
    host = PPOPlus.load(tmp_path / "model.zip", device="cpu")
    obs = np.zeros((2, 3), np.float32)
    ours, theirs = model.predict(obs, deterministic=True)[0], host.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    save_checkpoint(model, tmp_path / "run.ckpt")
    rest = resume(tmp_path / "run.ckpt", env=make_env(), device=DEVICE).learn(4 * 16 * 64)
    assert isinstance(rest.rollout_buffer, DeviceBuffer)
