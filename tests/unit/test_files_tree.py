"""Plain data as bytes and back."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.tree import MAX_DEPTH, BadTree, dump_tree, load_tree


class Colour(enum.IntEnum):
    RED = 1


def same(a: Any, b: Any) -> bool:
    if isinstance(a, th.Tensor):
        raw = [x.contiguous().reshape(-1).view(th.uint8) for x in (a, b)] if a.numel() else [a, b]
        return isinstance(b, th.Tensor) and a.dtype == b.dtype and a.shape == b.shape and th.equal(*raw)
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


TREES = [
    None,
    True,
    2**300 + 1,
    -0.1,
    float("inf"),
    float("nan"),
    "ü\n\ud800",
    b"\x00\xff",
    [],
    (),
    {},
    [1, (2, [3.0])],
    {"$": {"a": 1}, "b": ()},
    {"": "", "a.b": [None]},
    np.arange(6, dtype=np.uint64).reshape(2, 3),
    np.array([np.nan, -0.0, np.inf], np.float32),
    np.zeros((0, 3)),
    np.array(True),
    np.float32(0.1),
    np.int64(-3),
    np.arange(12)[::-2],
    np.arange(3, dtype=">i4").astype("<i4"),
    th.arange(6).reshape(2, 3).t(),
    th.tensor([1.5, float("nan")], dtype=th.bfloat16),
    th.zeros(0, 2),
    th.tensor(3.0, dtype=th.float64),
    th.tensor([True, False]),
]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: str(tree)[:20])
def test_what_is_written_is_read(tree: Any) -> None:
    assert same(load_tree(*dump_tree(tree)), tree)


def test_one_tree_with_all_of_it() -> None:
    tree = {str(index): tree for index, tree in enumerate(TREES)}
    assert same(load_tree(*dump_tree(tree)), tree)


def test_what_is_read_can_be_written_to_and_is_apart_from_the_bytes() -> None:
    text, block = dump_tree({"array": np.zeros(3), "tensor": th.zeros(3)})
    first = load_tree(text, block)
    first["array"] += 1
    first["tensor"] += 1
    assert same(load_tree(text, block), {"array": np.zeros(3), "tensor": th.zeros(3)})


def test_big_endian_arrays_arrive_with_their_numbers() -> None:
    assert load_tree(*dump_tree(np.arange(3, dtype=">i4"))).tolist() == [0, 1, 2]


def test_subclasses_of_plain_types_become_plain() -> None:
    assert same(load_tree(*dump_tree([Colour.RED])), [1])


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": [1, object()]}, ["a[1]", "object"]),
        ({"a": {1: 2}}, ["a", "key 1"]),
        ({"a": np.array(["x"])}, ["a", "<U1"]),
        ({"a": np.array([object()])}, ["a", "object"]),
        ({"f": len}, ["f", "builtin"]),
        (th.zeros(2).to_sparse(), ["sparse"]),
    ],
)
def test_what_is_no_plain_data_is_named(tree: Any, words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        dump_tree(tree)
    assert all(word in str(refused.value) for word in words)


def test_nesting_is_bounded() -> None:
    tree: Any = []
    for _ in range(MAX_DEPTH + 2):
        tree = [tree]
    with pytest.raises(InvalidArgument, match="nested deeper"):
        dump_tree(tree)
    with pytest.raises(BadTree, match=r"nested deeper|no JSON"):
        load_tree(b"[" * 100_000 + b"]" * 100_000, b"")
    with pytest.raises(BadTree, match="nested deeper"):
        load_tree(b"[" * 90 + b"]" * 90, b"")


ARRAY = {"$": "array", "dtype": "<f4", "shape": [2], "at": [0, 8]}


@pytest.mark.parametrize(
    "encoded",
    [
        {"$": "code", "value": "1"},
        {"$": 3},
        {"$": ["tuple"]},
        {"$": "float", "value": "1e5"},
        {"$": "float"},
        {"$": "tuple", "items": {"a": 1}},
        {"$": "mapping", "items": [1]},
        {"$": "bytes", "at": [0, 9]},
        {"$": "bytes", "at": [-1, 2]},
        {"$": "bytes", "at": [True, 2]},
        {"$": "bytes", "at": "ab"},
        {**ARRAY, "dtype": "O"},
        {**ARRAY, "dtype": "<U2"},
        {**ARRAY, "dtype": "os.system"},
        {**ARRAY, "dtype": None},
        {**ARRAY, "shape": [3]},
        {**ARRAY, "shape": [-2]},
        {**ARRAY, "shape": [2**62, 2**62]},
        {**ARRAY, "shape": [1] * 40},
        {**ARRAY, "at": [4, 8]},
        {**ARRAY, "$": "tensor"},
        {**ARRAY, "$": "tensor", "dtype": "float32", "shape": [2**63]},
        {**ARRAY, "$": "scalar", "shape": None},
    ],
    ids=str,
)
def test_bytes_that_are_no_tree_are_refused(encoded: Any) -> None:
    with pytest.raises(BadTree):
        load_tree(json.dumps({"a": encoded}).encode(), bytes(8))


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[1] 2"])
def test_text_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(BadTree, match="no JSON"):
        load_tree(text, b"")
