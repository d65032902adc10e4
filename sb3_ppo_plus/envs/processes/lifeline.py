"""How a worker dies with its parent, however the parent dies and whatever the worker is doing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def follow_parent() -> None:
    """
    Tie the life of this process, and of all that it may start, to that of its parent.

    A pipe of multiprocessing ends when the parent does. A thread waits for that end; and, on Linux, the kernel is asked
    to kill this process then, because the thread gets no turn while C code holds Python's lock.

    This process leaves its parent's group: Ctrl-C in the terminal is for the parent, and whatever an environment
    starts can be ended together with it.
    """
    import fcntl  # not there on Windows, where this module is imported and never used

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    if hasattr(fcntl, "F_SETSIG") and hasattr(os, "O_ASYNC"):
        # Not PR_SET_PDEATHSIG: that fires with the thread that started this process, and the parent may have others.
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_watch, args=(sentinel,), name="parent watch", daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
