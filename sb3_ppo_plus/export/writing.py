"""From a module to an ONNX model in memory, with the opset that was asked for."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.graph import BATCH, Port
from sb3_ppo_plus.export.metadata import opset_of, require

OPSETS = range(9, 26)
# torch's tracing exporter writes up to this one: plain operators that every runtime has, in a tenth of a second. Its
# successor writes newer ones.
_LAST_TRACED = 20


def to_onnx(module: th.nn.Module, inputs: Sequence[Port], outputs: Sequence[Port], opset: int) -> Any:
    """
    :param module: module that takes one tensor per input and gives one per output
    :param inputs: inputs
    :param outputs: outputs
    :param opset: version of ONNX's standard operators, 9 to 25; lower ones open in older runtimes
    :return: ``onnx.ModelProto`` in one piece, checked
    :raises InvalidArgument: when the network has an operation that cannot be written with this opset
    """
    onnx = require("onnx")
    # Two rows: with one, the exporter would take the batch for a constant.
    examples = tuple(port.example(2) for port in inputs)
    try:
        with th.no_grad(), _quiet():
            content = _exported(module, examples, inputs, outputs, opset)
        model = onnx.load_model_from_string(content)
        _name_batch(model, [*inputs, *outputs])
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # torch and onnx raise a dozen classes here
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise InvalidArgument(f"the policy cannot be written with opset {opset}: {reason}") from error
    written = opset_of(model)
    if written != opset:
        raise InvalidArgument(f"asked for opset {opset}, but torch's exporter left {written}; give opset={written}")
    return model


def _exported(
    module: th.nn.Module, examples: tuple[th.Tensor, ...], inputs: Sequence[Port], outputs: Sequence[Port], opset: int
) -> bytes:
    """What torch writes."""
    common: dict[str, Any] = {
        "input_names": [port.name for port in inputs],
        "output_names": [port.name for port in outputs],
        "opset_version": opset,
    }
    if opset <= _LAST_TRACED:
        buffer: Any = io.BytesIO()
        axes = {port.name: {port.batch_axis: BATCH} for port in [*inputs, *outputs]}
        th.onnx.export(module, examples, buffer, **common, dynamic_axes=axes, dynamo=False)
        return buffer.getvalue()
    require("onnxscript")
    free = th.export.Dim(BATCH)
    shapes = (tuple({port.batch_axis: free} for port in inputs),)
    program = th.onnx.export(
        module, examples, **common, dynamic_shapes=shapes, external_data=False, verbose=False, dynamo=True
    )
    assert program is not None
    return program.model_proto.SerializeToString()


def _name_batch(model: Any, ports: Sequence[Port]) -> None:
    """Write every shape out as it is, since exporters invent names for the free axis of outputs."""
    by_name = {port.name: port for port in ports}
    for value in [*model.graph.input, *model.graph.output]:
        port = by_name[value.name]
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for axis in port.shape:
            dim = shape.dim.add()
            if axis == BATCH:
                dim.dim_param = BATCH
            else:
                dim.dim_value = int(axis)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks to their own developers; what matters is checked in the file."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
