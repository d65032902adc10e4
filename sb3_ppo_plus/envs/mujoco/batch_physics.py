"""Physics on ``mujoco.Batch``: native threads, and fields that are views of the engine's own memory."""

from __future__ import annotations

import numpy as np

from sb3_ppo_plus.envs.mujoco.bindings import DIVERGED, Batch, SimulationError, mujoco
from sb3_ppo_plus.envs.mujoco.physics import STATE_FIELDS, Fields, Physics
from sb3_ppo_plus.errors import InvalidArgument


class BatchPhysics(Physics):
    """
    ``mujoco.Batch``: a task's fields are views of the engine's own memory.

    :param model: the compiled model
    :param n_envs: number of simulations
    :param n_threads: threads
    :param needs: MjData fields to bind
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
        super().__init__(model, n_envs, n_threads)
        sleeps = bool(model.opt.enableflags & int(mujoco.mjtEnableBit.mjENBL_SLEEP))
        self.batch = Batch(model, n_envs, n_threads, persistent=sleeps)
        self.model = self.batch.model
        try:
            fields = {name: self.batch.bind(name) for name in (*STATE_FIELDS, *needs)}
        except ValueError as unknown:
            raise InvalidArgument(f"needs={needs!r}: {unknown}") from unknown
        shown = {name.removeprefix("opt."): self._model_field(name) for name in model_needs}
        self.data = Fields(**fields, **shown)
        self._ctrl = self.batch.bind("ctrl")
        self._qpos, self._qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        # A simulation is its row of the state, so a reset is a copy of the default row while all have the same model.
        self.batch.reset(stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        self._default_state = self.batch.state[0].copy()
        # The second number of a warning counts it; a reset of the engine puts it back to 0.
        self._bad = self.batch.warning[:, DIVERGED, 1]

    def step(self, ctrl: np.ndarray, nstep: int) -> np.ndarray | None:
        """
        :param ctrl: controls [n, nu]
        :param nstep: physics steps
        :return: numbers of diverged simulations, or None
        """
        self._ctrl[...] = ctrl
        failed: np.ndarray | None = None
        try:
            self.batch.step(nstep=nstep)
        except SimulationError as error:
            failed = error.ids
        if self._bad.any():
            diverged = np.flatnonzero(self._bad.any(axis=1))
            failed = diverged if failed is None else np.union1d(diverged, failed)
        return failed

    def begin(self, ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray | None:
        """
        :param ids: simulations [m]
        :param qpos: positions [m, nq]
        :param qvel: velocities [m, nv]
        :return: numbers of simulations that cannot begin there, or None
        """
        if self.expanded or self.batch.persistent or self._bad.any():
            self.batch.reset(ids, stage=int(mujoco.mjtStage.mjSTAGE_NONE))
        else:
            self.batch.state[ids] = self._default_state
        self._qpos[ids] = qpos
        self._qvel[ids] = qvel
        try:
            self.batch.forward(ids)
        except SimulationError as error:
            return error.ids
        return None

    def get_state(self) -> np.ndarray:
        """
        :return: the integration states [n, size]
        """
        return self.batch.state.copy()

    def set_state(self, state: np.ndarray) -> None:
        """
        :param state: integration states [n, size]
        """
        self.batch.state[...] = state

    def get_data(self, index: int) -> mujoco.MjData:
        """
        :param index: number of a simulation
        :return: its data, positions computed
        """
        data = self.batch.get_data(index)
        mujoco.mj_forward(self.get_model(index), data)
        return data

    def get_model(self, index: int) -> mujoco.MjModel:
        """
        :param index: number of a simulation
        :return: its model
        """
        return self.batch.get_model(index)

    def _expand(self, name: str) -> np.ndarray:
        try:
            return self.batch.expand(name)
        except ValueError as unknown:
            raise InvalidArgument(f"the model field {name!r} cannot differ between simulations: {unknown}") from unknown

    def apply_model(self, ids: np.ndarray) -> None:
        """
        :param ids: simulations [m]
        """
        if self._must_set_constants:
            self.batch.set_const(ids)

    def close(self) -> None:
        """Nothing to do: the threads end with the batch."""
