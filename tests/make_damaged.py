"""Damaged copies of a file, as disks, networks and interrupted tools leave them."""

from __future__ import annotations

import io
import random
import warnings
import zipfile

KINDS = ("cut", "bit", "byte", "zeros", "swapped", "inserted", "removed")
ZIP_KINDS = ("member dropped", "member doubled", "member emptied")


def damaged(content: bytes, kind: str, chance: random.Random) -> bytes:
    """
    :param content: a whole file
    :param kind: one of ``KINDS``, or for zips of ``ZIP_KINDS``
    :param chance: where, and how much
    :return: another content
    """
    found = content
    while found == content:
        found = _zip_damage(content, kind, chance) if kind in ZIP_KINDS else _damage(bytearray(content), kind, chance)
    return found


def _damage(content: bytearray, kind: str, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    # half of it near one of the ends, where zips and pickles keep their tables
    if chance.random() < 0.5:
        at = min(at, len(content) - 1 - at) % 512
        at = chance.choice((at, len(content) - 1 - at))
    length = min(chance.choice((1, 8, 64, 512)), len(content) - at)
    if kind == "cut":
        del content[at:]
    elif kind == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        content[at] = chance.randrange(256)
    elif kind == "zeros":
        content[at : at + length] = bytes(length)
    elif kind == "swapped":
        other = chance.randrange(len(content) - length + 1)
        one, two = bytes(content[at : at + length]), bytes(content[other : other + length])
        content[at : at + length], content[other : other + length] = two, one
    elif kind == "inserted":
        content[at:at] = chance.randbytes(length)
    elif kind == "removed":
        del content[at : at + length]
    return bytes(content)


def _zip_damage(content: bytes, kind: str, chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = chance.choice(old.namelist())
        for info in old.infolist():
            times = {"member dropped": 0, "member doubled": 2}.get(kind, 1) if info.filename == chosen else 1
            for _ in range(times):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # zipfile warns of names that are there twice
                    emptied = kind == "member emptied" and info.filename == chosen
                    new.writestr(info.filename, b"" if emptied else old.read(info))
    return buffer.getvalue()
