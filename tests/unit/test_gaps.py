"""Advantages of agents that decide at rhythms of their own, against an account of each decision by itself."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_model
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_plus.advantages import Gaps, gae_over_gaps
from sb3_ppo_plus.buffers import AWAITS_ACTION, INVALID_ROW, LOST_ROW, RowsMixin

GAMMA, LAMBDA = 0.9, 0.8


def column(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)[:, None]


def flags(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=bool)[:, None]


def compute(
    rewards: np.ndarray, values: np.ndarray, last: float, dones: np.ndarray, idle: np.ndarray, **more: Any
) -> tuple[list[float], list[bool]]:
    lost = more.get("lost", np.zeros_like(idle))
    gaps = Gaps(idle, lost, np.array([more.get("open", False)]))
    last_values = np.array([last], np.float32)
    advantages, counted = gae_over_gaps(rewards, values, last_values, dones, gaps, GAMMA, LAMBDA)
    return advantages[:, 0].tolist(), counted[:, 0].tolist()


def test_time_passes_over_rows_without_a_decision() -> None:
    # decisions in rows 0 and 3; the reward of the first one, 2 + 1, comes in two pieces
    advantages, counted = compute(column(0, 2, 1, 5), column(10, 99, 99, 20), 30, flags(0, 0, 0, 0), flags(0, 1, 1, 0))
    second = 5 + 0.9 * 30 - 20  # 12
    first = 3 + 0.9 * 20 - 10 + 0.72 * second  # 19.64
    assert advantages == pytest.approx([first, 0, 0, second])
    assert counted == [True, False, False, True]


def test_an_episode_that_ends_between_two_decisions_ends_the_one_before() -> None:
    advantages, counted = compute(column(0, 7, 0, 5), column(10, 99, 99, 20), 30, flags(0, 1, 0, 0), flags(0, 1, 1, 0))
    assert advantages == pytest.approx([7 - 10, 0, 0, 12])
    assert counted == [True, False, False, True]


def test_a_decision_without_an_outcome_yet_is_what_the_one_before_is_bootstrapped_with() -> None:
    advantages, counted = compute(column(1, 0, 0), column(10, 20, 99), 99, flags(0, 0, 0), flags(0, 0, 1), open=True)
    assert advantages == pytest.approx([1 + 0.9 * 20 - 10, 0, 0])
    assert counted == [True, False, False]


def test_a_lost_decision_is_left_out_and_the_next_episode_counts() -> None:
    # the worker dies in row 1, where nothing was decided; the agent decides again in row 2
    advantages, counted = compute(
        column(1, 0, 5), column(10, 99, 20), 30, flags(0, 1, 0), flags(0, 1, 0), lost=flags(0, 1, 0)
    )
    assert advantages == pytest.approx([0, 0, 12])
    assert counted == [False, False, True]


def test_an_ended_episode_leaves_nothing_open() -> None:
    advantages, counted = compute(column(1, 0), column(10, 99), 99, flags(1, 0), flags(0, 1), open=True)
    assert advantages == pytest.approx([1 - 10, 0])
    assert counted == [True, False]


def test_without_gaps_the_advantages_are_sb3s() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 5)
    buffer = RolloutBuffer(40, spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), "cpu", LAMBDA, GAMMA, 5)
    buffer.rewards = rng.normal(size=shape).astype(np.float32)
    buffer.values = rng.normal(size=shape).astype(np.float32)
    buffer.episode_starts = (rng.random(shape) < 0.1).astype(np.float32)
    last_values, dones = rng.normal(size=5).astype(np.float32), rng.random(5) < 0.5
    buffer.compute_returns_and_advantage(th.as_tensor(last_values), dones)
    nowhere = np.zeros(shape, bool)
    ended = np.concatenate([buffer.episode_starts[1:] > 0, dones[None]])
    advantages, counted = gae_over_gaps(
        buffer.rewards, buffer.values, last_values, ended, Gaps(nowhere, nowhere, np.zeros(5, bool)), GAMMA, LAMBDA
    )
    np.testing.assert_allclose(advantages, buffer.advantages, rtol=1e-5, atol=1e-5)
    assert counted.all()


@pytest.mark.parametrize("seed", range(20))
def test_random_rhythms_give_what_each_agents_own_list_of_decisions_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, n = 60, 4
    idle, dones = rng.random((steps, n)) < 0.5, rng.random((steps, n)) < 0.1
    lost = dones & (rng.random((steps, n)) < 0.3)
    awaits = rng.random(n) < 0.5
    values = rng.normal(size=(steps, n)).astype(np.float32)
    rewards, last_values = np.zeros((steps, n), np.float32), rng.normal(size=n).astype(np.float32)
    expected, counted = np.zeros((steps, n)), np.zeros((steps, n), bool)
    for env in range(n):
        decisions: list[dict[str, Any]] = []
        under_way: dict[str, Any] | None = None
        for t in range(steps):
            if not idle[t, env]:
                if under_way is not None:
                    under_way.update(known=True, next=values[t, env])
                under_way = {"t": t, "reward": 0.0, "known": False, "ends": False, "next": 0.0}
                decisions.append(under_way)
            if under_way is not None and not lost[t, env]:
                rewards[t, env] = rng.normal()
                under_way["reward"] += rewards[t, env]
            if dones[t, env] and under_way is not None:
                under_way.update(known=not lost[t, env], ends=not lost[t, env])
                under_way = None
        if under_way is not None:
            under_way.update(known=bool(awaits[env]), next=last_values[env])
        following = 0.0
        for decision in reversed(decisions):
            t = decision["t"]
            if not decision["known"]:
                following = 0.0
                continue
            if decision["ends"]:
                following = 0.0
            following = decision["reward"] + GAMMA * decision["next"] - values[t, env] + GAMMA * LAMBDA * following
            expected[t, env], counted[t, env] = following, True
    gaps = Gaps(idle, lost, ~awaits)
    advantages, found = gae_over_gaps(rewards, values, last_values, dones, gaps, GAMMA, LAMBDA)
    assert np.array_equal(found, counted)
    np.testing.assert_allclose(advantages, expected, rtol=1e-4, atol=1e-4)


class Slow(gym.Env):
    """An agent that decides in every third step; the reward of a decision comes just before the next one."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, lose_at: int | None = None) -> None:
        self.t, self.lose_at = 0, lose_at

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.t = 0
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        info = {INVALID_ROW: self.t % 3 != 0, AWAITS_ACTION: self.t % 3 == 2, LOST_ROW: self.t == self.lose_at}
        observation = np.full(2, np.sin(self.t // 3), dtype=np.float32)
        self.t += 1
        return observation, float(self.t % 3 == 0), False, self.t == self.lose_at, info


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("n_steps, expected", [(30, 10), (31, 10), (32, 10), (33, 11)])
def test_a_model_counts_the_decisions_whose_outcome_it_knows(n_steps: int, expected: int, recompute: bool) -> None:
    model = make_model(
        env=Slow(), n_steps=n_steps, batch_size=n_steps, gamma=GAMMA, recompute_advantages=recompute, n_epochs=2
    )
    model.learn(n_steps)
    buffer = model.rollout_buffer
    assert isinstance(buffer, RowsMixin)
    assert buffer.valid.sum() == expected
    model.collect_rollouts(model.env, model._init_callback(None), buffer, n_steps)
    at = buffer.valid[:, 0].nonzero()[0]
    here, there = at[:-1], at[1:]
    # every decision brings one point, in whatever row it comes
    deltas = 1.0 + GAMMA * buffer.values[there] - buffer.values[here]
    expected_advantages = deltas + GAMMA * model.gae_lambda * buffer.advantages[there]
    assert np.allclose(buffer.advantages[here], expected_advantages, atol=1e-5)
