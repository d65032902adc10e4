"""Smaller files, int8 and fp16, written only together with the return that they lose."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.closed_loop import ClosedLoop, compare_in_env, describe, interval
from sb3_ppo_plus.export.metadata import (
    SPEC,
    VERIFICATION,
    load_onnx,
    opset_of,
    put_metadata,
    read_json,
    read_metadata,
    require,
    save_onnx,
    to_json,
)

SIZES = ("fp32", "fp16", "int8")
# Dynamic quantization needs operators of opset 11.
_MIN_OPSET = {"fp16": 9, "int8": 11}


@dataclass(frozen=True)
class VariantReport:
    """
    A smaller file and what it loses.

    :param path: the file
    :param size: ``fp16`` or ``int8``
    :param bytes: its size
    :param bytes_before: that of the float32 file
    :param loop: the model and this file in the environment
    """

    path: Path
    size: str
    bytes: int
    bytes_before: int
    loop: ClosedLoop

    @property
    def loss(self) -> float:
        """Mean return of the model minus that of the file."""
        return interval(self.loop.model_returns)[0] - interval(self.loop.file_returns)[0]

    def summary(self) -> dict[str, Any]:
        """
        :return: as JSON
        """
        return {"size": self.size, "return_loss": self.loss, **self.loop.summary()}

    def text(self) -> str:
        """
        :return: lines to print
        """
        return "\n".join(
            [
                f"{self.path}: {self.bytes / 1024:,.0f} KiB, {self.bytes / self.bytes_before:.2f} of the float32 file",
                f"  largest difference    {self.loop.recorded_difference:.1e} on {self.loop.n_recorded:,} observations",
                f"  return of the model   {describe(self.loop.model_returns)}",
                f"  return of the file    {describe(self.loop.file_returns)}",
                f"  loss of return        {self.loss:,.1f}",
            ]
        )


def variant_path(path: Path, size: str) -> Path:
    """
    :param path: float32 file
    :param size: ``fp16`` or ``int8``
    :return: where its variant lies: ``policy.onnx`` becomes ``policy.int8.onnx``
    """
    return path.with_suffix(f".{size}{path.suffix}")


def check_variant(size: str, target: str | None, opset: int) -> None:
    """
    :param size: ``fp16`` or ``int8``
    :param target: target of the float32 file
    :param opset: its opset
    :raises InvalidArgument: when there can be no such variant of it
    """
    if size not in _MIN_OPSET:
        raise InvalidArgument(f"size {size!r} is not known; there is {', '.join(SIZES)}")
    if target == "mlagents":
        raise InvalidArgument("Unity loads float32 files only; export a variant for target generic or robot")
    if opset < _MIN_OPSET[size]:
        raise InvalidArgument(f"{size} needs opset {_MIN_OPSET[size]} or more, and not {opset}")


def write_variant(
    path: Path,
    size: str,
    model: BaseAlgorithm,
    make_env: Callable[[int, int], VecEnv],
    n_episodes: int = 20,
    seed: int = 4_000_000,
) -> VariantReport:
    """
    Write a variant beside a file, with the measured loss in its metadata.

    :param path: float32 file
    :param size: ``fp16``: half the bytes, inputs and outputs stay float32; ``int8``: a quarter, weights quantized and
        activations at run time (dynamic quantization)
    :param model: model that the file was made from
    :param make_env: from a number of environments and a seed to wrapped environments
    :param n_episodes: episodes to measure the return over, typically 20 or more
    :param seed: seed of the episodes
    :return: what was written and what it loses
    :raises InvalidArgument: for an unknown size, or a file that cannot have it
    """
    source = load_onnx(path)
    spec = read_json(read_metadata(source), SPEC)
    check_variant(size, spec.get("target"), opset_of(source))
    variant = _to_fp16(source) if size == "fp16" else _to_int8(path)
    spec.update(size=size, opset=opset_of(variant))
    put_metadata(variant, {**read_metadata(source), SPEC: to_json(spec)})
    target = variant_path(path, size)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, target.name)
        save_onnx(variant, trial)
        loop = compare_in_env(model, trial, make_env, n_episodes, seed)
    report = VariantReport(target, size, variant.ByteSize(), path.stat().st_size, loop)
    put_metadata(variant, {VERIFICATION: to_json(report.summary())})
    save_onnx(variant, target)
    return report


def _to_fp16(model: Any) -> Any:
    float16 = require("onnxruntime.transformers.float16")
    converted = float16.convert_float_to_float16(model, keep_io_types=True)
    # It appends its casts, and other runtimes read the nodes in order.
    require("onnxruntime.transformers.onnx_model").OnnxModel(converted).topological_sort()
    return converted


def _to_int8(path: Path) -> Any:
    quantization = require("onnxruntime.quantization")
    prepare = require("onnxruntime.quantization.shape_inference")
    root = logging.getLogger()
    level = root.level
    # It warns that the model should have been prepared, which it was.
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared, written = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
            prepare.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_dynamic(str(prepared), str(written), weight_type=quantization.QuantType.QInt8)
            return load_onnx(written)
    finally:
        root.setLevel(level)
