"""
Measuring over a whole rollout: the KL that an update made, the entropy that is left, and advantages under a newer
critic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_ppo_plus.advantages import gae, gae_over_gaps
from sb3_ppo_plus.buffers import RowsMixin, Truncation, flatten_rows, unflat
from sb3_ppo_plus.distributions import DistributionParams, exact_kl
from sb3_ppo_plus.losses import k3_estimate, masked_mean
from sb3_ppo_plus.policies import action_distributions, as_collected, predicted_values

# What nothing steers by is measured on a share of the rows: two forward passes (before and after) over 3% of rows times
# epochs, beside forward and backward passes over all of them.
_DIAGNOSTIC_SHARE = 0.03
_DIAGNOSTIC_ROWS = (128, 512)


def diagnostic_rows(n_rows: int, n_epochs: int) -> int:
    """
    How many rows a measurement takes that nothing steers by.

    :param n_rows: rows of the rollout
    :param n_epochs: passes of the update over them
    :return: number of rows
    """
    low, high = _DIAGNOSTIC_ROWS
    return min(n_rows, high, max(low, int(_DIAGNOSTIC_SHARE * n_rows * n_epochs)))


class Measurement(NamedTuple):
    """
    A policy measured on the rows of a probe.

    :param kl: KL(old, new) in nats, exact where the distribution is known, else the k3 estimate
    :param reference_kl: KL(new, reference) in nats, None without a reference policy
    :param entropies: mean entropy of each action dimension [A], None where it is unknown
    """

    kl: float
    reference_kl: float | None
    entropies: list[float] | None


class Probe:
    """
    The policy as it was at collection, on some rows of the rollout: what the KL of an update is measured against.

    :param policy: current policy, before its first gradient step
    :param reference: frozen reference policy, if there is one
    :param buffer: full rollout buffer
    :param valid: which rows count; None when all do [N * T]
    :param n_measured: number of rows, evenly spaced; None for all of them
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        reference: ActorCriticPolicy | None,
        buffer: RolloutBuffer,
        valid: np.ndarray | None,
        n_measured: int | None,
    ) -> None:
        flatten_rows(buffer)
        n_rows = buffer.buffer_size * buffer.n_envs
        self.rows = np.arange(n_rows)
        if n_measured is not None:
            self.rows = np.linspace(0, n_rows - 1, n_measured).round().astype(int)
        self.mask = None if valid is None else th.as_tensor(valid[self.rows], device=buffer.device)
        self.buffer = buffer
        self.distribution, self.log_prob = action_distributions(policy, buffer, self.rows)
        self.reference_distribution: DistributionParams | None = None
        self.reference_log_prob: th.Tensor | None = None
        if reference is not None:
            self.reference_distribution, self.reference_log_prob = action_distributions(reference, buffer, self.rows)

    def measure(self, policy: ActorCriticPolicy) -> Measurement:
        """
        Measure the current policy against the one at collection and the reference.

        :param policy: current policy
        :return: means over the rows that count
        """
        distribution, log_prob = action_distributions(policy, self.buffer, self.rows)
        kl = self._divergence(self.distribution, distribution, log_prob - self.log_prob)
        reference_kl = entropies = None
        if self.reference_log_prob is not None:
            log_ratio = self.reference_log_prob - log_prob
            reference_kl = self._divergence(distribution, self.reference_distribution, log_ratio)
        if distribution is not None:
            entropies = [float(masked_mean(dimension, self.mask)) for dimension in distribution.entropy().T]
        return Measurement(kl, reference_kl, entropies)

    def _divergence(self, p: DistributionParams | None, q: DistributionParams | None, log_ratio: th.Tensor) -> float:
        if self.mask is not None and not self.mask.any():
            return float("nan")  # no row, no KL: a zero would move controllers
        per_row = k3_estimate(log_ratio) if p is None or q is None else exact_kl(p, q)
        return float(masked_mean(per_row, self.mask))


class AdvantageRecomputation:
    """
    Advantages and targets of the same rollout under a critic that has learned since.

    Andrychowicz et al. 2020, section 3.5: "recompute advantages" once per pass over the data. SB3 adds the value of the
    final observation of a truncated episode to the reward; that is taken out again, so that the newer critic's value
    stands in its place.

    :param policy: policy whose critic collected the rollout, before its first gradient step
    :param buffer: flattened rollout buffer
    :param last_obs: observations after the last step [N, O]
    :param last_dones: whether the last step ended an episode [N]
    """

    def __init__(
        self, policy: ActorCriticPolicy, buffer: RolloutBuffer, last_obs: object, last_dones: np.ndarray
    ) -> None:
        assert isinstance(buffer, RowsMixin)
        flatten_rows(buffer)
        self.buffer = buffer
        self.last_obs = obs_as_tensor(last_obs, policy.device)  # type: ignore[arg-type]
        self.truncated = np.zeros((buffer.buffer_size, buffer.n_envs), dtype=bool)
        steps = [truncation.step for truncation in buffer.truncations]
        envs = [truncation.env for truncation in buffer.truncations]
        self.truncated[steps, envs] = True
        dones = np.concatenate([buffer.episode_starts[1:] > 0, last_dones[None].astype(bool)])
        self.terminated = dones & ~self.truncated
        self.at_truncations = (steps, envs)
        self.gaps = buffer.gaps
        self.rewards = buffer.rewards.copy()
        self.rewards[steps, envs] -= buffer.gamma * _final_values(policy, buffer.truncations)

    def __call__(self, policy: ActorCriticPolicy) -> tuple[np.ndarray, np.ndarray]:
        """
        :param policy: policy with the critic of now
        :return: advantages and returns, float32 [T, N] each
        """
        values = unflat(predicted_values(policy, self.buffer), self.buffer.buffer_size)
        with as_collected(policy):
            last_values = policy.predict_values(self.last_obs).flatten().cpu().numpy()
        if self.gaps is not None:
            rewards = self.rewards.copy()
            rewards[self.at_truncations] += self.buffer.gamma * _final_values(policy, self.buffer.truncations)
            dones = self.terminated | self.truncated
            lengths = self.buffer.gamma, self.buffer.gae_lambda
            advantages, _ = gae_over_gaps(rewards, values, last_values, dones, self.gaps, *lengths)
            return advantages, advantages + values
        next_values = np.concatenate([values[1:], last_values[None]])
        next_values[self.at_truncations] = _final_values(policy, self.buffer.truncations)
        advantages = gae(
            th.as_tensor(self.rewards),
            th.as_tensor(values.copy()),
            th.as_tensor(next_values),
            th.as_tensor(self.terminated),
            th.as_tensor(self.truncated),
            self.buffer.gamma,
            self.buffer.gae_lambda,
        ).numpy()
        return advantages, advantages + values


def _final_values(policy: ActorCriticPolicy, truncations: list[Truncation]) -> np.ndarray:
    if not truncations:
        return np.zeros(0, dtype=np.float32)
    observations = [truncation.final_obs for truncation in truncations]
    stacked: np.ndarray | dict[str, np.ndarray]
    if isinstance(observations[0], dict):
        stacked = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
    else:
        stacked = np.stack(observations)
    with as_collected(policy):
        return policy.predict_values(policy.obs_to_tensor(stacked)[0]).flatten().cpu().numpy()
