"""The random generators that belong to a process and not to an environment, for environments that draw from them."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np


@cache
def at_start() -> dict[str, Any]:
    """
    :return: the states when this was first called, which a worker does when its environments are made
    """
    return _now()


def take() -> dict[str, Any]:
    """
    :return: states of Python's, NumPy's and torch's generators, of those only that moved since the start: the others
        are as random as the process that they began in
    """
    start = at_start()
    return {name: state for name, state in _now().items() if not _same(state, start.get(name))}


def give(states: Mapping[str, Any]) -> None:
    """
    :param states: what :func:`take` gave; what it lacks goes back to the start
    """
    wanted = {**at_start(), **states}
    python = wanted["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(dict(wanted["numpy"]))  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in wanted:
        torch.set_rng_state(torch.from_numpy(wanted["torch"].copy()))


def _now() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    states = {
        "python": {"version": version, "words": np.array(words, np.int64), "gauss": gauss},
        "numpy": dict(np.random.get_state(legacy=False)),  # noqa: NPY002
    }
    torch = sys.modules.get("torch")
    return states if torch is None else {**states, "torch": torch.get_rng_state().numpy().copy()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and all(_same(part, other.get(name)) for name, part in one.items())
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
