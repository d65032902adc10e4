"""
What runs in a worker process: some environments, and a loop that serves them to the parent.

This module is imported by every worker, so it imports no torch: a worker starts in a third of a second unless its
environments need more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from sb3_ppo_plus.envs.processes import wire
from sb3_ppo_plus.envs.processes.lifeline import follow_parent
from sb3_ppo_plus.envs.processes.memory import Descriptor, Memory
from sb3_ppo_plus.envs.state import global_generators


def main(sock: socket.socket, log: Descriptor, makers: bytes, rows: Sequence[int], number: int) -> None:
    """
    Serve until the parent hangs up.

    :param sock: connection to it
    :param log: file for what a crash or a hang leaves to say
    :param makers: pickled functions that make one environment each
    :param rows: their numbers among all environments
    :param number: of this worker
    """
    follow_parent()
    faulthandler.enable(log.fd)
    faulthandler.register(signal.SIGUSR1, log.fd, all_threads=True)
    line = wire.Wire(sock)
    server = _Server(line, rows, number)
    try:
        server.make(makers)
        while True:
            server.serve(*line.receive())
    except wire.Gone:
        pass  # the parent wants no more
    except BaseException:  # sys.exit() of an environment, too
        with contextlib.suppress(wire.Gone):
            line.send(wire.RAISED, (server.row, traceback.format_exc()))
    finally:
        server.close()


class _Server:
    """The environments of this process."""

    def __init__(self, line: wire.Wire, rows: Sequence[int], number: int) -> None:
        self.line, self.rows, self.number = line, rows, number
        self.envs: dict[int, gym.Env] = {}
        #: environment that is being served
        self.row = rows[0]
        self.memory: Memory
        self.views: dict[int, list[tuple[Any, Any]]] = {}
        self.handlers: dict[bytes, Callable[[Any], None]] = {
            wire.STEP: self.step,
            wire.STEP_WITH: self.step,
            wire.RESET: self.reset,
            wire.CALL: self.call,
            wire.MEMORY: self.share,
        }

    def make(self, makers: bytes) -> None:
        """:param makers: pickled functions that make one environment each"""
        for row, maker in zip(self.rows, pickle.loads(makers), strict=True):
            self.row = row
            env = maker()
            if not isinstance(env, gym.Env):
                from stable_baselines3.common.vec_env.patch_gym import _patch_env

                env = _patch_env(env)
            if any(env.unwrapped is other.unwrapped for other in self.envs.values()):
                raise ValueError("two functions gave the same environment; each has to make one of its own")
            self.envs[row] = env
        global_generators.at_start()
        self.line.send(wire.READY, [(env.observation_space, env.action_space) for env in self.envs.values()])

    def serve(self, kind: bytes, content: Any) -> None:
        """
        :param kind: what the parent wants
        :param content: what for
        """
        self.handlers[kind](content)

    def share(self, layout: Any) -> None:
        """:param layout: of the memory, whose descriptor comes next"""
        _, fds, _, _ = socket.recv_fds(self.line.sock, 1, 1)
        self.memory = Memory(layout, fds[0])
        self.memory.close()
        arrays = self.memory.observations.items()
        # An ellipsis: single numbers need an array of no dimension, which a bare index does not give.
        self.views = {row: [(key, array[row, ...]) for key, array in arrays] for row in self.rows}

    def step(self, actions: Sequence[Any] | None) -> None:
        """:param actions: one per environment here; None when they lie in the shared memory"""
        memory = self.memory
        told: list[Any] = []
        rewards, dones, serving = memory.rewards, memory.dones, memory.serving
        for index, (row, env) in enumerate(self.envs.items()):
            serving[self.number] = self.row = row
            if actions is not None:
                action = actions[index]
            else:
                assert memory.actions is not None
                # An environment may keep its action, and this memory is written again.
                action = memory.actions[row].copy()
            observation, rewards[row], terminated, truncated, info = env.step(action)
            dones[row] = done = bool(terminated or truncated)
            if done:
                info["TimeLimit.truncated"] = truncated and not terminated
                info["terminal_observation"] = observation
                observation, reset_info = env.reset()
                told.append((row, info, reset_info))
            elif info:
                info["TimeLimit.truncated"] = truncated and not terminated
                told.append((row, info, None))
            self.show(row, observation)
        self.tell(told)

    def reset(self, requests: Sequence[tuple[int, int | None, dict[str, Any]]]) -> None:
        """:param requests: number, seed and options of each environment to reset"""
        told = []
        for row, seed, options in requests:
            self.memory.serving[self.number] = self.row = row
            observation, info = self.envs[row].reset(seed=seed, **({"options": options} if options else {}))
            self.show(row, observation)
            if info:
                told.append((row, None, info))
        self.tell(told)

    def show(self, row: int, observation: Any) -> None:
        """
        :param row: number of an environment
        :param observation: what it observes, for the shared memory
        """
        for key, view in self.views[row]:
            view[...] = observation if key is None else observation[key]

    def tell(self, told: list[Any]) -> None:
        """:param told: infos that hold something: number, info, info of the reset that followed"""
        self.memory.serving[self.number] = -1
        if told:
            self.line.send(wire.TOLD, told)
        else:
            self.line.send(wire.DONE)

    def call(self, content: tuple[str, Sequence[tuple[int, bytes]]]) -> None:
        """:param content: name of what to do, and number and pickled arguments of each environment to do it with"""
        name, requests = content
        results: list[tuple[bool, Any]] = []
        for self.row, arguments in requests:
            try:
                args, kwargs = pickle.loads(arguments)
                result = _CALLS[name](self.envs[self.row], *args, **kwargs)
                results.append((True, pickle.dumps(result, pickle.HIGHEST_PROTOCOL)))
            except Exception as error:  # for who called; the environment itself has not failed
                results.append((False, (_pickled(error), traceback.format_exc())))
        self.line.send(wire.RESULTS, results)

    def close(self) -> None:
        """Close the environments, whatever they say."""
        for env in self.envs.values():
            with contextlib.suppress(Exception):
                env.close()


def _pickled(error: Exception) -> bytes | None:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # some can be written and not read
        return data
    except Exception:
        return None


def _env_method(env: gym.Env, name: str, *args: Any, **kwargs: Any) -> Any:
    return env.get_wrapper_attr(name)(*args, **kwargs)


def _has_attr(env: gym.Env, name: str) -> bool:
    try:
        env.get_wrapper_attr(name)
    except AttributeError:
        return False
    return True


def _is_wrapped(env: gym.Env, wrapper_class: type[gym.Wrapper]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False


def _capture(env: gym.Env) -> Any:
    from sb3_ppo_plus.envs.state.single import capture_single

    return capture_single(env)


def _restore(env: gym.Env, states: Any) -> None:
    from sb3_ppo_plus.envs.state.single import restore_single

    restore_single(env, states)


_CALLS: dict[str, Callable[..., Any]] = {
    "capture": _capture,
    "env_method": _env_method,
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "has_attr": _has_attr,
    "is_wrapped": _is_wrapped,
    "render": lambda env: env.render(),
    "restore": _restore,
    "set_attr": setattr,
}
