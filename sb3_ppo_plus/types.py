"""
Named records that travel along the data's way; nothing here computes.

Letters, fixed in the whole package: T steps of a rollout, N environments, B rows of a minibatch, A action dimensions,
O observation dimensions. Shapes stand in brackets at the end of a description.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_ppo_plus.distributions import DistributionParams
from sb3_ppo_plus.losses import Number

Observations = th.Tensor | dict[str, th.Tensor]


class TensorStep(NamedTuple):
    """
    What a vectorized environment answers to one action per environment, all of it on the environment's device.

    An environment that ended is already reset: ``obs`` is the first observation of its next episode and ``final_obs``
    the last one of the old. Both flags may be set together; ``terminated`` then decides, nothing is bootstrapped.

    :param obs: observations to act on next [N, O], or a mapping of such tensors
    :param rewards: rewards of the step, float32 [N]
    :param terminated: True where the episode ended by the task's own rule [N]
    :param truncated: True where it was cut off, by a time limit for example [N]
    :param final_obs: observations before any reset, full size: equal to ``obs`` where nothing ended [N, O]
    :param stats: figures of the step by name: reward terms, positions, ``episode_return`` and ``episode_length`` so
        far; of the old episode where one ended [N] or [N, ...]
    """

    obs: Observations
    rewards: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    final_obs: Observations
    stats: dict[str, th.Tensor]


class ArrayStep(NamedTuple):
    """
    A :class:`TensorStep` on the host, in NumPy's arrays: what SB3's face of an environment is made of.

    :param obs: observations to act on next, the receiver's own [N, O], or a mapping of such arrays
    :param rewards: rewards, float32, the receiver's own [N]
    :param terminated: True where the episode ended by the task's own rule [N]
    :param truncated: True where it was cut off [N]
    :param final_obs: observations before any reset, full size [N, O]
    :param stats: figures of the step by name [N] or [N, ...]
    """

    obs: Any
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_obs: Any
    stats: dict[str, np.ndarray]


class PolicyOutputs(NamedTuple):
    """
    What the current policy says about a minibatch.

    :param values: value estimates [B]
    :param log_prob: log-probability of the stored actions [B]
    :param entropy: entropy of the action distribution, None where it has no closed form [B]
    :param distribution: parameters of the action distribution (before squashing), None where they are unknown
    """

    values: th.Tensor
    log_prob: th.Tensor
    entropy: th.Tensor | None
    distribution: DistributionParams | None


class Minibatch(NamedTuple):
    """
    Rows of a rollout, shuffled, as the losses take them.

    :param observations: observations [B, O] or a mapping of such tensors
    :param actions: actions as they were sampled, before clipping to the action space [B, A], [B] for Discrete
    :param old_values: value estimates at collection [B]
    :param old_log_prob: log-probability of the actions at collection [B]
    :param advantages: advantage estimates [B]
    :param returns: targets of the critic [B]
    :param mask: True where the row counts; None when all do [B]
    :param old_distribution: parameters of the action distribution at collection, None when nothing needs them
    :param reference_distribution: the same of the frozen reference policy
    :param reference_log_prob: log-probability of the actions under the reference policy [B]
    :param action_masks: True where an action was allowed, None where all were [B, D]
    """

    observations: Observations
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    mask: th.Tensor | None = None
    old_distribution: DistributionParams | None = None
    reference_distribution: DistributionParams | None = None
    reference_log_prob: th.Tensor | None = None
    action_masks: th.Tensor | None = None


class LossOptions(NamedTuple):
    """
    The shape of the loss: fixed during a run. Numbers that may move are in :class:`Coefficients`.

    :param vf_loss: form of the value loss: sb3, max, huber or error_cap
    :param huber_delta: error beyond which the Huber loss grows linearly, in units of return
    :param vf_error_cap: largest squared error that counts, in squared units of return
    :param dual_clip: bound c > 1 on the surrogate of negative advantages, None for none
    :param standardize_advantages: whether each minibatch standardizes its advantages (SB3)
    :param penalize_kl: whether KL(old, new) is part of the loss
    :param penalize_reference_kl: whether KL(new, reference) is part of the loss
    """

    vf_loss: str = "sb3"
    huber_delta: float = 1.0
    vf_error_cap: float = 10.0
    dual_clip: float | None = None
    standardize_advantages: bool = True
    penalize_kl: bool = False
    penalize_reference_kl: bool = False


class Coefficients(NamedTuple):
    """
    The numbers of one update that schedules and controllers move; scalar tensors inside a compiled step.

    :param clip_low: the ratio is clipped below 1 - clip_low; inf for no clipping
    :param clip_high: the ratio is clipped above 1 + clip_high; inf for no clipping
    :param clip_range_vf: largest change of a value prediction, None for no clipping, in units of return
    :param ent_coef: weight of the entropy bonus
    :param vf_coef: weight of the value loss
    :param kl_coef: weight of KL(old, new)
    :param reference_kl_coef: weight of KL(new, reference)
    """

    clip_low: Number
    clip_high: Number
    clip_range_vf: Number | None
    ent_coef: Number
    vf_coef: Number
    kl_coef: Number = 0.0
    reference_kl_coef: Number = 0.0


class LossTerms(NamedTuple):
    """
    What a minibatch's loss was made of; scalars, still part of the graph where they have a gradient.

    :param loss: what is differentiated
    :param policy_loss: minus the mean clipped surrogate
    :param value_loss: mean value loss, unweighted
    :param entropy_loss: minus the mean entropy
    :param approx_kl: k3 estimate of KL(old, new)
    :param clip_fraction: share of rows whose ratio lies outside the clip range
    :param kl: KL(old, new), exact where the distribution is known; None unless it was asked for
    :param reference_kl: KL(new, reference), None unless it was asked for
    :param ratio: probability ratio of each row, 1 where the row does not count [B]
    """

    loss: th.Tensor
    policy_loss: th.Tensor
    value_loss: th.Tensor
    entropy_loss: th.Tensor
    approx_kl: th.Tensor
    clip_fraction: th.Tensor
    kl: th.Tensor | None
    reference_kl: th.Tensor | None
    ratio: th.Tensor
