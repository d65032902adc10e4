"""How a process becomes one of several that learn together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch as th
import torch.distributed as dist

from sb3_ppo_plus.distributed.meeting import init_group
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.errors import InvalidArgument

_CURRENT: ContextVar[Ranks | None] = ContextVar("ranks", default=None)


def current_ranks() -> Ranks | None:
    """
    :return: the processes that learn together, inside :func:`join`; None outside of it, and for a process alone
    """
    return _CURRENT.get()


@contextmanager
def join(timeout: float = 1800.0) -> Iterator[Ranks]:
    """
    Learn together with the other processes that ``torchrun`` has started.

    A ``PPOPlus`` that is made or loaded inside learns one policy with those of the other ranks; each has environments
    of its own. Started without ``torchrun``, or as the only process, it is a training like any other, so a script can
    be run both ways. A process group that exists already is used and left as it is. The process takes the GPU of its
    local rank, if there are any, as torch's current one.

    :param timeout: seconds after which ranks that wait for another give up, typically 600 to 7200; it has to be longer
        than an evaluation, during which the others wait for rank 0. A process that dies is noticed at once
    :return: context that gives the ranks; one rank of a single process
    :raises InvalidArgument: for a timeout that is not positive, and for a process group that cannot carry tensors of
        the host
    """
    if not timeout > 0.0:
        raise InvalidArgument(f"timeout={timeout!r} must be greater than 0 seconds")
    own = dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched()
    if own:
        init_group(timeout)
        if th.cuda.is_available():
            th.cuda.set_device(dist.get_node_local_rank(0) % th.cuda.device_count())
    size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if size > 1:
        _check_host_backend()
    ranks = Ranks(dist.get_rank() if size > 1 else 0, size)
    token = _CURRENT.set(ranks if ranks.size > 1 else None)
    failed = True
    try:
        yield ranks
        failed = False
    except SystemExit:  # agreed upon: a signal ended the training of all
        failed = False
        raise
    finally:
        _CURRENT.reset(token)
        # After an error the others may be in the middle of a collective; the end of this process is what tells them.
        if own and not failed:
            dist.destroy_process_group()


def _check_host_backend() -> None:
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        raise InvalidArgument(
            f"the process group has the backends {backends!r}, none of which carries tensors of the host; make it with "
            'init_process_group(backend="cpu:gloo,cuda:nccl"), or leave it to join()'
        )
