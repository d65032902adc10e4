"""Tasks in torch as vectorized environments: states, clocks and starts of all of them on one device."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.envs.base import EPISODE_LENGTH, EPISODE_RETURN, TensorVecEnv
from sb3_ppo_plus.envs.classic.acrobot import Acrobot
from sb3_ppo_plus.envs.classic.cart_pole import CartPole
from sb3_ppo_plus.envs.classic.draws import DRAWS
from sb3_ppo_plus.envs.classic.mountain_car import MountainCarContinuous
from sb3_ppo_plus.envs.classic.pendulum import Pendulum
from sb3_ppo_plus.envs.classic.task import TorchTask
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.types import ArrayStep, TensorStep

#: tasks by Gymnasium's ids
TORCH_TASKS: dict[str, type[TorchTask]] = {
    "Acrobot-v1": Acrobot,
    "CartPole-v1": CartPole,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}
_DTYPES = {"float32": th.float32, "float64": th.float64}


class TorchVecEnv(TensorVecEnv):
    """
    N copies of a task in torch, stepped by a few dozen operations on any device.

    On an accelerator a step never waits for the device: episodes that ended are found, drawn anew and put in place by
    masks. On the processor, where looking costs nothing, steps without an end skip that.

    Actions are trusted: a Box is clipped by the task as Gymnasium's is, and a whole number out of range counts as one
    within, since finding it would make the host wait.

    :param task: Gymnasium's id, one of ``TORCH_TASKS``, or a :class:`~sb3_ppo_plus.envs.TorchTask` of your own
    :param n_envs: N, number of environments; 64 to 1,024 on a processor, 1,024 to 65,536 on an accelerator. A step
        costs about the same up to some thousand
    :param seed: seed of the first environment, the others count up; None for a different run each time
    :param device: where all of it lives
    :param dtype: of the states. ``float64`` is Gymnasium's to within the last bits, ``float32`` is faster on
        accelerators, and the only one that some of them have
    :param max_episode_steps: time limit in steps; None for the task's own, -1 for no limit
    :param draws: where starts come from: ``counter`` for a sequence per environment that is the same on each device,
        ``gymnasium`` for the numbers of ``gym.make(id).reset(seed=seed + i)``, which come from the host
    :param task_kwargs: arguments of a task given by id, the same as Gymnasium's: ``g=9.81``
    :raises InvalidArgument: for anything that cannot work, before the first step
    """

    def __init__(
        self,
        task: str | TorchTask,
        n_envs: int = 1,
        seed: int | None = None,
        device: th.device | str = "cpu",
        dtype: str | th.dtype = "float64",
        max_episode_steps: int | None = None,
        draws: str = "counter",
        **task_kwargs: Any,
    ) -> None:
        n = _whole("n_envs", n_envs, 1)
        self.task = make_torch_task(task, task_kwargs)
        self.spec = gym.registry.get(self.task.env_id) if self.task.env_id else None
        self.dtype = _find_dtype(dtype)
        self.max_episode_steps = _find_limit(self.task, max_episode_steps)
        if draws not in DRAWS:
            raise InvalidArgument(f"draws={draws!r}; there is {', '.join(DRAWS)}")
        self.render_mode = None
        device = th.device(device)
        self._draws = DRAWS[draws](n, self.task.n_draws, device, self.dtype)
        self._kind = (type(self.task).__name__, n, str(self.dtype), draws)
        self._lengths = th.zeros(n, dtype=th.int64, device=device)
        self._returns = th.zeros(n, dtype=self.dtype, device=device)
        low, high = self.task.start_bounds(None)
        self._low = th.tensor(low, dtype=self.dtype, device=device)[:, None]
        self._range = th.tensor(high, dtype=self.dtype, device=device)[:, None] - self._low
        #: states, for reading [D, N]; replaced at each step
        self.state = self.task.start(self._low.expand(-1, n).contiguous())
        self._began = False
        self._discrete = isinstance(self.task.action_space, (spaces.Discrete, spaces.MultiDiscrete))
        self._action_shape = (n, *(self.task.action_space.shape or ()))
        super().__init__(n, self.task.observation_space, self.task.action_space, device)
        if seed is not None:
            self.seed(_whole("seed", seed, 0))

    @property
    def provides_episodes(self) -> bool:
        """
        :return: True, return and length of each episode are counted here
        """
        return True

    # ------------------------------------------------ reset and step

    def reset_tensors(self) -> th.Tensor:
        """
        :return: first observations [N, O]
        """
        low, span = self._asked_bounds()
        self._draws.seed(self.take_seeds())
        everything = th.ones(self.num_envs, dtype=th.bool, device=self.device)
        self.state = self.task.start(low + span * self._draws.uniform(everything))
        self._lengths, self._returns = th.zeros_like(self._lengths), th.zeros_like(self._returns)
        self._began = True
        return self.task.observe(self.state)

    def start_late(self, shares: th.Tensor) -> None:
        """
        :param shares: share of the time limit that has passed, in [0, 1) [N]
        :raises InvalidArgument: where there is no time limit
        """
        if self.max_episode_steps <= 0:
            super().start_late(shares)
        self._lengths = (shares * self.max_episode_steps).to(self._lengths)

    def _asked_bounds(self) -> tuple[th.Tensor, th.Tensor]:
        """Bounds of the next start; ``set_options`` may give each environment its own."""
        if not any(self._options):
            return self._low, self._range
        bounds = [self.task.start_bounds(options or None) for options in self._options]
        low, high = (th.tensor(side, dtype=self.dtype, device=self.device).T for side in zip(*bounds, strict=True))
        return low, high - low

    def step_tensors(self, actions: th.Tensor) -> TensorStep:
        """
        :param actions: one action per environment, on the environment's device [N, A]; [N] for Discrete
        :return: observations, rewards, flags, and the episode's return and length so far
        :raises InvalidArgument: for actions of another shape
        """
        if tuple(actions.shape) != self._action_shape:
            raise InvalidArgument(f"actions have the shape {list(actions.shape)}; give {list(self._action_shape)}")
        if not self._began:
            raise RuntimeError("step before the first reset(): call reset(); later episodes begin by themselves")
        actions = actions.detach() if self._discrete else actions.detach().to(th.float32)
        state, rewards, terminated = self.task.step(self.state, actions, self._lengths == 0)
        final_obs = self.task.observe(state)
        lengths, returns = self._lengths + 1, self._returns + rewards
        truncated = lengths >= self.max_episode_steps if self.max_episode_steps > 0 else th.zeros_like(terminated)
        done, obs = terminated | truncated, final_obs
        stats = {EPISODE_RETURN: returns, EPISODE_LENGTH: lengths}
        if self.device.type != "cpu" or bool(done.any()):
            fresh = self.task.start(self._low + self._range * self._draws.uniform(done))
            state = th.where(done, fresh, state)
            lengths, returns = lengths.masked_fill(done, 0), returns.masked_fill(done, 0.0)
            obs = self.task.observe(state)
        self.state, self._lengths, self._returns = state, lengths, returns
        return TensorStep(obs, rewards.float(), terminated, truncated, final_obs, stats)

    def step_arrays(self, actions: np.ndarray) -> ArrayStep:
        """
        :param actions: one action per environment [N, A]
        :return: what came of it
        """
        if self.device.type != "cpu":
            return super().step_arrays(actions)
        # Nothing here writes into a tensor that it has given away, so the arrays may share their memory.
        step = self.step_tensors(th.as_tensor(actions))
        obs, final_obs = map_observations(th.Tensor.numpy, step.obs), map_observations(th.Tensor.numpy, step.final_obs)
        stats = {name: value.numpy() for name, value in step.stats.items()}
        return ArrayStep(obs, step.rewards.numpy(), step.terminated.numpy(), step.truncated.numpy(), final_obs, stats)

    # ------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """
        :return: states, clocks, and where the random sequences stand
        """
        return {
            "kind": list(self._kind),
            "state": self.state.clone(),
            "lengths": self._lengths.clone(),
            "returns": self._returns.clone(),
            "draws": self._draws.state_dict(),
            "seeds": [None if seed is None else int(seed) for seed in self._seeds],
            "began": self._began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a state; it may come from another device.

        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when task, number of environments, dtype or draws differ
        """
        given = tuple(state.get("kind", ("something else",)))
        if given != self._kind:
            raise InvalidArgument(
                f"the state is of {' '.join(map(str, given))} and this is {' '.join(map(str, self._kind))}; make the "
                "environment with the same arguments"
            )
        self.state = state["state"].to(self.device).clone()
        self._lengths, self._returns = (
            state["lengths"].to(self.device).clone(),
            state["returns"].to(self.device).clone(),
        )
        self._draws.load_state_dict(state["draws"])
        self._seeds = list(state["seeds"])
        self._began = bool(state["began"])


def make_torch_task(task: str | TorchTask, kwargs: Mapping[str, Any]) -> TorchTask:
    """
    :param task: an id, or a task that is made already
    :param kwargs: arguments of a task given by id
    :return: the task
    :raises InvalidArgument: for an unknown id, for arguments that it does not take
    """
    if isinstance(task, TorchTask):
        if kwargs:
            raise InvalidArgument(f"{next(iter(kwargs))} belongs to the task; give it to {type(task).__name__}(...)")
        return task
    if task not in TORCH_TASKS:
        raise InvalidArgument(
            f"task={task!r}; there is {', '.join(TORCH_TASKS)}, or give a TorchTask of your own. Gymnasium's MuJoCo "
            "tasks are in MujocoVecEnv"
        )
    try:
        return TORCH_TASKS[task](**kwargs)
    except TypeError as failed:
        raise InvalidArgument(f"{task} with {dict(kwargs)!r}: {failed}; leave away what it does not take") from failed


def _find_dtype(dtype: str | th.dtype) -> th.dtype:
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in _DTYPES.values():
        raise InvalidArgument(f"dtype={dtype!r}; there is {' and '.join(_DTYPES)}")
    assert found is not None
    return found


def _find_limit(task: TorchTask, asked: int | None) -> int:
    limit = task.max_episode_steps if asked is None else asked
    return -1 if limit == -1 else _whole("max_episode_steps", limit, 1)


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        otherwise = ", or -1 for no limit" if name == "max_episode_steps" else ""
        raise InvalidArgument(f"{name}={value!r}; give a whole number, {low} or more{otherwise}")
    return int(value)
