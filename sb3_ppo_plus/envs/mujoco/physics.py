"""
How a robot moves, on the processor: n simulations of one model, stepped by native threads.

Two engines have this face. :mod:`~sb3_ppo_plus.envs.mujoco.batch_physics` is ``mujoco.Batch``, and what nearly every
task runs on. :mod:`~sb3_ppo_plus.envs.mujoco.data_physics` keeps one ``MjData`` per simulation, for tasks that read
what only ``mj_rnePostConstraint`` computes (``cfrc_ext``); Batch never calls that function, and copying whole
simulations out of it costs more than it saves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Protocol

import numpy as np

from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.errors import InvalidArgument

#: what every engine shows without being asked
STATE_FIELDS = ("qpos", "qvel", "ctrl", "time")


class Fields(SimpleNamespace):
    """What a task reads, by name."""

    def __getattr__(self, name: str) -> np.ndarray:
        raise AttributeError(
            f"the task reads {name!r}, which it does not ask for; add it to its `needs` (fields of MjData) or "
            "`model_needs` (fields of MjModel)"
        )


class Simulations(Protocol):
    """n simulations, as those look at them who do not move them: pictures, and single robots."""

    @property
    def model(self) -> mujoco.MjModel:
        """:return: the model before anything was randomized"""

    @property
    def expanded(self) -> Mapping[str, np.ndarray]:
        """:return: model fields that differ between simulations, by name, each [n, ...]"""

    def get_model(self, index: int) -> mujoco.MjModel:
        """
        :param index: number of a simulation
        :return: its model
        """

    def get_data(self, index: int) -> mujoco.MjData:
        """
        :param index: number of a simulation
        :return: its data, a copy
        """

    def close(self) -> None:
        """Free what is held; doing it twice is fine."""


class Physics(ABC):
    """
    n simulations of one model.

    :param model: the compiled model; the engine keeps it
    :param n_envs: n, number of simulations
    :param n_threads: threads that step them, the calling one included
    """

    #: live arrays for tasks to read: qpos, qvel, ctrl, time and the fields asked for, each [n, ...]
    data: Fields

    def __init__(self, model: mujoco.MjModel, n_envs: int, n_threads: int) -> None:
        self.model = model
        self.n_envs = n_envs
        self.n_threads = n_threads
        self._constant_inputs = frozenset(getattr(mujoco.MjModel, "_setconst_inputs", ()))
        self._must_set_constants = False
        #: model fields that differ between simulations, by name, each [n, ...]
        self.expanded: dict[str, np.ndarray] = {}

    @abstractmethod
    def step(self, ctrl: np.ndarray, nstep: int) -> np.ndarray | None:
        """
        Advance every simulation with its controls held.

        :param ctrl: controls [n, nu]
        :param nstep: physics steps
        :return: numbers of the simulations that diverged; None when none did, which is the usual case
        """

    @abstractmethod
    def begin(self, ids: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray | None:
        """
        Start some simulations anew, and compute their derived fields. The others stay as they are.

        :param ids: their numbers, sorted [m]
        :param qpos: positions [m, nq]
        :param qvel: velocities [m, nv]
        :return: numbers of those that cannot begin there, because MuJoCo raises; None when all can
        """

    @abstractmethod
    def get_state(self) -> np.ndarray:
        """
        :return: everything that the next step starts from, a copy [n, size]
        """

    @abstractmethod
    def set_state(self, state: np.ndarray) -> None:
        """
        :param state: what :meth:`get_state` gave [n, size]
        """

    @abstractmethod
    def get_data(self, index: int) -> mujoco.MjData:
        """
        :param index: number of a simulation
        :return: its data as of now, a copy with every position computed
        """

    def get_model(self, index: int) -> mujoco.MjModel:
        """
        :param index: number of a simulation
        :return: its model, with what was randomized
        """
        return self.model

    def expand(self, name: str) -> np.ndarray:
        """
        Give a model field a value per simulation; call :meth:`apply_model` after writing into it.

        :param name: MjModel field, or ``opt.<name>``
        :return: the live values [n, ...]
        :raises InvalidArgument: for a field that cannot differ between simulations
        """
        values = self.expanded[name] = self._expand(name)
        self._must_set_constants |= name in self._constant_inputs or name.startswith("opt.")
        short = name.removeprefix("opt.")
        if short in vars(self.data):
            setattr(self.data, short, values)
        return values

    @abstractmethod
    def _expand(self, name: str) -> np.ndarray:
        """Give a model field a value per simulation."""

    @abstractmethod
    def apply_model(self, ids: np.ndarray) -> None:
        """
        Let written model fields take effect, and what MuJoCo derives from them.

        :param ids: simulations whose fields were written, sorted [m]
        """

    @abstractmethod
    def close(self) -> None:
        """Free threads; doing it twice is fine."""

    def _model_field(self, name: str) -> np.ndarray:
        """A field of the model that all simulations share, for tasks to read."""
        owner = self.model.opt if name.startswith("opt.") else self.model
        try:
            return np.array(getattr(owner, name.removeprefix("opt.")))
        except AttributeError as unknown:
            raise InvalidArgument(f"model_needs has {name!r}, which is no field of MjModel: {unknown}") from unknown
