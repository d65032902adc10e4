"""The passes of an update in which every gradient step is one of all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch as th

from sb3_ppo_plus import update
from sb3_ppo_plus.distributed.moments import moments_of, over_all, standardize_by
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.eager import EagerUpdate, UpdateRun
from sb3_ppo_plus.gathering import why_not_gathered
from sb3_ppo_plus.policies import evaluate
from sb3_ppo_plus.types import LossTerms, Minibatch

#: scalars of a minibatch that are means over its rows
MEANS = ("loss", "policy_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "kl", "reference_kl")


class RankedUpdate(EagerUpdate):
    """
    SB3's update, where a minibatch is made of one minibatch of each rank.

    A gradient step takes one all-reduce: the gradient, weighed by the rows that count here, and beside it the means
    that are measured, so that everything that is decided from them is decided alike on all ranks. Where each minibatch
    standardizes its advantages, their moments are exchanged once for many minibatches.

    :param ranks: the processes
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__(final=True)
        self.ranks = ranks

    def minibatches(self, run: UpdateRun) -> Iterator[Minibatch]:
        """
        :param run: what the update works with
        :return: the minibatches of an epoch, their advantages standardized where the loss would do it
        """
        batches = run.data.minibatches(run.batch_size)
        if not run.options.standardize_advantages:
            yield from batches
        elif why_not_gathered(run.data.buffer) is None:
            yield from standardized(self.ranks, list(batches))
        else:
            for batch in batches:
                yield from standardized(self.ranks, [batch])

    def train_critic_minibatch(self, run: UpdateRun, batch: Minibatch) -> None:
        """
        One gradient step of the critic alone, on all ranks.

        :param run: what the update works with
        :param batch: this rank's minibatch
        """
        parameters, loss = update.differentiate_critic(run.policy, batch, run.coefs, run.options)
        if share_gradient(self.ranks, parameters, batch) is not None:
            update.clip_and_step(run.policy, parameters, loss, run.max_grad_norm, run.guard)

    def train_minibatch(self, run: UpdateRun, batch: Minibatch) -> bool:
        """
        One gradient step of all ranks.

        :param run: what the update works with
        :param batch: this rank's minibatch
        :return: whether the update ends with it, on all ranks
        """
        options = run.options._replace(standardize_advantages=False)
        terms = update.ppo_loss(evaluate(run.policy, batch, run.with_distribution), batch, run.coefs, options)
        run.policy.optimizer.zero_grad()
        terms.loss.backward()
        parameters = list(run.policy.parameters())
        shared = share_gradient(self.ranks, parameters, batch, terms)
        if shared is None:
            return False
        run.metrics.add_terms(shared, row_kl=run.data.needs.row_kl, ratios=run.ratios)
        if run.stop.checks_minibatches and run.stop.exceeded(float(shared.approx_kl)):
            return True
        if run.rate_moves:
            run.move_rate()
        norm = update.clip_and_step(run.policy, parameters, shared.loss, run.max_grad_norm, run.guard)
        if norm is None:
            run.metrics.forget_terms()
            return run.gives_up
        run.metrics.add_step(norm)
        return False


def standardized(ranks: Ranks, batches: list[Minibatch]) -> Iterator[Minibatch]:
    """
    Standardize the advantages of minibatches by the moments over all ranks.

    :param ranks: the processes
    :param batches: minibatches, as many on all ranks
    :return: the same with standardized advantages
    """
    if not batches:
        return
    everywhere = over_all(ranks, [moments_of(batch.advantages, batch.mask) for batch in batches])
    for batch, moments in zip(batches, everywhere, strict=True):
        yield batch._replace(advantages=standardize_by(batch.advantages, batch.mask, moments))


def share_gradient(
    ranks: Ranks, parameters: list[th.nn.Parameter], batch: Minibatch, terms: LossTerms | None = None
) -> LossTerms | None:
    """
    Make gradients and means those of all ranks' rows together, in one all-reduce:  sum_r n_r x_r / sum_r n_r.

    :param ranks: the processes
    :param parameters: parameters with the gradient of this rank's minibatch; it is replaced
    :param batch: the minibatch
    :param terms: what its loss was made of, None where nobody asks
    :return: the terms over all ranks, detached, with the extremes of the ratio in place of the ratios; nothing but
        Nones without terms. None when no row counts on any rank: then no step must be taken, for a gradient of zero
        would still move the parameters through Adam's momentum
    """
    slopes = [parameter.grad for parameter in parameters if parameter.grad is not None]
    count = batch.returns.new_tensor(float(len(batch.returns))) if batch.mask is None else batch.mask.sum().float()
    own = {name: getattr(terms, name).detach() for name in MEANS if getattr(terms, name, None) is not None}
    extremes = count.new_zeros(ranks.size, 2)
    if terms is not None:
        extremes[ranks.rank] = th.stack(th.aminmax(terms.ratio.detach()))
    means = th.cat([*(slope.reshape(-1) for slope in slopes), *(value.reshape(1) for value in own.values())])
    bucket = th.cat([means * count, count.reshape(1), extremes.flatten()])
    ranks.add_up(bucket)
    means, count, extremes = bucket[: len(means)], bucket[len(means)], bucket[len(means) + 1 :]
    # Only who has a mask can see no row at all; on a GPU the others need not wait for the number.
    if batch.mask is not None and float(count) == 0.0:
        return None
    means = means / count
    sizes = [slope.numel() for slope in slopes]
    for slope, part in zip(slopes, means[: sum(sizes)].split(sizes), strict=True):
        slope.copy_(part.view_as(slope))
    measured: dict[str, Any] = dict.fromkeys(MEANS) | dict(zip(own, means[sum(sizes) :].unbind(0), strict=True))
    return LossTerms(**measured, ratio=extremes)
