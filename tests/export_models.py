"""Small models of every kind, trained a little, with environments that give random observations and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.envs import HybridSpace
from sb3_ppo_plus.export.heads import branch_sizes
from sb3_ppo_plus.export.reference import sample_masks, sample_observations

VECTOR = spaces.Box(-np.inf, np.inf, (5,))
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "image": IMAGE,
    "dict": spaces.Dict({"pose": VECTOR, "camera": IMAGE, "gear": spaces.Discrete(3)}),
    "sensors": spaces.Dict({"pose": VECTOR, "camera": IMAGE}),
    "discrete": spaces.Discrete(6),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "multibinary": spaces.MultiBinary(4),
}
LOW, HIGH = np.array([-2, -0.1, 0], np.float32), np.array([0.5, 0.1, 3], np.float32)
ACTIONS: dict[str, spaces.Space] = {
    "box": spaces.Box(-1, 1, (3,)),
    "uneven": spaces.Box(LOW, HIGH),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multibinary": spaces.MultiBinary(3),
}
CHOICES = ("discrete", "multidiscrete", "multibinary")
ACTIONS["hybrid"] = HybridSpace(spaces.Box(np.array([-1, -2], np.float32), np.array([1, 0.5], np.float32)), [3, 2])


class RandomEnv(gym.Env):
    """Random observations around 3 with deviation 2, random rewards, episodes of eight steps, random masks."""

    def __init__(self, observations: str, actions: str) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self.t = 0

    def _observe(self) -> Any:
        drawn = sample_observations(self.observation_space, 1, self.np_random)
        rows = {key: part[0] for key, part in drawn.items()} if isinstance(drawn, dict) else {"": drawn[0]}
        moved = {key: row * 2 + 3 if np.asarray(row).dtype == np.float32 else row for key, row in rows.items()}
        return moved if isinstance(drawn, dict) else moved[""]

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        self.t += 1
        return self._observe(), float(np.sum(action)), self.t == 8, False, {}

    def action_masks(self) -> np.ndarray:
        return sample_masks(branch_sizes(self.action_space), 1, self.np_random)[0]


Wrap = Callable[[VecEnv], VecEnv]
#: name -> (class, observations, actions, wrappers, arguments)
CASES: dict[str, tuple[type[BaseAlgorithm], str, str, Wrap | None, dict[str, Any]]] = {
    **{f"PPOPlus {name}": (PPOPlus, "vector", name, None, {"use_masking": False}) for name in ACTIONS},
    **{f"PPOPlus masked {name}": (PPOPlus, "vector", name, None, {}) for name in (*CHOICES, "hybrid")},
    "PPOPlus masked hybrid sensors": (PPOPlus, "sensors", "hybrid", None, {}),
    **{f"PPO sees {name}": (PPO, name, "box", None, {}) for name in OBSERVATIONS},
    "A2C": (A2C, "vector", "discrete", None, {}),
    "normalized": (PPOPlus, "vector", "box", VecNormalize, {}),
    "normalized, clipped": (PPO, "vector", "box", lambda env: VecNormalize(env, clip_obs=0.7, epsilon=0.1), {}),
    "normalized dict": (
        PPOPlus,
        "sensors",
        "box",
        lambda env: VecNormalize(env, norm_obs_keys=["pose"]),
        {},
    ),
    "reward normalized": (PPO, "vector", "box", lambda env: VecNormalize(env, norm_obs=False), {}),
    "gSDE": (PPOPlus, "vector", "box", None, {"use_sde": True}),
    "gSDE squashed": (
        PPOPlus,
        "vector",
        "uneven",
        None,
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    ),
    "two extractors": (
        PPOPlus,
        "dict",
        "multidiscrete",
        None,
        {"policy_kwargs": {"share_features_extractor": False}, "use_masking": False},
    ),
    "frames of normalized": (PPOPlus, "vector", "box", lambda env: VecFrameStack(VecNormalize(env), 3), {}),
    "normalized frames": (PPOPlus, "vector", "box", lambda env: VecNormalize(VecFrameStack(env, 3)), {}),
    "frames of images": (PPOPlus, "image", "box", lambda env: VecFrameStack(env, 3), {}),
    "frames of a dict": (PPOPlus, "sensors", "box", lambda env: VecFrameStack(env, 2), {}),
    **{f"MaskablePPO {name}": (MaskablePPO, "vector", name, None, {}) for name in CHOICES},
    "RecurrentPPO": (RecurrentPPO, "vector", "box", None, {}),
    "RecurrentPPO normalized frames": (
        RecurrentPPO,
        "vector",
        "discrete",
        lambda env: VecNormalize(VecFrameStack(env, 2)),
        {},
    ),
    "RecurrentPPO shared": (
        RecurrentPPO,
        "dict",
        "discrete",
        None,
        {
            "policy_kwargs": {
                "shared_lstm": True,
                "enable_critic_lstm": False,
                "n_lstm_layers": 2,
                "lstm_hidden_size": 16,
            }
        },
    ),
    "RecurrentPPO one LSTM": (RecurrentPPO, "vector", "box", None, {"policy_kwargs": {"enable_critic_lstm": False}}),
}


def trained(case: str, steps: int = 64) -> BaseAlgorithm:
    """A model of a case; its weights have moved, and its normalizer has statistics."""
    algorithm, observations, actions, wrap, arguments = CASES[case]
    env: VecEnv = DummyVecEnv([lambda: RandomEnv(observations, actions)] * 2)
    env.seed(0)
    policy = "MultiInput" if observations in ("dict", "sensors") else "Cnn" if observations == "image" else "Mlp"
    policy += "LstmPolicy" if algorithm is RecurrentPPO else "Policy"
    batch = {} if algorithm is A2C else {"batch_size": 16}
    model: Any = algorithm(
        policy, env if wrap is None else wrap(env), n_steps=16, learning_rate=0.01, seed=0, **batch, **arguments
    )
    return model.learn(steps)


def env_maker(case: str, model: BaseAlgorithm) -> Callable[[int, int], VecEnv]:
    """From a number and a seed to environments wrapped as the model's, with its statistics, frozen."""
    _, observations, actions, wrap, _ = CASES[case]

    def make(n_envs: int, seed: int) -> VecEnv:
        env: Any = DummyVecEnv([lambda: RandomEnv(observations, actions)] * n_envs)
        env.seed(seed)
        env = type(model)._wrap_env(env if wrap is None else wrap(env), 0, True)
        mine, theirs = _normalizer(env), model.get_vec_normalize_env()
        if mine is not None and theirs is not None:
            mine.training = mine.norm_reward = False
            if mine.norm_obs:
                mine.obs_rms = theirs.obs_rms
        return env

    return make


def _normalizer(env: Any) -> VecNormalize | None:
    while env is not None:
        if isinstance(env, VecNormalize):
            return env
        env = getattr(env, "venv", None)
    return None
