"""What the machine gives: processors, torch's threads, memory."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch as th

from sb3_ppo_plus.errors import InvalidArgument

# Multiply-adds of a gradient step's forward pass (rows times parameters) from which a second thread pays: below it the
# threads wait for each other longer than they compute. At 1e7 (batches of 1024, two layers of 64) trainings are faster
# with one, see the trials of `benchmarks/train_speed.py`; and threads that wait for a processor which another program
# holds cost a multiple of what they bring.
WORK_FOR_THREADS = 3e7

_MIB = 2**20


def processors() -> int:
    """
    Count the processors that this process may use; a container's share of time counts as well as its set of them.

    :return: at least 1; a share of one and a half processors counts as two
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota = quota_of(Path("/sys/fs/cgroup/cpu.max").read_text())
    except OSError:  # no control groups, or those of version 1
        quota = None
    return found if quota is None else min(found, quota)


def quota_of(text: str) -> int | None:
    """
    Read Linux's limit of processor time, version 2 of the control groups.

    :param text: microseconds allowed in each period, and the period (``"150000 100000"``), or ``"max 100000"``
    :return: processors that this comes to, rounded up and at least 1; None for no limit and for any other text
    """
    try:
        allowed, period = (int(word) for word in text.split())
        return max(1, math.ceil(allowed / period))
    except (ValueError, ZeroDivisionError):
        return None


def resident_memory() -> float | None:
    """
    Tell how much memory this process holds now; its child processes and a GPU's memory are not in it.

    :return: MiB, or None where the system does not say: outside of Linux it takes the package psutil
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
    except (OSError, ValueError, IndexError, AttributeError):
        return _psutils_answer()


def _psutils_answer() -> float | None:
    try:
        import psutil  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return float(psutil.Process().memory_info().rss) / _MIB


def peak_memory() -> float | None:
    """
    Tell the most memory that this process has held at once.

    Linux keeps two such numbers. The one of ``getrusage`` survives the start of another program in the same process,
    so it may be that of the program which started this one; where ``/proc`` tells this program's own, that is taken.

    :return: MiB, or None where the system does not say (Windows)
    """
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """
    Let torch compute one operation with so many threads, until the end of the block.

    :param n: threads, at least 1; nothing happens when torch has as many
    :raises InvalidArgument: for fewer than one
    """
    if n < 1:
        raise InvalidArgument(f"n is {n!r}; give at least 1 thread")
    before = th.get_num_threads()
    if n == before:
        yield
        return
    th.set_num_threads(n)
    try:
        yield
    finally:
        th.set_num_threads(before)


def update_threads(batch_size: int, n_parameters: int, has_image: bool) -> int:
    """
    Choose the threads of a compiled gradient step.

    :param batch_size: rows of a minibatch (B), typically 32 to 4096
    :param n_parameters: parameters of the policy, typically 1e3 to 1e7
    :param has_image: whether observations hold images; convolutions use each parameter many times over
    :return: 1 when the step is too small to be shared out, else as many as torch has, which is what the user set
    """
    if not has_image and batch_size * n_parameters < WORK_FOR_THREADS:
        return 1
    return th.get_num_threads()
