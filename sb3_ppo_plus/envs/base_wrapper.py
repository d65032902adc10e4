"""The base of wrappers on the tensor face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.single_env import SingleEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import Observations, TensorStep


class TensorVecEnvWrapper(TensorVecEnv, VecEnvWrapper):
    """
    Base of wrappers on the tensor face. It is a ``VecEnvWrapper`` too, so SB3 finds what is inside.

    A subclass overrides :meth:`reset_tensors` and :meth:`step_tensors`; what it needs to go on after a restart goes
    into
    :meth:`own_state` and :meth:`load_own_state`.

    :param venv: environments to wrap, with a tensor face themselves
    :param observation_space: None for that of the environments
    :param action_space: None for that of the environments
    :raises InvalidArgument: when the environments have no tensor face
    """

    venv: TensorVecEnv

    def __init__(
        self,
        venv: VecEnv,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
    ) -> None:
        if not isinstance(venv, TensorVecEnv):
            raise InvalidArgument(
                f"{type(self).__name__} wraps environments with a tensor face and {type(venv).__name__} is none; put "
                "it "
                "directly around a TensorVecEnv such as MujocoVecEnv, or use SB3's own wrapper"
            )
        self.device = venv.device
        self._init_numpy_face()
        VecEnvWrapper.__init__(self, venv, observation_space, action_space)
        self.metadata = venv.metadata

    @property
    def reset_stats(self) -> Mapping[str, th.Tensor]:  # type: ignore[override]
        """
        :return: figures of the last resets, as the environments give them
        """
        return self.venv.reset_stats

    @property
    def provides_episodes(self) -> bool:
        """:return: whether finished episodes come with ``info["episode"]``"""
        return self.venv.provides_episodes

    def action_masks(self) -> np.ndarray | None:
        """:return: which actions are allowed now [N, D]"""
        return self.venv.action_masks()

    def note_progress(self, progress: float) -> None:
        """:param progress: share of the training that is over, in [0, 1]"""
        self.venv.note_progress(progress)

    def start_late(self, shares: th.Tensor) -> None:
        """:param shares: share of the time limit that has passed in each environment [N]"""
        self.venv.start_late(shares)

    def take_log(self) -> dict[str, float]:
        """:return: what the environments would have logged"""
        return self.venv.take_log()

    def reset_tensors(self) -> Observations:
        """
        :return: first observations
        """
        return self.venv.reset_tensors()

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment [N, A]
        :return: what came of it
        """
        return self.venv.step_tensors(actions)

    def own_state(self) -> dict[str, Any]:
        """
        :return: what this wrapper adds to the state; nothing, unless overridden
        """
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`own_state` gave
        """

    def state_dict(self) -> dict[str, Any]:
        """
        :return: state of this wrapper and of what it wraps
        """
        return {"wrapper": type(self).__name__, "own": self.own_state(), "venv": self.venv.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when the wrappers differ
        """
        if state.get("wrapper") != type(self).__name__:
            raise InvalidArgument(
                f"the state is of {state.get('wrapper', 'an unwrapped environment')!r} and this is a "
                f"{type(self).__name__}; wrap the environment as it was when the state was taken"
            )
        # From the inside out: what does not fit is refused before anything of this wrapper changes.
        self.venv.load_state_dict(state["venv"])
        self.load_own_state(state["own"])

    # SB3's wrapper hands these on to what it wraps.
    seed = VecEnvWrapper.seed
    set_options = VecEnvWrapper.set_options
    close = VecEnvWrapper.close
    get_attr = VecEnvWrapper.get_attr
    set_attr = VecEnvWrapper.set_attr
    env_method = VecEnvWrapper.env_method
    env_is_wrapped = VecEnvWrapper.env_is_wrapped
    get_images = VecEnvWrapper.get_images
    render = VecEnvWrapper.render

    def single_env(self, index: int) -> SingleEnv:
        """
        :param index: number of the environment
        :return: its face, as the environments give it
        """
        return self.venv.single_env(index)
