"""A storage whose calls are repeated while a database restarts, a network is away or a file is locked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

logger = logging.getLogger(__name__)

# Seconds for which a call is repeated, and between two tries at first.
PATIENCE = 300.0
_FIRST_PAUSE = 0.5


def passes(error: BaseException) -> bool:
    """
    :param error: what a call of a storage raised
    :return: whether the same call may succeed later
    """
    if isinstance(error, StorageInternalError):
        return True
    name = f"{type(error).__module__}.{type(error).__name__}"
    if name.startswith("grpc."):
        code = getattr(error, "code", None)
        return callable(code) and getattr(code(), "name", "") in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
    return name in ("sqlalchemy.exc.OperationalError", "sqlalchemy.exc.InterfaceError")


def _patient(name: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        deadline, pause = time.monotonic() + self.patience, _FIRST_PAUSE
        while True:
            try:
                return getattr(self.inner, name)(*args, **kwargs)
            except Exception as error:
                if not passes(error) or time.monotonic() + pause > deadline:
                    raise
                logger.warning("the storage does not answer (%s); trying again", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, 10.0)

    # Not functools.wraps: it would copy that the method is abstract.
    call.__name__, call.__doc__ = name, getattr(BaseStorage, name).__doc__
    return call


_NAMES = [name for name, value in vars(BaseStorage).items() if not name.startswith("_") and callable(value)]
_Delegating: Any = type("_Delegating", (BaseStorage,), {name: _patient(name) for name in _NAMES})


class PatientStorage(_Delegating):
    """
    Another storage, each call of which is repeated for a while when it fails for a reason that passes.

    :param inner: the storage
    :param patience: seconds after which the error is passed on
    """

    def __init__(self, inner: BaseStorage, patience: float = PATIENCE) -> None:
        self.inner = inner
        self.patience = patience

    def close(self) -> None:
        """Close the connection of a proxy; other storages have none."""
        closing = getattr(self.inner, "close", None)
        if closing is not None:
            closing()
