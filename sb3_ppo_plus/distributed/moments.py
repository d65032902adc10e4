"""Mean and deviation of numbers that lie on several ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch as th

from sb3_ppo_plus.distributed.ranks import Ranks


class Moments(NamedTuple):
    """
    Number, mean and sum of squared distances from the mean, float64.

    :param n: how many numbers count [...]
    :param mean: their mean, 0 when there are none [...]
    :param squares: sum of (x - mean)^2 [...]
    """

    n: th.Tensor
    mean: th.Tensor
    squares: th.Tensor

    def std(self) -> th.Tensor:
        """:return: unbiased deviation [...]"""
        return (self.squares / (self.n - 1).clamp(min=1)).sqrt()


def moments_of(x: th.Tensor, mask: th.Tensor | None = None) -> Moments:
    """
    :param x: numbers [B]
    :param mask: True where the row counts; None when all do [B]
    :return: their moments, on the same device
    """
    x = x.double()
    if mask is None:
        count, mean = x.new_tensor(float(len(x))), x.mean()
        return Moments(count, mean, (x - mean).square().sum())
    zero = x.new_zeros(())
    count = mask.sum().double()
    mean = th.where(mask, x, zero).sum() / count.clamp(min=1)
    return Moments(count, mean, th.where(mask, x - mean, zero).square().sum())


def over_all(ranks: Ranks, own: list[Moments]) -> list[Moments]:
    """
    sum_r n_r m_r / n,  sum_r (s_r + n_r (m_r - m)^2): Chan, Golub and LeVeque 1979.

    :param ranks: the processes
    :param own: moments of this rank's share, as many on all ranks
    :return: moments of all ranks' shares together
    """
    parts = ranks.gather(th.stack([th.stack(moments) for moments in own]))
    counts, means, squares = parts.unbind(-1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total.clamp(min=1)
    spread = (squares + counts * (means - mean).square()).sum(0)
    return [Moments(*each) for each in zip(total, mean, spread, strict=True)]


def standardize_by(x: th.Tensor, mask: th.Tensor | None, moments: Moments) -> th.Tensor:
    """
    (x - mean) / (std + 1e-8), the rule of :func:`sb3_ppo_plus.advantages.standardize` with moments from elsewhere.

    :param x: numbers, typically advantages [B]
    :param mask: True where the row counts; the others come back as 0 [B]
    :param moments: of the rows that count, on all ranks; with fewer than two of them the numbers come back as they are
    :return: standardized numbers [B]
    """
    standardized = (x - moments.mean.to(x)) / (moments.std().to(x) + 1e-8)
    kept = th.where(moments.n.to(x.device) > 1, standardized, x)
    return kept if mask is None else th.where(mask, kept, x.new_zeros(()))
