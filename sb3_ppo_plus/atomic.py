"""Files that are never half written: a temporary file beside the target, fsync, rename."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import mkstemp
from typing import Any

try:
    _fcntl: Any = import_module("fcntl")
except ImportError:  # Windows
    _fcntl = None


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
    temporary = Path(name)
    if _fcntl is None:
        os.close(descriptor)  # Windows renames no file that is open
    try:
        lock(descriptor)
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
        if _fcntl is not None:
            os.close(descriptor)


def remove_strays(folder: Path, stem: str, suffix: str) -> None:
    """
    Remove the temporary files of writers that were killed; those of writers at work are locked and stay.

    :param folder: folder of the files that they were to write
    :param stem: name of the files without suffix, a pattern of :mod:`fnmatch`
    :param suffix: their suffix
    """
    if _fcntl is None:
        return
    for stray in folder.glob(f".{stem}-????????{glob.escape(suffix)}"):
        try:
            with open(stray, "rb") as file:
                if lock(file.fileno()):
                    stray.unlink()
        except OSError:
            continue  # another process was faster


def lock(descriptor: int) -> bool:
    """
    Show other processes that this one is at work on a file or folder, until the descriptor is closed.

    :param descriptor: of the file or folder
    :return: False when another process is; True also where there are no locks, as on Windows
    """
    try:
        if _fcntl is not None:
            _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """
    Show other processes that this one is at work in a folder, as long as the context lasts.

    :param folder: an existing folder
    :return: context manager yielding False when another process is; always True on Windows, which opens no folders
    """
    if os.name == "nt":
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


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
