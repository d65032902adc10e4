"""Advantage estimation on whole rollouts [T, N], and the standardization of advantages."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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


class Gaps(NamedTuple):
    """
    Where a rollout's rows are not one decision each: agents that decide at rhythms of their own, workers that died.

    :param idle: True where the agent was not asked, so that its action had no effect [T, N]
    :param lost: True where the outcome of the agent's last decision will never be known [T, N]
    :param open: True where the last decision's outcome has not come when the rollout ends [N]
    """

    idle: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]
    open: npt.NDArray[np.bool_]


def gae_over_gaps(
    rewards: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    last_values: npt.NDArray[np.float32],
    dones: npt.NDArray[Any],
    gaps: Gaps,
    gamma: float,
    gae_lambda: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """
    A_k = delta_k + gamma lambda A_{k+1} over the decisions k of each environment, whatever rows lie between two of
    them: delta_k = r_k + gamma V(s_{k+1}) - V(s_k), with r_k all that came until decision k + 1.

    A decision whose outcome is not known, for it was lost or is still to come, is not counted; the one before is
    bootstrapped with its value. Without gaps this is what SB3 computes.

    :param rewards: rewards, with the discounted value of what follows a truncation, as SB3 adds it [T, N]
    :param values: V(s_t) [T, N]
    :param last_values: value of the observation after the last row [N]
    :param dones: whether the episode ended with the row [T, N]
    :param gaps: which rows are no decisions, or decisions without an outcome
    :param gamma: discount factor in [0, 1], for each decision
    :param gae_lambda: in [0, 1], see :func:`gae`
    :return: advantages, 0 in rows that do not count [T, N], and which rows count [T, N]
    """
    advantages = np.zeros_like(rewards)
    counted = np.zeros(rewards.shape, dtype=bool)
    pending = np.zeros_like(last_values)
    carry = np.zeros_like(last_values)
    next_values = last_values
    unknown = gaps.open.copy()
    for t in range(len(rewards) - 1, -1, -1):
        going_on = ~dones[t].astype(bool)
        carry, next_values, pending = carry * going_on, next_values * going_on, pending * going_on + rewards[t]
        unknown = (unknown & going_on) | gaps.lost[t]
        acts = ~gaps.idle[t]
        counted[t] = acts & ~unknown
        estimates = pending + gamma * next_values - values[t] + gamma * gae_lambda * carry
        advantages[t] = np.where(counted[t], estimates, 0.0)
        carry = np.where(acts, advantages[t], carry)
        next_values = np.where(acts, values[t], next_values)
        pending = np.where(acts, 0.0, pending).astype(rewards.dtype)
        unknown &= ~acts
    return advantages, counted


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
