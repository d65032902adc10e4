"""The process's own random generators, which PPO draws from: python's, NumPy's and torch's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th


def generator_states() -> dict[str, Any]:
    """
    :return: states of the generators, as plain data; CUDA's only when it is in use
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - PPO's own
    return {
        "python": {"version": version, "words": words, "gauss": gauss},
        "numpy": {"name": name, "keys": keys, "position": position, "has_gauss": has_gauss, "cached": cached},
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
    }


def set_generator_states(states: Mapping[str, Any]) -> None:
    """
    :param states: what :func:`generator_states` gave; CUDA's are for as many devices as there are
    """
    python, numpy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    np.random.set_state(  # noqa: NPY002
        (numpy["name"], numpy["keys"], int(numpy["position"]), int(numpy["has_gauss"]), float(numpy["cached"]))
    )
    th.set_rng_state(states["torch"])
    if states["cuda"] and th.cuda.is_available():
        for device, state in enumerate(states["cuda"][: th.cuda.device_count()]):
            th.cuda.set_rng_state(state, device)


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Whatever is drawn or seeded inside, afterwards the generators stand where they stood."""
    before = generator_states()
    try:
        yield
    finally:
        set_generator_states(before)
