"""What goes into the metadata of a file: what it takes and gives, where it comes from, and the robot it drives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.graph import PolicyGraph
from sb3_ppo_plus.export.heads import branch_sizes
from sb3_ppo_plus.export.metadata import SPEC_FORMAT
from sb3_ppo_plus.export.stages import parts_of

_PACKAGES = ("sb3-ppo-plus", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco")


@dataclass(frozen=True)
class Origin:
    """
    Where a model comes from.

    :param checkpoint: name of its zip
    :param sha256: hash of the zip
    :param env_id: environment it was trained in
    :param env_kwargs: arguments of that environment
    :param env_wrapper: wrappers around each single environment, whose observations the file takes
    :param mean_return: mean return of the evaluation that the model was kept for
    :param run_path: folder of the run
    """

    checkpoint: str | None = None
    sha256: str | None = None
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_wrapper: Any = None
    mean_return: float | None = None
    run_path: str | None = None


@dataclass(frozen=True)
class Spec:
    """
    :param spec: JSON mapping
    :param flat: keys and texts for other people's programs
    """

    spec: dict[str, Any]
    flat: dict[str, str]


def build_spec(
    model: BaseAlgorithm,
    graph: PolicyGraph,
    env: VecEnv | None,
    target: str,
    opset: int,
    origin: Origin | None = None,
    override: Mapping[str, Any] | None = None,
) -> Spec:
    """
    Put the metadata together.

    :param model: the model
    :param graph: what was exported
    :param env: environments of the model, to read the robot from
    :param target: target of the export
    :param opset: version of the operators
    :param origin: where the model comes from
    :param override: entries of the user; for ``robot`` they replace or complete those of the robot
    :return: metadata
    :raises InvalidArgument: for the target ``robot`` when nothing is known about one
    """
    origin = origin or Origin()
    spec: dict[str, Any] = {
        "format": SPEC_FORMAT,
        "target": target,
        "opset": opset,
        "algorithm": type(model).__name__,
        "policy": type(model.policy).__name__,
        "inputs": [{**port.describe(), **graph.remarks.get(port.name, {})} for port in graph.inputs],
        "outputs": [port.describe() for port in graph.outputs]
        + [{"name": name, "role": "constant", "value": value} for name, value in graph.constants.items()],
        "observation": {key or "obs": space_json(part) for key, part in parts_of(graph.space).items()},
        "action": space_json(model.action_space),
        "versions": installed_versions(),
        "training": {
            "steps": int(model.num_timesteps),
            "return": origin.mean_return if origin.mean_return is not None else recent_return(model),
            "seed": model.seed,
            "env_id": origin.env_id or env_id_of(env),
            "env_kwargs": origin.env_kwargs,
            "env_wrapper": origin.env_wrapper,
            "checkpoint": origin.checkpoint,
            "checkpoint_sha256": origin.sha256,
        },
    }
    if target != "robot":
        return Spec({**spec, **({"user": dict(override)} if override else {})}, {})
    from sb3_ppo_plus.export.robot import describe_robot, flat_keys

    robot = describe_robot(env) if env is not None else None
    if robot is None and not override:
        raise InvalidArgument(
            "target robot reads the robot off a MuJoCo environment, and there is none; give env (--env), or describe "
            "the robot with metadata={'joint_names': [...], ...} (--metadata FILE)"
        )
    spec["robot"] = {**(robot or {}), **dict(override or {})}
    return Spec(spec, flat_keys(spec["robot"], origin.run_path))


def space_json(space: Any) -> dict[str, Any]:
    """
    :param space: space of Gymnasium
    :return: its kind, shape and bounds, numbers at full precision
    """
    told: dict[str, Any] = {"kind": type(space).__name__, "shape": list(space.shape or ())}
    if isinstance(space, HybridSpace):
        told["choices"] = list(space.branch_sizes)
    if isinstance(space, spaces.Box):
        told["dtype"] = str(space.dtype)
        if space.dtype != np.uint8:
            told.update(low=space.low.flatten(), high=space.high.flatten())
    elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        told["choices"] = list(branch_sizes(space))
    return told


def installed_versions() -> dict[str, str]:
    """
    :return: versions of the packages that made the model and the file
    """
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def env_id_of(env: VecEnv | None) -> str | None:
    """
    :param env: wrapped environments
    :return: their Gymnasium id, None when they have none
    """
    if env is None:
        return None
    base = env.unwrapped if hasattr(env, "venv") else env
    spec = getattr(base, "spec", None)
    if spec is None:
        try:
            spec = base.get_attr("spec", 0)[0]
        except (AttributeError, IndexError):
            return None
    return getattr(spec, "id", None)


def recent_return(model: BaseAlgorithm) -> float | None:
    """
    :param model: the model
    :return: mean return of its latest training episodes, None when there were none
    """
    episodes = [float(info["r"]) for info in model.ep_info_buffer or ()]
    return float(np.mean(episodes)) if episodes else None
