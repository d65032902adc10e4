"""A MuJoCo robot in words and numbers: what a controller needs beside the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.tasks.registry import TASKS

# mjtJoint: free, ball, slide, hinge; their positions' and velocities' sizes, parts and units.
_QPOS = {
    0: (("x", "m"), ("y", "m"), ("z", "m"), ("qw", "1"), ("qx", "1"), ("qy", "1"), ("qz", "1")),
    1: (("qw", "1"), ("qx", "1"), ("qy", "1"), ("qz", "1")),
    2: (("", "m"),),
    3: (("", "rad"),),
}
_QVEL = {
    0: (("vx", "m/s"), ("vy", "m/s"), ("vz", "m/s"), ("wx", "rad/s"), ("wy", "rad/s"), ("wz", "rad/s")),
    1: (("wx", "rad/s"), ("wy", "rad/s"), ("wz", "rad/s")),
    2: (("", "m/s"),),
    3: (("", "rad/s"),),
}
# mjtBias: an affine bias makes a servo, whose gains are in it. mjtTrn: a joint is driven.
_AFFINE, _FIXED_GAIN, _JOINT = 1, 0, 0
_UNITS_OF_BODIES = {"cinert": "kg, kg m, kg m^2", "cvel": "rad/s, m/s", "cfrc_ext": "N m, N"}
_SIZES_OF_BODIES = {"cinert": 10, "cvel": 6, "cfrc_ext": 6}
# Observations of Gymnasium that are no plain list of MuJoCo's fields: (name, size, unit).
_SPECIAL: dict[str, tuple[tuple[str, int, str], ...]] = {
    "InvertedDoublePendulum-v5": (
        ("cart_position", 1, "m"),
        ("sin_hinges", 2, "1"),
        ("cos_hinges", 2, "1"),
        ("velocities_clipped_10", 3, "m/s, rad/s"),
        ("constraint_force_clipped_10", 1, "N"),
    ),
    "Reacher-v5": (
        ("cos_joints", 2, "1"),
        ("sin_joints", 2, "1"),
        ("target_position", 2, "m"),
        ("joint_velocities", 2, "rad/s"),
        ("fingertip_minus_target", 2, "m"),
    ),
    "Pusher-v5": (
        ("joint_positions", 7, "rad"),
        ("joint_velocities", 7, "rad/s"),
        ("fingertip_position", 3, "m"),
        ("object_position", 3, "m"),
        ("goal_position", 3, "m"),
    ),
}


def describe_robot(env: VecEnv) -> dict[str, Any] | None:
    """
    Read a robot off its environment.

    :param env: wrapped environments, native ones of this package or Gymnasium's
    :return: description at full precision, None when no MuJoCo model is there
    """
    base: Any = env.unwrapped if hasattr(env, "venv") else env
    model, timing, task_id, size = _find(base)
    if model is None:
        return None
    joints = list(_joints(model))
    actuators = [_actuator(model, index) for index in range(model.nu)]
    dt, physics_dt = timing
    default = np.asarray(model.qpos0)
    # One entry per joint of one degree of freedom, as mjlab's readers expect; a free base is none.
    scalar = [joint for joint in joints if joint["type"] in ("slide", "hinge")]
    gains = {actuator["joint"]: (actuator["kp"], actuator["kd"]) for actuator in actuators}
    return {
        "simulator": "mujoco",
        "control_dt": dt,
        "physics_dt": physics_dt,
        "joint_names": [joint["name"] for joint in scalar],
        "joints": joints,
        "default_joint_pos": [float(default[joint["qpos"]]) for joint in scalar],
        "default_qpos": default.tolist(),
        "actuators": actuators,
        "action_type": _common([actuator["type"] for actuator in actuators]),
        # Commands are given to the actuators as they are: scale 1, offset 0.
        "action_scale": [1.0] * model.nu,
        "action_offset": [0.0] * model.nu,
        "action_names": [actuator["joint"] or actuator["name"] for actuator in actuators],
        "joint_stiffness": [gains.get(joint["name"], (0.0, 0.0))[0] for joint in scalar],
        "joint_damping": [gains.get(joint["name"], (0.0, 0.0))[1] for joint in scalar],
        "observation_terms": observation_terms(model, task_id, size),
        "command_names": [],
    }


def flat_keys(robot: dict[str, Any], run_path: str | None) -> dict[str, str]:
    """
    The flat keys that programs for mjlab's files read: lists as comma-separated values, numbers at full precision.

    :param robot: description of the robot
    :param run_path: folder of the run
    :return: key to text
    """
    lists = ("joint_names", "joint_stiffness", "joint_damping", "default_joint_pos", "command_names", "action_scale")
    flat = {name: _csv(robot[name]) for name in lists if isinstance(robot.get(name), (list, tuple))}
    terms = robot.get("observation_terms")
    if isinstance(terms, list):
        flat["observation_names"] = _csv([term["name"] for term in terms])
    for name, value in robot.items():
        # What the user adds, such as anchor_body_name, is read by its flat key too.
        if isinstance(value, str) and name not in flat:
            flat[name] = value
    return {**flat, "run_path": run_path or ""}


def observation_terms(model: Any, task_id: str | None, size: int) -> list[dict[str, Any]]:
    """
    What each number of an observation is, in order.

    :param model: ``mujoco.MjModel``
    :param task_id: Gymnasium id
    :param size: length of the observation
    :return: terms with name, size, units, and names of their elements for Gymnasium's tasks; one called ``obs`` for any
        other
    """
    if task_id in _SPECIAL:
        terms = [{"name": name, "size": length, "units": unit} for name, length, unit in _SPECIAL[task_id]]
        return terms if sum(length for _, length, _ in _SPECIAL[task_id]) == size else _unknown(size)
    if task_id not in TASKS:
        # A length that fits by chance would be a wrong label.
        return _unknown(size)
    positions, velocities = list(_elements(model, _QPOS)), list(_elements(model, _QVEL))
    bodies = [_name(model.body(index).name, "body", index) for index in range(1, model.nbody)]
    extras = {name: len(bodies) * width for name, width in _SIZES_OF_BODIES.items()}
    extras["qfrc_actuator"] = model.nv - 6
    # Gymnasium's parts in Gymnasium's order; which are there is known by the length alone.
    choices = ((), ("cfrc_ext",), ("cinert", "cvel", "qfrc_actuator", "cfrc_ext"))
    for skipped in (0, 1, 2):
        for chosen in choices:
            if len(positions) - skipped + len(velocities) + sum(extras[name] for name in chosen) == size:
                body_terms = [_body_term(name, extras[name], bodies, velocities) for name in chosen]
                return [_term("qpos", positions[skipped:]), _term("qvel", velocities), *body_terms]
    return _unknown(size)


def _unknown(size: int) -> list[dict[str, Any]]:
    return [{"name": "obs", "size": size, "units": "unknown"}]


def _term(name: str, elements: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "name": name,
        "size": len(elements),
        "units": [unit for _, unit in elements],
        "elements": [element for element, _ in elements],
    }


def _body_term(name: str, size: int, bodies: list[str], velocities: list[tuple[str, str]]) -> dict[str, Any]:
    if name == "qfrc_actuator":
        return {"name": name, "size": size, "units": "N m", "elements": [element for element, _ in velocities[6:]]}
    return {"name": name, "size": size, "units": _UNITS_OF_BODIES[name], "bodies": bodies}


def _elements(model: Any, table: dict[int, tuple[tuple[str, str], ...]]) -> Iterator[tuple[str, str]]:
    """Name and unit of each entry of qpos or qvel."""
    for index in range(model.njnt):
        joint = _name(model.joint(index).name, "joint", index)
        for part, unit in table[int(model.jnt_type[index])]:
            yield (f"{joint}.{part}" if part else joint), unit


def _joints(model: Any) -> Iterator[dict[str, Any]]:
    kinds = ("free", "ball", "slide", "hinge")
    for index in range(model.njnt):
        first = int(model.jnt_qposadr[index])
        limited = bool(model.jnt_limited[index])
        yield {
            "name": _name(model.joint(index).name, "joint", index),
            "type": kinds[int(model.jnt_type[index])],
            "qpos": first,
            "qvel": int(model.jnt_dofadr[index]),
            "range": model.jnt_range[index].tolist() if limited else None,
            "armature": float(model.dof_armature[model.jnt_dofadr[index]]),
            "damping": float(model.dof_damping.reshape(model.nv, -1)[model.jnt_dofadr[index], 0]),
        }


def _actuator(model: Any, index: int) -> dict[str, Any]:
    """One actuator: motor, position or velocity servo, with its gains."""
    gain, bias = model.actuator_gainprm[index], model.actuator_biasprm[index]
    affine = int(model.actuator_biastype[index]) == _AFFINE and int(model.actuator_gaintype[index]) == _FIXED_GAIN
    kp, kd = (float(-bias[1]), float(-bias[2])) if affine else (0.0, 0.0)
    kind = "position" if kp > 0 else "velocity" if kd > 0 else "torque"
    driven = int(model.actuator_trnid[index, 0]) if int(model.actuator_trntype[index]) == _JOINT else None
    joint = None if driven is None else _name(model.joint(driven).name, "joint", driven)
    limits = {
        "ctrl_range": (model.actuator_ctrllimited[index], model.actuator_ctrlrange[index]),
        "force_range": (model.actuator_forcelimited[index], model.actuator_forcerange[index]),
    }
    return {
        "name": _name(model.actuator(index).name, "actuator", index),
        "joint": joint,
        "type": kind,
        "kp": kp,
        "kd": kd,
        "gain": float(gain[0]),
        "gear": model.actuator_gear[index].tolist(),
        **{name: values.tolist() if limited else None for name, (limited, values) in limits.items()},
    }


def _find(base: Any) -> tuple[Any, tuple[float, float], str | None, int]:
    """The MuJoCo model, seconds per command and per physics step, id, and length of the observation."""
    try:
        model = base.get_attr("model", 0)[0]
        if not hasattr(model, "qpos0"):
            return None, (0.0, 0.0), None, 0
        physics_dt = float(model.opt.timestep)
        task = getattr(base, "task", None)
        dt = float(task.dt) if task is not None else float(base.get_attr("dt", 0)[0])
    except (AttributeError, TypeError, IndexError):
        return None, (0.0, 0.0), None, 0
    spec = getattr(base, "spec", None) or (base.get_attr("spec", 0)[0] if task is None else None)
    shape = base.observation_space.shape or (0,)
    return model, (dt, physics_dt), getattr(spec, "id", None), int(shape[0])


def _common(kinds: list[str]) -> str:
    return kinds[0] if len(set(kinds)) == 1 else "mixed"


def _name(name: str, kind: str, index: int) -> str:
    return name or f"{kind}_{index}"


def _csv(values: Any) -> str:
    return ",".join(value if isinstance(value, str) else json.dumps(value) for value in values)
