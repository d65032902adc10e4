"""Physics on one ``MjData`` per simulation, for what ``mujoco.Batch`` does not compute."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.mujoco.batch_physics import BatchPhysics
from sb3_ppo_plus.envs.mujoco.bindings import DIVERGED, mujoco
from sb3_ppo_plus.envs.mujoco.physics import Fields, Physics
from sb3_ppo_plus.errors import InvalidArgument


class DataPhysics(Physics):
    """
    One ``MjData`` per simulation, stepped by Python threads: MuJoCo releases the interpreter's lock while it computes.

    :param model: the compiled model
    :param n_envs: number of simulations
    :param n_threads: threads
    :param needs: MjData fields to copy out after each step
    :param model_needs: MjModel fields to show
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        n_envs: int,
        n_threads: int,
        needs: tuple[str, ...] = (),
        model_needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(model, n_envs, min(n_threads, n_envs))
        self._models = [model] * n_envs
        self._datas = [mujoco.MjData(model) for _ in range(n_envs)]
        for name in needs:
            if not isinstance(getattr(self._datas[0], name, None), np.ndarray):
                raise InvalidArgument(f"needs={needs!r}: {name!r} is not an array of mjData")
        copied = ("qpos", "qvel", *needs)
        rows = {name: _rows_of(getattr(self._datas[0], name), n_envs) for name in copied}
        self._time = np.zeros(n_envs)
        self._ctrl = np.zeros((n_envs, model.nu))
        # Per simulation: what to copy from where to where; arrays of an MjData keep their address.
        self._copies = [[(rows[name][i], getattr(data, name)) for name in copied] for i, data in enumerate(self._datas)]
        warned = [data.warning.number[DIVERGED] for data in self._datas]
        self._bad = np.zeros((n_envs, len(warned[0])), warned[0].dtype)
        for i, counts in enumerate(warned):
            self._copies[i].append((self._bad[i], counts))
        shown = {name.removeprefix("opt."): self._model_field(name) for name in model_needs}
        self.data = Fields(
            **rows,
            time=self._time,
            ctrl=self._ctrl,
            **shown,
        )
        self._helpers = self.n_threads - 1
        self._pool = ThreadPoolExecutor(self._helpers) if self._helpers else None

    def step(self, ctrl: np.ndarray, nstep: int) -> np.ndarray | None:
        """
        :param ctrl: controls [n, nu]
        :param nstep: physics steps
        :return: numbers of diverged simulations, or None
        """
        self._ctrl[...] = ctrl
        failed: list[int] = []
        queue = iter(range(self.n_envs))  # next() is atomic, so threads that finish early take more
        waiting = (
            [self._pool.submit(self._work, queue, nstep, failed) for _ in range(self._helpers)] if self._pool else []
        )
        self._work(queue, nstep, failed)
        for future in waiting:
            future.result()
        if not failed and not self._bad.any():
            return None
        return np.union1d(np.flatnonzero(self._bad.any(axis=1)), failed).astype(np.int64)

    def _work(self, queue: Iterator[int], nstep: int, failed: list[int]) -> None:
        step, after_constraints = mujoco.mj_step, mujoco.mj_rnePostConstraint
        for index in queue:
            data, model = self._datas[index], self._models[index]
            data.ctrl[:] = self._ctrl[index]
            try:
                step(model, data, nstep)
                after_constraints(model, data)
            except mujoco.FatalError:
                failed.append(index)
            self._copy_out(index)

    def _copy_out(self, index: int) -> None:
        for row, source in self._copies[index]:
            row[...] = source
        self._time[index] = self._datas[index].time

    def begin(self, ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray | None:
        """
        :param ids: simulations [m]
        :param qpos: positions [m, nq]
        :param qvel: velocities [m, nv]
        :return: numbers of simulations that cannot begin there, or None
        """
        failed = []
        for position, index in enumerate(ids.tolist()):
            data, model = self._datas[index], self._models[index]
            mujoco.mj_resetData(model, data)
            data.qpos[:] = qpos[position]
            data.qvel[:] = qvel[position]
            try:
                # No mj_rnePostConstraint, as in Gymnasium: the first observation of an episode has no contact forces.
                mujoco.mj_forward(model, data)
            except mujoco.FatalError:
                failed.append(index)
            self._copy_out(index)
        self._ctrl[ids] = 0.0
        return np.asarray(failed) if failed else None

    def get_state(self) -> np.ndarray:
        """
        :return: the integration states [n, size]
        """
        spec = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        states = np.empty((self.n_envs, mujoco.mj_stateSize(self.model, spec)))
        for index, data in enumerate(self._datas):
            mujoco.mj_getState(self._models[index], data, states[index], spec)
        return states

    def set_state(self, state: np.ndarray) -> None:
        """
        :param state: integration states [n, size]
        """
        spec = int(mujoco.mjtState.mjSTATE_INTEGRATION)
        for index, data in enumerate(self._datas):
            mujoco.mj_setState(self._models[index], data, state[index], spec)
            self._ctrl[index] = data.ctrl
            self._copy_out(index)

    def get_data(self, index: int) -> mujoco.MjData:
        """
        :param index: number of a simulation
        :return: its data, a copy with positions computed
        """
        data = copy.copy(self._datas[index])
        mujoco.mj_forward(self._models[index], data)
        return data

    def get_model(self, index: int) -> mujoco.MjModel:
        """
        :param index: number of a simulation
        :return: its model
        """
        model = self._models[index]
        return copy.copy(model) if model is self.model else model

    def _expand(self, name: str) -> np.ndarray:
        if name not in self.expanded:
            # Batch knows which fields may differ; its answer is the same for this engine.
            values = BatchPhysics(self.model, self.n_envs, 1)._expand(name)
            if self._models[0] is self.model:
                self._models = [copy.copy(self.model) for _ in range(self.n_envs)]
            return values.copy()
        return self.expanded[name]

    def apply_model(self, ids: np.ndarray) -> None:
        """
        :param ids: simulations [m]
        """
        for index in ids.tolist():
            model = self._models[index]
            for name, values in self.expanded.items():
                owner = model.opt if name.startswith("opt.") else model
                _assign(owner, name.removeprefix("opt."), values[index])
            if self._must_set_constants:
                mujoco.mj_setConst(model, self._datas[index])

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown()
            self._pool, self._helpers = None, 0


def _rows_of(template: np.ndarray, n: int) -> np.ndarray:
    return np.zeros((n, *template.shape), template.dtype)


def _assign(owner: Any, name: str, value: np.ndarray) -> None:
    current = getattr(owner, name)
    if isinstance(current, np.ndarray):
        current[...] = value
    else:
        setattr(owner, name, type(current)(value))
