"""
Vectorized environments whose native language is tensors, and the NumPy face of Stable-Baselines3 derived from it.

An environment implements :meth:`TensorVecEnv.reset_tensors` and :meth:`TensorVecEnv.step_tensors`. Everything that
SB3's ``VecEnv`` asks for follows from these two, here and only here, so that every algorithm, wrapper and callback of
SB3 can use the same object.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_ppo_plus.envs.arrays import pick, row, rows, to_numpy
from sb3_ppo_plus.envs.single_env import SingleEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import ArrayStep, Observations, TensorStep

EPISODE_RETURN, EPISODE_LENGTH = "episode_return", "episode_length"
_EPISODE = frozenset({EPISODE_RETURN, EPISODE_LENGTH})


class TensorVecEnv(VecEnv):
    """
    A vectorized environment that takes and gives tensors, and is a ``VecEnv`` of SB3 as well.

    It is a nominal base class, to be asked for with ``isinstance``: a wrapper of SB3 around it is not one, and hides
    the tensor methods on purpose, since calling them through it would bypass the wrapper.

    Rules that every subclass keeps, checked by :class:`~sb3_ppo_plus.envs.contract.TensorVecEnvContract`:

    - an episode that ends is reset within the same step; ``final_obs`` always has full size;
    - tensors that were returned may be overwritten by the next call: copy what is kept;
    - ``state_dict()`` holds all that the next step depends on, random generators included;
    - episodes of environment ``i`` begin from a generator of its own, seeded with ``seed + i``.

    :param num_envs: N, number of environments
    :param observation_space: space of one environment's observation
    :param action_space: space of one environment's action
    :param device: where the tensors live
    """

    #: figures of the state after the last reset of each environment, by name, each [N] or [N, ...]
    reset_stats: Mapping[str, th.Tensor] = MappingProxyType({})
    metadata: dict[str, Any]

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "cpu",
    ) -> None:
        self.device = th.device(device)
        self._init_numpy_face()
        super().__init__(num_envs, observation_space, action_space)

    def _init_numpy_face(self) -> None:
        self._actions: np.ndarray | None = None
        self._start_time = time.time()

    # ------------------------------------------------ the tensor face

    @abstractmethod
    def reset_tensors(self) -> Observations:
        """
        Reset all environments; seeds that :meth:`seed` announced take effect here.

        :return: first observations [N, O], or a mapping of such tensors
        """

    @abstractmethod
    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        Take one step in every environment, and reset those that ended.

        :param actions: actions as the environment takes them, on its device [N, A]; [N] for Discrete
        :return: what came of it
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """
        Collect everything that the next step depends on: physics, clocks, random generators.

        :return: plain numbers, strings, lists, mappings and tensors; a copy, safe to keep
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state; the next step equals, bit for bit, the one that would have followed there.

        :param state: what :meth:`state_dict` gave, of an environment made with the same arguments
        :raises InvalidArgument: when the state is of another environment
        """

    def take_seeds(self) -> list[int | None]:
        """
        Hand out the seeds that :meth:`seed` announced, once; for :meth:`reset_tensors` of subclasses.

        :return: one seed per environment, None where its generator goes on [N]
        """
        seeds = list(self._seeds)
        self._reset_seeds()
        self._reset_options()
        return seeds

    # ------------------------------------------------ SB3's face

    def reset(self) -> VecEnvObs:
        """
        :return: first observations, as arrays that the environment does not touch again
        """
        obs = to_numpy(self.reset_tensors())
        self.reset_infos = rows(self.reset_arrays(), self.num_envs)
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: one action per environment [N, A]
        """
        # A copy in order: the caller may reuse its array, and torch takes no reversed ones.
        self._actions = np.array(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, dones and infos in SB3's form, none of which the environment touches again
        """
        assert self._actions is not None, "step_wait() without step_async()"
        step = self.step_arrays(self._actions)
        self._actions = None
        done = step.terminated | step.truncated
        return step.obs, step.rewards, done, self.make_infos(step, done.nonzero()[0].tolist())

    def reset_arrays(self) -> Mapping[str, np.ndarray]:
        """
        :return: ``reset_stats`` for the NumPy face; environments that compute in arrays override it
        """
        return to_numpy(self.reset_stats)

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        Take one step for the NumPy face. Environments that compute in arrays override it, which saves two copies.

        :param actions: one action per environment [N, A]
        :return: what came of it; observations and rewards are not touched again
        """
        step = self.step_tensors(th.as_tensor(actions, device=self.device))
        return ArrayStep(
            to_numpy(step.obs),
            to_numpy(step.rewards),
            step.terminated.cpu().numpy(),
            step.truncated.cpu().numpy(),
            to_numpy(step.final_obs),
            {name: value.cpu().numpy() for name, value in step.stats.items()},
        )

    def make_infos(self, step: ArrayStep, finished: Sequence[int]) -> list[dict[str, Any]]:
        """
        Build SB3's dictionaries; those of finished episodes get the keys that SB3 looks for.

        :param step: the last step
        :param finished: environments whose episode ended in it
        :return: one dictionary per environment [N]
        """
        infos = rows({name: value for name, value in step.stats.items() if name not in _EPISODE}, self.num_envs)
        for info in infos:
            info["TimeLimit.truncated"] = False
        self._add_ends([infos[index] for index in finished], step, finished)
        return infos

    def make_final_infos(self, step: ArrayStep, finished: Sequence[int]) -> list[dict[str, Any]]:
        """
        Build the dictionaries of finished episodes only, which are all that SB3's statistics need.

        :param step: the last step
        :param finished: environments whose episode ended in it
        :return: the dictionaries that :meth:`make_infos` gives for them
        """
        stats = {name: value for name, value in step.stats.items() if name not in _EPISODE}
        infos = [row(stats, index) for index in finished]
        self._add_ends(infos, step, finished)
        return infos

    def _add_ends(self, infos: list[dict[str, Any]], step: ArrayStep, finished: Sequence[int]) -> None:
        """Tell what finished episodes ended with, and remember what the next ones begin with."""
        fresh = self.reset_arrays() if finished else {}
        for info, index in zip(infos, finished, strict=True):
            info["TimeLimit.truncated"] = bool(step.truncated[index] and not step.terminated[index])
            info["terminal_observation"] = pick(step.final_obs, index)
            self.reset_infos[index] = row(fresh, index)
            if EPISODE_RETURN in step.stats:
                info["episode"] = {
                    "r": round(float(step.stats[EPISODE_RETURN][index]), 6),
                    "l": int(step.stats[EPISODE_LENGTH][index]),
                    "t": round(time.time() - self._start_time, 6),
                }

    @property
    def provides_episodes(self) -> bool:
        """:return: whether finished episodes come with ``info["episode"]``, as SB3's Monitor gives it"""
        return False

    def action_masks(self) -> np.ndarray | None:
        """:return: which actions are allowed now, in sb3-contrib's form [N, D]; None where all are, always"""
        return None

    def note_progress(self, progress: float) -> None:
        """:param progress: share of the training that is over, in [0, 1]; for environments that follow it"""

    def start_late(self, shares: th.Tensor) -> None:
        """
        Move the clocks of the episodes under way, so that each is cut off earlier; their states stay as they are.

        :param shares: share of the time limit that has passed, in [0, 1) [N]
        :raises InvalidArgument: where there is no time limit
        """
        raise InvalidArgument(
            f"{type(self).__name__} has no time limit whose clock could be moved; leave StaggeredStart away"
        )

    def take_log(self) -> dict[str, float]:
        """:return: what is worth a line in the log since the last call, by name"""
        return {}

    def close(self) -> None:
        """Free what the environment holds; doing it twice is fine."""

    # ------------------------------------------------ single environments

    def single_env(self, index: int) -> SingleEnv:
        """
        Give one environment of the batch, for ``get_attr`` and ``env_method``.

        :param index: its number
        :return: its face; a subclass gives one with methods of its own
        """
        return SingleEnv(self, index)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: attribute of an environment; what all share (``render_mode``, ``spec``) is found as well
        :param indices: which environments, None for all
        :return: one value per environment
        """
        return [getattr(self.single_env(index), attr_name) for index in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: attribute to set
        :param value: its value
        :param indices: None, or all of them: the environments are one object and share their attributes
        :raises InvalidArgument: for a part of the environments
        """
        if set(self._indices(indices)) != set(range(self.num_envs)):
            raise InvalidArgument(
                f"set_attr({attr_name!r}, indices={indices!r}): the environments of a {type(self).__name__} share "
                "their "
                "attributes; set it for all (indices=None), or make two of them"
            )
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list:
        """
        :param method_name: method of a single environment, such as ``render``
        :param method_args: its arguments
        :param indices: which environments, None for all
        :param method_kwargs: its named arguments
        :return: one result per environment
        """
        environments = [self.single_env(index) for index in self._indices(indices)]
        return [getattr(environment, method_name)(*method_args, **method_kwargs) for environment in environments]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: wrapper of Gymnasium
        :param indices: which environments, None for all
        :return: True for SB3's Monitor where finished episodes come with its statistics, else False
        """
        wrapped = self.provides_episodes and issubclass(wrapper_class, Monitor)
        return [wrapped for _ in self._indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        :return: a picture of each environment [height, width, 3], None where there is none
        """
        return [self.single_env(index).render() for index in range(self.num_envs)]

    def _indices(self, indices: VecEnvIndices) -> list[int]:
        chosen = [int(index) for index in self._get_indices(indices)]
        for index in chosen:
            if not 0 <= index < self.num_envs:
                raise InvalidArgument(f"environment {index} does not exist; there are {self.num_envs}, counted from 0")
        return chosen
