"""One minibatch's way: policy outputs to loss, loss to gradient, gradient to step."""

from __future__ import annotations

import copy

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from sb3_ppo_plus import losses
from sb3_ppo_plus.advantages import standardize
from sb3_ppo_plus.distributions import exact_kl
from sb3_ppo_plus.losses import masked_mean
from sb3_ppo_plus.nonfinite.update_guard import UpdateGuard
from sb3_ppo_plus.policies import critic_parameters
from sb3_ppo_plus.types import Coefficients, LossOptions, LossTerms, Minibatch, PolicyOutputs


def ppo_loss(outputs: PolicyOutputs, batch: Minibatch, coefs: Coefficients, options: LossOptions) -> LossTerms:
    """
    loss = -E[surrogate] - ent_coef E[H] + vf_coef E[value loss] + kl_coef KL(old, new) + reference_kl_coef KL(new,
    ref).

    Schulman et al. 2017, equations 7 to 9. With every extra off the operations and their order are those of SB3's PPO,
    which makes the parameters equal bit for bit.

    :param outputs: what the current policy says about the minibatch
    :param batch: the minibatch
    :param coefs: the numbers of this update
    :param options: the shape of the loss
    :return: the loss and its terms
    """
    batch = without_invalid_rows(batch)
    mask = batch.mask
    advantages = standardize(batch.advantages, mask) if options.standardize_advantages else batch.advantages
    log_ratio = outputs.log_prob - batch.old_log_prob
    # ratio between old and new policy, one at the first gradient step
    ratio = th.exp(log_ratio)
    surrogate = losses.clipped_surrogate(advantages, ratio, coefs.clip_low, coefs.clip_high, options.dual_clip)
    policy_loss = -masked_mean(surrogate, mask)
    value_loss = value_loss_of(outputs.values, batch, coefs, options)
    # without a closed form the entropy is estimated from the sampled actions
    entropy_loss = -masked_mean(-outputs.log_prob if outputs.entropy is None else outputs.entropy, mask)
    loss = policy_loss + coefs.ent_coef * entropy_loss + coefs.vf_coef * value_loss

    kl = reference_kl = None
    if batch.old_distribution is not None or options.penalize_kl:
        kl = masked_mean(kl_from_old(outputs, batch, log_ratio, ratio), mask)
        if options.penalize_kl:
            loss = loss + coefs.kl_coef * kl
    if options.penalize_reference_kl:
        reference_kl = masked_mean(kl_to_reference(outputs, batch), mask)
        loss = loss + coefs.reference_kl_coef * reference_kl

    with th.no_grad():
        approx_kl = masked_mean(losses.k3_estimate(log_ratio, ratio), mask)
        clip_fraction = masked_mean(losses.outside_clip_range(ratio, coefs.clip_low, coefs.clip_high), mask)
    if mask is not None:
        ratio = th.where(mask, ratio, 1.0)
    return LossTerms(loss, policy_loss, value_loss, entropy_loss, approx_kl, clip_fraction, kl, reference_kl, ratio)


def without_invalid_rows(batch: Minibatch) -> Minibatch:
    """
    Make what invalid rows hold harmless: a masked loss of infinity is 0, but its gradient would be 0 * inf = NaN.

    :param batch: the minibatch
    :return: the same with zeros in the rows that do not count
    """
    if batch.mask is None:
        return batch
    mask = batch.mask
    return batch._replace(
        old_values=th.where(mask, batch.old_values, 0.0),
        old_log_prob=th.where(mask, batch.old_log_prob, 0.0),
        advantages=th.where(mask, batch.advantages, 0.0),
        returns=th.where(mask, batch.returns, 0.0),
    )


def value_loss_of(values: th.Tensor, batch: Minibatch, coefs: Coefficients, options: LossOptions) -> th.Tensor:
    """
    Mean value loss of a minibatch.

    :param values: value estimates [B]
    :param batch: the minibatch
    :param coefs: the numbers of this update
    :param options: the shape of the loss
    :return: scalar
    """
    if options.vf_loss == "sb3" and batch.mask is None:
        # SB3's own kernel: its gradient is rounded differently from that of a mean of squares
        predictions = values
        if coefs.clip_range_vf is not None:
            predictions = losses.clipped_values(values, batch.old_values, coefs.clip_range_vf)
        return F.mse_loss(batch.returns, predictions)
    per_row = losses.value_loss(
        values,
        batch.old_values,
        batch.returns,
        coefs.clip_range_vf,
        options.vf_loss,
        options.huber_delta,
        options.vf_error_cap,
    )
    return masked_mean(per_row, batch.mask)


def kl_from_old(outputs: PolicyOutputs, batch: Minibatch, log_ratio: th.Tensor, ratio: th.Tensor) -> th.Tensor:
    """
    KL(old, new) of each row: exact where both distributions are known, else the k3 estimate.

    :param outputs: what the current policy says
    :param batch: the minibatch
    :param log_ratio: log pi / pi_old [B]
    :param ratio: pi / pi_old [B]
    :return: divergence, differentiable [B]
    """
    if batch.old_distribution is not None and outputs.distribution is not None:
        return exact_kl(batch.old_distribution, outputs.distribution)
    return losses.k3_estimate(log_ratio, ratio)


def kl_to_reference(outputs: PolicyOutputs, batch: Minibatch) -> th.Tensor:
    """
    KL(new, reference) of each row: exact where both distributions are known, else the k3 estimate.

    :param outputs: what the current policy says
    :param batch: the minibatch, with what the reference policy says
    :return: divergence, differentiable [B]
    """
    if batch.reference_distribution is not None and outputs.distribution is not None:
        return exact_kl(outputs.distribution, batch.reference_distribution)
    assert batch.reference_log_prob is not None
    return losses.k3_estimate(batch.reference_log_prob - outputs.log_prob)


def gradient_step(
    policy: ActorCriticPolicy, loss: th.Tensor, max_grad_norm: float, guard: UpdateGuard | None = None
) -> th.Tensor | None:
    """
    Differentiate, clip the gradient and step.

    :param policy: policy with its optimizer
    :param loss: scalar
    :param max_grad_norm: largest global norm of the gradient
    :param guard: decides whether the step is taken, None to take it
    :return: norm before clipping; None when no step was taken
    """
    policy.optimizer.zero_grad()
    loss.backward()
    return clip_and_step(policy, list(policy.parameters()), loss, max_grad_norm, guard)


def clip_and_step(
    policy: ActorCriticPolicy,
    parameters: list[th.nn.Parameter],
    loss: th.Tensor,
    max_grad_norm: float,
    guard: UpdateGuard | None = None,
) -> th.Tensor | None:
    """
    Clip the gradient that the parameters hold, and step.

    :param policy: policy with its optimizer
    :param parameters: those whose gradient is clipped
    :param loss: what was differentiated, scalar
    :param max_grad_norm: largest global norm of the gradient
    :param guard: decides whether the step is taken, None to take it
    :return: norm before clipping; None when no step was taken
    """
    # torch's clip_grad_norm_ in its two halves: clipping would spread a NaN over all gradients.
    grad_norm = th.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if guard is not None and not guard.lets_pass(loss, grad_norm):
        return None
    th.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    policy.optimizer.step()
    return grad_norm


def critic_step(
    policy: ActorCriticPolicy,
    batch: Minibatch,
    coefs: Coefficients,
    options: LossOptions,
    max_grad_norm: float,
    guard: UpdateGuard | None = None,
) -> None:
    """
    A gradient step on the value loss alone, for the critic's own parameters: what the actor shares stays as it is, so
    that the policy does not move.

    :param policy: policy with its optimizer
    :param batch: the minibatch
    :param coefs: the numbers of this update
    :param options: the shape of the loss
    :param max_grad_norm: largest global norm of the gradient
    :param guard: decides whether the step is taken, None to take it
    """
    parameters, loss = differentiate_critic(policy, batch, coefs, options)
    clip_and_step(policy, parameters, loss, max_grad_norm, guard)


def differentiate_critic(
    policy: ActorCriticPolicy, batch: Minibatch, coefs: Coefficients, options: LossOptions
) -> tuple[list[th.nn.Parameter], th.Tensor]:
    """
    Give the critic's own parameters the gradient of the value loss, and no other parameter one.

    :param policy: policy with its optimizer
    :param batch: the minibatch
    :param coefs: the numbers of this update
    :param options: the shape of the loss
    :return: these parameters, and the loss
    """
    batch = without_invalid_rows(batch)
    values = policy.predict_values(batch.observations).flatten()
    loss = coefs.vf_coef * value_loss_of(values, batch, coefs, options)
    parameters = critic_parameters(policy)
    policy.optimizer.zero_grad()
    for parameter, gradient in zip(parameters, th.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    return parameters, loss


class Snapshot:
    """
    The policy and its optimizer before an epoch, to undo it.

    :param policy: policy to copy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._parameters = copy.deepcopy(policy.state_dict())
        self._optimizer = copy.deepcopy(policy.optimizer.state_dict())

    def restore(self, policy: ActorCriticPolicy) -> None:
        """
        Put everything back.

        :param policy: the policy that was copied
        """
        policy.load_state_dict(self._parameters)
        policy.optimizer.load_state_dict(self._optimizer)
