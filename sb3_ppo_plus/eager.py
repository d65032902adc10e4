"""One pass over the rollout, one torch operation after the other: SB3's way, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus import update
from sb3_ppo_plus.controllers import KLStop
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.policies import evaluate
from sb3_ppo_plus.profiling import Profile
from sb3_ppo_plus.types import Coefficients, LossOptions, Minibatch
from sb3_ppo_plus.update_data import UpdateData


class UpdateRun(NamedTuple):
    """
    What one update works with.

    :param policy: policy with its optimizer
    :param data: the rollout's rows
    :param coefs: the numbers of this update
    :param options: the shape of the loss
    :param stop: decides whether the KL went too far
    :param metrics: where measurements go
    :param batch_size: rows of a minibatch (B)
    :param max_grad_norm: largest global norm of the gradient
    :param ratios: whether the extremes of the probability ratio are wanted
    :param rate_moves: whether a controller moves the learning rate from minibatch to minibatch
    :param move_rate: moves it, after a minibatch was measured and before its step
    :param profile: where the time is noted
    """

    policy: ActorCriticPolicy
    data: UpdateData
    coefs: Coefficients
    options: LossOptions
    stop: KLStop
    metrics: UpdateMetrics
    batch_size: int
    max_grad_norm: float
    ratios: bool
    rate_moves: bool
    move_rate: Callable[[], None]
    profile: Profile

    @property
    def with_distribution(self) -> bool:
        """:return: whether the loss needs the parameters of the action distribution"""
        return self.data.needs.row_kl or self.options.penalize_reference_kl


class EagerUpdate:
    """
    The passes of an update, in torch operations.

    :param final: whether nothing else is to be tried for this model
    """

    def __init__(self, final: bool = False) -> None:
        self.final = final

    def train_epoch(self, run: UpdateRun) -> bool:
        """
        One pass over the rollout.

        :param run: what the update works with
        :return: whether the KL of a minibatch ended it early
        """
        with run.profile.section("minibatches"):
            for batch in run.data.minibatches(run.batch_size):
                run.profile.switch("gradient")
                if train_minibatch(run, batch):
                    return True
                run.profile.switch("minibatches")
        return False

    def train_critic(self, run: UpdateRun) -> None:
        """
        One pass over the rollout in which only the critic learns.

        :param run: what the update works with
        """
        with run.profile.section("minibatches"):
            for batch in run.data.minibatches(run.batch_size):
                run.profile.switch("gradient")
                update.critic_step(run.policy, batch, run.coefs, run.options, run.max_grad_norm)
                run.profile.switch("minibatches")


def train_minibatch(run: UpdateRun, batch: Minibatch) -> bool:
    """
    One gradient step.

    :param run: what the update works with
    :param batch: the minibatch
    :return: whether its KL went too far, in which case no step is taken
    """
    outputs = evaluate(run.policy, batch, run.with_distribution)
    terms = update.ppo_loss(outputs, batch, run.coefs, run.options)
    run.metrics.add_terms(terms, row_kl=run.data.needs.row_kl, ratios=run.ratios)
    if run.stop.checks_minibatches and run.stop.exceeded(float(terms.approx_kl)):
        return True
    if run.rate_moves:
        run.move_rate()
    run.metrics.add_step(update.gradient_step(run.policy, terms.loss, run.max_grad_norm))
    return False
