"""Zips open both ways: PPO.load opens ours, PPOPlus.load opens SB3's."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import assert_same_tensors, make_model
from stable_baselines3 import PPO

from sb3_ppo_plus import PPOPlus

OBSERVATION = np.array([0.5, -0.5, 1.0], dtype=np.float32)
EVERYTHING: dict[str, Any] = {
    "clip_range": (0.1, 0.3),
    "clip_range_vf": 0.2,
    "vf_loss": "max",
    "kl_coef": 1.0,
    "critic_learning_rate": 1e-3,
    "critic_epochs": 1,
    "controllers": {
        "kl_coef": {"type": "kl_band", "target": 1e-9},
        "learning_rate": {"type": "kl_band", "target": 1e-9},
        "ent_coef": {"type": "entropy_target", "target": 0.0},
    },
}


@pytest.mark.parametrize("extras", [{}, EVERYTHING, {"clip_range": None, "kl_coef": 1.0}], ids=["off", "on", "penalty"])
def test_ppo_opens_ours_and_goes_on(tmp_path: Path, extras: dict[str, Any]) -> None:
    model = make_model(**extras).learn(128)
    model.save(tmp_path / "model")
    opened = PPO.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    assert_same_tensors(model, opened)
    assert np.array_equal(
        model.predict(OBSERVATION, deterministic=True)[0], opened.predict(OBSERVATION, deterministic=True)[0]
    )
    before = opened.policy.action_net.weight.detach().clone()
    opened.learn(64)
    assert not th.equal(before, opened.policy.action_net.weight)


def test_ours_opens_sb3s_and_goes_on_like_it(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "seed": 0, "device": "cpu"}
    PPO("MlpPolicy", "Pendulum-v1", clip_range_vf=0.3, target_kl=0.05, **arguments).learn(128).save(tmp_path / "sb3")
    models = []
    for algorithm in (PPO, PPOPlus):
        model = algorithm.load(
            tmp_path / "sb3", env=algorithm("MlpPolicy", "Pendulum-v1", **arguments).get_env(), device="cpu"
        )
        models.append(model.learn(192, reset_num_timesteps=False))
    assert_same_tensors(*models)


def test_a_zip_of_a_plain_run_holds_nothing_of_this_package(tmp_path: Path) -> None:
    """A machine with SB3 alone opens it without a warning about what it cannot rebuild."""
    make_model().learn(64).save(tmp_path / "model.zip")
    code = (
        "import sys, warnings; warnings.simplefilter('error', UserWarning); sys.modules['sb3_ppo_plus'] = None\n"
        "from stable_baselines3 import PPO\n"
        f"print(PPO.load({str(tmp_path / 'model.zip')!r}, device='cpu').num_timesteps)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "64"


def test_controllers_come_back_with_their_state(tmp_path: Path) -> None:
    model = make_model(**EVERYTHING).learn(192)
    values = {name: controller.value for name, controller in model._controllers.items()}
    # the targets are so small that both KL controllers moved away from where they began
    assert values["kl_coef"] > 1.0
    assert values["learning_rate"] < 3e-4
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    assert {name: controller.value for name, controller in opened._controllers.items()} == values
    assert opened.lr_schedule(0.5) == values["learning_rate"]
    assert opened.controllers == model.controllers


def test_controller_state_is_readable_in_the_zip(tmp_path: Path) -> None:
    import json

    model = make_model(**EVERYTHING).learn(64)
    model.save(tmp_path / "model.zip")
    data = json.loads(zipfile.ZipFile(tmp_path / "model.zip").read("data"))
    assert data["controller_state"] == {name: {"value": c.value} for name, c in model._controllers.items()}
    assert data["controllers"]["kl_coef"]["target"] == 1e-9
    assert "lr_schedule" not in data
    assert "_controllers" not in data


def test_a_loaded_model_goes_on_like_the_one_that_was_saved(tmp_path: Path) -> None:
    """Same rollout, same state: the next update must be the same one, controllers and two learning rates included."""
    model = make_model(**EVERYTHING).learn(128)
    model.save(tmp_path / "model.zip")
    opened = PPOPlus.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    for name in ("rollout_buffer", "_last_obs", "_last_episode_starts", "_logger"):
        setattr(opened, name, getattr(model, name))
    for one in (model, opened):
        np.random.seed(7)
        one.train()
    assert_same_tensors(model, opened)
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == [
        group["lr"] for group in opened.policy.optimizer.param_groups
    ]


def test_load_takes_extras_as_keyword_arguments(tmp_path: Path) -> None:
    PPO("MlpPolicy", "Pendulum-v1", n_steps=64, device="cpu").save(tmp_path / "sb3")
    opened = PPOPlus.load(tmp_path / "sb3", kl_coef=0.5, clip_range=(0.1, 0.2), device="cpu")
    assert opened.kl_coef == 0.5
    assert (opened.clip_range_low(1.0), opened.clip_range(1.0)) == (0.1, 0.2)
    with pytest.raises(ValueError, match="vf_loss='mse'"):
        PPOPlus.load(tmp_path / "sb3", vf_loss="mse", device="cpu")


def test_loading_as_the_zoo_does(tmp_path: Path) -> None:
    """RL Zoo's enjoy replaces what may not unpickle by constants; a saved controller goes on from its saved value."""
    model = make_model(**EVERYTHING).learn(64)
    model.save(tmp_path / "model.zip")
    replaced = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    opened = PPOPlus.load(tmp_path / "model.zip", custom_objects=replaced, device="cpu")
    assert opened._controllers["learning_rate"].value == model._controllers["learning_rate"].value
    assert np.array_equal(
        model.predict(OBSERVATION, deterministic=True)[0], opened.predict(OBSERVATION, deterministic=True)[0]
    )


def test_a_failed_save_leaves_the_earlier_file(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "model.zip")
    before = (tmp_path / "model.zip").read_bytes()
    model.poison = (i for i in range(3))  # a generator cannot be pickled
    with pytest.raises(TypeError):
        model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]
