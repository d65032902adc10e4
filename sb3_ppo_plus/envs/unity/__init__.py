"""Games made with Unity ML-Agents, as vectorized environments."""

from __future__ import annotations

from sb3_ppo_plus.envs.unity.errors import GameLost, UnityError
from sb3_ppo_plus.envs.unity.together import learn_together
from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv

__all__ = ["GameLost", "UnityError", "UnityVecEnv", "learn_together"]
