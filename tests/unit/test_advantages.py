"""Advantages by hand, and against SB3's buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_plus.advantages import gae, standardize, standardize_rollout


def column(*numbers: float) -> th.Tensor:
    return th.tensor(numbers, dtype=th.float32)[:, None]


def flags(*numbers: int) -> th.Tensor:
    return th.tensor(numbers, dtype=th.bool)[:, None]


REWARDS, VALUES, NEXT = column(1, 2, 3), column(4, 5, 6), column(5, 6, 10)


def test_gae_without_an_end() -> None:
    # gamma 0.5, lambda 0.5: decay 0.25
    # delta_2 = 3 + 0.5*10 - 6 = 2       A_2 = 2
    # delta_1 = 2 + 0.5*6 - 5 = 0        A_1 = 0 + 0.25*2 = 0.5
    # delta_0 = 1 + 0.5*5 - 4 = -0.5     A_0 = -0.5 + 0.25*0.5 = -0.375
    result = gae(REWARDS, VALUES, NEXT, flags(0, 0, 0), flags(0, 0, 0), 0.5, 0.5)
    th.testing.assert_close(result, column(-0.375, 0.5, 2.0))


def test_termination_has_no_next_value_and_stops_the_sum() -> None:
    # delta_1 = 2 + 0 - 5 = -3, A_1 = -3 (nothing of A_2);  A_0 = -0.5 + 0.25*(-3) = -1.25
    result = gae(REWARDS, VALUES, NEXT, flags(0, 1, 0), flags(0, 0, 0), 0.5, 0.5)
    th.testing.assert_close(result, column(-1.25, -3.0, 2.0))


def test_truncation_is_bootstrapped_and_stops_the_sum() -> None:
    # the next value of step 1 is that of the final observation, 8: delta_1 = 2 + 0.5*8 - 5 = 1, A_1 = 1
    # A_0 = -0.5 + 0.25*1 = -0.25
    result = gae(REWARDS, VALUES, column(5, 8, 10), flags(0, 0, 0), flags(0, 1, 0), 0.5, 0.5)
    th.testing.assert_close(result, column(-0.25, 1.0, 2.0))


def test_geometric_series_has_no_advantage() -> None:
    """A reward of 1 for ever is worth 1 / (1 - gamma): a critic that knows it sees nothing to improve."""
    gamma = 0.9
    value = th.full((20, 2), 1 / (1 - gamma))
    truncated = th.zeros(20, 2, dtype=th.bool)
    truncated[[5, 11], [0, 1]] = True
    result = gae(th.ones(20, 2), value, value, th.zeros_like(truncated), truncated, gamma, 0.95)
    th.testing.assert_close(result, th.zeros(20, 2), atol=1e-4, rtol=0)


def test_equals_sb3s_buffer() -> None:
    rng = np.random.default_rng(0)
    steps, envs = 30, 3
    space = spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, device="cpu", gamma=0.97, gae_lambda=0.9, n_envs=envs)
    starts = rng.random((steps + 1, envs)) < 0.2
    for step in range(steps):
        buffer.add(
            np.zeros((envs, 1)),
            np.zeros((envs, 1)),
            rng.normal(size=envs),
            starts[step],
            th.as_tensor(rng.normal(size=envs), dtype=th.float32),
            th.zeros(envs),
        )
    last_values = th.as_tensor(rng.normal(size=envs), dtype=th.float32)
    buffer.compute_returns_and_advantage(last_values, starts[-1])
    next_values = np.concatenate([buffer.values[1:], last_values.numpy()[None]])
    ours = gae(
        th.as_tensor(buffer.rewards),
        th.as_tensor(buffer.values),
        th.as_tensor(next_values),
        th.as_tensor(starts[1:]),
        th.zeros(steps, envs, dtype=th.bool),
        0.97,
        0.9,
    )
    np.testing.assert_allclose(ours.numpy(), buffer.advantages, rtol=1e-5, atol=1e-5)


def test_gae_refuses_unequal_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\), \(3,\)"):
        gae(REWARDS, VALUES[:, 0], NEXT, flags(0, 0, 0), flags(0, 0, 0), 0.5, 0.5)


def test_standardize_uses_the_unbiased_deviation() -> None:
    # mean 2, unbiased variance ((1)^2 + 0 + (1)^2) / 2 = 1
    th.testing.assert_close(standardize(th.tensor([1.0, 2.0, 3.0])), th.tensor([-1.0, 0.0, 1.0]))


def test_standardize_leaves_a_single_row_alone_and_survives_equal_rows() -> None:
    assert standardize(th.tensor([5.0])).item() == 5.0
    assert th.equal(standardize(th.tensor([5.0, 5.0, 5.0])), th.zeros(3))


def test_standardize_with_a_mask_sees_the_valid_rows_only() -> None:
    x = th.tensor([1.0, float("nan"), 2.0, 1e9, 3.0])
    mask = th.tensor([True, False, True, False, True])
    th.testing.assert_close(standardize(x, mask), th.tensor([-1.0, 0.0, 0.0, 0.0, 1.0]))
    th.testing.assert_close(standardize(x, th.tensor([False, False, True, False, False])), th.tensor([0, 0, 2.0, 0, 0]))


def test_standardize_with_a_full_mask_is_standardize() -> None:
    x = th.randn(50, generator=th.Generator().manual_seed(0))
    th.testing.assert_close(standardize(x, th.ones(50, dtype=th.bool)), standardize(x))


def test_scopes() -> None:
    advantages = th.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    # each environment apart: both columns become -1, 0, 1
    expected = th.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    th.testing.assert_close(standardize_rollout(advantages, None, "env"), expected)
    batch = standardize_rollout(advantages, None, "batch")
    # over all six: mean 11, squares 100+1+81+81+64+361=688, / 5 = 137.6, std 11.7303
    th.testing.assert_close(batch[0, 0].item(), -10 / 11.73030, atol=1e-5, rtol=0)
    assert batch.mean().abs() < 1e-6
