"""
What to do with a robot, apart from how it moves: a task is a few batched functions on tensors.

The same task object serves every physics engine. Its rules: torch operations only, environments first, no Python branch
on a tensor's value, no writing into what it reads; ids of bodies and joints are looked up once, in
:meth:`MujocoTask.setup`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_ppo_plus.envs.tasks import ops
from sb3_ppo_plus.envs.tasks.ops import Array
from sb3_ppo_plus.errors import InvalidArgument

# What a task reads of the simulation: one attribute per MuJoCo field, each [n, ...].
Fields = Any


class Outcome(NamedTuple):
    """
    What a step was worth.

    :param reward: sum of its terms [n]
    :param terminated: True where the episode ends here by the task's own rule; None when it never does [n]
    :param stats: the terms of the reward, and whatever else is worth logging, by name [n] or [n, ...]
    """

    reward: Array
    terminated: Array | None
    stats: dict[str, Array]


class Draw(Protocol):
    """
    Random numbers for n environments at once; environment i draws from its own generator where the engine has one.

    The order of the calls is part of a task: it makes the draws those of Gymnasium's own environment.
    """

    def uniform(self, low: float | Sequence[float], high: float | Sequence[float], size: int) -> Array:
        """
        :param low: lower bound, included
        :param high: upper bound
        :param size: numbers per environment
        :return: uniform numbers [n, size]
        """

    def normal(self, size: int) -> Array:
        """
        :param size: numbers per environment
        :return: standard normal numbers [n, size]
        """

    def uniform_where(
        self,
        low: float | Sequence[float],
        high: float | Sequence[float],
        size: int,
        accept: Callable[[Array], Array],
    ) -> Array:
        """
        Draw again until it fits.

        :param low: lower bound, included
        :param high: upper bound
        :param size: numbers per environment
        :param accept: from candidates [m, size] to whether each is taken [m]
        :return: accepted numbers [n, size]
        """


class MujocoTask:
    """
    A robot and what is asked of it. Subclass it, override :meth:`observe` and :meth:`evaluate`, and hand an instance to
    :class:`~sb3_ppo_plus.envs.MujocoVecEnv`; ``docs/envs.md`` has a complete example.

    :param model: MJCF: a path, the XML itself, or a ``mujoco.MjSpec``
    :param frame_skip: physics steps per environment step, typically 1 to 20; more means slower control and a shorter
        credit horizon, fewer means finer control and more steps per second of robot time
    :param reset_noise_scale: half-width of the uniform noise on positions and velocities at reset, in the units of
        qpos and qvel, typically 0.005 to 0.1; larger makes starts more diverse and the task harder
    :param max_episode_steps: environment steps after which an episode is truncated, None for no limit
    """

    #: whether the functions below take NumPy arrays as well as tensors (see ``ops``); the CPU engine then uses arrays,
    #: which is faster with few robots. With False, tensors everywhere
    arrays: bool = False
    #: where the numbers are: None for NumPy arrays; set by the engine before :meth:`setup`
    device: th.device | None = None
    #: MjData fields that the functions below read beside qpos, qvel, ctrl and time; for example ("xpos", "sensordata")
    needs: tuple[str, ...] = ()
    #: MjModel fields that they read: [k, ...] shared, or [n, k, ...] where domain randomization changes them
    model_needs: tuple[str, ...] = ()
    #: how Gymnasium's viewer looks at the robot: distance, elevation, lookat, trackbodyid
    camera: Mapping[str, Any] = {}

    def __init__(
        self,
        model: str | os.PathLike[str] | Any,
        frame_skip: int = 5,
        reset_noise_scale: float = 0.01,
        max_episode_steps: int | None = 1000,
    ) -> None:
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or frame_skip < 1:
            raise InvalidArgument(f"frame_skip={frame_skip!r} must be a whole number of physics steps, at least 1")
        if not 0.0 <= reset_noise_scale < math.inf:
            raise InvalidArgument(f"reset_noise_scale={reset_noise_scale!r} must be 0 (no noise) or a positive number")
        self.model = model
        self.frame_skip = frame_skip
        self.reset_noise_scale = reset_noise_scale
        self.max_episode_steps = max_episode_steps

    def setup(self, model: Any) -> None:
        """
        Look up ids and constants, once, before anything else is called.

        :param model: the compiled ``mujoco.MjModel``; ``model.body("torso").id`` finds a body
        """
        self.dt = float(model.opt.timestep) * self.frame_skip
        self.nq, self.nv = int(model.nq), int(model.nv)
        self.qpos0 = self.constant(model.qpos0)

    def constant(self, values: Any) -> Array:
        """
        Put numbers to where the engine computes.

        :param values: numbers, copied
        :return: a float64 array, or a tensor on the engine's device
        """
        array = np.array(values, dtype=np.float64)
        return array if self.device is None else th.as_tensor(array, device=self.device)

    def initial_state(self, draw: Draw) -> tuple[Array, Array]:
        """
        Draw the states in which n episodes begin; by default the model's own, with uniform noise.

        :param draw: random numbers, n rows at a time
        :return: positions [n, nq] and velocities [n, nv]
        """
        scale = self.reset_noise_scale
        qpos = self.qpos0 + draw.uniform(-scale, scale, self.nq)
        return qpos, draw.uniform(-scale, scale, self.nv)

    def track(self, data: Fields) -> Array | None:
        """
        Give the quantities whose change over a step is rewarded, such as the torso's position; None for nothing.

        :param data: fields of the simulation, each [n, ...]
        :return: the quantities [n, k]
        """
        return None

    def observe(self, data: Fields) -> Array:
        """
        Give what the policy sees; by default positions and velocities.

        :param data: fields of the simulation, each [n, ...]
        :return: observations [n, O]
        """
        return ops.cat((data.qpos, data.qvel))

    def evaluate(self, data: Fields, action: Array, before: Any, after: Any) -> Outcome:
        """
        Say what the step was worth, and whether it was the last.

        :param data: fields of the simulation after the step, each [n, ...]
        :param action: what the policy asked for [n, A]
        :param before: :meth:`track` before the step [n, k]
        :param after: :meth:`track` after the step [n, k]
        :return: reward, end of the episode, figures
        """
        raise TypeError(f"{type(self).__name__} has no reward: override evaluate(data, action, before, after)")

    def reset_stats(self, data: Fields) -> dict[str, Array]:
        """
        Give figures of a freshly reset state, for SB3's ``reset_infos``.

        :param data: fields of the simulation, each [n, ...]
        :return: figures by name [n] or [n, ...]
        """
        return {}
