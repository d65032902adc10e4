"""Policies for hybrid actions: a Gaussian beside categorical distributions, from one layer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, MultiCategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_ppo_plus.envs.hybrid import HybridSpace

if TYPE_CHECKING:
    _Base = ActorCriticPolicy
else:
    _Base = object


class HybridDistribution(DiagGaussianDistribution):
    """
    Independent continuous actions and choices; log-probabilities and entropies are sums over both.

    It is a Gaussian distribution to SB3's policies, which make its layer and its deviations as they make a Gaussian's.

    :param n_continuous: number of continuous actions (n)
    :param branch_sizes: number of choices of each branch [b]
    """

    def __init__(self, n_continuous: int, branch_sizes: tuple[int, ...]) -> None:
        super().__init__(n_continuous)
        self.branch_sizes = branch_sizes
        self.choices = MultiCategoricalDistribution(list(branch_sizes))

    def proba_distribution_net(self, latent_dim: int, log_std_init: float = 0.0) -> tuple[nn.Module, nn.Parameter]:
        """
        :param latent_dim: width of the last hidden layer
        :param log_std_init: initial log standard deviation of the continuous actions
        :return: layer that gives means and logits [n + sum(branches)], and log standard deviations [n]
        """
        layer = nn.Linear(latent_dim, self.action_dim + sum(self.branch_sizes))
        return layer, nn.Parameter(th.ones(self.action_dim) * log_std_init, requires_grad=True)

    def proba_distribution(self, mean_actions: th.Tensor, log_std: th.Tensor) -> HybridDistribution:
        """
        :param mean_actions: means and logits [B, n + sum(branches)]
        :param log_std: log standard deviations [n]
        :return: itself
        """
        n = self.action_dim
        super().proba_distribution(mean_actions[:, :n], log_std)
        self.choices.proba_distribution(mean_actions[:, n:])
        return self

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: continuous actions and choices [B, n + b]
        :return: log-probability of each row [B]
        """
        n = self.action_dim
        return super().log_prob(actions[:, :n]) + self.choices.log_prob(actions[:, n:].long())

    def entropy(self) -> th.Tensor:
        """:return: entropy of each row [B]"""
        gaussian = super().entropy()
        assert gaussian is not None
        return gaussian + self.choices.entropy()

    def sample(self) -> th.Tensor:
        """:return: a draw for each row [B, n + b]"""
        return th.cat([super().sample(), self.choices.sample().float()], dim=1)

    def mode(self) -> th.Tensor:
        """:return: the means and the most likely choices [B, n + b]"""
        return th.cat([super().mode(), self.choices.mode().float()], dim=1)


class _HybridMixin(_Base):
    """Mixed into a policy class by :func:`with_hybrid_actions`."""

    def _build(self, lr_schedule: Schedule) -> None:
        space: Any = self.action_space
        self.action_dist = HybridDistribution(space.n_continuous, space.branch_sizes)
        super()._build(lr_schedule)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # the class was made at run time: pickle finds the user's class, which is imported, and makes it again
        made_from: Any = type(self).__mro__[2]
        if with_hybrid_actions(made_from) is type(self):
            return _unpickled, (made_from,), self.__dict__
        return super().__reduce_ex__(protocol)


@cache
def with_hybrid_actions(policy_class: type[ActorCriticPolicy]) -> type[ActorCriticPolicy]:
    """
    A policy class that takes a :class:`~sb3_ppo_plus.envs.hybrid.HybridSpace`; everything else is inherited.

    :param policy_class: SB3's policy or a user's own
    :return: subclass of it
    """
    if issubclass(policy_class, _HybridMixin):
        return policy_class
    return type(policy_class.__name__, (_HybridMixin, policy_class), {"__module__": __name__})


def _unpickled(policy_class: type[ActorCriticPolicy]) -> ActorCriticPolicy:
    hybrid_class = with_hybrid_actions(policy_class)
    return hybrid_class.__new__(hybrid_class)


def policy_class_for(policy_class: Any, action_space: Any) -> Any:
    """
    :param policy_class: the policy that was asked for
    :param action_space: what it shall act in
    :return: the class that can
    """
    return with_hybrid_actions(policy_class) if isinstance(action_space, HybridSpace) else policy_class
