"""Closed forms against arithmetic and against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    Distribution,
    SquashedDiagGaussianDistribution,
    make_proba_distribution,
)
from stable_baselines3.common.distributions import kl_divergence as sb3_kl
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from sb3_ppo_plus.distributions import (
    BernoulliParams,
    CategoricalParams,
    DistributionParams,
    GaussianParams,
    concatenate,
    exact_kl,
    take_rows,
)
from sb3_ppo_plus.policies import distribution_params


def test_gaussian_kl_by_hand() -> None:
    p = GaussianParams(th.tensor([[0.0, 1.0]]), th.tensor([[1.0, 1.0]]))
    q = GaussianParams(th.tensor([[1.0, 1.0]]), th.tensor([[1.0, 2.0]]))
    # dimension 0: (0-1)^2 / 2 = 0.5;  dimension 1: ln 2 + 1/8 - 1/2 = 0.3181
    assert p.kl(q).item() == pytest.approx(0.5 + math.log(2) + 0.125 - 0.5)
    assert p.kl(p).item() == 0.0


def test_categorical_kl_by_hand() -> None:
    p = CategoricalParams(th.tensor([[0.5, 0.5]]).log(), (2,))
    q = CategoricalParams(th.tensor([[0.25, 0.75]]).log(), (2,))
    # 0.5 ln(0.5/0.25) + 0.5 ln(0.5/0.75)
    assert p.kl(q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_bernoulli_kl_by_hand() -> None:
    p = BernoulliParams(th.tensor([[0.0]]))  # 1/2
    q = BernoulliParams(th.tensor([[math.log(3)]]))  # 3/4
    # 0.5 ln(0.5/0.75) + 0.5 ln(0.5/0.25)
    assert p.kl(q).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_entropies_by_hand() -> None:
    gaussian = GaussianParams(th.zeros(1, 2), th.tensor([[1.0, math.e]]))
    # 0.5 ln(2 pi e) = 1.4189, plus ln(std)
    th.testing.assert_close(gaussian.entropy(), th.tensor([[1.4189385, 2.4189385]]))
    uniform = CategoricalParams(th.zeros(1, 5), (2, 3))
    th.testing.assert_close(uniform.entropy(), th.tensor([[math.log(2), math.log(3)]]))
    th.testing.assert_close(BernoulliParams(th.zeros(1, 1)).entropy(), th.tensor([[math.log(2)]]))


def test_agrees_with_torch() -> None:
    th.manual_seed(0)
    m1, m2, s1, s2 = th.randn(7, 3), th.randn(7, 3), th.rand(7, 3) + 0.1, th.rand(7, 3) + 0.1
    expected = kl_divergence(Normal(m1, s1), Normal(m2, s2)).sum(-1)
    th.testing.assert_close(exact_kl(GaussianParams(m1, s1), GaussianParams(m2, s2)), expected)
    l1, l2 = th.randn(7, 5), th.randn(7, 5)
    parts = [kl_divergence(Categorical(logits=l1[:, a:b]), Categorical(logits=l2[:, a:b])) for a, b in ((0, 2), (2, 5))]
    th.testing.assert_close(exact_kl(CategoricalParams(l1, (2, 3)), CategoricalParams(l2, (2, 3))), sum(parts))
    expected = kl_divergence(Bernoulli(logits=l1), Bernoulli(logits=l2)).sum(-1)
    th.testing.assert_close(exact_kl(BernoulliParams(l1), BernoulliParams(l2)), expected)


@pytest.mark.parametrize("logit", [40.0, -40.0])
def test_certain_binary_actions_stay_finite(logit: float) -> None:
    p, q = BernoulliParams(th.tensor([[logit]])), BernoulliParams(th.tensor([[-logit]]))
    assert p.kl(q).item() == pytest.approx(40.0, rel=1e-4)
    assert th.isfinite(p.entropy()).all()


def test_impossible_categories_add_nothing() -> None:
    """A policy that masks actions gives them logits of -inf: 0 * (-inf + inf) must not become NaN, nor its gradient."""
    inf = float("inf")
    old = CategoricalParams(th.tensor([[0.0, 0.0, -inf]]), (3,))
    logits = th.tensor([[math.log(3), 0.0, -inf]], requires_grad=True)
    new = CategoricalParams(logits, (3,))
    # (1/2, 1/2, 0) against (3/4, 1/4, 0): 0.5 ln(0.5/0.75) + 0.5 ln(0.5/0.25)
    kl = old.kl(new)
    assert kl.item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert old.entropy().item() == pytest.approx(math.log(2))
    (kl.sum() + new.entropy().sum()).backward()
    assert logits.grad is not None and th.isfinite(logits.grad).all()


def sb3_distribution(space: spaces.Space, seed: int, use_sde: bool = False) -> Distribution:
    th.manual_seed(seed)
    distribution = make_proba_distribution(space, use_sde=use_sde)
    if use_sde:
        net, log_std = distribution.proba_distribution_net(latent_dim=4)
        return distribution.proba_distribution(net(th.randn(6, 4)), log_std, th.randn(6, 4))
    net = distribution.proba_distribution_net(latent_dim=4)
    if isinstance(net, tuple):
        return distribution.proba_distribution(net[0](th.randn(6, 4)), net[1] + th.randn(3) * 0.3)
    return distribution.proba_distribution(net(th.randn(6, 4)))


SPACES = {
    "box": (spaces.Box(-1, 1, (3,)), False),
    "gsde": (spaces.Box(-1, 1, (3,)), True),
    "discrete": (spaces.Discrete(4), False),
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), False),
    "multibinary": (spaces.MultiBinary(3), False),
}


@pytest.mark.parametrize("name", SPACES)
def test_read_off_sb3s_distributions(name: str) -> None:
    """The same KL and entropy as SB3's own distribution objects, which have no gradient path of ours in them."""
    space, use_sde = SPACES[name]
    p, q = sb3_distribution(space, 1, use_sde), sb3_distribution(space, 2, use_sde)
    params = [distribution_params(d) for d in (p, q)]
    assert params[0] is not None and params[1] is not None
    divergence = sb3_kl(p, q)
    expected = divergence if divergence.ndim == 1 else divergence.sum(-1)
    th.testing.assert_close(exact_kl(params[0], params[1]), expected)
    th.testing.assert_close(params[0].entropy().sum(-1), p.entropy())


def test_squashed_gaussian_uses_the_kl_before_squashing() -> None:
    """tanh is a bijection, so the KL is the same; a numeric integral over the squashed densities confirms it."""
    p, q = SquashedDiagGaussianDistribution(1), SquashedDiagGaussianDistribution(1)
    p.proba_distribution(th.tensor([[0.2]]), th.tensor([-0.5]))
    q.proba_distribution(th.tensor([[-0.1]]), th.tensor([-0.2]))
    u = th.linspace(-8, 8, 20001, dtype=th.float64)
    log_p = Normal(0.2, math.exp(-0.5)).log_prob(u)
    log_q = Normal(-0.1, math.exp(-0.2)).log_prob(u)
    # the change of variables adds the same log-determinant to both densities and cancels in the log-ratio
    integral = th.trapezoid(log_p.exp() * (log_p - log_q), u).item()
    first, second = distribution_params(p), distribution_params(q)
    assert first is not None and second is not None
    assert exact_kl(first, second).item() == pytest.approx(integral, rel=1e-4)


def test_unknown_distribution_has_no_parameters() -> None:
    assert distribution_params(object()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "params",
    [
        GaussianParams(th.arange(6.0).view(3, 2), th.ones(3, 2)),
        CategoricalParams(th.arange(15.0).view(3, 5), (2, 3)),
        BernoulliParams(th.arange(6.0).view(3, 2)),
    ],
)
def test_rows_and_concatenation(params: DistributionParams) -> None:
    pieces = [take_rows(params, th.tensor([0, 1])), take_rows(params, th.tensor([2]))]
    joined = concatenate(pieces)
    assert type(joined) is type(params)
    for ours, expected in zip(joined, params, strict=True):
        assert th.equal(ours, expected) if isinstance(ours, th.Tensor) else ours == expected
    assert concatenate([]) is None


def test_kl_of_different_kinds_is_refused() -> None:
    with pytest.raises(TypeError, match="GaussianParams and BernoulliParams"):
        exact_kl(GaussianParams(th.zeros(1, 1), th.ones(1, 1)), BernoulliParams(th.zeros(1, 1)))
