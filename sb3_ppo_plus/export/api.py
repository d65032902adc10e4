"""``export_onnx``: a trained model as one ONNX file, proven before it appears."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.graph import PolicyGraph, Wanted, check_policy
from sb3_ppo_plus.export.metadata import SPEC, VERIFICATION, put_metadata, require, to_json
from sb3_ppo_plus.export.sealing import sealed
from sb3_ppo_plus.export.spec import Origin, build_spec
from sb3_ppo_plus.export.stages import Stage, normalize_stage, read_wrappers
from sb3_ppo_plus.export.verify import Verification, verify_onnx
from sb3_ppo_plus.export.writing import OPSETS, to_onnx

# target: (default opset, opsets it can have, why)
TARGETS: dict[str, tuple[int, range, str]] = {
    "generic": (17, OPSETS, "torch writes no other"),
    "robot": (17, OPSETS, "torch writes no other"),
    "mlagents": (9, range(9, 10), "9 is the one that every Unity package from 2.0 to 4.x imports"),
}
# onnxruntime 1.32 opens RandomNormalLike and RandomUniformLike of no newer one.
_MAX_STOCHASTIC = 21


@dataclass(frozen=True)
class ExportReport:
    """
    What was written, and the proof.

    :param path: the file
    :param size: its size in bytes
    :param opset: version of the operators in it
    :param inputs: names of the inputs
    :param outputs: names of the outputs
    :param verification: comparison with the model
    """

    path: Path
    size: int
    opset: int
    inputs: list[str]
    outputs: list[str]
    verification: Verification

    def text(self) -> str:
        """
        :return: lines to print
        """
        head = f"{self.path}: {self.size / 1024:,.0f} KiB, opset {self.opset}"
        return f"{head}\n  {', '.join(self.inputs)} -> {', '.join(self.outputs)}\n{self.verification.text()}"


def export_onnx(
    model: BaseAlgorithm,
    path: str | os.PathLike[str],
    target: str = "generic",
    *,
    env: VecEnv | None = None,
    normalizer: VecNormalize | None = None,
    opset: int | None = None,
    stochastic: bool = False,
    values: bool = False,
    metadata: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
    make_env: Callable[[int, int], VecEnv] | None = None,
    n_random: int = 1000,
    n_episodes: int = 20,
) -> ExportReport:
    """
    Write one ONNX file in which everything between the raw observation and the command to the environment is inside.

    Wrappers that change observations go into the graph: normalization with the statistics of this moment, image layout
    and scaling, frame stacks (as a state that goes in and out). The file appears only when it acts as the model does.

    :param model: model of PPOPlus, PPO, A2C, MaskablePPO or RecurrentPPO; it is not changed
    :param path: file to write, usually ``*.onnx``; an earlier one is replaced in one step
    :param target: ``generic``; ``robot``, the same with metadata of a MuJoCo robot; ``mlagents`` for Unity
    :param env: wrapped environments to read wrappers and robot from; None for those of the model
    :param normalizer: statistics for a model whose environments are not there
    :param opset: version of ONNX's operators, None for the target's (17; 9 for mlagents); lower ones open in older
        runtimes
    :param stochastic: also give actions drawn from the policy; ``mlagents`` always does
    :param values: also give the critic's opinion; not for ``mlagents``
    :param metadata: entries of your own: under ``user`` in the metadata; for ``robot`` they complete the description of
        the robot and win over what was read
    :param origin: where the model comes from, for the metadata; None for what the model itself knows
    :param make_env: from a number of environments and a seed to wrapped environments; with it the proof has real
        observations and returns, see :func:`~sb3_ppo_plus.export.verify_onnx`
    :param n_random: random observations of the proof
    :param n_episodes: episodes of the proof
    :return: what was written, with the proof
    :raises InvalidArgument: for an unknown target, an opset that it cannot have, a policy that cannot be exported, or a
        file that would act differently; nothing is written then
    """
    path = Path(path)
    opset = check_arguments(path, target, opset, stochastic, values)
    require("onnxruntime")
    check_policy(model)
    wrapped = env if env is not None else model.get_env()
    space, stages = observation_path(model, wrapped, normalizer)
    graph, onnx_model = _build(model, space, stages, target, opset, Wanted(stochastic, values))
    spec = build_spec(model, graph, wrapped, target, opset, origin, metadata)
    put_metadata(onnx_model, {SPEC: to_json(spec.spec), **spec.flat})
    # The file is proven where it will lie, under another name, and takes its own only then.
    with atomic_path(path) as temporary:
        temporary.write_bytes(sealed(onnx_model.SerializeToString()))
        proof = verify_onnx(temporary, model, wrapped, make_env, normalizer, n_random, n_episodes)
        if not proof.passed:
            raise InvalidArgument(
                f"{path} was not written, because it would not act as the model does: {'; '.join(proof.failures)}"
            )
        put_metadata(onnx_model, {VERIFICATION: to_json(proof.summary())})
        temporary.write_bytes(sealed(onnx_model.SerializeToString()))
        size = temporary.stat().st_size
    inputs, outputs = ([value.name for value in part] for part in (onnx_model.graph.input, onnx_model.graph.output))
    return ExportReport(path, size, opset, inputs, outputs, proof)


def check_arguments(path: Path, target: str, opset: int | None, stochastic: bool = False, values: bool = False) -> int:
    """
    Find out what cannot work before anything is loaded or written.

    :param path: file to write
    :param target: a key of :data:`TARGETS`
    :param opset: version of the operators, None for the target's
    :param stochastic: whether drawn actions are wanted
    :param values: whether the critic's opinion is wanted
    :return: the opset
    :raises InvalidArgument: saying what was wrong and what to do instead
    """
    if target not in TARGETS:
        raise InvalidArgument(f"target={target!r} is not known; there is {', '.join(TARGETS)}")
    default, possible, why = TARGETS[target]
    if opset is not None and opset not in possible:
        span = f"{possible[0]} to {possible[-1]}" if len(possible) > 1 else f"{possible[0]} only"
        raise InvalidArgument(f"opset={opset} cannot be had for target {target!r}: {span}, since {why}")
    if stochastic and opset is not None and opset > _MAX_STOCHASTIC:
        raise InvalidArgument(
            f"opset={opset} and stochastic=True: onnxruntime has no random operators beyond opset {_MAX_STOCHASTIC}; "
            "give a lower opset"
        )
    if values and target == "mlagents":
        raise InvalidArgument("values=True has no place in a file for Unity; export another one with target generic")
    if path.is_dir():
        raise InvalidArgument(f"{path} is a folder; give the path of a file, such as {path / 'policy.onnx'}")
    return default if opset is None else opset


def observation_path(
    model: BaseAlgorithm, env: VecEnv | None, normalizer: VecNormalize | None
) -> tuple[spaces.Space, list[Stage]]:
    """
    Find what happens to observations before the policy sees them.

    :param model: the model
    :param env: its wrapped environments, None when they are not there
    :param normalizer: statistics to apply when they are not
    :return: space of the raw observations, and the stages
    :raises InvalidArgument: when the environments do not show what the model observes
    """
    if env is None:
        stage = normalize_stage(normalizer) if normalizer is not None else None
        assert model.observation_space is not None
        return model.observation_space, [stage] if stage is not None else []
    if normalizer is not None:
        raise InvalidArgument("give either an environment, whose wrappers are read, or a normalizer")
    if not same_observations(env.observation_space, model.observation_space):
        hint = "wrap it as in training"
        if same_observations(VecTransposeImage(env).observation_space, model.observation_space):
            hint = "wrap it in VecTransposeImage, as Stable-Baselines3 did in training"
        raise InvalidArgument(
            f"the environment shows {env.observation_space} and the model observes {model.observation_space}; {hint}"
        )
    return read_wrappers(env)


def same_observations(one: Any, other: Any) -> bool:
    """
    :param one: observation space
    :param other: observation space
    :return: whether they are of one kind and shape, in every part
    """
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return set(one.spaces) == set(other.spaces) and all(
            same_observations(one[key], other[key]) for key in one.spaces
        )
    return type(one) is type(other) and one.shape == other.shape


def _build(
    model: BaseAlgorithm, space: spaces.Space, stages: list[Stage], target: str, opset: int, wanted: Wanted
) -> tuple[PolicyGraph, Any]:
    """The module of a target and what torch makes of it."""
    if target == "mlagents":
        from sb3_ppo_plus.export.unity import UnityGraph, add_constants

        unity = UnityGraph(model, space, stages)
        return unity, add_constants(to_onnx(unity, unity.inputs, unity.outputs, opset), unity)
    graph = PolicyGraph(model, space, stages, wanted)
    return graph, to_onnx(graph, graph.inputs, graph.outputs, opset)
