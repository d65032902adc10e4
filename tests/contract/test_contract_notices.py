"""Each test of the contract passes on correct environments, and fails on one that breaks its rule."""

from __future__ import annotations

import unittest

import broken_numpy_faces  # noqa: F401  (enters its environments in the list)
import pytest
from broken_envs import BROKEN
from toy_envs import DictPointMass, DiscretePointMass, PointMass, RecyclingPointMass, StillPointMass

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.contract import TensorVecEnvContract

# ------------------------------------------------ environments that keep the rules


class TestPointMass(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return PointMass(n_envs, seed)


class TestDictPointMass(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return DictPointMass(n_envs, seed)


class TestDiscretePointMass(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return DiscretePointMass(n_envs, seed)


class TestStillPointMass(TensorVecEnvContract):
    deterministic_reset = True

    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return StillPointMass(n_envs, seed)


class TestRecyclingPointMass(TensorVecEnvContract):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return RecyclingPointMass(n_envs, seed)


class TestWithUnittest(TensorVecEnvContract, unittest.TestCase):
    def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
        return PointMass(n_envs, seed)


# ------------------------------------------------ environments that break one rule each


@pytest.mark.parametrize("rule, broken, message", BROKEN, ids=[broken.__name__ for _, broken, _ in BROKEN])
def test_a_broken_rule_is_noticed_by_the_test_named_for_it(rule: str, broken: type[PointMass], message: str) -> None:
    class Contract(TensorVecEnvContract):
        deterministic_reset = issubclass(broken, StillPointMass)

        def make_env(self, n_envs: int, seed: int | None) -> TensorVecEnv:
            return broken(n_envs, seed)

    # Loops of other libraries fail in their own way on what they cannot take.
    error = ValueError if rule.startswith("ppo_") else AssertionError
    with pytest.raises(error, match=message):
        getattr(Contract(), f"test_{rule}")()


def test_every_rule_has_an_environment_that_breaks_it() -> None:
    rules = {name.removeprefix("test_") for name in dir(TensorVecEnvContract) if name.startswith("test_")}
    assert {rule for rule, _, _ in BROKEN} == rules


def test_a_contract_that_makes_no_environment_says_what_to_override() -> None:
    class Contract(TensorVecEnvContract):
        pass

    with pytest.raises(TypeError, match=r"Contract .* override make_env\(self, n_envs, seed\)"):
        Contract().test_a_seed_is_used_once()


def test_the_device_that_is_asked_for_is_checked() -> None:
    class Contract(TestPointMass):
        device = "cuda"

    with pytest.raises(AssertionError, match="the environment is on cpu, not on cuda"):
        Contract().test_reset_gives_observations_of_the_space()


def test_what_does_not_apply_is_skipped_with_a_reason() -> None:
    class Contract(TestPointMass):
        independent_envs = False

    with pytest.raises(unittest.SkipTest, match="share a source of random numbers"):
        Contract().test_environment_i_is_environment_0_with_seed_plus_i()
