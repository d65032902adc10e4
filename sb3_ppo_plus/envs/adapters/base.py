"""What adapters share: one library's answer in, a :class:`~sb3_ppo_plus.types.TensorStep` out."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.buffers import AWAITS_ACTION, INVALID_ROW
from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import Observations, TensorStep

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """
    One step in a library's own words, as tensors or arrays.

    :param obs: observations to act on next [N, O], or a mapping
    :param rewards: [N]
    :param terminated: [N]
    :param truncated: [N]
    :param final_obs: observations before resets, full size [N, O], or a mapping
    :param idle: True where the action had no effect, because the step was a reset; None for nowhere [N]
    :param resets_later: whether an environment that ended is reset by the next step, whose action it ignores
    """

    obs: Any
    rewards: Any
    terminated: Any
    truncated: Any
    final_obs: Any
    idle: th.Tensor | None = None
    resets_later: bool = False


class AdapterVecEnv(TensorVecEnv):
    """
    Base of the adapters: spaces, actions within bounds, dtypes, devices, and the return and length of episodes.

    A subclass implements :meth:`begin` and :meth:`advance` in the words of its library. Such a library gives nobody its
    state, so ``state_dict()`` raises; one that does overrides it.

    :param num_envs: N, number of environments
    :param observation_space: space of one environment's observation
    :param action_space: space of one environment's action, as the library has it
    :param device: where the tensors live
    :param rescale_actions: whether the policy acts in [-1, 1], which is stretched to the bounds of a Box; use it where
        bounds are far from 1
    :param action_bound: bound of actions whose space has none, in the library's units, typically 1 to 100; PPO's
        Gaussian is clipped there. None leaves them without
    :raises InvalidArgument: for spaces that SB3 does not take, or bounds that cannot be had
    """

    #: whether ``final_obs`` is what the last step led to; False where it is the observation before that step
    final_obs_is_exact = True

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "cpu",
        rescale_actions: bool = False,
        action_bound: float | None = None,
    ) -> None:
        check_observation_space(type(self).__name__, observation_space)
        if action_bound is not None:
            action_space = _bounded(action_space, action_bound)
        seen = _unit_box(action_space) if rescale_actions else action_space
        self._actions_of = _ActionMap(action_space, rescale_actions, th.device(device))
        self.render_mode: str | None = None
        self._lengths = th.zeros(num_envs, dtype=th.int64, device=device)
        self._returns = th.zeros(num_envs, dtype=th.float32, device=device)
        self._began = self._closed = False
        super().__init__(num_envs, observation_space, seen, device)

    @abstractmethod
    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """
        Reset all environments.

        :param seeds: one per environment, None where its generator goes on [N]
        :param options: what ``set_options()`` asked for, None for nothing
        :return: first observations [N, O], or a mapping
        """

    @abstractmethod
    def advance(self, actions: th.Tensor) -> Answer:
        """
        Step all environments.

        :param actions: within the library's bounds, on the device of this adapter; whole numbers for Discrete [N, A]
        :return: its answer
        """

    @property
    def provides_episodes(self) -> bool:
        """
        :return: True, return and length of each episode are counted here
        """
        return True

    def reset_tensors(self) -> Observations:
        """
        :return: first observations [N, O], or a mapping
        """
        options = next((dict(given) for given in self._options if given), None)
        obs = self.begin(self.take_seeds(), options)
        self._lengths, self._returns = th.zeros_like(self._lengths), th.zeros_like(self._returns)
        self._began = True
        return self.tensors(obs)

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment [N, A]; [N] for Discrete
        :return: what came of it
        :raises InvalidArgument: for actions of another shape
        """
        shape = (self.num_envs, *(self.action_space.shape or ()))
        if tuple(actions.shape) != shape:
            raise InvalidArgument(f"actions have the shape {list(actions.shape)}; give {list(shape)}")
        if not self._began:
            raise RuntimeError("step before the first reset(): call reset(); later episodes begin by themselves")
        answer = self.advance(self._actions_of(actions.detach()))
        rewards = self.tensor(answer.rewards, th.float32).reshape(-1)
        terminated, truncated = (
            self.tensor(flag, th.bool).reshape(-1) for flag in (answer.terminated, answer.truncated)
        )
        done = terminated | truncated
        counted = th.ones_like(done) if answer.idle is None else ~answer.idle
        lengths, returns = self._lengths + counted, self._returns + rewards * counted
        stats = {EPISODE_RETURN: returns, EPISODE_LENGTH: lengths}
        if answer.idle is not None:
            stats |= {INVALID_ROW: answer.idle}
        if answer.resets_later:
            stats |= {AWAITS_ACTION: ~done}
        self._lengths, self._returns = lengths.masked_fill(done, 0), returns.masked_fill(done, 0.0)
        obs = self.tensors(answer.obs)
        final_obs = obs if answer.final_obs is answer.obs else self.tensors(answer.final_obs)
        return TensorStep(obs, rewards, terminated, truncated, final_obs, stats)

    def state_dict(self) -> dict[str, Any]:
        """:raises InvalidArgument: always: the library gives nobody its state"""
        raise InvalidArgument(
            f"{type(self).__name__} cannot give the state of its environments, which their library keeps to itself; a "
            "training goes on with new episodes instead"
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: not used
        :raises InvalidArgument: always
        """
        raise InvalidArgument(
            f"{type(self).__name__} cannot take a state, because its library keeps it to itself; a training goes on "
            "with new episodes instead"
        )

    def close(self) -> None:
        """Close the library's environments; doing it twice is fine."""
        if not self._closed:
            self._closed = True
            self.close_library()

    def close_library(self) -> None:
        """Free what the library holds; nothing, unless overridden. Called once."""

    # ------------------------------------------------ conversion

    def tensor(self, value: Any, dtype: th.dtype | None = None) -> th.Tensor:
        """
        :param value: a tensor, an array of NumPy, or anything with DLPack
        :param dtype: dtype to have, None for its own
        :return: the same numbers on the device of this adapter, sharing memory where that is possible
        """
        if isinstance(value, np.ndarray):
            value = th.from_numpy(value if value.flags.c_contiguous and value.flags.writeable else value.copy())
        elif not isinstance(value, th.Tensor):
            value = th.from_dlpack(value) if hasattr(value, "__dlpack__") else th.as_tensor(value)
        return value.detach().to(self.device, dtype)

    def tensors(self, observations: Any) -> Any:
        """
        :param observations: an array or tensor, or a mapping of them
        :return: tensors in the dtypes of the observation space, as contract and SB3 want them
        """
        if isinstance(self.observation_space, spaces.Dict):
            return {
                name: self.tensor(observations[name], _dtype(space)) for name, space in self.observation_space.items()
            }
        return self.tensor(observations, _dtype(self.observation_space))


def where_done(done: th.Tensor, yes: Any, no: Any) -> Any:
    """
    Choose observations row by row, without asking the device which.

    :param done: True where the first are taken [N]
    :param yes: observations [N, ...], or a mapping
    :param no: others of the same form
    :return: rows of both
    """
    if isinstance(no, Mapping):
        return {name: where_done(done, yes[name], value) for name, value in no.items()}
    return th.where(done.reshape(-1, *[1] * (no.ndim - 1)), yes, no)


def copied(observations: Any) -> Any:
    """
    :param observations: a tensor or an array, or a mapping of them
    :return: copies that nobody else writes into
    """
    return map_observations(lambda value: value.clone() if isinstance(value, th.Tensor) else value.copy(), observations)


def check_observation_space(name: str, space: spaces.Space) -> None:
    """
    :param name: of the adapter, for the message
    :param space: space of one environment's observation
    :raises InvalidArgument: when SB3 does not take such observations
    """
    simple = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not all(isinstance(part, simple) for part in parts):
        raise InvalidArgument(
            f"{name}: observations are {space}, and Stable-Baselines3 takes arrays and flat mappings of arrays; "
            "flatten them in the library first"
        )


def _dtype(space: spaces.Space) -> th.dtype:
    return th.from_numpy(np.empty(0, space.dtype)).dtype


def _bounded(space: spaces.Space, bound: float) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not 0 < bound < float("inf"):
        raise InvalidArgument(f"action_bound={bound!r} of actions {space}; give a positive number for a Box, or None")
    low, high = np.maximum(space.low, -bound), np.minimum(space.high, bound)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _unit_box(space: spaces.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        raise InvalidArgument(
            f"rescale_actions of {space}: only a Box with bounds on both sides; give action_bound too"
        )
    return spaces.Box(-1.0, 1.0, space.shape, np.float32)


class _ActionMap:
    """From the policy's actions to the library's: stretched if asked for, clipped to the bounds there are."""

    def __init__(self, space: spaces.Space, rescale: bool, device: th.device) -> None:
        self.box = isinstance(space, spaces.Box)
        self.rescale = rescale
        if isinstance(space, spaces.Box):
            self.dtype = _dtype(space)
            self.low, self.high = (th.as_tensor(side, device=device) for side in (space.low, space.high))

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        if not self.box:
            return actions
        actions = actions.to(self.dtype)
        if self.rescale:
            actions = self.low + (actions.clamp(-1.0, 1.0) + 1.0) * 0.5 * (self.high - self.low)
        return th.minimum(th.maximum(actions, self.low), self.high)
