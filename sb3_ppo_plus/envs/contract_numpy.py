"""The rules of SB3's NumPy face, as tests; part of :mod:`~sb3_ppo_plus.envs.contract`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.contract_base import (
    ContractHooks,
    assert_arrays,
    assert_raises,
    assert_unchanged,
    equal,
    host_array,
    leaves,
    observation_rows,
)
from sb3_ppo_plus.types import TensorStep


class NumpyFaceContract(ContractHooks):
    """Tests that the ``VecEnv`` of Stable-Baselines3 and the tensor face are the same environment."""

    def _both_faces(self) -> Iterator[tuple[TensorStep, VecEnvStepReturn]]:
        """Step two environments with the same seed and actions side by side, one on each face."""
        with self._env() as tensors, self._env() as arrays:
            tensors.reset_tensors()
            arrays.reset()
            for actions in self._actions(tensors):
                yield tensors.step_tensors(actions.clone()), arrays.step(host_array(actions))

    def test_numpy_observations_lie_in_the_space(self) -> None:
        """Each row of the NumPy face is ``in`` the observation space, the last of an episode too."""
        with self._env() as env:
            rows = observation_rows(env.reset(), env.num_envs)
            for actions in self._actions(env):
                obs, _, _, infos = env.step(host_array(actions))
                rows += observation_rows(obs, env.num_envs)
                rows += [info["terminal_observation"] for info in infos if "terminal_observation" in info]
        for row in rows:
            assert row in env.observation_space, f"observation {row!r} is not in {env.observation_space}"

    def test_numpy_face_resets_as_the_tensor_face_does(self) -> None:
        """Both give the same first observations; ``reset_infos`` has one dictionary per environment."""
        with self._env() as tensors, self._env() as arrays:
            assert isinstance(arrays, VecEnv), f"{type(arrays).__name__} is no VecEnv of Stable-Baselines3"
            assert_arrays(tensors.reset_tensors(), arrays.reset(), "the observation of reset()")
            given = len(arrays.reset_infos)
            assert given == arrays.num_envs, f"reset_infos has {given} entries for {arrays.num_envs} environments"

    def test_numpy_face_steps_as_the_tensor_face_does(self) -> None:
        """Observations, rewards and dones are the same numbers."""
        for tensors, (obs, rewards, dones, _) in self._both_faces():
            assert_arrays(tensors.obs, obs, "obs")
            assert_arrays(tensors.rewards, rewards, "rewards")
            assert_arrays(tensors.terminated | tensors.truncated, dones, "dones")

    def test_infos_hold_the_figures_of_the_step(self) -> None:
        """Each environment's dictionary has its row of ``stats``; those of the episode go into ``episode``."""
        for tensors, (_, rewards, _, infos) in self._both_faces():
            assert len(infos) == len(rewards), f"{len(infos)} infos for {len(rewards)} environments"
            for key in tensors.stats.keys() - {EPISODE_RETURN, EPISODE_LENGTH}:
                value = tensors.stats[key].cpu().numpy()
                assert all(key in info for info in infos), f"stats has {key!r} and infos do not"
                given = np.array([info[key] for info in infos], dtype=value.dtype)
                assert np.array_equal(given, value, equal_nan=True), f"infos give {key} = {given}, stats {value}"

    def test_infos_tell_how_an_episode_ended(self) -> None:
        """Finished rows have ``terminal_observation``, which is ``final_obs``; each row ``TimeLimit.truncated``."""
        for tensors, (_, _, dones, infos) in self._both_faces():
            for index, info in enumerate(infos):
                expected = bool(tensors.truncated[index] & ~tensors.terminated[index])
                given = info.get("TimeLimit.truncated")
                assert given == expected and given is not None, f"TimeLimit.truncated is {given} and not {expected}"
                present = "terminal_observation" in info
                assert present == dones[index], f"done is {dones[index]} and terminal_observation present: {present}"
                if present:
                    final = map_observations(itemgetter(index), tensors.final_obs)
                    assert_arrays(final, info["terminal_observation"], "terminal_observation")

    def test_infos_sum_up_finished_episodes(self) -> None:
        """Finished rows have ``episode``, their return and length, exactly where ``provides_episodes`` says so."""
        with self._env() as env:
            env.reset()
            returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=int)
            for actions in self._actions(env):
                _, rewards, dones, infos = env.step(host_array(actions))
                returns, lengths = returns + rewards, lengths + 1
                for index, info in enumerate(infos):
                    expected = bool(dones[index]) and env.provides_episodes
                    assert ("episode" in info) == expected, (
                        f"provides_episodes is {env.provides_episodes}, done is {dones[index]} and the info has "
                        f"{sorted(info)}"
                    )
                    if expected:
                        given, total = info["episode"], float(returns[index])
                        assert given["l"] == lengths[index], f"l is {given['l']} after {lengths[index]} steps"
                        close = self.running_statistics or abs(given["r"] - total) <= 1e-4 * max(1.0, abs(total))
                        assert close, f"r is {given['r']} and the rewards of the episode sum up to {total}"
                returns, lengths = returns * ~dones, lengths * ~dones

    def test_returned_arrays_are_never_changed(self) -> None:
        """SB3's buffers and callbacks keep what the NumPy face gave; later steps leave it alone."""
        with self._env() as env:
            kept: list[Any] = [env.reset()]
            copies = copy.deepcopy(kept)
            for actions in self._actions(env):
                kept.append(env.step(host_array(actions)))
                copies.append(copy.deepcopy(kept[-1]))
            env.reset()
        assert_unchanged(list(leaves(copies, "returned")), leaves(kept, "returned"), "by a later call")

    def test_actions_are_not_changed(self) -> None:
        """Clipping and scaling happen on a copy; the caller's actions stay as they were."""
        with self._env() as env:
            env.reset_tensors()
            for actions in self._actions(env):
                passed, array = actions.clone(), host_array(actions)
                env.step_tensors(passed)
                assert equal(passed.cpu(), actions.cpu()), "step_tensors() changed the actions that it was given"
                env.step(array)
                assert np.array_equal(array, host_array(actions)), "step() changed the actions that it was given"

    def test_get_attr_gives_one_value_per_environment(self) -> None:
        """None means all, a number one of them, a list those; what does not exist is an ``AttributeError``."""
        with self._env() as env:
            for indices, count in ((None, env.num_envs), (0, 1), ([0, env.num_envs - 1], 2)):
                values = env.get_attr("render_mode", indices)
                assert len(values) == count, f"get_attr(indices={indices}) gave {len(values)} values, not {count}"
            assert env.has_attr("render_mode"), "has_attr('render_mode') is False"
            assert not env.has_attr("no_such_attribute"), "has_attr('no_such_attribute') is True"
            assert_raises(AttributeError, partial(env.env_method, "no_such_method"), "env_method('no_such_method')")

    def test_set_attr_is_read_back_with_get_attr(self) -> None:
        """Set for all it holds for all; set for one it holds for that one, or is refused and changes nothing."""
        with self._env() as env:
            env.set_attr("contract_probe", "all")
            given = env.get_attr("contract_probe")
            assert given == ["all"] * env.num_envs, f"set_attr(..., 'all') led to {given}"
            expected = ["one"] + ["all"] * (env.num_envs - 1)
            try:
                env.set_attr("contract_probe", "one", indices=0)
            except (ValueError, TypeError):
                expected[0] = "all"
            given = env.get_attr("contract_probe")
            assert given == expected, f"set_attr(..., 'one', indices=0) led to {given}, not to {expected}"

    def test_environments_that_do_not_exist_are_refused(self) -> None:
        """A number beyond the last environment is an error, never silently another environment."""
        errors = (IndexError, ValueError)
        with self._env() as env:
            for indices in (env.num_envs, [0, env.num_envs]):
                what = f"(indices={indices}) of {env.num_envs} environments"
                assert_raises(errors, partial(env.get_attr, "render_mode", indices), f"get_attr{what}")
                assert_raises(errors, partial(env.set_attr, "contract_probe", 0, indices), f"set_attr{what}")
                assert_raises(errors, partial(env.env_is_wrapped, Monitor, indices), f"env_is_wrapped{what}")

    def test_env_is_wrapped_gives_one_answer_per_environment(self) -> None:
        """Monitor counts as present where finished episodes come with its statistics; what is not there does not."""
        with self._env() as env:
            for wrapper, expected in ((Monitor, env.provides_episodes), (gym.wrappers.TimeAwareObservation, False)):
                given = env.env_is_wrapped(wrapper)
                assert given == [expected] * env.num_envs, f"env_is_wrapped({wrapper.__name__}) gave {given}"

    def test_seeds_and_pictures_come_one_per_environment(self) -> None:
        """``seed(s)`` answers s, s + 1, ...; ``get_images()`` has an entry for each, None where there is no picture."""
        with self._env() as env:
            given = list(env.seed(self.seed) or [])
            assert given == [self.seed + index for index in range(env.num_envs)], f"seed({self.seed}) gave {given}"
            env.set_options({})
            env.reset()
            images = list(env.get_images())
            assert len(images) == env.num_envs, f"get_images() gave {len(images)} of {env.num_envs}"

    def test_closing_twice_is_fine(self) -> None:
        """A script and a callback may both close, whether the environment was used or not."""
        for used in (False, True):
            with self._env() as env:
                if used:
                    env.reset()
                env.close()
                env.close()

    def test_ppo_of_sb3_learns_on_it(self) -> None:
        """The rollout loop of Stable-Baselines3 takes the environment as it is."""
        with self._env() as env:
            policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
            small: dict[str, Any] = {"n_steps": 8, "batch_size": 8 * env.num_envs, "n_epochs": 1, "device": "cpu"}
            model = PPO(policy, env, policy_kwargs={"net_arch": [8]}, **small).learn(16 * env.num_envs)
            assert model.num_timesteps == 16 * env.num_envs, f"learn() took {model.num_timesteps} steps"
