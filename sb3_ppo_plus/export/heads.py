"""From the last layer of an actor to actions: mode, logits and samples of each of SB3's distributions, as modules."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategoricalDistribution,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
)
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.hybrid_policy import HybridDistribution
from sb3_ppo_plus.masking import mask_sizes

# What sb3-contrib writes into the logits of forbidden actions.
FORBIDDEN = -1e8


@dataclass
class Actions:
    """
    What a head gives.

    :param mode: most likely action, as the environment takes it [B, ...]
    :param sample: action drawn from the policy, as the environment takes it [B, ...]; None unless asked for
    :param logits: of discrete choices side by side, masks applied [B, L]; None for continuous actions
    :param parts: of hybrid actions, the continuous ones and the choices by themselves
    """

    mode: th.Tensor
    sample: th.Tensor | None
    logits: th.Tensor | None
    parts: tuple[Actions, Actions] | None = None


class Gaussian(th.nn.Module):
    """
    Box actions: the mean, or a draw around it, then clipped to the bounds, or squashed and scaled to them.

    gSDE draws from the distribution that it has in each single step; that its noise stays the same for
    ``sde_sample_freq`` steps is a matter of exploration and not part of the file.

    :param policy: policy with a Gaussian distribution
    """

    spread: th.Tensor
    low: th.Tensor
    high: th.Tensor
    half_range: th.Tensor

    def __init__(self, policy: Any) -> None:
        super().__init__()
        space = policy.action_space
        self.shape = tuple(space.shape)
        self.squash = bool(policy.squash_output)
        distribution = policy.action_dist
        self.sde = isinstance(distribution, StateDependentNoiseDistribution)
        self.tanh = self.sde and distribution.bijector is not None
        self.epsilon = float(distribution.epsilon) if self.sde else 0.0
        with th.no_grad():
            std = distribution.get_std(policy.log_std).square() if self.sde else policy.log_std.exp()
        self.register_buffer("spread", std.detach().clone())
        low, high = (np.asarray(bound, np.float64).reshape(1, -1) for bound in (space.low, space.high))
        self.register_buffer("low", th.from_numpy(low.astype(np.float32)))
        self.register_buffer("half_range", th.from_numpy((0.5 * (high - low)).astype(np.float32)))
        # One bound for all dimensions becomes one Clip, which every runtime has.
        same = bool((low == low[0, 0]).all() and (high == high[0, 0]).all())
        self.one_bound = (float(low[0, 0]), float(high[0, 0])) if same else None
        self.register_buffer("high", th.from_numpy(high.astype(np.float32)))

    def forward(self, out: th.Tensor, latent: th.Tensor, masks: th.Tensor | None, sample: bool) -> Actions:
        """
        :param out: output of ``action_net``, the mean [B, A]
        :param latent: what ``action_net`` got [B, L]
        :param masks: None
        :param sample: whether a drawn action is wanted
        :return: actions
        """
        drawn = None
        if sample:
            # gSDE: variance = latent^2 @ std^2 + epsilon (Raffin et al. 2020)
            std = (latent.square() @ self.spread + self.epsilon).sqrt() if self.sde else self.spread
            drawn = self._command(out + std * th.randn_like(out))
        return Actions(self._command(out), drawn, None)

    def _command(self, actions: th.Tensor) -> th.Tensor:
        if self.tanh:
            actions = actions.tanh()
        if self.squash:
            actions = self.low + (actions + 1.0) * self.half_range
        elif self.one_bound is None:
            actions = th.min(th.max(actions, self.low), self.high)
        else:
            actions = actions.clamp(*self.one_bound)
        return actions if len(self.shape) == 1 else actions.reshape(-1, *self.shape)


class Categorical(th.nn.Module):
    """
    Discrete and MultiDiscrete actions, with or without masks: indices.

    :param sizes: number of choices of each action
    :param single: whether the action is one index [B] and no vector of them [B, K]
    :param shape: shape of one action, for MultiDiscrete and MultiBinary
    """

    def __init__(self, sizes: tuple[int, ...], single: bool, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes, self.single, self.shape = sizes, single, shape

    def forward(self, out: th.Tensor, latent: th.Tensor, masks: th.Tensor | None, sample: bool) -> Actions:
        """
        :param out: output of ``action_net``, the logits side by side [B, L]
        :param latent: not used
        :param masks: 1 for allowed, 0 for forbidden; None where the policy has none [B, L]
        :param sample: whether drawn actions are wanted
        :return: actions
        """
        # Multiplied out, and no Where, because the oldest runtime of Unity has none.
        logits = out if masks is None else out * masks + FORBIDDEN * (1.0 - masks)
        parts = th.split(logits, list(self.sizes), dim=1) if len(self.sizes) > 1 else [logits]
        mode = [part.argmax(dim=1, keepdim=True) for part in parts]
        drawn = [th.multinomial(part.softmax(dim=1), 1) for part in parts] if sample else None
        return Actions(self._join(mode), self._join(drawn) if drawn else None, logits)

    def _join(self, parts: list[th.Tensor]) -> th.Tensor:
        if self.single:
            return parts[0].flatten()
        joined = th.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return joined if len(self.shape) == 1 else joined.reshape(-1, *self.shape)


class Bernoulli(th.nn.Module):
    """
    MultiBinary actions: 0 or 1 each.

    :param shape: shape of one action
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, out: th.Tensor, latent: th.Tensor, masks: th.Tensor | None, sample: bool) -> Actions:
        """
        :param out: output of ``action_net``, the logits [B, L]
        :param latent: not used
        :param masks: whether 0 and 1 are allowed, in pairs; None where the policy has no masks [B, 2 L]
        :param sample: whether drawn actions are wanted
        :return: actions
        """
        if masks is not None:
            zero, one = masks.reshape(-1, out.shape[1], 2).unbind(2)
            out = out * zero * one + FORBIDDEN * (1.0 - one) - FORBIDDEN * (1.0 - zero)
        mode = (out > 0.0).long()
        drawn = (th.rand_like(out) < out.sigmoid()).long() if sample else None
        if len(self.shape) != 1:
            mode = mode.reshape(-1, *self.shape)
            drawn = None if drawn is None else drawn.reshape(-1, *self.shape)
        return Actions(mode, drawn, out)


class Hybrid(th.nn.Module):
    """
    Continuous actions and choices, one after the other in one vector of float32.

    :param policy: policy with a hybrid distribution
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        space = policy.action_space
        part = SimpleNamespace(
            action_space=space.continuous,
            squash_output=False,
            action_dist=policy.action_dist,
            log_std=policy.log_std,
        )
        self.gaussian = Gaussian(part)
        self.choices = Categorical(space.branch_sizes, False, (len(space.branch_sizes),))
        self.sizes = [space.n_continuous, sum(space.branch_sizes)]

    def forward(self, out: th.Tensor, latent: th.Tensor, masks: th.Tensor | None, sample: bool) -> Actions:
        """
        :param out: output of ``action_net``, means and logits [B, n + L]
        :param latent: what ``action_net`` got [B, H]
        :param masks: 1 for allowed, 0 for forbidden choices; None where the policy has none [B, L]
        :param sample: whether drawn actions are wanted
        :return: actions
        """
        mean, logits = th.split(out, self.sizes, dim=1)
        parts = self.gaussian(mean, latent, None, sample), self.choices(logits, latent, masks, sample)
        mode = th.cat([parts[0].mode, parts[1].mode.to(out.dtype)], dim=1)
        drawn = th.cat([parts[0].sample, parts[1].sample.to(out.dtype)], dim=1) if sample else None
        return Actions(mode, drawn, parts[1].logits, parts)


def make_head(policy: Any) -> th.nn.Module:
    """
    :param policy: policy of SB3 or sb3-contrib
    :return: the head for its distribution
    :raises InvalidArgument: for a distribution of somebody's own
    """
    space, kind = policy.action_space, type(policy.action_dist)
    shape = tuple(space.shape or ())
    if kind in (DiagGaussianDistribution, StateDependentNoiseDistribution) and isinstance(space, spaces.Box):
        return Gaussian(policy)
    if kind is HybridDistribution:
        return Hybrid(policy)
    if kind in (CategoricalDistribution, MaskableCategoricalDistribution):
        return Categorical((int(space.n),), True, ())
    if kind in (MultiCategoricalDistribution, MaskableMultiCategoricalDistribution, MaskableBernoulliDistribution):
        return Categorical(branch_sizes(space), False, shape)
    if kind is BernoulliDistribution:
        return Bernoulli(shape)
    raise InvalidArgument(
        f"{kind.__name__} over {space} is a distribution that the exporter does not know; it knows SB3's and "
        "sb3-contrib's for Box, Discrete, MultiDiscrete and MultiBinary actions"
    )


def branch_sizes(space: spaces.Space) -> tuple[int, ...]:
    """
    :param space: Discrete, MultiDiscrete, MultiBinary or hybrid actions
    :return: number of choices of each; two for each bit
    """
    sizes = mask_sizes(space)
    assert sizes is not None, f"{space} has no choices"
    return sizes


def takes_masks(model: Any) -> bool:
    """
    :param model: model of PPOPlus, SB3 or sb3-contrib
    :return: whether it was trained with masks
    """
    return isinstance(model.policy.action_dist, MaskableDistribution) or getattr(model, "takes_masks", False)
