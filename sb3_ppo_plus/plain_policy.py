"""
SB3's actor-critic policies as functions of their parameters, for the compiled update.

``policy.evaluate_actions`` keeps distribution objects on the policy, and builds them with checks of their values, which
no compiler can follow. What is written here computes the same numbers from the policy's own modules: features
extractor, ``mlp_extractor``, ``action_net``, ``value_net`` and ``log_std``. Methods that users may have overridden are
looked at first; see :func:`why_not_plain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from torch.nn import functional as F

from sb3_ppo_plus.distributions import (
    BernoulliParams,
    CategoricalParams,
    DistributionParams,
    GaussianParams,
    HybridParams,
)
from sb3_ppo_plus.hybrid_policy import HybridDistribution
from sb3_ppo_plus.masking import mask_binary_logits, mask_logits
from sb3_ppo_plus.types import Observations, PolicyOutputs

# What evaluate_actions() is made of; whoever overrides one of these computes something else than this module.
_OWN_METHODS = ("evaluate_actions", "extract_features", "_get_action_dist_from_latent")
_OWN_DISTRIBUTIONS = (
    DiagGaussianDistribution,
    CategoricalDistribution,
    MultiCategoricalDistribution,
    BernoulliDistribution,
    StateDependentNoiseDistribution,
    HybridDistribution,
)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def why_not_plain(policy: ActorCriticPolicy, values_alone: bool = False) -> str | None:
    """
    Look whether a policy evaluates actions the way SB3's own does; its networks may be anything.

    :param policy: actor-critic policy
    :param values_alone: whether its values are also asked for without actions
    :return: what is different, None when nothing is
    """
    for name in (*_OWN_METHODS, *(["predict_values"] if values_alone else [])):
        if getattr(type(policy), name) is not getattr(ActorCriticPolicy, name):
            return f"{type(policy).__name__} overrides {name}()"
    if type(policy.action_dist) not in _OWN_DISTRIBUTIONS:
        return f"{type(policy).__name__} has an action distribution of its own, {type(policy.action_dist).__name__}"
    return None


def has_image(space: spaces.Space) -> bool:
    """
    :param space: observation space
    :return: whether it is an image, or a Dict with an image in it
    """
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(is_image_space(entry) for entry in inner)


def make_preprocessor(space: spaces.Space, normalize_images: bool) -> Callable[[Any], Any]:
    """
    SB3's ``preprocess_obs`` for one space, with everything that depends on the space alone decided beforehand.

    :param space: observation space
    :param normalize_images: whether the policy divides images by 255
    :return: from observations as they are stored to what a features extractor takes
    """
    if isinstance(space, spaces.Dict):
        parts = {key: make_preprocessor(part, normalize_images) for key, part in space.spaces.items()}
        return lambda obs: {key: parts[key](value) for key, value in obs.items()}
    if isinstance(space, spaces.Discrete):
        n = int(space.n)
        return lambda obs: F.one_hot(obs.long(), num_classes=n).float()
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec]
        return lambda obs: th.cat(
            [F.one_hot(obs[:, i].long(), num_classes=n).float() for i, n in enumerate(sizes)], dim=-1
        )
    if isinstance(space, spaces.Box) and normalize_images and is_image_space(space):
        return lambda obs: obs.float() / 255.0
    return lambda obs: obs.float()


class PlainPolicy(th.nn.Module):
    """
    A policy as one module whose forward pass is all that a loss needs, to be called with other parameters in place.

    :param policy: policy for which :func:`why_not_plain` has nothing to say
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.preprocess = make_preprocessor(policy.observation_space, policy.normalize_images)
        self.read = _reader(policy)

    def forward(
        self, observations: Observations, actions: th.Tensor | None = None, masks: th.Tensor | None = None
    ) -> Any:
        """
        :param observations: observations as the buffer has them [B, O]
        :param actions: actions as they were sampled [B, A], [B] for Discrete; None asks for the values alone
        :param masks: True where an action was allowed, None for no masks [B, D]
        :return: values, log-probabilities, entropy [B] and the parameters of the distribution; or values [B]
        """
        if actions is None:
            return self.values(observations)
        policy = self.policy
        inputs = self.preprocess(observations)
        if policy.share_features_extractor:
            latent_pi, latent_vf = policy.mlp_extractor(policy.features_extractor(inputs))
        else:
            latent_pi = policy.mlp_extractor.forward_actor(policy.pi_features_extractor(inputs))
            latent_vf = policy.mlp_extractor.forward_critic(policy.vf_features_extractor(inputs))
        log_prob, entropy, distribution = self.read(policy, latent_pi, actions, masks)
        return PolicyOutputs(policy.value_net(latent_vf).flatten(), log_prob, entropy, distribution)

    def values(self, observations: Observations) -> th.Tensor:
        """
        :param observations: observations as the buffer has them [B, O]
        :return: value estimates [B]
        """
        policy = self.policy
        extractor = policy.features_extractor if policy.share_features_extractor else policy.vf_features_extractor
        latent_vf = policy.mlp_extractor.forward_critic(extractor(self.preprocess(observations)))
        return policy.value_net(latent_vf).flatten()


Reading = tuple[th.Tensor, th.Tensor | None, DistributionParams]


def _reader(
    policy: ActorCriticPolicy,
) -> Callable[[ActorCriticPolicy, th.Tensor, th.Tensor, th.Tensor | None], Reading]:
    """Choose by the kind of distribution how log-probabilities [B] and entropies [B] are computed."""
    distribution: Any = policy.action_dist
    if isinstance(distribution, HybridDistribution):
        return partial(_hybrid, distribution.branch_sizes)
    if isinstance(distribution, StateDependentNoiseDistribution):
        return _state_dependent
    if isinstance(distribution, DiagGaussianDistribution):
        return _gaussian
    if isinstance(distribution, BernoulliDistribution):
        return _bernoulli
    discrete = isinstance(distribution, CategoricalDistribution)
    sizes = (distribution.action_dim,) if discrete else distribution.action_dims
    return partial(_categorical, tuple(int(n) for n in sizes))


def _gaussian(policy: ActorCriticPolicy, latent: th.Tensor, actions: th.Tensor, masks: th.Tensor | None) -> Reading:
    mean = policy.action_net(latent)
    params = GaussianParams(mean, th.ones_like(mean) * policy.log_std.exp())
    return _normal_log_prob(params, actions).sum(dim=1), params.entropy().sum(dim=1), params


def _normal_log_prob(params: GaussianParams, actions: th.Tensor) -> th.Tensor:
    """log N(a; m, s) = -(a - m)^2 / (2 s^2) - log s - log(2 pi) / 2 of each action dimension [B, A]."""
    distance = (actions - params.mean).square() / (2.0 * params.std.square())
    return -distance - params.std.log() - _HALF_LOG_TWO_PI


def _state_dependent(
    policy: ActorCriticPolicy, latent: th.Tensor, actions: th.Tensor, masks: th.Tensor | None
) -> Reading:
    """gSDE: the deviation depends on the state (Raffin et al. 2020), and actions may be squashed by tanh."""
    own: Any = policy.action_dist
    features = latent if own.learn_features else latent.detach()
    variance = features.square() @ own.get_std(policy.log_std).square()
    params = GaussianParams(policy.action_net(latent), (variance + own.epsilon).sqrt())
    if own.bijector is None:
        return _normal_log_prob(params, actions).sum(dim=1), params.entropy().sum(dim=1), params
    unsquashed = own.bijector.inverse(actions)
    correction = (1.0 - unsquashed.tanh().square() + own.bijector.epsilon).log()
    return (_normal_log_prob(params, unsquashed) - correction).sum(dim=1), None, params


def _categorical(
    sizes: tuple[int, ...],
    policy: ActorCriticPolicy,
    latent: th.Tensor,
    actions: th.Tensor,
    masks: th.Tensor | None,
) -> Reading:
    return _choices(sizes, policy.action_net(latent), actions, masks)


def _choices(sizes: tuple[int, ...], logits: th.Tensor, actions: th.Tensor, masks: th.Tensor | None) -> Reading:
    if masks is not None:
        logits = mask_logits(logits, masks)
    params = CategoricalParams(logits, sizes)
    chosen = actions.long().reshape(len(logits), len(sizes))
    parts = params.log_probs()
    picked = [log_p.gather(1, chosen[:, i : i + 1]) for i, log_p in enumerate(parts)]
    normalized = CategoricalParams(th.cat(parts, dim=-1), sizes)
    return th.cat(picked, dim=-1).sum(dim=1), params.entropy().sum(dim=1), normalized


def _hybrid(
    sizes: tuple[int, ...],
    policy: ActorCriticPolicy,
    latent: th.Tensor,
    actions: th.Tensor,
    masks: th.Tensor | None,
) -> Reading:
    n = policy.log_std.numel()
    outputs = policy.action_net(latent)
    mean = outputs[:, :n]
    gaussian = GaussianParams(mean, th.ones_like(mean) * policy.log_std.exp())
    log_prob = _normal_log_prob(gaussian, actions[:, :n]).sum(dim=1)
    choice_log_prob, choice_entropy, choices = _choices(sizes, outputs[:, n:], actions[:, n:], masks)
    assert choice_entropy is not None and isinstance(choices, CategoricalParams)
    entropy = gaussian.entropy().sum(dim=1) + choice_entropy
    return log_prob + choice_log_prob, entropy, HybridParams(*gaussian, *choices)


def _bernoulli(policy: ActorCriticPolicy, latent: th.Tensor, actions: th.Tensor, masks: th.Tensor | None) -> Reading:
    logits = policy.action_net(latent)
    params = BernoulliParams(logits if masks is None else mask_binary_logits(logits, masks))
    log_prob = -F.binary_cross_entropy_with_logits(params.logits, actions, reduction="none")
    return log_prob.sum(dim=1), params.entropy().sum(dim=1), params
