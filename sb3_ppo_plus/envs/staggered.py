"""First episodes that begin at different times, so that thousands of environments do not end in lockstep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.base_wrapper import TensorVecEnvWrapper
from sb3_ppo_plus.envs.classic.draws import CounterDraws
from sb3_ppo_plus.types import ArrayStep, Observations

# Turns the seeds of the environments into others: their own starts are drawn from these.
_OTHER = 0x5374616767657265


class StaggeredStart(TensorVecEnvWrapper):
    """
    After a reset of all environments, let each be at a random point of its time limit.

    Where a rollout is much shorter than an episode, environments that begin together show the learner beginnings first,
    then middles, then ends, all at once; Bharthulwar, Tao and Su 2025 (https://arxiv.org/abs/2511.21011) describe what
    that does to learning with thousands of them, and rsl_rl has the same remedy (``init_at_random_ep_len``). Only the
    clock is moved, the state is that of any reset: the first episode of each environment is cut off early, and its
    length is told with what the clock began at. Later episodes are as ever. For training, not for evaluation.

    The random points follow from the seeds of the environments.

    :param venv: environments with a tensor face and a time limit of their own, such as ``TorchVecEnv`` and
        ``MujocoVecEnv``, or wrappers around them
    :param active: False does nothing, for the environments of an ``EvalCallback``, which SB3 wants wrapped as those of
        the training are
    :raises InvalidArgument: when the environments have no tensor face, and at the reset when they have no time limit
    """

    def __init__(self, venv: VecEnv, active: bool = True) -> None:
        super().__init__(venv)
        self.active = active
        self._draws = CounterDraws(self.num_envs, 1, self.device, th.float64)
        inner = self.venv
        while isinstance(inner, TensorVecEnvWrapper):
            inner = inner.venv
        self._asked: list[int | None] = [None if seed is None else seed ^ _OTHER for seed in inner._seeds]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """
        :param seed: seed of the first environment, the others count up
        :return: the seeds
        """
        seeds = self.venv.seed(seed)
        self._asked = [None if each is None else each ^ _OTHER for each in seeds]
        return seeds

    def reset_tensors(self) -> Observations:
        """
        :return: first observations
        """
        obs = self.venv.reset_tensors()
        if not self.active:
            return obs
        self._draws.seed(self._asked)
        self._asked = [None] * self.num_envs
        everything = th.ones(self.num_envs, dtype=th.bool, device=self.device)
        self.venv.start_late(self._draws.uniform(everything)[0])
        return obs

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        :param actions: one action per environment [N, A]
        :return: what came of it, as the environments give it
        """
        return self.venv.step_arrays(actions)

    def reset_arrays(self) -> Mapping[str, np.ndarray]:
        """
        :return: figures of the last resets, as the environments give them
        """
        return self.venv.reset_arrays()

    def own_state(self) -> dict[str, Any]:
        """
        :return: where the random points stand
        """
        return {"draws": self._draws.state_dict(), "seeds": list(self._asked)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`own_state` gave
        """
        self._draws.load_state_dict(state["draws"])
        self._asked = list(state["seeds"])
