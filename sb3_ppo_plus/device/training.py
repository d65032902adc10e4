"""In which circumstances a model's update runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.options import read_options
from sb3_ppo_plus.device.precision import autocast, unchecked_distributions


def on_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """
    Let a method of a model compute its networks as the model's ``device_options`` say, and ask no distribution of a
    rollout on the device whether it is sound: that is looked at once, when the update is over.

    :param method: method without arguments
    :return: the same, in these circumstances
    """

    def in_these(self: Any) -> Any:
        checked = not isinstance(self.rollout_buffer, DeviceBuffer)
        with (
            nullcontext() if checked else unchecked_distributions(),
            autocast(self.policy, read_options(self.device_options).autocast),
        ):
            return method(self)

    return wraps(method)(in_these)
