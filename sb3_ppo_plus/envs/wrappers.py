"""Wrappers on the tensor face: statistics of episodes, and stacks of the last observations."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import StackedObservations, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN
from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import Observations, TensorStep

# Stands for the whole observation where a Dict has keys.
_WHOLE = ""


class TensorVecMonitor(TensorVecEnvWrapper):
    """
    Count the return and the length of episodes; SB3's ``VecMonitor`` on tensors.

    Finished rows of the NumPy face have ``info["episode"]``. Rewards are those that arrive here, summed up in float64:
    put it inside a :class:`~sb3_ppo_plus.envs.TensorVecNormalize` to see the task's own. Around environments that
    count already, such as :class:`~sb3_ppo_plus.envs.MujocoVecEnv`, its figures replace theirs.

    :param venv: environments with a tensor face
    :param filename: path of a CSV file in the format of SB3's Monitor, one row per finished episode; ``monitor.csv`` is
        appended to a path that does not end so. None writes none, and no step waits for the device
    :param info_keywords: figures among the step's ``stats``, one number per environment, to write into the file as well
    :raises InvalidArgument: when the environments have no tensor face
    """

    def __init__(
        self, venv: VecEnv, filename: str | os.PathLike[str] | None = None, info_keywords: tuple[str, ...] = ()
    ) -> None:
        super().__init__(venv)
        self.info_keywords = tuple(info_keywords)
        self._returns = th.zeros(self.num_envs, dtype=th.float64, device=self.device)
        self._lengths = th.zeros(self.num_envs, dtype=th.int64, device=self.device)
        self._writer: ResultsWriter | None = None
        if filename is not None:
            spec = getattr(venv.unwrapped, "spec", None)
            header: dict[str, float | str] = {"t_start": self._start_time, "env_id": str(getattr(spec, "id", None))}
            self._writer = ResultsWriter(os.fspath(filename), header, self.info_keywords)

    @property
    def provides_episodes(self) -> bool:
        """
        :return: True
        """
        return True

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: wrapper of Gymnasium
        :param indices: which environments, None for all
        :return: True for SB3's Monitor, which this one stands for; else what the environments say
        """
        wrapped = super().env_is_wrapped(wrapper_class, indices)
        return [True for _ in wrapped] if issubclass(wrapper_class, Monitor) else wrapped

    @property
    def episode_returns(self) -> th.Tensor:
        """
        :return: sum of the rewards of each environment's episode so far, a copy [N]
        """
        return self._returns.clone()

    @property
    def episode_lengths(self) -> th.Tensor:
        """
        :return: steps of each environment's episode so far, a copy [N]
        """
        return self._lengths.clone()

    def reset_tensors(self) -> Observations:
        """
        :return: first observations
        """
        self._returns, self._lengths = th.zeros_like(self._returns), th.zeros_like(self._lengths)
        return self.venv.reset_tensors()

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment [N, A]
        :return: the step with ``episode_return`` and ``episode_length`` among its stats, of the old episode where one
            ended
        :raises InvalidArgument: when ``info_keywords`` names what is not among the stats
        """
        step = self.venv.step_tensors(actions)
        returns, lengths = self._returns + step.rewards, self._lengths + 1
        done = step.terminated | step.truncated
        self._returns, self._lengths = returns.masked_fill(done, 0.0), lengths.masked_fill(done, 0)
        step = step._replace(stats={**step.stats, EPISODE_RETURN: returns, EPISODE_LENGTH: lengths})
        if self._writer is not None:
            self._write(step.stats, done)
        return step

    def _write(self, stats: Mapping[str, th.Tensor], done: th.Tensor) -> None:
        assert self._writer is not None
        unknown = [name for name in self.info_keywords if name not in stats]
        if unknown:
            raise InvalidArgument(f"info_keywords={self.info_keywords}: {unknown} are not among {sorted(stats)}")
        columns = {"r": stats[EPISODE_RETURN], "l": stats[EPISODE_LENGTH]}
        columns.update({name: stats[name] for name in self.info_keywords})
        seconds = round(time.time() - self._start_time, 6)
        for index in done.nonzero()[:, 0].tolist():
            row = {name: column[index].item() for name, column in columns.items()}
            self._writer.write_row({**row, "r": round(row["r"], 6), "t": seconds})

    def own_state(self) -> dict[str, Any]:
        """
        :return: the counters, on the host
        """
        return {"returns": self._returns.to("cpu", copy=True), "lengths": self._lengths.to("cpu", copy=True)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`own_state` gave
        :raises InvalidArgument: when it is of another number of environments
        """
        if len(state["returns"]) != self.num_envs:
            raise InvalidArgument(f"the state is of {len(state['returns'])} environments; there are {self.num_envs}")
        self._returns = state["returns"].to(self.device, copy=True)
        self._lengths = state["lengths"].to(self.device, copy=True)

    def close(self) -> None:
        """Close the file and the environments."""
        if self._writer is not None:
            self._writer.close()
        super().close()


class TensorVecFrameStack(TensorVecEnvWrapper):
    """
    Show the last observations of an episode side by side, zeros before its start; SB3's ``VecFrameStack`` on tensors.

    Observations keep the type in which they come: float32 from a :class:`~sb3_ppo_plus.envs.TensorVecNormalize`, where
    SB3 makes them the float64 that the space speaks of.

    :param venv: environments with a tensor face, whose observations are a Box or a Dict of Boxes
    :param n_stack: observations to show, typically 2 to 8; more lets a policy see velocities and slower changes, and
        makes the network larger
    :param channels_order: ``"last"`` or ``"first"``, the axis to stack along; None for the channels of an image and the
        last axis of anything else. For Dict observations also a mapping by key
    :raises InvalidArgument: when the environments have no tensor face, or an argument does not fit them
    """

    def __init__(
        self, venv: VecEnv, n_stack: int, channels_order: str | Mapping[str, str | None] | None = None
    ) -> None:
        if n_stack < 1:
            raise InvalidArgument(f"n_stack={n_stack} must be at least 1")
        space = venv.observation_space
        try:
            # SB3 finds the axes and the space; its arrays are not used.
            plan: Any = StackedObservations(1, n_stack, space, channels_order)  # type: ignore[arg-type,var-annotated]
        except (AssertionError, KeyError, TypeError) as error:
            raise InvalidArgument(
                f"observations {space} cannot be stacked with channels_order={channels_order!r}: {error}"
            ) from error
        super().__init__(venv, plan.stacked_observation_space)
        self.n_stack = n_stack
        plans = plan.sub_stacked_observations if isinstance(space, spaces.Dict) else {_WHOLE: plan}
        self._axes: dict[str, int] = {key: sub.stack_dimension for key, sub in plans.items()}
        self._shapes = {key: self._older_shape(sub.stacked_shape, sub.repeat_axis) for key, sub in plans.items()}
        # The observations before the newest, all that the next step needs of a stack.
        self._older: dict[str, th.Tensor] = {}

    @property
    def axes(self) -> dict[str, int]:
        """
        :return: axis of the stack by key, counted with the environments; the key is ``""`` where there is no Dict
        """
        return dict(self._axes)

    def _older_shape(self, stacked_shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
        shape = list(stacked_shape)
        shape[axis] = shape[axis] // self.n_stack * (self.n_stack - 1)
        return (self.num_envs, *shape)

    def reset_tensors(self) -> Observations:
        """
        :return: first observations, zeros in front of them [N, n_stack * O]
        """
        obs = self.venv.reset_tensors()
        parts = obs if isinstance(obs, dict) else {_WHOLE: obs}
        older = {key: value.new_zeros(self._shapes[key]) for key, value in parts.items()}
        return self._push(older, obs)

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment [N, A]
        :return: the step with stacks as observations; ``final_obs`` is the stack that ends with the final observation.
            The next step reads ``obs`` again, so it must not be written into
        """
        step = self.venv.step_tensors(actions)
        done = step.terminated | step.truncated
        kept = {key: older.masked_fill(done.view(-1, *[1] * (older.ndim - 1)), 0) for key, older in self._older.items()}
        final_obs = self._stacked(self._older, step.final_obs)
        return step._replace(obs=self._push(kept, step.obs), final_obs=final_obs)

    def _push(self, older: Mapping[str, th.Tensor], obs: Observations) -> Observations:
        stacked = self._stacked(older, obs)
        for key, stack in stacked.items() if isinstance(stacked, dict) else [(_WHOLE, stacked)]:
            axis = self._axes[key]
            length = self._shapes[key][axis]
            self._older[key] = stack.narrow(axis, stack.shape[axis] - length, length)
        return stacked

    def _stacked(self, older: Mapping[str, th.Tensor], obs: Observations) -> Observations:
        if isinstance(obs, dict):
            return {key: th.cat((older[key], value), self._axes[key]) for key, value in obs.items()}
        return th.cat((older[_WHOLE], obs), self._axes[_WHOLE])

    def own_state(self) -> dict[str, Any]:
        """
        :return: the observations before the newest, on the host; nothing before the first reset
        """
        return {key: older.to("cpu", copy=True) for key, older in self._older.items()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`own_state` gave
        :raises InvalidArgument: when it is of other stacks
        """
        shapes = {key: tuple(older.shape) for key, older in state.items()}
        if shapes and shapes != self._shapes:
            raise InvalidArgument(
                f"the state has older observations of shape {shapes} and these stacks have {self._shapes}; make the "
                "wrapper with the same n_stack and channels_order, around as many environments"
            )
        self._older = {key: older.to(self.device, copy=True) for key, older in state.items()}
