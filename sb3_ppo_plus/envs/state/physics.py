"""
The state of MuJoCo behind Gymnasium's environments.

Pickling or copying such an environment gives a fresh one without saying so, and setting ``qpos`` and ``qvel`` is not
exact: rewards are computed from positions that lag behind (``xpos`` before a step belongs to the step before). So the
arrays of ``MjData`` are copied as they are and nothing is recomputed; with them the numbers of ``MjModel``, which
randomization may have changed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_ppo_plus.errors import InvalidArgument

# Each step makes them anew, and how many rows they have depends on contacts. The last are addresses in this process.
_NOT_DATA = ("efc_", "efm_", "iefc_", "iacc", "ifrc_", "island_", "map_", "plugin_data")
# Pictures, names, and meshes with what is derived from them.
_NOT_MODEL = (
    *("mesh_", "tex_", "skin_", "bvh_", "oct_", "text_", "name_", "names", "paths", "key_", "mat_", "tuple_"),
    *("B_", "D_", "M_", "mapM", "mapD", "vis_"),
)
# Most whole numbers say where in other arrays something lies: they are the model's, and a file must not change them.
_WHOLE_OF_DATA = frozenset(
    """eq_active flexvert_conage flex_hessian_valid tree_asleep tree_awake body_awake body_awake_ind parent_awake_ind
    dof_awake_ind""".split()
)
_WHOLE_OF_MODEL = frozenset(
    """geom_contype geom_conaffinity geom_priority body_contype body_conaffinity jnt_limited tendon_limited
    actuator_ctrllimited actuator_forcelimited eq_active0 light_active""".split()
)
_COUNTS = ("nbody_awake", "nparent_awake", "ntree_awake", "nv_awake")
_OPTIONS = (
    *("timestep", "gravity", "wind", "magnetic", "density", "viscosity", "impratio", "tolerance", "o_margin"),
    *("o_solref", "o_solimp", "o_friction", "integrator", "cone", "solver", "iterations", "disableflags"),
    *("enableflags", "ls_iterations", "ls_tolerance", "noslip_iterations", "noslip_tolerance"),
)
_known_fields: dict[type, tuple[str, ...]] = {}


def has_physics(env: Any) -> bool:
    """
    :param env: an environment without its wrappers
    :return: whether it steps MuJoCo through ``model`` and ``data``, as Gymnasium's ``MujocoEnv`` does
    """
    members = vars(env)
    return all(_is_mujocos(members.get(name), kind) for name, kind in (("model", "MjModel"), ("data", "MjData")))


def capture_physics(env: Any) -> tuple[dict[str, Any], str]:
    """
    :param env: environment with ``model`` and ``data``
    :return: plain data, and what of it cannot be copied
    """
    model, data = env.model, env.data
    options = model.opt
    state = {
        "time": float(data.time),
        "contacts": int(data.ncon),
        "counts": [int(getattr(data, name)) for name in _COUNTS if hasattr(data, name)],
        "data": _pack(data),
        "model": _pack(model),
        "options": {name: _plain(getattr(options, name)) for name in _OPTIONS if hasattr(options, name)},
    }
    return state, "has plugins of MuJoCo, whose memory cannot be copied" if model.nplugin else ""


def restore_physics(env: Any, state: Mapping[str, Any]) -> None:
    """
    :param env: environment of the same model
    :param state: what :func:`capture_physics` gave
    :raises InvalidArgument: when the models differ
    """
    model, data = env.model, env.data
    for name, target in (("data", data), ("model", model)):
        if (other := _difference(target, state[name])) is not None:
            raise InvalidArgument(
                f"the state is of another model than that of {type(env).__name__}, or of another version of MuJoCo: "
                f"{other}; make the environment as it was"
            )
    for name, value in state["options"].items():
        if name in _OPTIONS and isinstance(value, np.ndarray):
            getattr(model.opt, name)[...] = value
        elif name in _OPTIONS:
            setattr(model.opt, name, value)
    _unpack(model, state["model"])
    _unpack(data, state["data"])
    if state["contacts"]:
        # From the same positions as there: they are all that a robot can read of contacts before its next step.
        sys.modules["mujoco"].mj_collision(model, data)
    data.time = state["time"]
    for name, count in zip((name for name in _COUNTS if hasattr(data, name)), state["counts"], strict=True):
        setattr(data, name, count)


def _is_mujocos(value: Any, kind: str) -> bool:
    return type(value).__name__ == kind and type(value).__module__.startswith("mujoco")


def _plain(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _fields(owner: Any) -> tuple[str, ...]:
    """List what of a class is state; how much of it there is depends on the model."""
    kind = type(owner)
    if (known := _known_fields.get(kind)) is not None:
        return known
    of_data = kind.__name__ == "MjData"
    without, whole = (_NOT_DATA, _WHOLE_OF_DATA) if of_data else (_NOT_MODEL, _WHOLE_OF_MODEL)
    names = [name for name in dir(kind) if not name.startswith(("_", *without))]
    arrays = {name: value for name in names if isinstance(value := getattr(owner, name), np.ndarray)}
    found = tuple(name for name, array in arrays.items() if array.dtype.kind == "f" or name in whole)
    return _known_fields.setdefault(kind, found)


def _pack(owner: Any) -> dict[str, Any]:
    """Few long arrays instead of many short ones."""
    held, sizes = [], []
    parts: dict[str, list[np.ndarray]] = {}
    for name in _fields(owner):
        array = getattr(owner, name)
        if size := array.size:
            held.append(name)
            sizes.append(size)
            parts.setdefault(array.dtype.str, []).append(array.ravel())
    return {
        "names": " ".join(held),
        "sizes": np.array(sizes, np.int64),
        "parts": {dtype: np.concatenate(arrays) for dtype, arrays in parts.items()},
    }


def _difference(owner: Any, packed: Mapping[str, Any]) -> str | None:
    names = packed["names"].split()
    known = set(_fields(owner))
    for name, size in zip(names, packed["sizes"].tolist(), strict=True):
        array = getattr(owner, name, None) if name in known else None
        if not isinstance(array, np.ndarray) or array.size != size:
            return f"{name} has {size} numbers there and {getattr(array, 'size', 'none')} here"
    return None


def _unpack(owner: Any, packed: Mapping[str, Any]) -> None:
    read = dict.fromkeys(packed["parts"], 0)
    for name, size in zip(packed["names"].split(), packed["sizes"].tolist(), strict=True):
        array = getattr(owner, name)
        dtype = array.dtype.str
        array[...] = packed["parts"][dtype][read[dtype] : read[dtype] + size].reshape(array.shape)
        read[dtype] += size
