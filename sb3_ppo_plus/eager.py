"""One pass over the rollout, one torch operation after the other: SB3's way, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus import update
from sb3_ppo_plus.controllers import KLStop
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.nonfinite.update_guard import UpdateGuard
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
    :param guard: keeps steps that are not finite from being taken, None to take them all
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
    guard: UpdateGuard | None

    @property
    def gives_up(self) -> bool:
        """:return: whether too many of its steps were not finite, and the policy is as before it"""
        return self.guard is not None and self.guard.gives_up

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
        :return: whether it was ended early
        """
        with run.profile.section("minibatches"):
            for batch in self.minibatches(run):
                run.profile.switch("gradient")
                if self.train_minibatch(run, batch):
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
                self.train_critic_minibatch(run, batch)
                if run.gives_up:
                    return
                run.profile.switch("minibatches")

    def minibatches(self, run: UpdateRun) -> Iterator[Minibatch]:
        """
        :param run: what the update works with
        :return: the minibatches of an epoch
        """
        return run.data.minibatches(run.batch_size)

    def train_minibatch(self, run: UpdateRun, batch: Minibatch) -> bool:
        """
        :param run: what the update works with
        :param batch: the minibatch
        :return: what :func:`train_minibatch` says
        """
        return train_minibatch(run, batch)

    def train_critic_minibatch(self, run: UpdateRun, batch: Minibatch) -> None:
        """
        One gradient step of the critic alone.

        :param run: what the update works with
        :param batch: the minibatch
        """
        update.critic_step(run.policy, batch, run.coefs, run.options, run.max_grad_norm, run.guard)


def train_minibatch(run: UpdateRun, batch: Minibatch) -> bool:
    """
    One gradient step.

    :param run: what the update works with
    :param batch: the minibatch
    :return: whether the update ends with it: its KL went too far, in which case no step is taken, or too many steps
        were not finite
    """
    outputs = evaluate(run.policy, batch, run.with_distribution)
    terms = update.ppo_loss(outputs, batch, run.coefs, run.options)
    run.metrics.add_terms(terms, row_kl=run.data.needs.row_kl, ratios=run.ratios)
    if run.stop.checks_minibatches and run.stop.exceeded(float(terms.approx_kl)):
        return True
    if run.rate_moves:
        run.move_rate()
    norm = update.gradient_step(run.policy, terms.loss, run.max_grad_norm, run.guard)
    if norm is None:
        run.metrics.forget_terms()
        return run.gives_up
    run.metrics.add_step(norm)
    return False
