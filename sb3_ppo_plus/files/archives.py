"""Zips read with limits: nothing is believed of what one says about its own size, and nothing is left over."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from sb3_ppo_plus.errors import DamagedFile

#: largest file that is opened, in bytes; networks of a billion parameters fit
MAX_BYTES = 32 * 2**30
#: how many times larger than the file all of its members together may be, and how much is always allowed
MAX_RATIO, MAX_SMALL = 8, 16 * 2**20
#: most members
MAX_MEMBERS = 100_000
_START = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
#: bytes of the records of the 64-bit format, which torch always writes
_LARGE_RECORDS = 76


class NamedStream(io.BytesIO):
    """
    Content of a file that was read already.

    :param content: all of it
    :param name: the file, for errors
    """

    def __init__(self, content: bytes, name: object) -> None:
        super().__init__(content)
        self.name = name


def read_bounded(path: Path, limit: int = MAX_BYTES) -> bytes:
    """
    :param path: file
    :param limit: most bytes that it may have
    :return: its content
    :raises DamagedFile: when it is larger, or no regular file
    :raises OSError: when it cannot be read
    """
    if path.exists() and not path.is_file():
        raise DamagedFile(path, "", "it is no regular file")
    size = path.stat().st_size
    if size > limit:
        raise DamagedFile(path, "", f"it has {size} bytes, more than the {limit} that such a file can have")
    return path.read_bytes()


def read_members(
    content: bytes, shown: object, known: Callable[[str], bool], inside: str = "", stored: bool = False
) -> dict[str, bytes]:
    """
    Read all members of a zip.

    :param content: the zip
    :param shown: file that it is, for errors
    :param known: whether a member of this name may be in it
    :param inside: member of the file that the zip is, empty when it is the file
    :param stored: whether members that are compressed are refused
    :return: content of each member
    :raises DamagedFile: for what is no whole zip, for names that do not belong there or are there twice, and for sizes
        that cannot be
    """
    name = ""
    members: dict[str, bytes] = {}
    if not content.startswith(_START):
        raise DamagedFile(shown, inside, "it is empty" if not content else "it wasn't a zip-file")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
            _check_end(content, len(infos), shown, inside)
            _check_sizes(infos, len(content), shown, inside, stored)
            for info in infos:
                name = info.filename
                if name in members or not known(name):
                    reason = "it is there twice" if name in members else "it does not belong there"
                    raise DamagedFile(shown, _joined(inside, name), reason)
                members[name] = archive.read(info)
    except DamagedFile:
        raise
    except (*(zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError), *_OTHERS) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedFile(shown, _joined(inside, name), f"the zip cannot be read: {reason}") from error
    return members


_OTHERS = (struct.error, zlib.error, IndexError, KeyError, OverflowError, MemoryError)


def _check_end(content: bytes, count: int, shown: object, inside: str) -> None:
    """The record at the end of a zip against what was found: zipfile believes a table that begins in its middle."""
    record = content[-_END.size :]
    signature, _, _, _, told, size, start, comment = _END.unpack(record)
    large = told == 0xFFFF or 0xFFFFFFFF in (size, start)  # the numbers are in a record of the 64-bit format then
    if signature != b"PK\x05\x06" or comment:
        raise DamagedFile(shown, inside, "something lies behind its table of members")
    between = len(content) - (start + size + _END.size)
    if not large and (told != count or between not in (0, _LARGE_RECORDS)):
        raise DamagedFile(shown, inside, f"its table has {count} members and not {told}, or lies somewhere else")


def _check_sizes(infos: list[zipfile.ZipInfo], size: int, shown: object, inside: str, stored: bool) -> None:
    if not infos or len(infos) > MAX_MEMBERS:
        raise DamagedFile(shown, inside, f"it has {len(infos)} members")
    if min(info.header_offset for info in infos) != 0:
        raise DamagedFile(shown, inside, "something lies before its first member")
    allowed = (zipfile.ZIP_STORED,) if stored else (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    for info in infos:
        if info.compress_type not in allowed:
            raise DamagedFile(shown, _joined(inside, info.filename), "it is compressed in a way that is not read here")
    total = sum(info.file_size for info in infos)
    if total > (size if stored else MAX_RATIO * size + MAX_SMALL):
        raise DamagedFile(shown, inside, f"its members have {total} bytes, and the file only {size}")


def _joined(inside: str, name: str) -> str:
    return f"{inside}/{name}" if inside and name else inside or name
