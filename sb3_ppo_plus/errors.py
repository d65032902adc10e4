"""The one exception that this package raises for a wrong argument."""

from __future__ import annotations


class InvalidArgument(ValueError, AssertionError):
    """
    An argument has a value that cannot work; the message names the argument, the value and the remedy.

    It is a ``ValueError``, which is what it means, and an ``AssertionError`` as well: Stable-Baselines3 checks the same
    mistakes (``batch_size=1`` with normalized advantages, a negative ``clip_range_vf``) with ``assert``, so code
    written for its PPO catches ``AssertionError`` and keeps working. Unlike an ``assert`` it also survives
    ``python -O``.
    """
