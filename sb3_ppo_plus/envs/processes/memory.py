"""
Memory that the parent and its workers share.

It has no name in any folder: it is a file descriptor that is handed from process to process, and the kernel frees it
with the last process that holds it. Nothing is left behind by a kill, and a container's small /dev/shm does not matter.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np

# Rows of different arrays never share a cache line.
_ALIGNMENT = 64


class Part(NamedTuple):
    """
    One array.

    :param key: name in a Dict observation, number in a Tuple, None for a plain one
    :param shape: of one environment's row
    :param dtype: of its numbers
    """

    key: Any
    shape: tuple[int, ...]
    dtype: np.dtype


class Layout(NamedTuple):
    """
    What lies in the memory.

    :param n_envs: N, number of environments
    :param n_workers: number of processes
    :param observations: parts of an observation
    :param action: None where actions are no arrays of a fixed size
    """

    n_envs: int
    n_workers: int
    observations: tuple[Part, ...]
    action: Part | None


class Memory:
    """
    Arrays in shared memory.

    :param layout: what lies in it
    :param fd: descriptor of memory that another process made, None to make it
    """

    def __init__(self, layout: Layout, fd: int | None = None) -> None:
        n = layout.n_envs
        wanted: list[tuple[tuple[int, ...], Any]] = [((n, *part.shape), part.dtype) for part in layout.observations]
        wanted += [((n,), np.float32), ((n,), np.bool_), ((layout.n_workers,), np.int32)]
        if layout.action is not None:
            wanted.append(((n, *layout.action.shape), layout.action.dtype))
        self.size = sum(_padded(shape, dtype) for shape, dtype in wanted)
        self.fd = make_file(self.size) if fd is None else fd
        arrays = iter(self._arrays(wanted))
        #: last observations, by key [N, O]
        self.observations = {part.key: next(arrays) for part in layout.observations}
        #: rewards of the last step [N]
        self.rewards = next(arrays)
        #: whether the last step ended an episode [N]
        self.dones = next(arrays)
        #: environment that each worker is busy with, -1 for none [number of workers]
        self.serving = next(arrays)
        #: actions of the next step [N, A]
        self.actions = next(arrays) if layout.action is not None else None

    def _arrays(self, wanted: Sequence[tuple[tuple[int, ...], Any]]) -> list[np.ndarray]:
        memory, arrays, offset = mmap.mmap(self.fd, self.size), [], 0
        for shape, dtype in wanted:
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(memory, dtype, count, offset).reshape(shape))
            offset += _padded(shape, dtype)
        return arrays

    def close(self) -> None:
        """Let the descriptor go; arrays that somebody still holds stay readable."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = -1


def _padded(shape: tuple[int, ...], dtype: Any) -> int:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return max(1, -(-size // _ALIGNMENT)) * _ALIGNMENT


def make_file(size: int) -> int:
    """
    :param size: bytes, all 0
    :return: descriptor of a file without a name
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("sb3_ppo_plus")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class Descriptor:
    """
    A file descriptor among the arguments of a process that is being started.

    :param fd: its number in this process
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _descriptor, (reduction.DupFd(self.fd),)


def _descriptor(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())
