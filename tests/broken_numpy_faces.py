"""Point masses that break one rule of the NumPy face each, in the way their names say."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from broken_envs import breaks
from gymnasium import spaces
from toy_envs import DiscretePointMass, PointMass

from sb3_ppo_plus.types import TensorStep


@breaks("numpy_observations_lie_in_the_space", "is not in Box")
class HasATightSpace(PointMass):
    """Masses fly through the wall before their episode ends, so the last observation is beyond it."""

    def make_observation_space(self) -> spaces.Space:
        return spaces.Box(-1.0, 1.0, (2,), np.float32)


class ChangesTheArrays(PointMass):
    """Base of what differs on the NumPy face only."""

    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        return obs, rewards, dones, infos

    def step_wait(self) -> Any:
        return self.change(*super().step_wait())


@breaks("numpy_face_resets_as_the_tensor_face_does", "on the NumPy face and")
class ResetsTwice(PointMass):
    def reset(self) -> Any:
        super().reset()
        return super().reset()


@breaks("numpy_face_resets_as_the_tensor_face_does", "reset_infos has 0 entries")
class ForgetsResetInfos(PointMass):
    def reset(self) -> Any:
        obs = super().reset()
        self.reset_infos = []
        return obs


@breaks("numpy_face_steps_as_the_tensor_face_does", "rewards is")
class RewardsOfSteppingAreDoubles(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        return obs, rewards.astype(np.float64), dones, infos


@breaks("numpy_face_steps_as_the_tensor_face_does", "dones is")
class DonesAreTerminationsOnly(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        return obs, rewards, dones & np.array([not info["TimeLimit.truncated"] for info in infos]), infos


@breaks("infos_hold_the_figures_of_the_step", "infos do not")
class InfosAreEmpty(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        kept = {"TimeLimit.truncated", "terminal_observation", "episode"}
        return obs, rewards, dones, [{key: info[key] for key in kept & info.keys()} for info in infos]


@breaks("infos_hold_the_figures_of_the_step", "infos give speed")
class InfosAreShifted(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        speeds = np.roll([info["speed"] for info in infos], 1)
        return obs, rewards, dones, [{**info, "speed": value} for info, value in zip(infos, speeds, strict=True)]


@breaks("infos_tell_how_an_episode_ended", "terminal_observation is")
class TerminalObservationIsTheNextFirst(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = obs[index].copy()
        return obs, rewards, dones, infos


@breaks("infos_tell_how_an_episode_ended", "present: False")
class HasNoTerminalObservation(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for info in infos:
            info.pop("terminal_observation", None)
        return obs, rewards, dones, infos


@breaks("infos_tell_how_an_episode_ended", "TimeLimit.truncated is True and not False")
class EveryEndIsATimeLimit(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for info, done in zip(infos, dones.tolist(), strict=True):
            info["TimeLimit.truncated"] = done
        return obs, rewards, dones, infos


@breaks("infos_tell_how_an_episode_ended", "TimeLimit.truncated is None and not False")
class SaysTimeLimitAtTheEndOnly(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for index in np.flatnonzero(~dones):
            del infos[index]["TimeLimit.truncated"]
        return obs, rewards, dones, infos


@breaks("infos_sum_up_finished_episodes", "l is 11 after 12 steps")
class EpisodesAreOneStepShort(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for index in np.flatnonzero(dones):
            infos[index]["episode"]["l"] -= 1
        return obs, rewards, dones, infos


@breaks("infos_sum_up_finished_episodes", "sum up to")
class EpisodesMissTheLastReward(ChangesTheArrays):
    def change(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        for index in np.flatnonzero(dones):
            infos[index]["episode"]["r"] -= float(rewards[index])
        return obs, rewards, dones, infos


@breaks("infos_sum_up_finished_episodes", "provides_episodes is True")
class PromisesEpisodes(DiscretePointMass):
    @property
    def provides_episodes(self) -> bool:
        return True


@breaks("returned_arrays_are_never_changed", "was changed by a later call")
class ReusesItsArrays(PointMass):
    array: np.ndarray | None = None

    def step_wait(self) -> Any:
        obs, *rest = super().step_wait()
        if self.array is None:
            self.array = np.zeros_like(obs)
        self.array[:] = obs
        return self.array, *rest


@breaks("returned_arrays_are_never_changed", "by a later call")
class ReusesItsInfos(PointMass):
    memory: list[dict[str, Any]] | None = None

    def step_wait(self) -> Any:
        *rest, infos = super().step_wait()
        if self.memory is None:
            self.memory = infos
        for kept, info in zip(self.memory, infos, strict=True):
            kept.update(info)
        return *rest, self.memory


@breaks("actions_are_not_changed", r"step_tensors\(\) changed")
class ScalesActionsInPlace(PointMass):
    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        return super().step_tensors(actions.mul_(0.5))


@breaks("actions_are_not_changed", r"step\(\) changed")
class ScalesArraysInPlace(PointMass):
    def step_async(self, actions: np.ndarray) -> None:
        actions *= 0.5
        super().step_async(actions)


@breaks("get_attr_gives_one_value_per_environment", r"get_attr\(indices=0\) gave 3 values")
class IgnoresIndices(PointMass):
    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return super().get_attr(attr_name)


@breaks("get_attr_gives_one_value_per_environment", r"has_attr\('no_such_attribute'\) is True")
class HasEveryAttribute(PointMass):
    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None) for _ in self._indices(indices)]


@breaks("get_attr_gives_one_value_per_environment", r"env_method\('no_such_method'\) is accepted")
class HasEveryMethod(PointMass):
    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [None for _ in self._indices(indices)]


@breaks("set_attr_is_read_back_with_get_attr", "'something else'")
class IgnoresSetAttr(PointMass):
    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        self.__dict__.setdefault(attr_name, "something else")


@breaks("set_attr_is_read_back_with_get_attr", r"indices=0\) led to")
class SetsForAll(PointMass):
    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        super().set_attr(attr_name, value)


@breaks("environments_that_do_not_exist_are_refused", r"get_attr\(indices=3\) of 3 environments")
class CountsModulo(PointMass):
    def _indices(self, indices: Any) -> list[int]:
        return [int(index) % self.num_envs for index in self._get_indices(indices)]


@breaks("env_is_wrapped_gives_one_answer_per_environment", r"gave \[True\]")
class AnswersOnce(PointMass):
    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        self._indices(indices)
        return [True]


@breaks("env_is_wrapped_gives_one_answer_per_environment", "TimeAwareObservation")
class IsWrappedInEverything(PointMass):
    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [True for _ in self._indices(indices)]


@breaks("seeds_and_pictures_come_one_per_environment", "gave \\[\\]")
class SaysNothingOfSeeds(PointMass):
    def seed(self, seed: int | None = None) -> Any:
        super().seed(seed)


@breaks("seeds_and_pictures_come_one_per_environment", "gave 1 of 3")
class ShowsTheFirst(PointMass):
    def get_images(self) -> Any:
        return [None]


@breaks("closing_twice_is_fine", "closed already")
class ClosesOnce(PointMass):
    closed = 0

    def close(self) -> None:
        self.closed += 1
        assert self.closed < 2, "closed already"


@breaks("ppo_of_sb3_learns_on_it", "too many values to unpack")
class ReturnsFiveThings(PointMass):
    def step_wait(self) -> Any:
        obs, rewards, dones, infos = super().step_wait()
        return obs, rewards, dones, dones, infos
