"""The loss of one minibatch: each extra by hand, alone and together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th

from sb3_ppo_plus.distributions import BernoulliParams, GaussianParams
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.types import Coefficients, LossOptions, LossTerms, Minibatch, PolicyOutputs
from sb3_ppo_plus.update import ppo_loss


def t(*numbers: float) -> th.Tensor:
    return th.tensor(numbers, dtype=th.float32)


# Two rows. Ratios 1.5 and 0.5, advantages +1 and -1, values 3 and 0 for returns of 2, entropies 0.4 and 0.6.
OUTPUTS = PolicyOutputs(
    values=t(3, 0),
    log_prob=t(math.log(1.5), math.log(0.5)),
    entropy=t(0.4, 0.6),
    distribution=GaussianParams(th.tensor([[1.0], [0.0]]), th.ones(2, 1)),
)
BATCH = Minibatch(
    observations=th.zeros(2, 1),
    actions=th.zeros(2, 1),
    old_values=t(1, 1),
    old_log_prob=t(0, 0),
    advantages=t(1, -1),
    returns=t(2, 2),
)
COEFS = Coefficients(clip_low=0.2, clip_high=0.2, clip_range_vf=None, ent_coef=0.1, vf_coef=0.5)
OPTIONS = LossOptions(standardize_advantages=False)

# surrogate: min(1.5, 1.2) = 1.2 and min(-0.5, -0.8) = -0.8, mean 0.2; squared errors 1 and 4, mean 2.5; entropy 0.5
POLICY, VALUE, ENTROPY = -0.2, 2.5, -0.5
PLAIN = POLICY + 0.1 * ENTROPY + 0.5 * VALUE


def loss(batch: dict[str, Any] | None = None, coefs: dict[str, Any] | None = None, **options: Any) -> LossTerms:
    return ppo_loss(
        OUTPUTS, BATCH._replace(**(batch or {})), COEFS._replace(**(coefs or {})), OPTIONS._replace(**options)
    )


def test_plain_loss() -> None:
    terms = loss()
    assert terms.policy_loss.item() == pytest.approx(POLICY)
    assert terms.value_loss.item() == pytest.approx(VALUE)
    assert terms.entropy_loss.item() == pytest.approx(ENTROPY)
    assert terms.loss.item() == pytest.approx(PLAIN)
    # k3: (1.5 - 1 - ln 1.5 + 0.5 - 1 - ln 0.5) / 2
    assert terms.approx_kl.item() == pytest.approx((-math.log(1.5) - math.log(0.5)) / 2)
    assert terms.clip_fraction.item() == 1.0
    assert terms.kl is None and terms.reference_kl is None


# The KL of the two rows: (1 - 0)^2 / 2 = 0.5 and 0, mean 0.25.
OLD = {"old_distribution": GaussianParams(th.zeros(2, 1), th.ones(2, 1))}
# KL(new, reference): (1 - 2)^2 / 2 = 0.5 and (0 - 2)^2 / 2 = 2, mean 1.25.
REFERENCE = {
    "reference_distribution": GaussianParams(th.full((2, 1), 2.0), th.ones(2, 1)),
    "reference_log_prob": t(0, 0),
}


@pytest.mark.parametrize(
    ("batch", "coefs", "options", "expected"),
    [
        # 0.5 * max-form: unclipped errors 1, 4 against clipped ones (1.5 -> 0.25, 0.5 -> 2.25)
        ({}, {"clip_range_vf": 0.5}, {"vf_loss": "max"}, PLAIN),
        ({}, {"clip_range_vf": 0.5}, {"vf_loss": "sb3"}, PLAIN + 0.5 * (1.25 - 2.5)),
        # huber, delta 1: 1 and 3, mean 2
        ({}, {}, {"vf_loss": "huber", "huber_delta": 1.0}, PLAIN + 0.5 * (2.0 - 2.5)),
        # cap 3: 1 and 3, mean 2
        ({}, {}, {"vf_loss": "error_cap", "vf_error_cap": 3.0}, PLAIN + 0.5 * (2.0 - 2.5)),
        (OLD, {"kl_coef": 2.0}, {"penalize_kl": True}, PLAIN + 2.0 * 0.25),
        # without the old distribution the penalty is the k3 estimate
        ({}, {"kl_coef": 2.0}, {"penalize_kl": True}, PLAIN + (-math.log(1.5) - math.log(0.5))),
        (REFERENCE, {"reference_kl_coef": 0.2}, {"penalize_reference_kl": True}, PLAIN + 0.2 * 1.25),
        # pure penalty: the surrogate is 1.5 and -0.5, mean 0.5
        (
            OLD,
            {"clip_low": math.inf, "clip_high": math.inf, "kl_coef": 1.0},
            {"penalize_kl": True},
            PLAIN - POLICY - 0.5 + 0.25,
        ),
        # asymmetric 0.2 / 0.4: min(1.5, 1.4) and min(-0.5, -0.8), mean 0.3
        ({}, {"clip_high": 0.4}, {}, PLAIN - POLICY - 0.3),
        # dual clip 1.5 changes nothing here (-0.8 > -1.5); with the ratio at 3 see test_losses
        ({}, {}, {"dual_clip": 1.5}, PLAIN),
        # standardized over two rows: mean 0, std sqrt(2): +-0.7071
        ({}, {}, {"standardize_advantages": True}, PLAIN - POLICY - 0.2 / math.sqrt(2)),
        # only the first row counts: surrogate 1.2, error 1, entropy 0.4
        ({"mask": th.tensor([True, False])}, {}, {}, -1.2 - 0.04 + 0.5),
    ],
)
def test_each_extra_alone(batch: dict, coefs: dict, options: dict, expected: float) -> None:
    assert loss(batch, coefs, **options).loss.item() == pytest.approx(expected, rel=1e-5)


def test_all_together() -> None:
    terms = loss(
        {**OLD, **REFERENCE, "mask": th.tensor([True, False])},
        {"clip_high": 0.4, "clip_range_vf": 0.5, "kl_coef": 2.0, "reference_kl_coef": 0.2},
        vf_loss="max",
        dual_clip=3.0,
        penalize_kl=True,
        penalize_reference_kl=True,
    )
    # row 0 alone: surrogate min(1.5, 1.4), max(1, 0.25) = 1, entropy 0.4, KL 0.5, reference KL 0.5
    assert terms.loss.item() == pytest.approx(-1.4 - 0.1 * 0.4 + 0.5 * 1.0 + 2.0 * 0.5 + 0.2 * 0.5)


def test_reference_kl_is_estimated_where_the_distribution_is_unknown() -> None:
    outputs = OUTPUTS._replace(distribution=None)
    batch = BATCH._replace(reference_log_prob=t(0, 0))
    options = OPTIONS._replace(penalize_reference_kl=True)
    # log ratio reference / new: -ln 1.5 and ln 2: k3 = 2/3 - 1 + ln 1.5 and 2 - 1 - ln 2
    expected = (2 / 3 - 1 + math.log(1.5) + 1 - math.log(2)) / 2
    terms = ppo_loss(outputs, batch, COEFS._replace(reference_kl_coef=1.0), options)
    assert terms.reference_kl is not None
    assert terms.reference_kl.item() == pytest.approx(expected)
    assert terms.loss.item() == pytest.approx(PLAIN + expected)


def test_kl_penalty_pulls_the_policy_back() -> None:
    """Its gradient points from the new mean to the old one: d/dm (m - 0)^2 / 2 = m, over two rows m / 2."""
    mean = th.tensor([[1.0], [0.0]], requires_grad=True)
    outputs = OUTPUTS._replace(distribution=GaussianParams(mean, th.ones(2, 1)))
    terms = ppo_loss(outputs, BATCH._replace(**OLD), COEFS._replace(kl_coef=1.0), OPTIONS._replace(penalize_kl=True))
    terms.loss.backward()
    assert mean.grad is not None
    th.testing.assert_close(mean.grad, th.tensor([[0.5], [0.0]]))


@pytest.mark.parametrize("garbage", [1e30, math.inf])
def test_invalid_rows_change_nothing(garbage: float) -> None:
    """Whatever a row holds that does not count: same loss, same gradient as without it."""
    log_prob = t(0.1, -0.2, 0.3).requires_grad_()
    values = t(1, 2, 3).requires_grad_()
    old = BernoulliParams(th.tensor([[0.1], [0.2], [5.0]]))
    new = BernoulliParams(th.tensor([[0.3], [0.1], [-9.0]]))
    batch = Minibatch(
        th.zeros(3, 1), th.zeros(3, 1), t(1, 1, 1), t(0, 0, 0), t(1, -2, garbage), t(2, 2, garbage),
        mask=th.tensor([True, True, False]), old_distribution=old,
    )  # fmt: skip
    options = LossOptions(vf_loss="max", penalize_kl=True)
    coefs = COEFS._replace(clip_range_vf=0.5, kl_coef=1.0)
    masked = ppo_loss(PolicyOutputs(values, log_prob, t(1, 2, garbage), new), batch, coefs, options)
    short = Minibatch(*(x[:2] for x in batch[:6]), old_distribution=BernoulliParams(old.logits[:2]))
    outputs = PolicyOutputs(values[:2], log_prob[:2], t(1, 2), BernoulliParams(new.logits[:2]))
    alone = ppo_loss(outputs, short, coefs, options)
    for name in ("loss", "policy_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction", "kl"):
        th.testing.assert_close(getattr(masked, name), getattr(alone, name))
    masked_gradient = th.autograd.grad(masked.loss, (log_prob, values))
    for ours, expected in zip(masked_gradient, th.autograd.grad(alone.loss, (log_prob, values)), strict=True):
        th.testing.assert_close(ours, expected)


def test_metrics_make_one_transfer_and_keep_epochs_apart() -> None:
    metrics = UpdateMetrics()
    for epoch in range(2):
        metrics.start_epoch()
        for minibatch in range(3 - epoch):
            terms = loss(coefs={"ent_coef": 0.1 + epoch + minibatch})
            metrics.add_terms(terms, row_kl=True, ratios=True)
            metrics.add_step(th.tensor(float(minibatch)))
    scalars = metrics.collect()
    assert metrics.gradient_steps == 5
    assert [len(values) for values in metrics.by_epoch("loss")] == [3, 2]
    assert scalars["grad_norm"].tolist() == [0, 1, 2, 0, 1]
    assert metrics.ratio_extremes() == pytest.approx((0.5, 1.5))
    # without an exact KL the minibatch's KL is the estimate
    assert scalars["kl"].tolist() == scalars["approx_kl"].tolist()
    assert metrics.epoch_mean("approx_kl") == pytest.approx(float(scalars["approx_kl"][3:].mean()))
    assert metrics.mean("entropy_loss") == pytest.approx(-0.5)


def test_kl_before_the_first_step_is_no_signal() -> None:
    """It is zero by construction: an adaptive rate that counted it would rise whatever the policy does."""
    metrics = UpdateMetrics()
    metrics.start_epoch()
    for kl in (0.0, 0.02, 0.04):
        metrics.add_terms(loss()._replace(kl=th.tensor(kl)), row_kl=True, ratios=False)
        if kl == 0.0:
            assert math.isnan(metrics.kl_of_minibatch()) and math.isnan(metrics.kl_of_epoch())
    assert metrics.kl_of_minibatch() == pytest.approx(0.04)
    assert metrics.kl_of_epoch() == pytest.approx(0.03)  # (0.02 + 0.04) / 2
    metrics.start_epoch()
    metrics.add_terms(loss()._replace(kl=th.tensor(0.06)), row_kl=True, ratios=False)
    assert metrics.kl_of_epoch() == pytest.approx(0.06)


def test_metrics_of_an_update_without_a_minibatch() -> None:
    metrics = UpdateMetrics()
    metrics.start_epoch()
    assert metrics.collect() == {}
    assert metrics.ratio_extremes() is None
    assert math.isnan(metrics.epoch_mean("kl")) and math.isnan(metrics.mean("entropy_loss"))
