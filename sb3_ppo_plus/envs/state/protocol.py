"""Which objects know their own state."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def has_protocol(layer: Any) -> bool:
    """
    :param layer: environment or wrapper
    :return: whether its own class has ``get_state()`` and ``set_state(state)``: Gymnasium's ``MujocoEnv`` has a
        ``set_state(qpos, qvel)``, which is something else, and wrappers pass on what they do not have
    """
    kind: Any = type(layer)
    return _class_has_protocol(kind)


@cache
def _class_has_protocol(kind: type) -> bool:
    return _takes(kind, "get_state", 0) and _takes(kind, "set_state", 1)


def _takes(kind: type, name: str, count: int) -> bool:
    method = inspect.getattr_static(kind, name, None)
    if not callable(method):
        return False
    try:
        parameters = list(inspect.signature(method).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    needed = [one for one in parameters if one.kind in _POSITIONAL and one.default is inspect.Parameter.empty]
    return len(needed) == count or (count == 1 and not needed and bool(parameters))
