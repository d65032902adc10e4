"""Where processes find each other: torchrun's store, without what those before a restart have left in it."""

from __future__ import annotations

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

# Seconds between two looks of rank 0.
_PAUSE = 0.01


def init_group(timeout: float) -> None:
    """
    Make the default process group of the processes that ``torchrun`` has started.

    :param timeout: seconds after which processes that wait for another give up
    """
    # Its functions have the default group of the time of its import as an argument's default. Imported later, as the
    # optimizers do, it would keep the group and its threads beyond destroy_process_group(), and a thread that lets go
    # of a tensor while the interpreter ends aborts the process.
    import torch.distributed.nn.functional  # noqa: F401

    limit = timedelta(seconds=timeout)
    store, rank, size = next(rendezvous("env://", timeout=limit))
    dist.init_process_group(store=fresh_part(store, rank, size, timeout), rank=rank, world_size=size, timeout=limit)


def fresh_part(store: dist.Store, rank: int, size: int, timeout: float) -> dist.Store:
    """
    Agree on a part of a store in which nothing is written yet.

    torchrun's store outlives the processes: those that it starts again would find the addresses of the dead ones in it
    (PyTorch issues 135712 and 167288). The number of a restart is no help, since machines count for themselves. So
    every process asks with a name that nobody had before, and rank 0 answers to that name.

    :param store: store of all processes, those before a restart included
    :param rank: number of this process
    :param size: how many there are
    :param timeout: seconds to wait for the others
    :return: the part
    :raises TimeoutError: when they do not come
    """
    own = uuid4().hex
    if rank > 0:
        store.set(f"ppo_plus/here/{rank}", own)
        store.wait([f"ppo_plus/answer/{own}"], timedelta(seconds=timeout))
        part = store.get(f"ppo_plus/answer/{own}").decode()
        store.set(f"ppo_plus/came/{part}/{rank}", "")
        return dist.PrefixStore(part, store)
    deadline = time.monotonic() + timeout
    missing = {other: "" for other in range(1, size)}
    while missing:
        for other, known in list(missing.items()):
            if store.check([f"ppo_plus/came/{own}/{other}"]):
                del missing[other]
            elif store.check([f"ppo_plus/here/{other}"]):
                # It may be the name of a dead process, until the one that follows has come.
                name = store.get(f"ppo_plus/here/{other}").decode()
                if name != known:
                    store.set(f"ppo_plus/answer/{name}", own)
                    missing[other] = name
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(missing)} of {size} did not come within {timeout:g} seconds")
        time.sleep(_PAUSE)
    return dist.PrefixStore(own, store)
