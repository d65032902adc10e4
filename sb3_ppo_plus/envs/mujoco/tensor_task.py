"""Tasks that are written in torch, on an engine that computes in arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.draws import GeneratorDraw, TensorDraw
from sb3_ppo_plus.envs.mujoco.physics import Fields
from sb3_ppo_plus.envs.tasks.base import MujocoTask, Outcome


class TensorTask:
    """
    Ask a torch task with arrays, and get arrays; memory is shared in both directions.

    :param task: the task
    :param data: live arrays of the engine; the same ones for good
    """

    def __init__(self, task: MujocoTask, data: Fields) -> None:
        self.task = task
        self.data = Fields(**{name: _tensor(values) for name, values in vars(data).items()})

    def initial_state(self, draw: GeneratorDraw) -> tuple[np.ndarray, np.ndarray]:
        """
        :param draw: random numbers, in arrays
        :return: positions [m, nq] and velocities [m, nv]
        """
        qpos, qvel = self.task.initial_state(TensorDraw(draw))
        return qpos.numpy(), qvel.numpy()

    def track(self, data: Any) -> np.ndarray | None:
        """
        :param data: not read: the task's own views of it are
        :return: quantities to compare [n, k]
        """
        tracked = self.task.track(self.data)
        return None if tracked is None else tracked.numpy()

    def observe(self, data: Any) -> np.ndarray:
        """
        :param data: not read
        :return: observations [n, O]
        """
        return self.task.observe(self.data).numpy()

    def evaluate(self, data: Any, action: np.ndarray, before: Any, after: Any) -> Outcome:
        """
        :param data: not read
        :param action: what the policy asked for [n, A]
        :param before: quantities before the step [n, k]
        :param after: quantities after it [n, k]
        :return: the outcome, in arrays
        """
        tracked = (None if value is None else th.from_numpy(value) for value in (before, after))
        reward, terminated, stats = self.task.evaluate(self.data, th.from_numpy(action), *tracked)
        ended = None if terminated is None else terminated.numpy()
        return Outcome(reward.numpy(), ended, {name: value.numpy() for name, value in stats.items()})

    def reset_stats(self, data: Any) -> dict[str, np.ndarray]:
        """
        :param data: not read
        :return: figures of the reset states
        """
        return {name: value.numpy() for name, value in self.task.reset_stats(self.data).items()}


def _tensor(values: np.ndarray) -> th.Tensor:
    """A tensor on the same memory; what MuJoCo computes is read-only, and torch says so once in general terms."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return th.from_numpy(values)
