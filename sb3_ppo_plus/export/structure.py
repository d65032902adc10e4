"""What must be true of a file before it is asked for actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sb3_ppo_plus.export.metadata import SPEC, opset_of, read_json, read_metadata, require


@dataclass(frozen=True)
class Finding:
    """
    One rule.

    :param rule: what must be true
    :param kept: whether it is
    :param consequence: what happens where it is not
    :param fatal: whether the file cannot be asked for actions then
    """

    rule: str
    kept: bool
    consequence: str
    fatal: bool = False


def check_structure(model: Any) -> list[Finding]:
    """
    :param model: ``onnx.ModelProto``
    :return: every rule of the file's target, kept or not
    """
    spec = read_json(read_metadata(model), SPEC)
    findings = [_checked(model), _one_file(model)]
    if spec:
        written = opset_of(model)
        findings.append(
            Finding(
                f"opset {spec['opset']} as asked", written == spec["opset"], f"it is {written}; a runtime may refuse it"
            )
        )
        for kind in ("inputs", "outputs"):
            findings.append(_names(model, kind, [entry["name"] for entry in spec[kind]]))
    if spec.get("target") == "mlagents" or _looks_like_unity(model):
        from sb3_ppo_plus.export.unity_contract import check_contract

        return findings + check_contract(model)
    findings += [_named_batch(value) for value in [*model.graph.input, *model.graph.output]]
    names = [value.name for value in model.graph.output]
    findings.append(Finding("an output named actions", "actions" in names, f"there are {names}", fatal=True))
    return findings


def shape_of(value: Any) -> list[int | str | None]:
    """
    :param value: input or output of a graph
    :return: size of each axis, the name of a free one, None for one that has neither
    """
    dims = value.type.tensor_type.shape.dim
    return [getattr(dim, dim.WhichOneof("value")) if dim.WhichOneof("value") else None for dim in dims]


def _checked(model: Any) -> Finding:
    onnx = require("onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # checker and shape inference raise different classes
        reason = " ".join(str(error).split())[:200]
        return Finding("onnx.checker", False, f"{reason}; runtimes refuse such a file", fatal=True)
    return Finding("onnx.checker", True, "runtimes refuse such a file")


def _one_file(model: Any) -> Finding:
    beside = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    return Finding("one file", not beside, f"{len(beside)} weights lie in another file, which gets lost", fatal=True)


def _names(model: Any, kind: str, expected: list[str]) -> Finding:
    found = [value.name for value in (model.graph.input if kind == "inputs" else model.graph.output)]
    return Finding(f"{kind} {', '.join(expected)}", found == expected, f"there are {', '.join(found)}")


def _named_batch(value: Any) -> Finding:
    shape = shape_of(value)
    return Finding(
        f"{value.name} has a free batch",
        shape.count("batch") == 1,
        f"its shape is {shape}; it fits no other number of rows",
    )


def _looks_like_unity(model: Any) -> bool:
    return any(value.name == "version_number" for value in model.graph.output)
