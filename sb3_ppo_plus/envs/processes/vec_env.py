"""SB3's vectorized environment of worker processes, which survives its workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_ppo_plus.buffers import LOST_ROW
from sb3_ppo_plus.envs.processes import wire
from sb3_ppo_plus.envs.processes.budget import RestartLimits
from sb3_ppo_plus.envs.processes.crew import Crew
from sb3_ppo_plus.errors import InvalidArgument

# In the info of a step whose episode was lost with its worker: what happened.
DROPPED = "dropped"


class ProcessVecEnv(VecEnv):
    """
    Environments in worker processes, in place of SB3's ``SubprocVecEnv``; numbers are those of a ``DummyVecEnv``.

    A worker that dies, whose environment raises, or that does not answer in time is started again with new
    environments. The step in which it was lost ends the episode with reward 0, ``infos[i]["dropped"]`` says why, and
    :class:`~sb3_ppo_plus.PPOPlus` learns nothing from it. For what is remembered and what is not see
    ``docs/processes.md``.

    :param env_fns: functions that make one environment each; anything that cloudpickle can pickle
    :param start_method: ``forkserver``, which is the default, or ``spawn``
    :param timeout: seconds that a worker may take for one answer, typically 10 to 300; larger waits longer for a
        worker that hangs, too small restarts slow ones. None waits for ever
    :param start_timeout: seconds that a worker may take until its environments are made, imports included
    :param restarts: how often one worker is started again in all; 0 for never, -1 for no limit
    :param restarts_per_interval: how often within ``restart_interval``; -1 for no limit
    :param restart_interval: in seconds
    :param n_workers: number of processes, which share the environments out; None for one each. Fewer are faster for
        cheap environments, and a lost worker then ends several episodes
    :raises WorkerLost: when a worker cannot be started, and later when one is lost too often
    :raises InvalidArgument: for what cannot work
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        start_method: str | None = None,
        *,
        timeout: float | None = 60.0,
        start_timeout: float | None = 120.0,
        restarts: int = 10,
        restarts_per_interval: int = 1,
        restart_interval: float = 60.0,
        n_workers: int | None = None,
    ) -> None:
        _check(len(env_fns), n_workers, timeout, start_timeout)
        context = multiprocessing.get_context(_start_method(start_method))
        limits = RestartLimits(restarts, restarts_per_interval, restart_interval)
        self.waiting = False
        #: episodes that were lost with their worker
        self.num_lost_episodes = 0
        self.crew = Crew(context, env_fns, n_workers or len(env_fns), limits, timeout, start_timeout)
        try:
            super().__init__(len(env_fns), *self.crew.spaces)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """:return: whether the workers were ended"""
        return self.crew.closed

    @property
    def n_restarts(self) -> list[int]:
        """:return: restarts so far that concerned each environment [N]"""
        return list(self.crew.n_restarts)

    @property
    def pids(self) -> list[int]:
        """:return: number of the process that each environment lives in, -1 for none [N]"""
        return [worker.pid for worker in self.crew.workers for _ in worker.rows]

    def reset(self) -> VecEnvObs:
        """
        :return: first observations, as arrays that the environment does not touch again
        """
        crew, seeds = self.crew, self._seeds
        crew.settle()
        crew.seeds = [old if new is None else new for old, new in zip(crew.seeds, seeds, strict=True)]
        self.reset_infos = crew.reset_infos = [{} for _ in range(self.num_envs)]
        crew.begun, crew.options, self.waiting = True, self._options, False
        requests = [(row, seeds[row], self._options[row]) for row in range(self.num_envs)]
        crew.ask("reset", [(worker, wire.RESET, [requests[row] for row in worker.rows]) for worker in crew.workers])
        crew.settle()
        # A worker that was lost meanwhile has begun anew already.
        crew.dropped.clear()
        crew.options = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """
        :param actions: one action per environment [N, A]
        """
        crew = self.crew
        crew.settle()
        crew.infos = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        # What was lost since the last step has begun anew, and its old episode ends with this step.
        workers = [worker for worker in crew.workers if worker.rows[0] not in crew.dropped]
        shared = crew.memory.actions
        self.waiting = True
        if isinstance(actions, np.ndarray) and shared is not None and _fits(actions, shared):
            shared[...] = actions
            crew.ask("step", [(worker, wire.STEP, None) for worker in workers])
            return
        if len(actions) != self.num_envs:
            raise InvalidArgument(f"{len(actions)} actions for {self.num_envs} environments")
        crew.ask("step", [(worker, wire.STEP_WITH, [actions[row] for row in worker.rows]) for worker in workers])

    def step_wait(self) -> VecEnvStepReturn:
        """
        :return: observations, rewards, dones and infos in SB3's form, none of which the environment touches again
        """
        crew = self.crew
        crew.settle()
        self.waiting = False
        rewards, dones, infos = crew.memory.rewards.copy(), crew.memory.dones.copy(), crew.infos
        for row, how in crew.dropped.items():
            # What was seen last is not what came of the action: nothing to bootstrap from, and nothing to learn.
            rewards[row], dones[row] = 0.0, True
            infos[row] = {"TimeLimit.truncated": True, LOST_ROW: True, DROPPED: how}
        self.num_lost_episodes += len(crew.dropped)
        crew.dropped.clear()
        return self._observations(), rewards, dones, infos

    def close(self) -> None:
        """End the workers, in five seconds whatever they do; doing it twice is fine."""
        self.crew.close()

    def take_log(self) -> dict[str, float]:
        """
        :return: what is worth a line in the log, by name; nothing as long as no worker was lost
        """
        spent = [worker.budget.spent for worker in self.crew.workers]
        if not any(spent):
            return {}
        log = {
            "env/restarts": sum(spent),
            "env/restarts_of_worst": max(spent),
            "env/lost_episodes": self.num_lost_episodes,
        }
        log |= {f"env/workers_{kind}": count for kind, count in sorted(self.crew.losses.items())}
        return {name: float(count) for name, count in log.items()}

    # ------------------------------------------------ states, for sb3_ppo_plus.envs.state

    def capture_envs(self) -> list[tuple[Any, list[str]]]:
        """
        :return: state of each environment, and what of it could not be copied [N]
        """
        return self._call("capture", "capture_envs()", None)

    def restore_envs(self, states: Sequence[Any]) -> None:
        """
        :param states: state of each environment, as :meth:`capture_envs` gave it [N]
        """
        for row, state in enumerate(states):
            self._call("restore", "restore_envs()", [row], state)
        # A worker that is lost from here on begins new episodes.
        self.crew.begun = True

    # ------------------------------------------------ single environments

    def has_attr(self, attr_name: str) -> bool:
        """
        :param attr_name: attribute of the environments
        :return: whether all have it
        """
        return all(self._call("has_attr", f"has_attr({attr_name})", None, attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        :param attr_name: attribute of the environments, or of one of their wrappers
        :param indices: which environments, None for all
        :return: one value per environment
        """
        return self._call("get_attr", f"get_attr({attr_name})", indices, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        :param attr_name: attribute to set; environments of a worker that is started again get it, too
        :param value: its value
        :param indices: which environments, None for all
        """
        rows = self._rows(indices)
        self._call("set_attr", f"set_attr({attr_name})", rows, attr_name, value)
        for row in rows:
            self.crew.attributes[row][attr_name] = pickle.dumps(((attr_name, value), {}))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """
        :param method_name: method of the environments, or of one of their wrappers
        :param method_args: its arguments
        :param indices: which environments, None for all
        :param method_kwargs: its named arguments
        :return: one result per environment
        """
        return self._call("env_method", f"{method_name}()", indices, method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        :param wrapper_class: wrapper of Gymnasium
        :param indices: which environments, None for all
        :return: whether each is wrapped with it
        """
        return self._call("is_wrapped", "env_is_wrapped()", indices, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        :return: a picture of each environment [height, width, 3], None where there is none
        """
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"render_mode is {self.render_mode!r}, and only 'rgb_array' gives images; make them with that"
            )
            return [None] * self.num_envs
        return self._call("render", "render()", None)

    def _call(self, name: str, doing: str, indices: VecEnvIndices, *args: Any, **kwargs: Any) -> list[Any]:
        return self.crew.call(name, doing, self._rows(indices), pickle.dumps((args, kwargs)))

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        n = self.num_envs
        chosen = [int(index) for index in self._get_indices(indices)]
        for index in chosen:
            if not -n <= index < n:
                raise InvalidArgument(f"environment {index} does not exist; there are {n}, counted from 0")
        return [index % n for index in chosen]

    def _observations(self) -> VecEnvObs:
        copies = {key: array.copy() for key, array in self.crew.memory.observations.items()}
        return dict_to_obs(self.observation_space, copies)


def _check(n: int, n_workers: int | None, *seconds: float | None) -> None:
    if n < 1:
        raise InvalidArgument("env_fns is empty; give at least one function that makes an environment")
    if n_workers is not None and not 1 <= n_workers <= n:
        raise InvalidArgument(f"n_workers={n_workers} has to be between 1 and the number of environments, {n}")
    for value in seconds:
        if value is not None and not value > 0:
            raise InvalidArgument(f"a timeout of {value} seconds is over at once; give more, or None to wait for ever")


def _start_method(name: str | None) -> str:
    if not hasattr(os, "killpg"):
        raise InvalidArgument("ProcessVecEnv needs Linux or macOS; use SubprocVecEnv here")
    name = name or "forkserver"
    if name not in ("forkserver", "spawn"):
        raise InvalidArgument(
            f"start_method={name!r} cannot be used; give 'forkserver' or 'spawn': a forked worker keeps its siblings' "
            "connections open, so that nobody notices who died, and locks that other threads held stay locked"
        )
    return name


def _fits(actions: np.ndarray, shared: np.ndarray) -> bool:
    return actions.dtype == shared.dtype and actions.shape == shared.shape
