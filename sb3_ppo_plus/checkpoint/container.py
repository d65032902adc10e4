"""
The file of a checkpoint: a zip that SB3's ``PPO.load`` opens, with three members more.

``ppo_plus/state.json`` and ``ppo_plus/state.bin`` hold the tree of :mod:`sb3_ppo_plus.files.tree`;
``ppo_plus/manifest.json``, which is written last, the number of the format, versions, and a digest of every other
member.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.files.archives import read_bounded, read_members
from sb3_ppo_plus.files.tree import BadTree, dump_tree, load_tree

#: number of the format; a file with a larger one is refused
FORMAT = 1
_STATE, _BLOCK, _MANIFEST = "ppo_plus/state.json", "ppo_plus/state.bin", "ppo_plus/manifest.json"


def write_container(path: Path, model_zip: bytes, tree: Any, notes: dict[str, Any]) -> None:
    """
    Write a checkpoint; the file appears whole or not at all.

    :param path: file
    :param model_zip: what ``model.save()`` writes
    :param tree: plain data, arrays and tensors
    :param notes: JSON data for the manifest, to be read by people and by later versions
    :raises InvalidArgument: for what is no plain data
    :raises OSError: when it cannot be written
    """
    text, block = dump_tree(tree)
    buffer = io.BytesIO(model_zip)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        members = {info.filename: info.file_size for info in archive.infolist()}
        digests = {name: _digest(archive.read(name)) for name in members}
        for name, content in ((_STATE, text), (_BLOCK, block)):
            archive.writestr(name, content)
            digests[name] = _digest(content)
        manifest = {"format": FORMAT, **notes, "digests": digests}
        archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_container(path: Path) -> tuple[bytes, Any, dict[str, Any]]:
    """
    Read a checkpoint; nothing in it is executed.

    :param path: file
    :return: the whole zip, the tree, and the manifest
    :raises DamagedFile: naming the member and what is wrong with it
    :raises InvalidArgument: for a zip that is a model but no checkpoint, and for a newer format
    """
    content, members = _read_members(path)
    if _MANIFEST not in members:
        if "data" in members and not any(name.startswith("ppo_plus/") for name in members):
            raise InvalidArgument(
                f"{path} is a model without the state of its training, so it cannot be resumed; PPOPlus.load() opens "
                "it, and save_checkpoint() writes files that can be resumed"
            )
        raise DamagedFile(path, _MANIFEST, "it is missing")
    manifest = _read_manifest(path, members.pop(_MANIFEST))
    _check_digests(path, members, manifest["digests"])
    try:
        return content, load_tree(members[_STATE], members[_BLOCK]), manifest
    except BadTree as error:
        raise DamagedFile(path, _STATE, str(error)) from error


def _read_members(path: Path) -> tuple[bytes, dict[str, bytes]]:
    """The zip and what is in it; checkpoints are not compressed, so that a small file cannot become a large one."""
    content = read_bounded(path)
    return content, read_members(content, path, lambda name: True, stored=True)


def _read_manifest(path: Path, content: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
        number, digests = manifest["format"], manifest["digests"]
        if not (type(number) is int and isinstance(digests, dict) and {_STATE, _BLOCK} <= set(digests)):
            raise ValueError("unexpected content")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(path, _MANIFEST, f"it cannot be read ({type(error).__name__}: {error})") from error
    if number > FORMAT:
        versions = manifest.get("versions")
        writer = versions.get("sb3_ppo_plus", "unknown") if isinstance(versions, dict) else "unknown"
        raise InvalidArgument(
            f"{path} has format {number}, written by sb3_ppo_plus {writer}; this version reads formats up to {FORMAT}: "
            "install a newer sb3_ppo_plus"
        )
    return dict(manifest)


def _check_digests(path: Path, members: dict[str, bytes], digests: dict[str, Any]) -> None:
    for name in sorted(set(members) ^ set(digests)):
        raise DamagedFile(path, name, "it is missing" if name in digests else "it does not belong there")
    for name, content in members.items():
        if _digest(content) != digests[name]:
            raise DamagedFile(path, name, "its digest is not the one in the manifest")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
