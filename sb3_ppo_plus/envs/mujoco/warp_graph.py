"""Work on a device, recorded once and replayed: asking for each kernel anew takes longer than computing."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

from sb3_ppo_plus.envs.mujoco.warp_bindings import wp

logger = logging.getLogger(__name__)


class Recorded:
    """
    A function of Warp launches, as a graph.

    Warp records on the processor as well as on a GPU. What is recorded reads and writes the same memory for good, so
    the arrays it works on must stay where they are. It runs in the order of torch's operations: on a GPU on torch's
    current stream.

    :param work: launches kernels, asks nothing of the device
    :param device: where
    :param record: False to ask for each kernel every time, for looking for mistakes
    :param first: what loads all that the work needs, where that is less than the work
    """

    def __init__(
        self,
        work: Callable[[], Any],
        device: th.device,
        record: bool = True,
        first: Callable[[], Any] | None = None,
    ) -> None:
        self._work, self._device = work, device
        self._warp_device = wp.get_device(str(device))
        self._streams: dict[int, Any] = {}
        self._graph: Any = None
        # Loads, and on a new machine compiles, what the work needs; neither can be recorded.
        with self._in_order():
            (first or work)()
        if record:
            self._record()

    def __call__(self) -> None:
        """Do the work."""
        with self._in_order():
            if self._graph is None:
                self._work()
            else:
                wp.capture_launch(self._graph)

    def _record(self) -> None:
        wp.synchronize_device(self._warp_device)
        # A finalizer that frees memory meanwhile would become part of the graph.
        collecting = gc.isenabled()
        gc.disable()
        try:
            with wp.ScopedDevice(self._warp_device), wp.ScopedCapture(device=self._warp_device) as capture:
                self._work()
            self._graph = capture.graph
        except RuntimeError as failed:
            logger.warning("MuJoCo-Warp cannot be recorded as a graph, steps take longer: %s", failed)
        finally:
            if collecting:
                gc.enable()
        wp.synchronize_device(self._warp_device)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        with wp.ScopedDevice(self._warp_device):
            if self._device.type == "cpu":
                yield
                return
            stream = th.cuda.current_stream(self._device)
            if stream.cuda_stream not in self._streams:
                self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
            with wp.ScopedStream(self._streams[stream.cuda_stream]):
                yield
