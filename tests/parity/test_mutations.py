"""
Two defective PPO codes that circulate, as mutations: the checks below must catch each of them.

One computes the critic's targets from advantages that are already normalized, and bootstraps the end of the rollout
with 0. The other takes the time limit's truncation for a termination. Each check is run on PPOPlus, where it must pass,
and on the mutants, where it must fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import Critic, OneReward
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_plus import PPOPlus, probe
from sb3_ppo_plus.advantages import gae
from sb3_ppo_plus.probe import AdvantageRecomputation

GAMMA, STEPS = 0.9, 20
FOR_EVER = 1 / (1 - GAMMA)  # the value of a reward of 1 in every step


class Mutants:
    """The defects, each as something to pass to PPOPlus."""

    class NormalizedTargets(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            super().compute_returns_and_advantage(last_values, dones)
            self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std() + 1e-8)
            self.returns = self.advantages + self.values

    class ZeroBootstrap(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            super().compute_returns_and_advantage(th.zeros_like(last_values), dones)

    class TruncationIsTermination(PPOPlus):
        def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
            super()._update_info_buffer(infos, dones)
            for info in infos:
                info.pop("TimeLimit.truncated", None)


def collected(opinion: float, limit: int = 10**9, algorithm: type[PPOPlus] = PPOPlus, **arguments: Any) -> PPOPlus:
    """A model after one rollout and an update that moves nothing."""
    model = algorithm(
        Critic,
        DummyVecEnv([lambda: OneReward(limit)]),
        n_steps=STEPS,
        batch_size=STEPS,
        n_epochs=1,
        gamma=GAMMA,
        gae_lambda=1.0,
        learning_rate=0.0,
        policy_kwargs={"opinion": opinion},
        device="cpu",
        **arguments,
    )
    return model.learn(STEPS)


def check_targets_come_from_raw_advantages(**mutation: Any) -> None:
    """An ignorant critic (0 everywhere): the target of step t is the sum of the discounted rewards that are left."""
    returns = collected(opinion=0.0, **mutation).rollout_buffer.returns.flatten()
    expected = (1 - GAMMA ** np.arange(STEPS, 0, -1)) / (1 - GAMMA)
    np.testing.assert_allclose(returns, expected, rtol=1e-4)


def check_the_end_of_a_rollout_is_bootstrapped(**mutation: Any) -> None:
    """A critic that knows the truth sees nothing to correct, at the end of the rollout neither."""
    returns = collected(opinion=FOR_EVER, **mutation).rollout_buffer.returns.flatten()
    np.testing.assert_allclose(returns, FOR_EVER, rtol=1e-4)


def check_truncations_are_bootstrapped(**mutation: Any) -> None:
    """Nor where a time limit cuts the episode off."""
    returns = collected(opinion=FOR_EVER, limit=7, **mutation).rollout_buffer.returns.flatten()
    np.testing.assert_allclose(returns, FOR_EVER, rtol=1e-4)


CHECKS = [
    check_targets_come_from_raw_advantages,
    check_the_end_of_a_rollout_is_bootstrapped,
    check_truncations_are_bootstrapped,
]
CAUGHT: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (check_targets_come_from_raw_advantages, {"rollout_buffer_class": Mutants.NormalizedTargets}),
    (check_the_end_of_a_rollout_is_bootstrapped, {"rollout_buffer_class": Mutants.ZeroBootstrap}),
    (check_truncations_are_bootstrapped, {"algorithm": Mutants.TruncationIsTermination}),
]


@pytest.mark.parametrize("check", CHECKS)
def test_ppo_plus_passes(check: Callable[..., None]) -> None:
    check()


@pytest.mark.parametrize(("check", "mutation"), CAUGHT)
def test_each_defect_is_caught(check: Callable[..., None], mutation: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check(**mutation)


# The same three for the recomputation of advantages, which has an arithmetic of its own.


def check_recomputed_targets(limit: int, opinion: float, expected: Any) -> None:
    model = collected(opinion=opinion, limit=limit, recompute_advantages=True)
    again = AdvantageRecomputation(model.policy, model.rollout_buffer, model._last_obs, model._last_episode_starts)
    np.testing.assert_allclose(again(model.policy)[1].flatten(), expected, rtol=1e-4)


def zero_bootstrap(rewards: th.Tensor, values: th.Tensor, next_values: th.Tensor, *rest: Any) -> th.Tensor:
    next_values = next_values.clone()
    next_values[-1] = 0.0
    return gae(rewards, values, next_values, *rest)


def truncation_is_termination(
    rewards: th.Tensor,
    values: th.Tensor,
    next_values: th.Tensor,
    terminated: th.Tensor,
    truncated: th.Tensor,
    *rest: Any,
) -> th.Tensor:
    return gae(rewards, values, next_values, terminated | truncated, th.zeros_like(truncated), *rest)


def normalized(*arguments: Any) -> th.Tensor:
    advantages = gae(*arguments)
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


RECOMPUTED = [
    (10**9, FOR_EVER, FOR_EVER, zero_bootstrap),
    (7, FOR_EVER, FOR_EVER, truncation_is_termination),
    (10**9, 0.0, (1 - GAMMA ** np.arange(STEPS, 0, -1)) / (1 - GAMMA), normalized),
]


@pytest.mark.parametrize(("limit", "opinion", "expected", "mutant"), RECOMPUTED)
def test_recomputation_is_right_and_its_defects_are_caught(
    limit: int, opinion: float, expected: Any, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_recomputed_targets(limit, opinion, expected)
    monkeypatch.setattr(probe, "gae", mutant)
    with pytest.raises(AssertionError):
        check_recomputed_targets(limit, opinion, expected)
