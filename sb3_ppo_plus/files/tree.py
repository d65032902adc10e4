"""
Plain data as bytes and back, exactly, with nothing that a file could make run.

A tree is made of ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``, lists, tuples, mappings with string keys,
NumPy arrays and scalars, and tensors. It becomes JSON, in which what JSON lacks is ``{"$": type, ...}``, and one block
of raw bytes that the JSON points into.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.errors import InvalidArgument

#: deepest nesting that is written or read
MAX_DEPTH = 64
_MARK = "$"
_ARRAY_KINDS = "biufc"
_TORCH_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(th.bool, th.uint8, th.int8, th.int16, th.int32, th.int64),
        *(th.float16, th.bfloat16, th.float32, th.float64, th.complex64, th.complex128),
    )
}


class BadTree(ValueError):
    """What was read is no tree, or points outside its bytes."""


def dump_tree(tree: Any) -> tuple[bytes, bytes]:
    """
    Write a tree.

    :param tree: plain data, arrays and tensors; tensors are read from whatever device they are on
    :return: JSON (ASCII), and the block of raw bytes of its arrays
    :raises InvalidArgument: naming the place of what is no plain data
    """
    blocks: list[bytes] = []
    encoded = _Writer(blocks).encode(tree, "", 0)
    return json.dumps(encoded, separators=(",", ":"), allow_nan=False).encode("ascii"), b"".join(blocks)


def load_tree(text: bytes, block: bytes) -> Any:
    """
    Read a tree back.

    :param text: JSON that :func:`dump_tree` gave
    :param block: its raw bytes
    :return: the same tree; arrays are writable copies, tensors are on the CPU
    :raises BadTree: for anything else
    """
    try:
        encoded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadTree(f"no JSON: {error}") from error
    return _decode(encoded, memoryview(block), 0)


class _Writer:
    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = blocks
        self.size = 0

    def encode(self, value: Any, place: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"{place or 'the state'} is nested deeper than {MAX_DEPTH}")
        if value is None or value is True or value is False or type(value) in (int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {_MARK: "float", "value": repr(value)}
        if isinstance(value, list):
            return [self.encode(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        if isinstance(value, tuple):
            items = [self.encode(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
            return {_MARK: "tuple", "items": items}
        if isinstance(value, Mapping):
            return self._encode_mapping(value, place, depth)
        if isinstance(value, (bytes, bytearray)):
            return {_MARK: "bytes", "at": self._add(bytes(value))}
        if isinstance(value, (np.ndarray, np.generic)):
            return self._encode_array(value, place)
        if isinstance(value, th.Tensor):
            return self._encode_tensor(value)
        if isinstance(value, (bool, int, float, str)):  # subclasses, such as enumerations
            return self.encode(next(kind(value) for kind in (int, float, str) if isinstance(value, kind)), place, depth)
        raise InvalidArgument(
            f"{place or 'the state'} is a {type(value).__name__}, which is no plain data: give numbers, text, lists, "
            "mappings with text as keys, arrays or tensors"
        )

    def _encode_mapping(self, value: Mapping[Any, Any], place: str, depth: int) -> dict[str, Any]:
        for key in value:
            if not isinstance(key, str):
                raise InvalidArgument(f"{place or 'the state'} has the key {key!r}; keys of a state are text")
        items = {
            str(key): self.encode(item, f"{place}.{key}" if place else key, depth + 1) for key, item in value.items()
        }
        return {_MARK: "mapping", "items": items} if _MARK in items else items

    def _encode_array(self, value: np.ndarray | np.generic, place: str) -> dict[str, Any]:
        array = np.asarray(value)
        if array.dtype.kind not in _ARRAY_KINDS:
            raise InvalidArgument(f"{place or 'the state'} is an array of {array.dtype}; give numbers or booleans")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        place_of = self._add(array.tobytes())
        return {_MARK: kind, "dtype": array.dtype.str, "shape": list(array.shape), "at": place_of}

    def _encode_tensor(self, value: th.Tensor) -> dict[str, Any]:
        name = str(value.dtype).removeprefix("torch.")
        if name not in _TORCH_TYPES or value.layout != th.strided:
            raise InvalidArgument(f"a tensor of type {name} and layout {value.layout} cannot be written")
        tensor = value.detach().cpu().contiguous()
        raw = tensor.reshape(-1).view(th.uint8).numpy().tobytes() if tensor.numel() else b""
        return {_MARK: "tensor", "dtype": name, "shape": list(tensor.shape), "at": self._add(raw)}

    def _add(self, raw: bytes) -> list[int]:
        start = self.size
        self.blocks.append(raw)
        self.size += len(raw)
        return [start, len(raw)]


def _decode(value: Any, block: memoryview, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise BadTree(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return [_decode(item, block, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if _MARK not in value:
        return {key: _decode(item, block, depth + 1) for key, item in value.items()}
    kind = value[_MARK]
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise BadTree(f"unknown type {kind!r}")
    try:
        return reader(value, block, depth)
    except BadTree:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise BadTree(f"a {kind} that cannot be read ({type(error).__name__}: {error})") from error


def _read_float(value: dict[str, Any], block: memoryview, depth: int) -> float:
    if value["value"] not in ("inf", "-inf", "nan"):
        raise BadTree(f"{value['value']!r} is no float")
    return float(value["value"])


def _read_items(value: dict[str, Any], depth: int, block: memoryview, kind: type[Any]) -> Any:
    items: Any = value["items"]
    if not isinstance(items, kind):
        raise BadTree("items of the wrong type")
    if isinstance(items, dict):
        return {key: _decode(item, block, depth + 1) for key, item in items.items()}
    return tuple(_decode(item, block, depth + 1) for item in items)


def _piece(value: dict[str, Any], block: memoryview, expected: int | None = None) -> memoryview:
    start, size = value["at"]
    if not (type(start) is int and type(size) is int and 0 <= start and 0 <= size and start + size <= len(block)):
        raise BadTree(f"bytes {start} to {start} + {size} of {len(block)}")
    if expected is not None and size != expected:
        raise BadTree(f"{size} bytes where {expected} belong")
    return block[start : start + size]


def _shape(value: dict[str, Any]) -> tuple[int, ...]:
    shape = value["shape"]
    if not (isinstance(shape, list) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)):
        raise BadTree(f"shape {shape!r}")
    return tuple(shape)


def _read_array(value: dict[str, Any], block: memoryview, depth: int) -> np.ndarray:
    dtype = np.dtype(str(value["dtype"]))
    if dtype.kind not in _ARRAY_KINDS:
        raise BadTree(f"array of {dtype}")
    shape = _shape(value)
    piece = _piece(value, block, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(piece, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_tensor(value: dict[str, Any], block: memoryview, depth: int) -> th.Tensor:
    dtype, shape = _TORCH_TYPES[value["dtype"]], _shape(value)
    piece = _piece(value, block, math.prod(shape) * dtype.itemsize)
    tensor = th.empty(shape, dtype=dtype)
    if tensor.numel():
        tensor.reshape(-1).view(th.uint8).copy_(th.frombuffer(bytearray(piece), dtype=th.uint8))
    return tensor


_READERS = {
    "float": _read_float,
    "tuple": lambda value, block, depth: _read_items(value, depth, block, list),
    "mapping": lambda value, block, depth: _read_items(value, depth, block, dict),
    "bytes": lambda value, block, depth: bytes(_piece(value, block)),
    "array": _read_array,
    "scalar": lambda value, block, depth: _read_array(value, block, depth)[()],
    "tensor": _read_tensor,
}
