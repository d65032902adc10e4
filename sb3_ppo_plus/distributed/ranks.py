"""What the processes of one training say to each other: every collective operation of this package is in here."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import torch as th
import torch.distributed as dist


class Ranks:
    """
    The processes that learn one policy together, seen from one of them.

    Every method is a meeting: it returns when all ranks have called it, so all have to call the same ones in the same
    order. What it gives is, bit for bit, the same on every rank. Tensors of a GPU go over nccl, those of the host over
    gloo.

    :param rank: number of this process, from 0
    :param size: how many there are, 2 or more
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        #: how many of them share this machine
        self.on_this_host = 1
        if size > 1:
            hosts = self.gather_bytes(socket.gethostname().encode())
            self.on_this_host = hosts.count(hosts[rank])

    @property
    def is_first(self) -> bool:
        """:return: whether this is rank 0, the one that writes files and logs"""
        return self.rank == 0

    def add_up(self, values: th.Tensor) -> None:
        """
        Sum over the ranks, in place.

        :param values: numbers, of one shape on all ranks
        """
        dist.all_reduce(values)

    def gather(self, values: th.Tensor) -> th.Tensor:
        """
        :param values: numbers, of one shape on all ranks [...]
        :return: those of every rank [size, ...]
        """
        parts = [th.empty_like(values, memory_format=th.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return th.stack(parts)

    def gather_numbers(self, values: Sequence[float]) -> th.Tensor:
        """
        :param values: numbers, as many on all ranks
        :return: those of every rank, float64 on the host [size, k]
        """
        return self.gather(th.tensor(list(values), dtype=th.float64))

    def take_from_first(self, values: th.Tensor) -> None:
        """
        Make them those of rank 0, in place.

        :param values: numbers, of one shape on all ranks
        """
        dist.broadcast(values, src=0)

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """
        :param content: bytes, as many as each rank likes
        :return: those of every rank
        """
        lengths, padded = self._padded(content)
        return _cut(list(self.gather(padded)), lengths)

    def bytes_to_first(self, content: bytes) -> list[bytes]:
        """
        :param content: bytes, as many as each rank likes
        :return: on rank 0 those of every rank, on the others nothing
        """
        lengths, padded = self._padded(content)
        rows = [th.empty_like(padded) for _ in range(self.size)] if self.is_first else []
        dist.gather(padded, rows or None, dst=0)
        return _cut(rows, lengths)

    def _padded(self, content: bytes) -> tuple[list[int], th.Tensor]:
        """How long each rank's are, and these as a tensor as long as the longest."""
        lengths: list[int] = self.gather(th.tensor([len(content)])).flatten().tolist()
        padded = th.zeros(max(1, *lengths), dtype=th.uint8)
        if content:
            padded[: len(content)] = th.frombuffer(bytearray(content), dtype=th.uint8)
        return lengths, padded


def _cut(rows: list[th.Tensor], lengths: list[int]) -> list[bytes]:
    return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths, strict=bool(rows))]
