"""
Parameters of action distributions, and the closed forms that PPO needs of them: KL divergence and entropy.

They are plain records of tensors, so that old ones can be stored per row, gathered by index and differentiated through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch.nn import functional as F


class GaussianParams(NamedTuple):
    """
    Independent Gaussians; for squashed policies those before the squashing, which is a bijection and leaves the KL as
    it is.

    :param mean: means [B, A]
    :param std: standard deviations, > 0 [B, A]
    """

    mean: th.Tensor
    std: th.Tensor

    def kl(self, other: GaussianParams) -> th.Tensor:
        """
        KL(self, other) = sum_a log(s2/s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2.

        :param other: distribution of the same shape
        :return: divergence of each row, >= 0 [B]
        """
        variance_ratio = (self.std / other.std).square()
        distance = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (variance_ratio + distance - 1.0 - variance_ratio.log()).sum(dim=-1)

    def entropy(self) -> th.Tensor:
        """:return: 1/2 log(2 pi e s^2) of each action dimension [B, A]"""
        return 0.5 + 0.5 * math.log(2.0 * math.pi) + self.std.log()


class CategoricalParams(NamedTuple):
    """
    One or several independent categorical distributions, side by side.

    :param logits: logits, normalized or not [B, sum(sizes)]
    :param sizes: number of categories of each action dimension [A]
    """

    logits: th.Tensor
    sizes: tuple[int, ...]

    def log_probs(self) -> tuple[th.Tensor, ...]:
        """:return: log-probabilities, one tensor an action dimension, each [B, size]"""
        return tuple(F.log_softmax(part, dim=-1) for part in th.split(self.logits, list(self.sizes), dim=-1))

    def kl(self, other: CategoricalParams) -> th.Tensor:
        """
        KL(self, other) = sum_a sum_i p_i (log p_i - log q_i).

        :param other: distribution of the same sizes
        :return: divergence of each row, >= 0 [B]
        """
        parts = [
            # an impossible category (a masked action) adds nothing; 0 * (-inf + inf) would be NaN
            (log_p.exp() * th.where(log_p.isneginf(), 0.0, log_p - log_q)).sum(dim=-1)
            for log_p, log_q in zip(self.log_probs(), other.log_probs(), strict=True)
        ]
        return th.stack(parts, dim=-1).sum(dim=-1)

    def entropy(self) -> th.Tensor:
        """:return: -sum_i p_i log p_i of each action dimension [B, A]"""
        parts = [-(log_p.exp() * th.where(log_p.isneginf(), 0.0, log_p)).sum(dim=-1) for log_p in self.log_probs()]
        return th.stack(parts, dim=-1)


class BernoulliParams(NamedTuple):
    """
    Independent binary actions.

    :param logits: log-odds of 1 [B, A]
    """

    logits: th.Tensor

    def kl(self, other: BernoulliParams) -> th.Tensor:
        """
        KL(self, other) = sum_a p log(p/q) + (1 - p) log((1 - p)/(1 - q)).

        :param other: distribution of the same shape
        :return: divergence of each row, >= 0 [B]
        """
        p = self.logits.sigmoid()
        positive = p * (F.logsigmoid(self.logits) - F.logsigmoid(other.logits))
        negative = (1.0 - p) * (F.logsigmoid(-self.logits) - F.logsigmoid(-other.logits))
        return (positive + negative).sum(dim=-1)

    def entropy(self) -> th.Tensor:
        """:return: entropy of each action dimension [B, A]"""
        p = self.logits.sigmoid()
        return -(p * F.logsigmoid(self.logits) + (1.0 - p) * F.logsigmoid(-self.logits))


class HybridParams(NamedTuple):
    """
    Gaussians and categorical distributions side by side, all independent.

    :param mean: means [B, n]
    :param std: standard deviations, > 0 [B, n]
    :param logits: logits of the choices [B, sum(sizes)]
    :param sizes: number of categories of each choice [b]
    """

    mean: th.Tensor
    std: th.Tensor
    logits: th.Tensor
    sizes: tuple[int, ...]

    @property
    def parts(self) -> tuple[GaussianParams, CategoricalParams]:
        """:return: the continuous actions, and the choices"""
        return GaussianParams(self.mean, self.std), CategoricalParams(self.logits, self.sizes)

    def kl(self, other: HybridParams) -> th.Tensor:
        """
        KL(self, other), the sum of both parts'.

        :param other: distribution of the same shape
        :return: divergence of each row, >= 0 [B]
        """
        (gaussian, choices), (other_gaussian, other_choices) = self.parts, other.parts
        return gaussian.kl(other_gaussian) + choices.kl(other_choices)

    def entropy(self) -> th.Tensor:
        """:return: entropy of each action dimension [B, n + b]"""
        return th.cat([part.entropy() for part in self.parts], dim=-1)


DistributionParams = GaussianParams | CategoricalParams | BernoulliParams | HybridParams


def exact_kl(p: DistributionParams, q: DistributionParams) -> th.Tensor:
    """
    KL(p, q) of two distributions of one kind.

    :param p: the distribution that the expectation is over
    :param q: the other one
    :return: divergence of each row, >= 0 [B]
    """
    if isinstance(p, GaussianParams) and isinstance(q, GaussianParams):
        return p.kl(q)
    if isinstance(p, CategoricalParams) and isinstance(q, CategoricalParams):
        return p.kl(q)
    if isinstance(p, BernoulliParams) and isinstance(q, BernoulliParams):
        return p.kl(q)
    if isinstance(p, HybridParams) and isinstance(q, HybridParams):
        return p.kl(q)
    raise TypeError(f"KL needs two distributions of one kind, got {type(p).__name__} and {type(q).__name__}")


def take_rows(params: DistributionParams, rows: th.Tensor) -> DistributionParams:
    """
    Gather the rows of a minibatch.

    :param params: distribution of many rows
    :param rows: row indices [B]
    :return: distribution of those rows
    """
    record: Any = params
    taken: DistributionParams = record._make(x[rows] if isinstance(x, th.Tensor) else x for x in record)
    return taken


def concatenate(chunks: Sequence[DistributionParams]) -> DistributionParams | None:
    """
    Join distributions that were computed in pieces.

    :param chunks: distributions of one kind
    :return: distribution of all their rows in order, None when there is no chunk
    """
    if not chunks:
        return None
    first: Any = chunks[0]
    fields = zip(*chunks, strict=True)
    joined: DistributionParams = first._make(
        th.cat(field) if isinstance(field[0], th.Tensor) else field[0] for field in fields
    )
    return joined
