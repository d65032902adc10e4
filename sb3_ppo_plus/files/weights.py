"""Files of weights, as ``torch.save`` writes them, read without torch's own reader."""

from __future__ import annotations

import re
from typing import Any

import torch as th

from sb3_ppo_plus.errors import DamagedFile
from sb3_ppo_plus.files.archives import read_members
from sb3_ppo_plus.files.known_torch import TENSORS, Storage, make_storage, storage_size
from sb3_ppo_plus.files.pickles import BadPickle, read_pickle
from sb3_ppo_plus.files.rebuild import Known, Rebuilder, Untrusted

_MEMBER = re.compile(
    r"(?P<folder>[\w.-]+)/(data\.pkl|version|byteorder|data/\d+|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment)"
)


def read_weights(content: bytes, shown: object, member: str, known: Known = TENSORS) -> Any:
    """
    Read tensors in lists and mappings.

    :param content: what ``torch.save`` wrote, in the format that it has had since torch 1.6
    :param shown: file that it is in, for errors
    :param member: member of that file
    :param known: what may be in it
    :return: what was saved, with its tensors on the CPU
    :raises DamagedFile: when it is not whole, or holds anything but tensors
    """
    members = read_members(content, shown, lambda name: bool(_MEMBER.fullmatch(name)), inside=member, stored=True)
    folder = next(iter(members)).partition("/")[0]
    program = members.get(f"{folder}/data.pkl")
    if program is None or any(not name.startswith(f"{folder}/") for name in members):
        raise DamagedFile(shown, member, "it has no data.pkl")
    if members.get(f"{folder}/byteorder", b"little") != b"little":
        raise DamagedFile(shown, member, "its numbers are not written as on little-endian machines")
    storages: dict[str, Storage] = {}

    def storage(key: Any) -> Storage:
        name, dtype, size = storage_size(key)
        raw = members.get(f"{folder}/data/{name}")
        if raw is None or len(raw) != size:
            raise BadPickle(f"its storage {name} has {'no' if raw is None else len(raw)} bytes instead of {size}")
        if name not in storages:
            storages[name] = make_storage(raw, dtype)
        if storages[name].flat.dtype != dtype:
            raise BadPickle(f"its storage {name} has two types")
        return storages[name]

    try:
        node, end = read_pickle(program)
        if end != len(program):
            raise BadPickle("something follows it")
        return Rebuilder(known, storage).value(node)
    except (BadPickle, Untrusted) as error:
        raise DamagedFile(shown, f"{member}/{folder}/data.pkl", str(error)) from error


def read_state(content: bytes, shown: object, member: str) -> dict[str, Any]:
    """
    Read the state of a module or an optimizer.

    :param content: as for :func:`read_weights`
    :param shown: file that it is in, for errors
    :param member: member of that file
    :return: the state
    :raises DamagedFile: for anything else
    """
    state = read_weights(content, shown, member)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise DamagedFile(shown, member, "it holds no state of a module or optimizer")
    return state


def largest_dimension(state: dict[str, Any]) -> int:
    """
    :param state: of a module
    :return: the largest dimension of any of its tensors
    """
    return max((max(part.shape, default=0) for part in state.values() if isinstance(part, th.Tensor)), default=0)
