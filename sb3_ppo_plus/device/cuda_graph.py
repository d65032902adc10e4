"""
Functions of tensors as CUDA graphs: hundreds of small operations that the host launches with one call.

What a graph reads and writes has to stay in its place, so inputs are copied into tensors of its own, and outputs are
overwritten by the next call.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import torch as th

logger = logging.getLogger(__name__)

# Calls before the capture, in which libraries choose their kernels and allocate what they keep.
_WARM_UPS = 3


def can_capture(device: th.device) -> bool:
    """
    :param device: where the function runs
    :return: whether there are CUDA graphs
    """
    return device.type == "cuda"


def capture(call: Callable[[], Any], warm_up: Callable[[], Any], device: th.device) -> tuple[Callable[[], None], Any]:
    """
    Record what a function launches.

    :param call: the function; it must not ask a value of the device
    :param warm_up: what leads to the same kernels and leaves nothing changed; called before the recording
    :param device: where it runs
    :return: launches all of it again, and what the function gave: tensors that each launch overwrites
    """
    # What is drawn here is drawn again afterwards: a run that goes on from a file draws what it would have drawn.
    with th.random.fork_rng([device]):
        side = th.cuda.Stream(device)
        side.wait_stream(th.cuda.current_stream(device))
        with th.cuda.stream(side):
            for _ in range(_WARM_UPS):
                warm_up()
        th.cuda.current_stream(device).wait_stream(side)
        graph = th.cuda.CUDAGraph()
        # A finalizer that runs meanwhile would be recorded as well.
        collects = gc.isenabled()
        gc.disable()
        try:
            with th.cuda.graph(graph):
                given = call()
        finally:
            if collects:
                gc.enable()
    return graph.replay, given


class Captured:
    """
    A function whose second and later calls launch a graph; where that fails, a warning says why and it is called.

    :param function: function of tensors; no mapping among them
    :param device: where they live
    :param wanted: whether a graph is wanted at all
    :param name: what it does, for the warning
    """

    def __init__(self, function: Callable[..., Any], device: th.device, wanted: bool, name: str) -> None:
        self.function, self.device, self.name = function, device, name
        self.wanted = wanted and can_capture(device)
        self._inputs: list[th.Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._given: Any = None

    def __call__(self, *inputs: th.Tensor) -> Any:
        """
        :param inputs: as the function takes them, of the same shapes at each call
        :return: what the function gives; overwritten by the next call
        """
        if not self.wanted:
            return self.function(*inputs)
        if self._replay is None and not self._record(inputs):
            return self.function(*inputs)
        assert self._replay is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._replay()
        return self._given

    def _record(self, inputs: tuple[th.Tensor, ...]) -> bool:
        self._inputs = [tensor.clone() for tensor in inputs]

        def call() -> Any:
            return self.function(*self._inputs)

        try:
            self._replay, self._given = capture(call, call, self.device)
        except Exception as error:
            self.wanted = False
            warn_of_eager(self.name, error)
        return self.wanted


def warn_of_eager(name: str, error: Exception) -> None:
    """
    Tell that there is no graph, once for what it would have been.

    :param name: what it would have done
    :param error: why
    """
    said = str(error).strip().splitlines()
    logger.warning(
        "%s is not a CUDA graph (%s: %s); it goes on operation by operation. device_options={'cuda_graphs': False} "
        "does not try",
        name,
        type(error).__name__,
        said[0] if said else "no message",
    )
