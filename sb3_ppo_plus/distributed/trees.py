"""Plain data from rank to rank, without pickle."""

from __future__ import annotations

import struct
from typing import Any

from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.files.tree import dump_tree, load_tree

_LENGTH = struct.Struct("<Q")


def gather_trees(ranks: Ranks, tree: Any) -> list[Any]:
    """
    :param ranks: the processes
    :param tree: plain data, arrays and tensors, see :mod:`sb3_ppo_plus.files.tree`
    :return: those of every rank; tensors are on the host
    :raises InvalidArgument: for what is no plain data, on the rank that has it
    """
    return [unpack(content) for content in ranks.gather_bytes(pack(tree))]


def pack(tree: Any) -> bytes:
    """
    :param tree: plain data
    :return: the same as bytes
    :raises InvalidArgument: for what is no plain data
    """
    text, block = dump_tree(tree)
    return _LENGTH.pack(len(text)) + text + block


def unpack(content: bytes) -> Any:
    """
    :param content: what :func:`pack` gave
    :return: the plain data
    """
    end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    return load_tree(content[_LENGTH.size : end], content[end:])
