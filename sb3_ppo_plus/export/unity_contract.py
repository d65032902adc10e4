"""Every rule of Unity's ML-Agents package for a model file, with what the game does when it is broken."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_ppo_plus.export.metadata import opset_of, require
from sb3_ppo_plus.export.structure import Finding, shape_of

_KINDS = ("continuous", "discrete")
# Packages before 3.0 run on Barracuda, which lacks these among others.
_NOT_IN_BARRACUDA = {
    "Einsum", "LayerNormalization", "Gelu", "GatherElements", "ReduceL2", "Erf", "ScatterND", "Where", "Range", "Trilu"
}  # fmt: skip
_MAX_OPSET = 15


def check_contract(model: Any) -> list[Finding]:
    """
    :param model: ``onnx.ModelProto``
    :return: every rule, kept or not
    """
    outputs = {value.name: value for value in model.graph.output}
    inputs = {value.name: value for value in model.graph.input}
    kinds = [kind for kind in _KINDS if f"{kind}_actions" in outputs]
    findings = [
        Finding("actions", bool(kinds), "no action output; NullReferenceException when the game starts", fatal=True),
        *_constants(model, outputs, kinds),
        *_inputs(inputs, kinds),
        *_action_outputs(outputs, kinds),
        *_memory(inputs, outputs),
        *_operators(model),
        _sorted_nodes(model),
    ]
    return findings + (_runs(model) if all(finding.kept for finding in findings) else [])


def constant_values(model: Any) -> dict[str, np.ndarray]:
    """
    :param model: ``onnx.ModelProto``
    :return: outputs that are constants, as initializers of that name or as Identity of one
    """
    onnx = require("onnx")
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    found = {}
    for value in model.graph.output:
        tensor = arrays.get(value.name) or arrays.get(sources.get(value.name, ""))
        if tensor is not None:
            found[value.name] = onnx.numpy_helper.to_array(tensor)
    return found


def _constants(model: Any, outputs: dict[str, Any], kinds: list[str]) -> list[Finding]:
    values = constant_values(model)
    wanted = {"version_number": "NullReferenceException up to 3.0-exp, 'older version' error from 3.0 on"}
    wanted["memory_size"] = "NullReferenceException up to 3.0-exp, a warning and no memory from 3.0 on"
    wanted.update({f"{kind}_action_output_shape": "the Inspector refuses the model" for kind in kinds})
    findings = []
    for name, consequence in wanted.items():
        value = values.get(name)
        findings.append(Finding(f"constant output {name}", value is not None, consequence))
        if value is not None:
            floats = value.dtype == np.float32
            findings.append(Finding(f"{name} is float32", floats, "InvalidCastException in 3.0 and later"))
    version = values.get("version_number")
    if version is not None:
        right = version.size == 1 and float(version.flat[0]) == 3.0
        findings.append(
            Finding("version_number is 3", right, f"it is {version.tolist()}; the package refuses the model")
        )
    for kind in kinds:
        shape, actions = values.get(f"{kind}_action_output_shape"), shape_of(outputs[f"{kind}_actions"])
        if shape is not None and len(actions) == 2:
            width = int(shape.sum()) if kind == "continuous" else shape.size
            text = f"the constant says {width}, the output has {actions[1]}; a warning, then a failure at run time"
            findings.append(Finding(f"{kind}_action_output_shape fits", width == actions[1], text))
    return findings


def _inputs(inputs: dict[str, Any], kinds: list[str]) -> list[Finding]:
    sensors = sorted((name for name in inputs if name.startswith("obs_")), key=lambda name: (len(name), name))
    expected = [f"obs_{index}" for index in range(len(sensors))]
    known = {*expected, "action_masks", "recurrent_in", "prev_action", "epsilon", "sequence_length", "batch_size"}
    unknown = sorted(set(inputs) - known)
    masked = "discrete" in kinds
    findings = [
        Finding(
            "obs_0, obs_1, ...", bool(sensors) and sensors == expected, f"there are {sensors}; failure at run time"
        ),
        Finding("no unknown input", not unknown, f"{unknown}: UnityAgentsException when the first action is asked for"),
        Finding(
            "action_masks for discrete actions alone",
            ("action_masks" in inputs) == masked,
            "the Inspector warns, masks of the game have no effect",
        ),
    ]
    for name, value in inputs.items():
        findings += _tensor(name, value, float_only=True)
    return findings


def _tensor(name: str, value: Any, float_only: bool) -> list[Finding]:
    onnx = require("onnx")
    shape, kind = shape_of(value), value.type.tensor_type.elem_type
    free = bool(shape) and isinstance(shape[0], str)
    right = (onnx.TensorProto.FLOAT,) if float_only else (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    word = "float32" if float_only else "whole numbers"
    return [
        Finding(f"{name} has a free batch first", free, f"its shape is {shape}; works for that number of agents only"),
        Finding(f"{name} is {word}", kind in right, "InvalidCastException in 3.0 and later"),
    ]


def _action_outputs(outputs: dict[str, Any], kinds: list[str]) -> list[Finding]:
    findings = []
    for kind in kinds:
        name = f"deterministic_{kind}_actions"
        findings.append(Finding(name, name in outputs, "Deterministic Inference of the Behavior Parameters fails"))
        for output in (name, f"{kind}_actions"):
            if output in outputs:
                findings += _tensor(output, outputs[output], float_only=kind == "continuous")
    reserved = {f"{prefix}{kind}_actions" for kind in _KINDS for prefix in ("", "deterministic_")}
    confusing = [name for name in outputs if name not in reserved and any(word in name for word in reserved)]
    text = f"{confusing}: names are searched by what they contain in 3.x and 4.x, so these are taken for actions"
    return [*findings, Finding("no name that contains another", not confusing, text)]


def _memory(inputs: dict[str, Any], outputs: dict[str, Any]) -> list[Finding]:
    both = ("recurrent_in" in inputs) == ("recurrent_out" in outputs)
    findings = [Finding("recurrent_in and recurrent_out together", both, "the agent forgets everything at each step")]
    if both and "recurrent_in" in inputs:
        sizes = [shape_of(value)[1:] for value in (inputs["recurrent_in"], outputs["recurrent_out"])]
        right = sizes[0] == sizes[1] and len(sizes[0]) == 2 and sizes[0][0] == 1
        findings.append(Finding("memory is [B, 1, M]", right, f"they are {sizes}; failure at run time"))
    return findings


def _operators(model: Any) -> list[Finding]:
    opset, used = opset_of(model), {node.op_type for node in model.graph.node}
    strange = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    missing = sorted(used & _NOT_IN_BARRACUDA)
    return [
        Finding("opset 9 to 15", 9 <= opset <= _MAX_OPSET, f"it is {opset}; import fails or misreads operators"),
        Finding("opset 9", opset == 9, f"it is {opset}; packages 2.x (Barracuda) misread operators that changed since"),
        Finding("standard operators", not strange and not model.functions, f"{strange}: import fails"),
        Finding("operators of Barracuda", not missing, f"{missing}: import fails in packages 2.x"),
    ]


def _sorted_nodes(model: Any) -> Finding:
    ready = {value.name for value in [*model.graph.input, *model.graph.initializer]} | {""}
    in_order = True
    for node in model.graph.node:
        in_order &= set(node.input) <= ready
        ready |= set(node.output)
    return Finding("nodes in the order of the data", in_order, "outputs may be pruned at import")


def _runs(model: Any) -> list[Finding]:
    """Sentis runs the graph once with one row of zeros, masks included; the game with any number of rows."""
    ort = require("onnxruntime")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    findings = []
    for rows in (1, 7):
        feeds = {
            node.name: np.zeros([rows, *(int(size) for size in node.shape[1:])], np.float32)
            for node in session.get_inputs()
        }
        try:
            results = dict(zip((node.name for node in session.get_outputs()), session.run(None, feeds), strict=True))
        except Exception as error:  # whatever an operator raises
            findings.append(Finding(f"runs with {rows} rows of zeros", False, " ".join(str(error).split())[:200]))
            continue
        wrong = [name for name, array in results.items() if name.endswith("_actions") and len(array) != rows]
        findings.append(Finding(f"runs with {rows} rows of zeros", not wrong, f"{wrong} have another number of rows"))
    return findings
