"""
How a robot moves, on a GPU: n simulations of one model in MuJoCo-Warp, their fields shown as torch tensors.

A step of the environment is one graph: ``frame_skip`` steps of physics. A reset is another: the states of the masked
simulations become the model's own, torch writes those that were drawn over them, and a third graph computes what
follows from them. None of these asks the device anything.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.building import AFTER_CONSTRAINTS
from sb3_ppo_plus.envs.mujoco.physics import STATE_FIELDS, Fields
from sb3_ppo_plus.envs.mujoco.warp_bindings import mjw, wp
from sb3_ppo_plus.envs.mujoco.warp_graph import Recorded
from sb3_ppo_plus.envs.mujoco.warp_sizes import Sizes
from sb3_ppo_plus.envs.mujoco.warp_tally import Tally
from sb3_ppo_plus.errors import InvalidArgument

logger = logging.getLogger(__name__)

# What the next step starts from; the rest of the data follows from it.
_STATE = (
    "time",
    "qpos",
    "qvel",
    "act",
    "plastic",
    "qacc_warmstart",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
    "eq_active",
    "mocap_pos",
    "mocap_quat",
    "userdata",
)
# What mjw.set_const computes, which has to be each simulation's own where its causes are.
_DERIVED = (
    "body_subtreemass",
    "body_invweight0",
    "dof_invweight0",
    "tendon_length0",
    "tendon_invweight0",
    "actuator_acc0",
    "geom_aabb",
    "geom_rbound",
    "geom_size",
    "eq_data",
    "cam_pos0",
    "cam_poscom0",
    "cam_mat0",
    "light_pos0",
    "light_poscom0",
    "light_dir0",
)
# By kind: flags of mjw.OverflowType, and what is said. A solver that stops at its limit of iterations is no overflow.
_CONTACTS = mjw.OverflowType.BROADPHASE | mjw.OverflowType.NARROWPHASE | mjw.OverflowType.CCD
_ROWS = mjw.OverflowType.NEFC | mjw.OverflowType.NJMAX_NNZ
_OTHERS = mjw.OverflowType.ALL & ~_CONTACTS & ~_ROWS & ~mjw.OverflowType.ITERATIONS & ~mjw.OverflowType.LS_ITERATIONS
#: beyond it MuJoCo calls a number of the state bad
MAX_VALUE = 1e10


class WarpPhysics:
    """
    n simulations in MuJoCo-Warp, in float32.

    :param model: the compiled model; kept, with another solver where MuJoCo-Warp lacks its own
    :param n_envs: n, number of simulations
    :param device: where they are
    :param sizes: room for contacts and constraints
    :param frame_skip: physics steps per step
    :param needs: MjData fields to show beside qpos, qvel, ctrl and time
    :param model_needs: MjModel fields to show
    :param randomized: MjModel fields that differ between simulations, or ``opt.<name>``
    :param record: see :class:`~sb3_ppo_plus.envs.mujoco.warp_graph.Recorded`
    :param deterministic: sum in the same order every time, which costs speed on a GPU
    :raises InvalidArgument: for what MuJoCo-Warp does not simulate, or does not know
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        n_envs: int,
        device: th.device,
        sizes: Sizes,
        frame_skip: int,
        needs: Sequence[str] = (),
        model_needs: Sequence[str] = (),
        randomized: Sequence[str] = (),
        record: bool = True,
        deterministic: bool = False,
    ) -> None:
        self.model, self.n_envs, self.device = _with_a_solver(model), n_envs, device
        self.sizes = sizes
        self._warp_device = wp.get_device(str(device))
        inputs = frozenset(getattr(mujoco.MjModel, "_setconst_inputs", ()))
        self._sets_constants = any(name in inputs or name.startswith("opt.") for name in randomized)
        self._make(randomized, deterministic)
        #: model fields that differ between simulations, live, by name, each [n, ...]
        self.varied = {name: self._model_view(name) for name in randomized}
        derived = [name for name in dict.fromkeys(needs) if name not in STATE_FIELDS]
        shown = {name: self._data_view(name) for name in (*STATE_FIELDS, *derived)}
        #: what a task reads, live: fields of MjData [n, ...], of MjModel [k, ...] or, if they differ, [n, k, ...]
        self.data = Fields(**shown, **{name.removeprefix("opt."): self._model_field(name) for name in model_needs})
        self._state = {name: view for name in _STATE if (view := self._data_view(name)).numel()}
        self._overflow = self._data_view("overflow")
        self._kinds = th.tensor([int(_CONTACTS), int(_ROWS), int(_OTHERS)], dtype=th.int32, device=device)
        self._cleared = [shown[name] for name in derived if name in AFTER_CONSTRAINTS]
        with wp.ScopedDevice(self._warp_device):
            mask = wp.zeros(n_envs, dtype=wp.bool)
        self._mask = wp.to_torch(mask)
        self._record(mask, frame_skip, bool(derived), record)
        #: steps in which a simulation ran out of room
        self.tally = Tally(
            {
                "contact_overflows": f"%d times contacts found no room: give engine_options={{'nconmax': ...}} more "
                f"than {sizes.nconmax}, or their forces are missing",
                "constraint_overflows": f"%d times constraints found no room: give engine_options={{'njmax': ...}} "
                f"more than {sizes.njmax}, or they do not hold",
                "other_overflows": "%d times MuJoCo-Warp ran out of room for something else than contacts",
            },
            device,
        )

    def _make(self, randomized: Sequence[str], deterministic: bool) -> None:
        """Bring model and data to the device."""
        own = [name for name in randomized if not name.startswith("opt.")]
        batch = dict.fromkeys([*own, *(_DERIVED if self._sets_constants else ())], self.n_envs)
        self._check_randomized(randomized)
        _check_model(self.model)
        with wp.ScopedDevice(self._warp_device):
            try:
                self._m = mjw.put_model(self.model, batch_sizes=batch)
            except (NotImplementedError, ValueError) as lacking:
                raise InvalidArgument(
                    f"MuJoCo-Warp does not simulate this model: {lacking}; use engine='cpu', which does"
                ) from lacking
            # What it would print is counted here.
            self._m.opt.warn_overflow = 0
            self._m.opt.deterministic = deterministic
            if self.device.type == "cuda":
                self._m.opt.graph_conditional = bool(wp.is_conditional_graph_supported())
            for name in (name.removeprefix("opt.") for name in randomized if name.startswith("opt.")):
                shared = getattr(self._m.opt, name)
                each = wp.array(np.repeat(shared.numpy(), self.n_envs, axis=0), dtype=shared.dtype)
                each._is_batched = getattr(shared, "_is_batched", True)
                setattr(self._m.opt, name, each)
            self._d = mjw.make_data(self.model, nworld=self.n_envs, nconmax=self.sizes.nconmax, njmax=self.sizes.njmax)

    def _check_randomized(self, names: Sequence[str]) -> None:
        kinds = {name: kind for owner in (mjw.Model, mjw.Option) for name, kind in owner.__annotations__.items()}
        for name in names:
            shape = getattr(kinds.get(name.removeprefix("opt.")), "shape", ())
            if not shape or shape[0] != "*":
                raise InvalidArgument(
                    f"MuJoCo-Warp has {name!r} once for all simulations, so it cannot be randomized there; use "
                    "engine='cpu'"
                )

    def _record(self, mask: Any, frame_skip: int, forwards: bool, record: bool) -> None:
        m, d = self._m, self._d

        def step(times: int = frame_skip) -> None:
            for _ in range(times):
                mjw.step(m, d)
            if self._cleared:
                mjw.rne_postconstraint(m, d)

        self._step = Recorded(step, self.device, record, first=lambda: step(1))
        self._reset = Recorded(lambda: mjw.reset_data(m, d, reset=mask), self.device, record)
        self._forward = Recorded(lambda: mjw.forward(m, d), self.device, record) if forwards else None
        self._constants = None
        if self._sets_constants:
            # What follows from positions is computed afterwards in any case.
            self._constants = Recorded(lambda: mjw.set_const(m, d, restore=False), self.device, record)
        # Trying them moved the simulations.
        self._mask.fill_(True)
        self._reset()
        self._overflow.zero_()

    # ------------------------------------------------ views

    def _data_view(self, name: str) -> th.Tensor:
        """A field of the data, in MuJoCo's shape."""
        array = getattr(self._d, name, None)
        if not isinstance(array, wp.array) or not array.shape or array.shape[0] != self.n_envs:
            raise InvalidArgument(
                f"the task needs {name!r}, which is no field that MuJoCo-Warp has for each simulation; use engine='cpu'"
            )
        inner = np.shape(getattr(mujoco.MjData(self.model), name, ())) if name != "overflow" else ()
        if not array.size:
            return th.zeros(self.n_envs, *inner, device=self.device)
        view = wp.to_torch(array)
        return view.view(self.n_envs, *inner) if view.shape[1:].numel() == int(np.prod(inner)) else view

    def _model_view(self, name: str) -> th.Tensor:
        owner = self._m.opt if name.startswith("opt.") else self._m
        return wp.to_torch(getattr(owner, name.removeprefix("opt.")))

    def _model_field(self, name: str) -> th.Tensor:
        """A field of the model for tasks to read: live where it differs, else shared."""
        if name in self.varied:
            return self.varied[name]
        owner = self.model.opt if name.startswith("opt.") else self.model
        try:
            value = np.array(getattr(owner, name.removeprefix("opt.")))
        except AttributeError as unknown:
            raise InvalidArgument(f"model_needs has {name!r}, which is no field of MjModel: {unknown}") from unknown
        dtype = th.float32 if value.dtype.kind == "f" else None
        return th.as_tensor(value, dtype=dtype, device=self.device)

    @property
    def expanded(self) -> dict[str, np.ndarray]:
        """
        :return: model fields that differ between simulations, copied to the host, by name, each [n, ...]
        """
        return {name: view.cpu().double().numpy() for name, view in self.varied.items()}

    # ------------------------------------------------ moving

    def step(self, ctrl: th.Tensor) -> None:
        """
        Advance every simulation with its controls held.

        :param ctrl: controls [n, nu]
        """
        self.data.ctrl.copy_(ctrl)
        self._step()
        self.tally.add(((self._overflow[:, None] & self._kinds) != 0).sum(0))
        self._overflow.zero_()

    def begin(self, mask: th.Tensor, qpos: th.Tensor, qvel: th.Tensor) -> None:
        """
        Begin episodes; the other simulations go on as if nothing had happened.

        What is derived from the state, such as ``xpos``, is computed anew for all of them: a task that compares
        positions before and after a step keeps its own copy.

        :param mask: True for those that begin [n]
        :param qpos: positions, read where they begin [n, nq]
        :param qvel: velocities, likewise [n, nv]
        """
        self._mask.copy_(mask)
        self._reset()
        for view, values in ((self.data.qpos, qpos), (self.data.qvel, qvel)):
            view.copy_(th.where(mask[:, None], values.to(view.dtype), view))
        # As after MuJoCo's own reset: the first observation of an episode has no contact forces.
        for view in self._cleared:
            view.masked_fill_(mask.view(-1, *[1] * (view.ndim - 1)), 0.0)
        if self._forward is not None:
            self._forward()

    def diverged(self) -> th.Tensor:
        """
        :return: True for simulations whose state is not a number, or too large for one that means anything [n]
        """
        qpos, qvel = self.data.qpos, self.data.qvel
        # Not a number compares false with everything.
        return ~((qpos.abs() < MAX_VALUE).all(1) & (qvel.abs() < MAX_VALUE).all(1))

    def apply_model(self) -> None:
        """Let written model fields take effect, and what MuJoCo derives from them."""
        if self._constants is not None:
            self._constants()

    # ------------------------------------------------ state

    def get_state(self) -> dict[str, th.Tensor]:
        """
        :return: everything that the next step starts from, copies on the host, by name, each [n, ...]
        """
        return {name: view.cpu().clone() for name, view in self._state.items()}

    def set_state(self, state: dict[str, th.Tensor]) -> None:
        """
        Go on from a state, with what follows from it computed.

        :param state: what :meth:`get_state` gave, or some of it [n, ...]
        """
        for name, values in state.items():
            self._state[name].copy_(values)
        if self._forward is not None:
            self._forward()

    def get_model(self, index: int) -> mujoco.MjModel:
        """
        :param index: number of a simulation
        :return: its model, with what was randomized; a copy
        """
        model = copy.copy(self.model)
        for name, values in self.expanded.items():
            owner = model.opt if name.startswith("opt.") else model
            current = getattr(owner, name.removeprefix("opt."))
            if isinstance(current, np.ndarray):
                current[...] = values[index].reshape(current.shape)
            else:
                setattr(owner, name.removeprefix("opt."), float(values[index]))
        if self._sets_constants:
            mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def get_data(self, index: int) -> mujoco.MjData:
        """
        :param index: number of a simulation
        :return: its data as of now, a copy in MuJoCo's own type with every position computed
        """
        model = self.get_model(index)
        data = mujoco.MjData(model)
        for name, view in self._state.items():
            value = view[index].cpu().numpy()
            if name == "time":
                data.time = float(value)
            else:
                getattr(data, name)[...] = value
        mujoco.mj_forward(model, data)
        return data

    def close(self) -> None:
        """Nothing to do: the memory is freed with the object."""


def _check_model(model: mujoco.MjModel) -> None:
    """A reset computes what follows from the state of all simulations, which must not be another step for the rest."""
    sleeps = bool(model.opt.enableflags & int(mujoco.mjtEnableBit.mjENBL_SLEEP))
    if sleeps or bool(getattr(model, "nhistory", False)):
        what = "bodies that fall asleep" if sleeps else "sensors or actuators with a delay"
        raise InvalidArgument(
            f"engine='warp' does not simulate {what}; use engine='cpu', or leave them out of the model"
        )


def _with_a_solver(model: mujoco.MjModel) -> mujoco.MjModel:
    """The model itself, or a copy of it with Newton's solver where MuJoCo-Warp lacks the one it asks for."""
    if int(model.opt.solver) in set(map(int, mjw.SolverType)):
        return model
    logger.info("MuJoCo-Warp lacks the solver %s; Newton takes its place", mujoco.mjtSolver(model.opt.solver).name)
    model = copy.copy(model)
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return model
