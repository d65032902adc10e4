"""Advantage estimation on whole rollouts [T, N], and the standardization of advantages."""

from __future__ import annotations

import torch as th

SCOPES = ("minibatch", "batch", "env", "none")


def gae(
    rewards: th.Tensor,
    values: th.Tensor,
    next_values: th.Tensor,
    terminated: th.Tensor,
    truncated: th.Tensor,
    gamma: float,
    gae_lambda: float,
) -> th.Tensor:
    """
    A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t); V(s_{t+1}) = 0 after a termination.

    The sum stops where an episode ends, terminated or truncated; a truncated step is bootstrapped with the value of the
    observation before the reset. No reward is edited. Schulman et al. 2016, equation 16.

    :param rewards: rewards of the environment [T, N]
    :param values: V(s_t) [T, N]
    :param next_values: V(s_{t+1}), of the final observation where the episode was truncated [T, N]
    :param terminated: whether s_{t+1} is terminal [T, N]
    :param truncated: whether the episode was cut off after step t [T, N]
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: in [0, 1]; 1 gives Monte Carlo returns (no bias), 0 one-step errors (little variance)
    :return: advantages; the critic's targets are advantages + values [T, N]
    """
    if not rewards.shape == values.shape == next_values.shape == terminated.shape == truncated.shape:
        shapes = [tuple(x.shape) for x in (rewards, values, next_values, terminated, truncated)]
        raise ValueError(f"gae takes five tensors of one shape [T, N], got {shapes}")
    deltas = rewards + gamma * next_values * (~terminated) - values
    decay = gamma * gae_lambda * (~(terminated | truncated))
    advantages = th.empty_like(deltas)
    carry = th.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        carry = deltas[step] + decay[step] * carry
        advantages[step] = carry
    return advantages


def standardize(x: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    (x - mean) / (std + 1e-8) with the unbiased deviation, as in SB3; fewer than two rows come back as they are.

    :param x: numbers, typically advantages [B]
    :param mask: True where the row counts; the others come back as 0 [B]
    :return: numbers of mean 0 and deviation 1 over the rows that count [B]
    """
    if mask is None:
        # Normalization does not make sense for a single row, see SB3 issue #325
        return (x - x.mean()) / (x.std() + 1e-8) if len(x) > 1 else x
    count = mask.sum()
    zero = x.new_zeros(())
    mean = th.where(mask, x, zero).sum() / count.clamp(min=1)
    centered = th.where(mask, x - mean, zero)
    std = (centered.square().sum() / (count - 1).clamp(min=1)).sqrt()
    return th.where(count > 1, centered / (std + 1e-8), th.where(mask, x, zero))


def standardize_rollout(advantages: th.Tensor, mask: th.Tensor | None, scope: str) -> th.Tensor:
    """
    Standardize a rollout's advantages once, over all of it or for each environment apart.

    :param advantages: advantages [T, N]
    :param mask: True where the row counts; None when all do [T, N]
    :param scope: ``batch`` (rsl_rl, skrl) or ``env`` (environments of different difficulty weigh alike)
    :return: advantages [T, N]
    """
    if scope == "batch":
        flat_mask = None if mask is None else mask.flatten()
        return standardize(advantages.flatten(), flat_mask).view_as(advantages)
    columns = [standardize(advantages[:, n], None if mask is None else mask[:, n]) for n in range(advantages.shape[1])]
    return th.stack(columns, dim=1)
