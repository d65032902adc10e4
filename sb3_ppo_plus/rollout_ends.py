"""What lies beyond the rows of a rollout: the value of what was cut off, and the advantages that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.envs.arrays import map_observations

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

# Final observations in one pass of the critic: bounds the memory of images.
_CHUNK = 4096


class Truncations:
    """Final observations of episodes that were cut off, until the critic is asked about all of them."""

    def __init__(self, policy: ActorCriticPolicy, gamma: float) -> None:
        self.policy, self.gamma = policy, gamma
        self.steps: list[int] = []
        self.envs: list[int] = []
        self.final_obs: list[Any] = []

    def note(self, step: int, envs: np.ndarray, final_obs: Any) -> None:
        """
        :param step: row of the rollout
        :param envs: environments whose episode was cut off in it
        :param final_obs: last observations of all environments [N, O]
        """
        self.steps += [step] * len(envs)
        self.envs += envs.tolist()
        # Picking rows copies them: the environment may use its memory again.
        self.final_obs.append(map_observations(lambda array: array[envs], final_obs))

    def add_values_to(self, rewards: np.ndarray) -> None:
        """
        Add what the critic expects after the cut to the rewards, as SB3 does (its issue 633), and forget the cuts.

        :param rewards: rewards [T, N]
        """
        if not self.steps:
            return
        first, *others = self.final_obs
        joined: Any = (
            {name: np.concatenate([obs[name] for obs in self.final_obs]) for name in first}
            if isinstance(first, dict)
            else np.concatenate([first, *others])
        )
        values = [self._values(joined, start) for start in range(0, len(self.steps), _CHUNK)]
        rewards[self.steps, self.envs] += self.gamma * np.concatenate(values)
        self.steps, self.envs, self.final_obs = [], [], []

    def _values(self, observations: Any, start: int) -> np.ndarray:
        chunk = map_observations(lambda array: array[start : start + _CHUNK], observations)
        with th.no_grad():
            return self.policy.predict_values(self.policy.obs_to_tensor(chunk)[0]).flatten().cpu().numpy()


def fill_gaps(model: PPOPlus, buffer: RolloutBuffer, last_values: th.Tensor | None = None) -> None:
    """
    Compute the advantages anew where rows are not one decision each; a buffer's own way of computing them stands.

    :param model: the algorithm, after the rollout
    :param buffer: full rollout buffer
    :param last_values: value of the observations after the last row, asked for when None [N]
    """
    own = has_own(buffer, "compute_returns_and_advantage", (RolloutBuffer.compute_returns_and_advantage,))
    if own or not isinstance(buffer, RowsMixin) or (gaps := buffer.gaps) is None:
        return
    if last_values is None:
        obs: Any = model._last_obs
        with th.no_grad():
            last_values = model.policy.predict_values(obs_as_tensor(obs, model.device))
    dones = np.asarray(model._last_episode_starts)
    buffer.compute_over_gaps(gaps, last_values.flatten().cpu().numpy(), dones)


def compute_advantages(buffer: RolloutBuffer, last_values: np.ndarray, dones: np.ndarray) -> None:
    """
    SB3's ``compute_returns_and_advantage``, the same roundings in two operations a step.

    delta_t = r_t + gamma V_{t+1} (1 - d_t) - V_t, A_t = delta_t + gamma lambda (1 - d_t) A_{t+1}
    """
    going_on = 1.0 - np.concatenate([buffer.episode_starts[1:], dones[None].astype(np.float32)])
    next_values = np.concatenate([buffer.values[1:], last_values[None]])
    buffer.advantages[...] = buffer.rewards + buffer.gamma * next_values * going_on - buffer.values
    decays = buffer.gamma * buffer.gae_lambda * going_on
    later = np.zeros_like(last_values)
    carried = np.empty_like(last_values)
    for advantages, decay in zip(buffer.advantages[::-1], decays[::-1], strict=True):
        np.multiply(decay, later, carried)
        np.add(advantages, carried, advantages)
        later = advantages
    buffer.returns[...] = buffer.advantages + buffer.values


def has_own(buffer: RolloutBuffer, method: str, known: tuple[Any, ...]) -> bool:
    return getattr(type(buffer), method) not in known or method in vars(buffer)
