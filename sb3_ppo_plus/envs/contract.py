"""
The rules of a :class:`~sb3_ppo_plus.envs.base.TensorVecEnv` as tests, for every environment here and for your own.

Inherit, say how the environment is made, and run pytest (or add ``unittest.TestCase`` as a second base)::

    class TestMyEnv(TensorVecEnvContract):
        def make_env(self, n_envs, seed):
            return MyEnv(n_envs, seed=seed, max_episode_steps=7)

What does not apply to an environment is skipped and says so. Nothing here needs pytest.
"""

from __future__ import annotations

import copy
import io
from functools import partial
from itertools import pairwise
from unittest import SkipTest

import torch as th

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.contract_base import (
    Record,
    assert_columns,
    assert_observations,
    assert_raises,
    assert_tensor,
    assert_unchanged,
    begin,
    difference,
    done,
    equal,
    leaves,
    observation_names,
    stat,
    take,
)
from sb3_ppo_plus.envs.contract_numpy import NumpyFaceContract
from sb3_ppo_plus.types import TensorStep

_PLAIN = (bool, int, float, str, type(None))


class TensorVecEnvContract(NumpyFaceContract):
    """
    Tests that every vectorized environment with a tensor face passes; those of the NumPy face are inherited.

    The hooks, :meth:`make_env` above all, are those of :class:`~sb3_ppo_plus.envs.contract_base.ContractHooks`.
    """

    # ------------------------------------------------ shapes and types

    def test_reset_gives_observations_of_the_space(self) -> None:
        """The first observations, and the figures beside them, have one row per environment."""
        with self._env() as env:
            if self.device is not None:
                wanted = th.device(self.device)
                assert env.device.type == wanted.type, f"the environment is on {env.device}, not on {wanted}"
            assert_observations(env, env.reset_tensors(), "the observation of reset_tensors()")
            assert_columns(env, env.reset_stats, "reset_stats")

    def test_step_gives_tensors_of_the_right_shape_and_dtype(self) -> None:
        """Rewards are float32, flags bool; observations fit the space; all of it lies on the environment's device."""
        with self._env() as env:
            env.reset_tensors()
            for actions in self._actions(env):
                step = env.step_tensors(actions)
                assert isinstance(step, TensorStep), f"step_tensors() returns a {type(step).__name__}, not a TensorStep"
                assert_tensor(env, step.rewards, (env.num_envs,), th.float32, "rewards")
                assert_tensor(env, step.terminated, (env.num_envs,), th.bool, "terminated")
                assert_tensor(env, step.truncated, (env.num_envs,), th.bool, "truncated")
                assert_observations(env, step.obs, "obs")
                assert_observations(env, step.final_obs, "final_obs")
                assert_columns(env, step.stats, "stats")

    def test_observations_and_rewards_are_finite(self) -> None:
        """No step gives NaN or infinity, which would spread to the policy's parameters."""
        with self._env() as env:
            for position, record in enumerate(self._trajectory(env)):
                for name, value in record.items():
                    finite = name.startswith(("stats", "reset_stats")) or bool(th.isfinite(value).all())
                    assert finite, f"{name} of record {position} is not finite: {value}"

    # ------------------------------------------------ the end of an episode

    def test_final_obs_is_obs_where_nothing_ended(self) -> None:
        """The reset of one environment leaves the observations of its neighbours as they were."""
        with self._env() as env:
            for position, record in enumerate(self._trajectory(env)[1:], start=1):
                goes_on = ~done(record)
                for name in observation_names(record):
                    assert equal(record[f"final_{name}"][goes_on], record[name][goes_on]), (
                        f"final_{name} and {name} differ at step {position} in environments that did not end; a reset "
                        "may change only those that did"
                    )

    def test_an_ended_episode_is_reset_within_the_step(self) -> None:
        """``obs`` is the first observation of the next episode, ``final_obs`` the last of the old one."""
        with self._env() as env:
            trajectory = self._trajectory(env)
        assert any(bool(done(record).any()) for record in trajectory[1:]), (
            f"no episode ended within n_steps = {self.n_steps}: let make_env() make shorter episodes, or raise n_steps"
        )
        names = observation_names(trajectory[0])
        for flag in ("terminated", "truncated"):
            steps = [(before, record, record[flag]) for before, record in pairwise(trajectory) if record[flag].any()]
            if not steps:
                continue
            # In one of them at least: an episode may happen to end where the next begins.
            assert any(_differs(now, rows, now, names) for _, now, rows in steps), (
                f"obs equals final_obs wherever an episode was {flag}: either the environment is not reset within the "
                "step, or final_obs is taken after the reset"
            )
            assert any(_differs(before, rows, now, names) for before, now, rows in steps), (
                f"final_obs is that of the step before wherever an episode was {flag}; take it after the last step"
            )
        if self.deterministic_reset and not self.running_statistics:
            for record in trajectory[1:]:
                for name in names:
                    first, now = trajectory[0][name][done(record)], record[name][done(record)]
                    assert equal(first, now, self.tolerance), f"resets draw nothing, and {name} after one is {now}"

    def test_episode_statistics_begin_anew_with_each_episode(self) -> None:
        """``episode_length`` and ``episode_return`` count the step that ended the episode, then start again."""
        with self._env() as env:
            trajectory = self._trajectory(env)
        counted = sorted({stat(EPISODE_LENGTH), stat(EPISODE_RETURN)} & trajectory[1].keys())
        if not counted:
            raise SkipTest("the environment counts neither return nor length of its episodes")
        assert len(counted) == 2, f"there is {counted[0]} alone; {EPISODE_RETURN} and {EPISODE_LENGTH} go together"
        lengths = returns = th.zeros(self.n_envs, dtype=th.float64)
        for position, record in enumerate(trajectory[1:], start=1):
            lengths, returns = lengths + 1, returns + record["rewards"]
            given = record[stat(EPISODE_LENGTH)]
            assert bool((given == lengths).all()), f"{EPISODE_LENGTH} of step {position} is {given}, not {lengths}"
            if not self.running_statistics:
                given = record[stat(EPISODE_RETURN)]
                close = (given - returns).abs() <= 1e-4 * returns.abs().clamp(min=1)
                assert bool(close.all()), f"{EPISODE_RETURN} of step {position} is {given}, not {returns}"
            lengths, returns = lengths * ~done(record), returns * ~done(record)

    # ------------------------------------------------ seeds

    def test_the_same_seed_repeats_the_trajectory(self) -> None:
        """Two new environments with the same seed and the same actions give the same numbers."""
        with self._env() as first, self._env() as second:
            self._assert_same(self._trajectory(first), self._trajectory(second), "two environments with the same seed")

    def test_another_seed_gives_another_trajectory(self) -> None:
        """The seed that ``make_env`` passes on has an effect."""
        self._skip_without_draws()
        with self._env() as first, self._env(seed=self.seed + 1000) as second:
            found = difference(self._trajectory(first), self._trajectory(second), self.tolerance)
        assert found, (
            "environments with different seeds give the same trajectory: the seed has no effect (the contract of an "
            "environment that draws nothing sets deterministic_reset = True)"
        )

    def test_seeding_again_repeats_the_trajectory(self) -> None:
        """``seed(s)`` and a reset bring an environment that was in use back to where a new one begins."""
        self._skip_with_statistics()
        with self._env() as new, self._env(seed=self.seed + 1000) as used:
            self._trajectory(used)
            used.seed(self.seed)
            self._assert_same(self._trajectory(new), self._trajectory(used), "seed() of an environment in use")

    def test_a_seed_is_used_once(self) -> None:
        """A later reset without a new seed goes on with the generators, so episodes start differently."""
        self._skip_without_draws()
        with self._env() as env:
            first, second = begin(env), begin(env)
        assert any(not equal(first[name], second[name]) for name in observation_names(first)), (
            "two resets in a row give the same observations: the seed is used again; take it with take_seeds()"
        )

    def test_environment_i_is_environment_0_with_seed_plus_i(self) -> None:
        """What an environment does depends on its own seed and actions, not on what runs beside it."""
        self._skip_with_statistics()
        if not self.independent_envs:
            raise SkipTest("the environments share a source of random numbers")
        with self._env() as env:
            actions = self._actions(env)
            batch = self._trajectory(env, actions)
        for index in range(self.n_envs):
            with self._env(n_envs=1, seed=self.seed + index) as env:
                alone = self._trajectory(env, [row[index : index + 1] for row in actions])
            own = [{name: value[index : index + 1] for name, value in record.items()} for record in batch]
            self._assert_same(alone, own, f"one with seed + {index}, and environment {index} of {self.n_envs}")

    # ------------------------------------------------ state

    def test_the_same_environment_goes_on_from_a_state(self) -> None:
        """Loading a state repeats, bit for bit, what followed it, the draws of later resets included."""
        with self._env() as env:
            actions = self._warm_up(env)
            state = copy.deepcopy(env.state_dict())
            expected = [*take(env, actions), begin(env)]
            env.load_state_dict(state)
            self._assert_same(expected, [*take(env, actions), begin(env)], "going on from a state for a second time")

    def test_a_new_environment_goes_on_from_a_saved_state(self) -> None:
        """The state is complete: an environment of another seed, never reset, goes on as the first one did."""
        with self._env() as env, self._env(seed=self.seed + 1000) as other:
            actions = self._warm_up(env)
            file = io.BytesIO()
            th.save(env.state_dict(), file)
            expected = [*take(env, actions), begin(env)]
            file.seek(0)
            other.load_state_dict(th.load(file, weights_only=True))
            # The reset, too: a seed that was announced to the new environment must not come into it.
            self._assert_same(expected, [*take(other, actions), begin(other)], "going on in a new environment")

    def test_a_state_is_made_of_plain_values_and_tensors(self) -> None:
        """It can be written with ``torch.save`` and read with ``weights_only=True``; NumPy's types cannot."""
        with self._env() as env:
            self._warm_up(env)
            found = list(leaves(env.state_dict(), "state_dict()"))
        assert found, "state_dict() is empty, so nothing can go on from it"
        for path, value in found:
            assert type(value) in _PLAIN or isinstance(value, th.Tensor), (
                f"{path} is a {type(value).__name__}; use numbers, strings, lists, mappings and tensors"
            )

    def test_a_state_is_a_copy(self) -> None:
        """Stepping on changes neither a state that was taken nor one that was loaded."""
        with self._env() as env:
            actions = self._warm_up(env)
            state = env.state_dict()
            taken = copy.deepcopy(list(leaves(state, "state_dict()")))
            take(env, actions)
            assert_unchanged(taken, leaves(state, "state_dict()"), "after it was taken")
            env.load_state_dict(state)
            take(env, actions)
            assert_unchanged(taken, leaves(state, "state_dict()"), "after it was loaded")

    def test_a_state_of_another_number_of_environments_is_refused(self) -> None:
        """It raises ``InvalidArgument``, or another ``ValueError``, and changes nothing."""
        with self._env() as env, self._env(n_envs=self.n_envs + 1) as larger:
            begin(env)
            begin(larger)
            for target, state in ((larger, env.state_dict()), (env, larger.state_dict())):
                before = copy.deepcopy(list(leaves(target.state_dict(), "state_dict()")))
                assert_raises(ValueError, partial(target.load_state_dict, state), "a state of another size")
                assert_unchanged(before, leaves(target.state_dict(), "state_dict()"), "by a state that was refused")


def _differs(observed: Record, ended: th.Tensor, step: Record, names: list[str]) -> bool:
    return any(not equal(observed[name][ended], step[f"final_{name}"][ended]) for name in names)
