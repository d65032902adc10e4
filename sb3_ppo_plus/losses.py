"""
The formulas of PPO, per sample: tensors [B] in, a tensor [B] out. ``masked_mean`` is the only reduction.

Padding of recurrent batches, agents that did not act and row weights are then a mask or a longer batch, never a second
training loop.
"""

from __future__ import annotations

from typing import Any

import torch as th
from torch.nn import functional as F

#: a coefficient: float, or a scalar tensor where a compiled update must not depend on its value; torch's own type hints
#: do not take the union
Number = Any

VF_LOSSES = ("sb3", "max", "huber", "error_cap")


def check_same_shape(**tensors: th.Tensor) -> None:
    """
    Refuse tensors that would broadcast: [B, 1] beside [B] silently becomes [B, B].

    :param tensors: tensors by name, all of which must be [B]
    """
    shape, *others = [tensor.shape for tensor in tensors.values()]
    if len(shape) != 1 or any(other != shape for other in others):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ValueError(f"losses take tensors of one shape [B], got {shapes}; flatten them first")


def masked_mean(x: th.Tensor, mask: th.Tensor | None = None) -> th.Tensor:
    """
    Mean over the rows that count.

    :param x: one number a row [B]
    :param mask: True where the row counts; None when all do [B]
    :return: scalar; 0 when no row counts
    """
    if mask is None:
        return x.mean()
    # where(), not a product: what an invalid row holds may be infinite or NaN
    return th.where(mask, x, x.new_zeros(())).sum() / mask.sum().clamp(min=1)


def clipped_surrogate(
    advantages: th.Tensor, ratio: th.Tensor, clip_low: Number, clip_high: Number, dual_clip: float | None = None
) -> th.Tensor:
    """
    L = min(r A, clip(r, 1 - low, 1 + high) A); with a dual clip max(L, c A) where A < 0.

    Schulman et al. 2017, equation 7 (low = high); DAPO 2025 for low < high; Ye et al. 2020, equation 5 for the dual
    clip.

    :param advantages: advantage estimates A [B]
    :param ratio: probability ratio r = pi / pi_old [B]
    :param clip_low: clip range below 1; larger lets bad actions lose probability faster; inf for none
    :param clip_high: clip range above 1; larger lets good actions gain probability faster; inf for none
    :param dual_clip: c > 1, typically 3; smaller forgets bad outliers sooner; None for none
    :return: surrogate objective, to be maximized [B]
    """
    if advantages.dim() != 1 or advantages.shape != ratio.shape:
        check_same_shape(advantages=advantages, ratio=ratio)
    surrogate = advantages * ratio
    # A compiled update gives the bounds as tensors, of which nothing may be asked; inf then clips nothing.
    if isinstance(clip_high, th.Tensor) or clip_low != float("inf") or clip_high != float("inf"):
        surrogate = th.min(surrogate, advantages * th.clamp(ratio, 1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        surrogate = th.where(advantages < 0, th.max(surrogate, dual_clip * advantages), surrogate)
    return surrogate


def clipped_values(values: th.Tensor, old_values: th.Tensor, clip_range_vf: Number) -> th.Tensor:
    """
    V_clip = V_old + clip(V - V_old, -range, range).

    :param values: value estimates V [B]
    :param old_values: value estimates at collection [B]
    :param clip_range_vf: largest change, in units of return
    :return: predictions that stay in the band [B]
    """
    return old_values + th.clamp(values - old_values, -clip_range_vf, clip_range_vf)


def value_loss(
    values: th.Tensor,
    old_values: th.Tensor,
    returns: th.Tensor,
    clip_range_vf: Number | None,
    form: str = "sb3",
    huber_delta: float = 1.0,
    error_cap: float = 10.0,
) -> th.Tensor:
    """
    Error of the critic, one of four forms of e = R - V. V is the clipped prediction where ``clip_range_vf`` is given.

    - ``sb3``: e_clip^2 (SB3, skrl): no gradient for a prediction that left the band
    - ``max``: max(e^2, e_clip^2) (OpenAI baselines' PPO2, CleanRL, rsl_rl; PPO2 halves it, which here is ``vf_coef``)
    - ``huber``: e^2 up to delta, delta (2 |e| - delta) beyond: outliers pull with a bounded force
    - ``error_cap``: min(e^2, cap) (RLlib): outliers beyond the cap do not pull at all

    :param values: value estimates V [B]
    :param old_values: value estimates at collection [B]
    :param returns: targets R [B]
    :param clip_range_vf: largest change of a prediction, in units of return; None for no clipping
    :param form: one of the four names
    :param huber_delta: where ``huber`` turns linear, in units of return; smaller is more robust and slower
    :param error_cap: cap of ``error_cap``, in squared units of return
    :return: loss, weighed like a squared error in each form [B]
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    predictions = values if clip_range_vf is None else clipped_values(values, old_values, clip_range_vf)
    if form == "huber":
        return 2.0 * F.huber_loss(predictions, returns, reduction="none", delta=huber_delta)
    errors = (returns - predictions).square()
    if form == "max":
        return th.max((returns - values).square(), errors)
    if form == "error_cap":
        return errors.clamp(max=error_cap)
    return errors


def k3_estimate(log_ratio: th.Tensor, ratio: th.Tensor | None = None) -> th.Tensor:
    """
    k3 = (r - 1) - log r, an estimate of KL(p, q) for samples of p and r = q / p: unbiased, never negative.

    Schulman, "Approximating KL divergence", 2020; SB3 issue #417.

    :param log_ratio: log r [B]
    :param ratio: r, when it is at hand already [B]
    :return: estimate of each row, >= 0 [B]
    """
    return ((log_ratio.exp() if ratio is None else ratio) - 1) - log_ratio


def outside_clip_range(ratio: th.Tensor, clip_low: Number, clip_high: Number) -> th.Tensor:
    """
    Which rows the clip range holds back.

    :param ratio: probability ratio [B]
    :param clip_low: clip range below 1
    :param clip_high: clip range above 1
    :return: 1.0 outside the range, else 0.0 [B]
    """
    outside: th.Tensor
    if clip_low is clip_high:
        outside = th.abs(ratio - 1) > clip_high
    else:
        outside = (ratio < 1 - clip_low) | (ratio > 1 + clip_high)
    return outside.float()
