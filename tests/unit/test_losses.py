"""Losses by hand: the arithmetic stands beside the number."""

from __future__ import annotations

import math

import pytest
import torch as th

from sb3_ppo_plus.losses import (
    clipped_surrogate,
    k3_estimate,
    masked_mean,
    outside_clip_range,
    value_loss,
)

INF = float("inf")


def t(*numbers: float) -> th.Tensor:
    return th.tensor(numbers, dtype=th.float32)


def test_clipped_surrogate_takes_the_pessimistic_side() -> None:
    # A=+1: min(1.5, 1.2)=1.2   min(0.5, 0.8)=0.5      A=-2: min(-3, -2.4)=-3   min(-1, -1.6)=-1.6
    result = clipped_surrogate(t(1, 1, -2, -2), t(1.5, 0.5, 1.5, 0.5), 0.2, 0.2)
    th.testing.assert_close(result, t(1.2, 0.5, -3.0, -1.6))


def test_asymmetric_clip_range() -> None:
    # low 0.1, high 0.4
    # A=+1: min(1.5, 1.4)=1.4   min(0.5, 0.9)=0.5   A=-1: min(-1.5, -1.4)=-1.5   min(-0.5, -0.9)=-0.9
    result = clipped_surrogate(t(1, 1, -1, -1), t(1.5, 0.5, 1.5, 0.5), 0.1, 0.4)
    th.testing.assert_close(result, t(1.4, 0.5, -1.5, -0.9))


def test_no_clipping_is_the_plain_surrogate() -> None:
    th.testing.assert_close(clipped_surrogate(t(1, -2), t(5.0, 5.0), INF, INF), t(5.0, -10.0))


def test_dual_clip_bounds_bad_actions_that_became_likely() -> None:
    # A=-1, r=5: min(-5, -1.2)=-5, then max(-5, 3*-1)=-3.   r=2: -2 stays.   A=+1 is not touched: min(5, 1.2)=1.2
    result = clipped_surrogate(t(-1, -1, 1), t(5.0, 2.0, 5.0), 0.2, 0.2, dual_clip=3.0)
    th.testing.assert_close(result, t(-3.0, -2.0, 1.2))


def test_dual_clip_stops_the_gradient_of_the_outlier() -> None:
    ratio = t(5.0, 2.0).requires_grad_()
    clipped_surrogate(t(-1, -1), ratio, 0.2, 0.2, dual_clip=3.0).sum().backward()
    assert ratio.grad is not None
    th.testing.assert_close(ratio.grad, t(0.0, -1.0))


# V, V_old, R; with a range of 0.5 the predictions become 1.5, 0.5, 1.25
VALUES, OLD, RETURNS = t(3.0, 0.0, 1.25), t(1.0, 1.0, 1.0), t(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("form", "clip_range_vf", "expected"),
    [
        # (2-3)^2, (2-0)^2, (2-1.25)^2
        ("sb3", None, t(1.0, 4.0, 0.5625)),
        # (2-1.5)^2, (2-0.5)^2, (2-1.25)^2
        ("sb3", 0.5, t(0.25, 2.25, 0.5625)),
        # max(1, .25), max(4, 2.25), max(.5625, .5625)
        ("max", 0.5, t(1.0, 4.0, 0.5625)),
        # delta 1: 1^2; 1*(2*2-1)=3; 0.75^2
        ("huber", None, t(1.0, 3.0, 0.5625)),
        # clipped: 0.5^2; 1*(2*1.5-1)=2; 0.75^2
        ("huber", 0.5, t(0.25, 2.0, 0.5625)),
        # cap 2: 1, min(4, 2), 0.5625
        ("error_cap", None, t(1.0, 2.0, 0.5625)),
    ],
)
def test_value_loss_forms(form: str, clip_range_vf: float | None, expected: th.Tensor) -> None:
    result = value_loss(VALUES, OLD, RETURNS, clip_range_vf, form, huber_delta=1.0, error_cap=2.0)
    th.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # sb3: a prediction outside the band has no gradient, in whichever direction the target lies; inside: -2(2-1.25)
        ("sb3", t(0.0, 0.0, -1.5)),
        # max: the unclipped error is the larger one: -2(2-3)=2, -2(2-0)=-4
        ("max", t(2.0, -4.0, -1.5)),
    ],
)
def test_value_clipping_forms_differ_in_their_gradient(form: str, expected: th.Tensor) -> None:
    values = VALUES.clone().requires_grad_()
    value_loss(values, OLD, RETURNS, 0.5, form).sum().backward()
    th.testing.assert_close(values.grad, expected)


def test_k3_estimate() -> None:
    # log r = ln 2: 2 - 1 - 0.693 = 0.307;   log r = 0: 0;   log r = -ln 2: 0.5 - 1 + 0.693 = 0.193
    log_ratio = t(math.log(2), 0.0, -math.log(2))
    th.testing.assert_close(k3_estimate(log_ratio), t(1 - math.log(2), 0.0, math.log(2) - 0.5))
    th.testing.assert_close(k3_estimate(log_ratio, log_ratio.exp()), k3_estimate(log_ratio))


def test_outside_clip_range() -> None:
    ratio = t(0.79, 0.81, 1.0, 1.19, 1.21, 1.41)
    th.testing.assert_close(outside_clip_range(ratio, 0.2, 0.2), t(1, 0, 0, 0, 1, 1))
    th.testing.assert_close(outside_clip_range(ratio, 0.2, 0.4), t(1, 0, 0, 0, 0, 1))
    th.testing.assert_close(outside_clip_range(ratio, INF, INF), t(0, 0, 0, 0, 0, 0))


def test_masked_mean_leaves_invalid_rows_out() -> None:
    mask = th.tensor([True, False, True, False])
    # (1 + 3) / 2, whatever the other rows hold
    assert masked_mean(t(1.0, INF, 3.0, float("nan")), mask) == 2.0
    assert masked_mean(t(1.0, 2.0, 3.0, 6.0)) == 3.0
    assert masked_mean(t(1.0, 2.0), th.tensor([False, False])) == 0.0


def test_masked_mean_gives_invalid_rows_no_gradient() -> None:
    x = t(1.0, 2.0, 3.0).requires_grad_()
    masked_mean(x, th.tensor([True, False, True])).backward()
    th.testing.assert_close(x.grad, t(0.5, 0.0, 0.5))


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'values': \(3, 1\)"):
        value_loss(VALUES[:, None], OLD, RETURNS, None)
    with pytest.raises(ValueError, match="one shape"):
        clipped_surrogate(t(1, 1), t(1), 0.2, 0.2)
