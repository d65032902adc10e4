"""
Trainings that are stopped and go on, and the digest of all that the next step would depend on.

``python tests/resumed_runs.py NAME whole|first|rest FOLDER`` trains without stopping, up to a checkpoint, or from it
on, in a process of its own, and prints the digest after each update.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.checkpoint.generators import generator_states
from sb3_ppo_plus.envs import MujocoVecEnv, ProcessVecEnv, TensorVecNormalize
from sb3_ppo_plus.envs.state import capture_env
from sb3_ppo_plus.files.tree import dump_tree

UPDATES = 5
SAVED_AFTER = 2


class Masked(gym.Env[np.ndarray, int]):
    """A walk on a line that must not leave it; which steps are allowed depends on where it is."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.place, self.t = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.t = int(self.np_random.integers(-3, 4)), 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place += int(action) - 1
        self.t += 1
        return self._observe(), float(self.place == 4), False, self.t >= 20, {}

    def action_masks(self) -> np.ndarray:
        return np.array([self.place > -4, True, self.place < 4])

    def _observe(self) -> np.ndarray:
        return np.array([self.place / 4, self.t / 20], np.float32)


class Parts(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Observations in parts."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-5, 5, (2,), np.float32), "kind": spaces.Discrete(3), "flags": spaces.MultiBinary(2)}
    )
    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self) -> None:
        self.place, self.kind, self.t = np.zeros(2, np.float32), 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.place, self.t = self.np_random.normal(size=2).astype(np.float32), 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.place = (self.place + (np.asarray(action) - 0.5) * 0.3).astype(np.float32).clip(-5, 5)
        self.kind, self.t = int(self.np_random.integers(3)), self.t + 1
        return self._observe(), -float(np.abs(self.place).sum()), self.t > 13, False, {}

    def _observe(self) -> dict[str, Any]:
        return {"place": self.place.copy(), "kind": self.kind, "flags": np.array([self.t % 2, self.kind == 1], np.int8)}


class Remembers(BaseCallback):
    """A callback with a state of its own, on which the training depends."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

    def _on_step(self) -> bool:
        self.seen += float(self.locals["rewards"].sum())
        return True

    def _on_rollout_end(self) -> None:
        self.model.ent_coef = 0.001 * (1 + abs(self.seen) % 3)

    def state_dict(self) -> dict[str, float]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seen = state["seen"]


def vec(env_id: str, n: int = 2, **options: Any) -> VecEnv:
    return make_vec_env(env_id, n, seed=3, **options)


def native(env_id: str = "HalfCheetah-v5", n: int = 3, **options: Any) -> VecEnv:
    return TensorVecNormalize(MujocoVecEnv(env_id, n_envs=n, seed=3, **options))


SHORT: dict[str, Any] = {"n_steps": 48, "batch_size": 24, "n_epochs": 3, "seed": 5, "device": "cpu"}
EXTRAS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "controllers": {
        "kl_coef": {"type": "kl_band", "target": 0.005},
        "learning_rate": {"type": "kl_band", "target": 0.01},
    },
    "kl_coef": 1.0,
    "ent_coef": "lin_0.01",
    "clip_range": (0.1, 0.3),
    "clip_range_vf": 0.2,
    "vf_loss": "max",
    "target_kl": 0.01,
    "kl_stop": "rollback",
    "recompute_advantages": True,
}

#: environments, and what differs from SHORT
RUNS: dict[str, tuple[Callable[[], VecEnv], dict[str, Any]]] = {
    "cartpole": (lambda: vec("CartPole-v1"), {}),
    "pendulum-gsde": (lambda: VecNormalize(vec("Pendulum-v1")), {"use_sde": True}),
    "pendulum-gsde-often": (lambda: vec("Pendulum-v1"), {"use_sde": True, "sde_sample_freq": 4}),
    "schedules": (lambda: vec("Acrobot-v1"), {"learning_rate": "lin_1e-3", "clip_range": "lin_0.3"}),
    "extras": (lambda: VecNormalize(vec("Pendulum-v1")), EXTRAS),
    "critic": (lambda: vec("Pendulum-v1"), {"critic_learning_rate": 2e-3, "critic_epochs": 2}),
    "stacked": (lambda: VecMonitor(VecFrameStack(VecNormalize(vec("CartPole-v1")), 3)), {}),
    "parts": (lambda: VecNormalize(DummyVecEnv([Parts] * 2), norm_obs_keys=["place"]), {"policy": "MultiInputPolicy"}),
    "masks": (lambda: VecMonitor(DummyVecEnv([Masked] * 2)), {}),
    "cheetah": (lambda: VecNormalize(vec("HalfCheetah-v5")), {}),
    "humanoid": (lambda: VecNormalize(vec("Humanoid-v5", 1)), {}),
    "workers": (lambda: VecNormalize(vec("Hopper-v5", 3, vec_env_cls=ProcessVecEnv)), {}),
    "native": (native, {}),
    "native-gsde": (native, {"use_sde": True, "sde_sample_freq": 5}),
    "native-ant": (lambda: native("Ant-v5"), EXTRAS),
    "compiled": (native, {"compile_update": True}),
}


class Digests(BaseCallback):
    """Takes the digest between any two updates, and writes a checkpoint between two of them."""

    def __init__(self, folder: Path, save: bool = False) -> None:
        super().__init__()
        self.folder, self.save = folder, save
        self.found: dict[str, str] = {}

    def _on_training_start(self) -> None:
        self.model._learning.at_boundary.append(self.look)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return not (self.save and (self.folder / "checkpoint.zip").exists())

    def look(self) -> None:
        done = self.model.num_timesteps // (self.model.n_steps * self.model.n_envs)  # type: ignore[attr-defined]
        self.found[str(done)] = digest(self.model)  # type: ignore[arg-type]
        if self.save and done == SAVED_AFTER:
            assert save_checkpoint(self.model, self.folder / "checkpoint") == []  # type: ignore[arg-type]


def digest(model: PPOPlus) -> str:
    """
    :param model: a model
    :return: digest of its parameters and optimizer, its counters and last observations, of the generators, and of the
        environments with their normalizer
    """
    assert model.env is not None
    optimizer = model.policy.optimizer.state_dict()
    tree = {
        "policy": dict(model.policy.state_dict()),
        "optimizer": {str(key): value for key, value in optimizer["state"].items()},
        "counters": [
            model.num_timesteps,
            model._n_updates,
            model.num_gradient_steps,
            model._current_progress_remaining,
        ],
        "obs": model._last_obs,
        "starts": model._last_episode_starts,
        "episodes": [[episode["r"], episode["l"]] for episode in model.ep_info_buffer or ()],
        "controllers": {name: controller.state_dict() for name, controller in model._controllers.items()},
        "generators": generator_states(),
        "env": _without_times(capture_env(model.env).tree),
    }
    text, block = dump_tree(tree)
    return hashlib.blake2b(text + block, digest_size=16).hexdigest()


def _without_times(tree: Any) -> Any:
    """Wall-clock times are no part of what is promised."""
    if isinstance(tree, dict):
        return {key: _without_times(value) for key, value in tree.items() if key not in ("episode_times", "elapsed")}
    if isinstance(tree, (list, tuple)):
        return [_without_times(value) for value in tree if not (isinstance(value, list) and value[:1] == ["t"])]
    return tree


def train(name: str, part: str, folder: Path) -> dict[str, str]:
    """
    :param name: name of a run
    :param part: ``whole``, ``first`` (until the checkpoint is written) or ``rest``
    :param folder: where the checkpoint is
    :return: digest after each update
    """
    th.set_num_threads(1)
    make, options = RUNS[name]
    options = {"policy": "MlpPolicy", **SHORT, **options}
    env = make()
    try:
        if part == "rest":
            model = resume(folder / "checkpoint.zip", env, device="cpu")
        else:
            model = PPOPlus(env=env, **options)
        digests = Digests(folder, save=part == "first")
        model.learn(UPDATES * model.n_steps * model.n_envs, [Remembers(), digests], log_interval=2)
        if part != "first":
            digests.found[str(UPDATES)] = digest(model)
        return digests.found
    finally:
        env.close()


if __name__ == "__main__":
    print(json.dumps(train(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
