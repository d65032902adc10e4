"""Asking an SB3 actor-critic policy for what the losses need, whatever its class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.buffers import RowsMixin, observations_at
from sb3_ppo_plus.distributions import (
    BernoulliParams,
    CategoricalParams,
    DistributionParams,
    GaussianParams,
    HybridParams,
    concatenate,
)
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.hybrid_policy import HybridDistribution
from sb3_ppo_plus.masking import masked
from sb3_ppo_plus.types import Minibatch, PolicyOutputs

# Rows of one forward pass over a whole rollout: bounds the memory of image observations.
_CHUNK = 4096


def distribution_params(distribution: Distribution) -> DistributionParams | None:
    """
    Read the parameters off an SB3 action distribution.

    :param distribution: distribution whose ``proba_distribution`` was called
    :return: its parameters [B, ...], before squashing; None for a class that is not SB3's, whose KL must be estimated
    """
    if isinstance(distribution, HybridDistribution):
        mean, std = distribution.distribution.mean, distribution.distribution.stddev
        choices = distribution_params(distribution.choices)
        assert isinstance(choices, CategoricalParams)
        return HybridParams(mean, std, *choices)
    if isinstance(distribution, (DiagGaussianDistribution, StateDependentNoiseDistribution)):
        return GaussianParams(distribution.distribution.mean, distribution.distribution.stddev)
    if isinstance(distribution, CategoricalDistribution):
        logits = distribution.distribution.logits
        return CategoricalParams(logits, (logits.shape[-1],))
    if isinstance(distribution, MultiCategoricalDistribution):
        parts = [part.logits for part in distribution.distribution]
        return CategoricalParams(th.cat(parts, dim=-1), tuple(part.shape[-1] for part in parts))
    if isinstance(distribution, BernoulliDistribution):
        return BernoulliParams(distribution.distribution.logits)
    return None


def evaluate(policy: ActorCriticPolicy, batch: Minibatch, with_distribution: bool) -> PolicyOutputs:
    """
    Evaluate the current policy on a minibatch, through its own ``evaluate_actions``, which users may have overridden.

    :param policy: actor-critic policy
    :param batch: minibatch
    :param with_distribution: whether the parameters of the action distribution are wanted
    :return: values, log-probabilities, entropy [B], and the parameters if wanted and known
    """
    with masked(policy, batch.action_masks):
        before = getattr(policy.action_dist, "distribution", None)
        values, log_prob, entropy = policy.evaluate_actions(batch.observations, batch.actions)
        # SB3's evaluate_actions leaves the distribution that it evaluated on the policy. One that was overridden may
        # not: then the old one is still there, and the KL must be estimated.
        evaluated = with_distribution and getattr(policy.action_dist, "distribution", None) is not before
        distribution = distribution_params(policy.action_dist) if evaluated else None
    return PolicyOutputs(values.flatten(), log_prob, entropy, distribution)


@contextmanager
def as_collected(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Evaluate as the rollout did: without gradient, dropout and batch statistics off.

    :param policy: policy; its training mode is put back at the end
    """
    training = policy.training
    policy.set_training_mode(False)
    try:
        with th.no_grad():
            yield
    finally:
        policy.set_training_mode(training)


def action_distributions(
    policy: ActorCriticPolicy, buffer: RolloutBuffer, rows: np.ndarray
) -> tuple[DistributionParams | None, th.Tensor]:
    """
    Action distributions of many rows, in bounded pieces.

    :param policy: policy to ask, the current one or a reference
    :param buffer: flattened rollout buffer
    :param rows: row indices [B]
    :return: parameters (None where they are unknown) and log-probabilities of the stored actions [B]
    """
    chunks, log_probs = [], []
    masks = buffer.flat_masks() if isinstance(buffer, RowsMixin) else None
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        with as_collected(policy), masked(policy, None if masks is None else masks[chunk]):
            observations, actions = observations_at(buffer, chunk)
            distribution = policy.get_distribution(observations)
            log_probs.append(distribution.log_prob(actions))
            chunks.append(distribution_params(distribution))
    known = [chunk for chunk in chunks if chunk is not None]
    return concatenate(known), th.cat(log_probs)


def predicted_values(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> np.ndarray:
    """
    The current critic's value of every row, in bounded pieces.

    :param policy: policy to ask
    :param buffer: flattened rollout buffer
    :return: values in the buffer's flat order [N * T]
    """
    n_rows = buffer.buffer_size * buffer.n_envs

    def piece(start: int) -> th.Tensor:
        rows = np.arange(start, min(start + _CHUNK, n_rows))
        return policy.predict_values(observations_at(buffer, rows)[0]).flatten()

    with as_collected(policy):
        return th.cat([piece(start) for start in range(0, n_rows, _CHUNK)]).cpu().numpy()


def critic_parameters(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    """
    Parameters that only the critic uses, found by module and not by a substring of their names.

    :param policy: actor-critic policy with SB3's modules
    :return: parameters; those shared with the actor are left out
    :raises InvalidArgument: for a policy whose critic has no modules of its own
    """
    if not hasattr(policy.mlp_extractor, "value_net"):
        raise InvalidArgument(
            "critic_learning_rate and critic_epochs need to tell the critic's parameters apart, but the mlp_extractor "
            f"of {type(policy).__name__} has no value_net; drop the argument or name the critic's network so"
        )
    modules: list[th.nn.Module] = [policy.value_net, policy.mlp_extractor.value_net]
    if not policy.share_features_extractor:
        modules.append(policy.vf_features_extractor)
    return [parameter for module in modules for parameter in module.parameters()]
