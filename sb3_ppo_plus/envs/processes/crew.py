"""All workers of one environment: asked together, and started again where one is lost."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import util
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper
from stable_baselines3.common.vec_env.util import obs_space_info

from sb3_ppo_plus.envs.processes import wire
from sb3_ppo_plus.envs.processes.budget import RestartLimits
from sb3_ppo_plus.envs.processes.errors import Lost, WorkerTraceback
from sb3_ppo_plus.envs.processes.handle import Worker, end_all
from sb3_ppo_plus.envs.processes.memory import Layout, Memory, Part
from sb3_ppo_plus.errors import InvalidArgument

logger = logging.getLogger(__name__)


class Crew:
    """
    The workers, the memory that they share, and what a new one has to be told.

    :param context: of multiprocessing
    :param env_fns: functions that make one environment each
    :param n_workers: number of processes
    :param limits: how often each is started again
    :param timeout: seconds for one answer
    :param start_timeout: seconds until environments are made
    :raises WorkerLost: when a worker cannot be started
    """

    memory: Memory
    spaces: tuple[spaces.Space, spaces.Space]

    def __init__(
        self,
        context: Any,
        env_fns: Sequence[Callable[[], gym.Env]],
        n_workers: int,
        limits: RestartLimits,
        timeout: float | None,
        start_timeout: float | None,
    ) -> None:
        n = len(env_fns)
        self.start_timeout = start_timeout
        self.workers = [
            Worker(context, number, rows, _pickled([env_fns[row] for row in rows]), limits, timeout)
            for number, rows in enumerate(_shares(n, n_workers))
        ]
        # Before multiprocessing waits for its processes at the end of the program, and never in a fork of this one.
        self._finalizer = util.Finalize(self, end_all, args=(self.workers,), exitpriority=100)
        #: restarts so far that concerned each environment [N]
        self.n_restarts = [0] * n
        #: why workers were lost: ``died``, ``raised``, ``hung``
        self.losses: Counter[str] = Counter()
        #: environments that were lost and have begun anew since the last step, and what happened
        self.dropped: dict[int, str] = {}
        #: infos of the step, and of the last reset [N]
        self.infos: list[dict[str, Any]] = []
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(n)]
        #: whether episodes are under way
        self.begun = False
        #: last seed that each environment was given, options of the reset under way, attributes that were set
        self.seeds: list[int | None] = [None] * n
        self.options: list[dict[str, Any]] = [{} for _ in range(n)]
        self.attributes: list[dict[str, bytes]] = [{} for _ in range(n)]
        self._layout: Layout | None = None
        try:
            for failed in self._bring_up(self.workers):
                raise failed.final("nothing was started", 0) from failed
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """:return: whether the workers were ended"""
        return not self._finalizer.still_active()

    def close(self) -> None:
        """End the workers, in five seconds whatever they do; doing it twice is fine."""
        self._finalizer()
        if self._layout is not None:
            self.memory.close()

    def ask(self, doing: str, requests: Iterable[tuple[Worker, bytes, Any]]) -> None:
        """
        :param doing: what they are to do, in a word
        :param requests: workers, kind of message, and what comes with it
        """
        lost = []
        for worker, kind, content in requests:
            try:
                worker.ask(doing, kind, content)
            except Lost as loss:
                lost.append(loss)
        self._revive(lost)

    def settle(self) -> None:
        """Wait for all answers that are due, and take note of them."""
        if self.closed:
            raise RuntimeError("this ProcessVecEnv was closed; make a new one")
        lost: list[Lost] = []
        for worker in self.workers:
            if worker.doing:
                try:
                    self._note(*worker.answer(hurry=_hung(lost)))
                except Lost as loss:
                    lost.append(loss)
        if lost:
            self._revive(lost)

    def _note(self, kind: bytes, content: Any) -> None:
        if kind != wire.TOLD:
            return
        for row, info, reset_info in content:
            if info is not None:
                self.infos[row] = info
            if reset_info is not None:
                self.reset_infos[row] = reset_info

    def call(self, name: str, doing: str, rows: Sequence[int], arguments: bytes) -> list[Any]:
        """
        Have something done in the workers, all at once; a worker that is lost by it is asked again.

        :param name: of what is done, see the worker
        :param doing: the same in a word, for messages
        :param rows: environments to do it with
        :param arguments: pickled arguments and named arguments
        :return: what came of it, one each
        """
        self.settle()
        results: dict[int, tuple[bool, Any]] = {}
        while missing := {row for row in rows if row not in results}:
            wanted = {worker: [row for row in worker.rows if row in missing] for worker in self.workers}
            wanted = {worker: chosen for worker, chosen in wanted.items() if chosen}
            self.ask(doing, ((w, wire.CALL, (name, [(row, arguments) for row in c])) for w, c in wanted.items()))
            lost: list[Lost] = []
            for worker, chosen in wanted.items():
                if worker.doing:  # else it was lost when it was asked
                    try:
                        results.update(zip(chosen, worker.answer(hurry=_hung(lost))[1], strict=True))
                    except Lost as loss:
                        lost.append(loss)
            self._revive(lost)
        for row in rows:
            if not results[row][0]:
                _raise(row, doing, *results[row][1])
        return [pickle.loads(results[row][1]) for row in rows]

    # ------------------------------------------------ starting workers, and starting them again

    def _revive(self, lost: list[Lost]) -> None:
        """Start lost workers again, until all are there or one was lost too often."""
        try:
            while lost:
                for loss in lost:
                    self._count(loss)
                lost = self._bring_up([loss.worker for loss in lost])
        except BaseException:
            self.close()
            raise

    def _count(self, loss: Lost) -> None:
        worker = loss.worker
        self.losses[loss.kind] += 1
        before = worker.budget.spent
        if (why := worker.budget.spend(time.monotonic())) is not None:
            raise loss.final(why, before) from loss
        for row in worker.rows:
            self.n_restarts[row] += 1
            if self.begun:
                self.dropped[row] = str(loss)
        # As text: a log that keeps its records would keep the memory alive with the error.
        logger.warning("%s; its worker is started again (restart %d)", str(loss), worker.budget.spent)
        if loss.traceback:
            logger.info("the worker said:\n%s", loss.traceback)

    def _bring_up(self, workers: Iterable[Worker]) -> list[Lost]:
        """Start workers side by side, until their environments stand where a new episode begins."""
        lost, started = [], []
        for worker in workers:
            try:
                worker.start(self.start_timeout)
                started.append(worker)
            except Lost as loss:
                lost.append(loss)
        for worker in started:
            try:
                self._welcome(worker)
            except Lost as loss:
                lost.append(loss)
        return lost

    def _welcome(self, worker: Worker) -> None:
        """Take a worker in whose process was just started."""
        _, made = worker.answer()
        for row, both in zip(worker.rows, made, strict=True):
            parts = _parts(row, *both)
            if self._layout is None:
                layout = Layout(len(self.n_restarts), len(self.workers), *parts)
                self.memory, self.spaces, self._layout = Memory(layout), both, layout
            elif parts != (self._layout.observations, self._layout.action):
                raise InvalidArgument(
                    f"environment {row} has spaces of another size than environment 0: {both[0]} and {both[1]}, not "
                    f"{self.spaces[0]} and {self.spaces[1]}; give all environments the same"
                )
        assert self._layout is not None
        worker.share(self.memory, self._layout)
        for row in worker.rows:
            for arguments in self.attributes[row].values():
                worker.ask("set_attr()", wire.CALL, ("set_attr", [(row, arguments)]))
                worker.answer()
        if self.begun:
            requests = [(row, self._seed_of_restart(row), self.options[row]) for row in worker.rows]
            for row in worker.rows:
                self.reset_infos[row] = {}
            worker.ask("reset", wire.RESET, requests)
            self._note(*worker.answer())

    def _seed_of_restart(self, row: int) -> int | None:
        base = self.seeds[row]
        if base is None:
            return None
        # Not the seed itself: the new environment would repeat the old one's episodes.
        return int(np.random.SeedSequence((base, self.n_restarts[row])).generate_state(1)[0])


def _shares(n: int, n_workers: int) -> list[list[int]]:
    """Share environments out, neighbours together and as evenly as can be."""
    return [part.tolist() for part in np.array_split(np.arange(n), n_workers)]


def _pickled(functions: Sequence[Callable[[], gym.Env]]) -> bytes:
    """Pickle functions with cloudpickle, as SB3 does; plain pickle reads it."""
    return CloudpickleWrapper(list(functions)).__getstate__()


def _parts(row: int, observation_space: spaces.Space, action_space: spaces.Space) -> tuple[tuple[Part, ...], Any]:
    """Say what of an environment lies in shared memory."""
    keys, shapes, dtypes = obs_space_info(observation_space)
    parts = tuple(Part(key, shapes[key], np.dtype(dtypes[key])) for key in keys if shapes[key] is not None)
    if len(parts) != len(keys) or any(part.dtype.kind not in "biuf" for part in parts):
        raise InvalidArgument(
            f"environment {row} observes {observation_space}, which are no numbers of a fixed size; SB3 cannot use "
            "that either"
        )
    shape, dtype = action_space.shape, action_space.dtype
    plain = isinstance(action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
    return parts, Part(None, shape, np.dtype(dtype)) if plain and shape is not None else None


def _raise(row: int, doing: str, pickled_error: bytes | None, text: str) -> None:
    """Raise here what an environment raised there."""
    cause = WorkerTraceback(f"in the worker of environment {row}, {doing}:\n{text.rstrip()}")
    if pickled_error is None:
        raise RuntimeError(f"environment {row} raised in {doing}: {text.strip().splitlines()[-1]}") from cause
    raise pickle.loads(pickled_error) from cause


def _hung(lost: Sequence[Lost]) -> bool:
    # All were asked together: when one has used up its time, the others have, too.
    return any(loss.kind == "hung" for loss in lost)
