"""Learning, over three seeds each: CartPole-v1 at 500, Pendulum-v1 above -200, and a run with everything on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def learning() -> ModuleType:
    """The benchmark, whose protocol and hyperparameters these tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        return importlib.import_module("learning")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_reaches_500(learning: ModuleType, seed: int) -> None:
    assert learning.run("CartPole-v1", "plus", seed)["mean_return"] == 500.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum_is_above_minus_200(learning: ModuleType, seed: int) -> None:
    assert learning.run("Pendulum-v1", "plus", seed)["mean_return"] > -200.0


@pytest.mark.slow
@pytest.mark.parametrize(("env", "at_least"), [("CartPole-v1", 475.0), ("Pendulum-v1", -250.0)])
def test_everything_on_learns_too(learning: ModuleType, env: str, at_least: float) -> None:
    assert learning.run(env, "everything", 0)["mean_return"] > at_least


def test_a_few_seconds_of_cartpole_learn_something() -> None:
    """The quick guard of the default run: far above the 20 of chance, with every default."""
    from sb3_ppo_plus import PPOPlus

    model = PPOPlus("MlpPolicy", "CartPole-v1", n_steps=512, learning_rate=1e-3, seed=0, device="cpu").learn(10_240)
    assert np.mean([episode["r"] for episode in model.ep_info_buffer][-20:]) > 100.0
