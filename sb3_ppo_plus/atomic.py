"""Files that are never half written: a temporary file beside the target, fsync, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary path to write to; on success it replaces ``target`` in one step, on any error nothing changes.

    The temporary file lies in the folder of ``target`` (a rename is atomic only within one file system) and keeps its
    suffix, because several writers append one when it is missing.

    :param target: final path of the file; its folder is made when missing
    :return: context manager yielding the temporary path
    """
    target = Path(os.path.realpath(target))  # a link stays one, and what it points to is replaced
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        # mkstemp makes private files; the result gets what open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
        _fsync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(target: str | os.PathLike[str], content: str | bytes) -> None:
    """
    Write a whole file atomically.

    :param target: final path of the file
    :param content: text (written as UTF-8) or bytes
    """
    with atomic_path(target) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _fsync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows cannot open folders and does without."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
