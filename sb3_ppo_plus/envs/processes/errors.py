"""What can go wrong with a worker."""

from __future__ import annotations

from typing import Any


class WorkerLost(RuntimeError):
    """
    A worker process is gone and is not replaced; the message says which environment, why, and what the worker said.

    :param message: what happened
    :param env_index: environment that the worker was busy with, or its first one
    :param exit_code: of the process, negative for a signal; None when it was still running
    :param restarts: how often this worker was started again before
    :param traceback: the worker's own traceback, empty where it left none
    """

    def __init__(
        self, message: str, env_index: int = 0, exit_code: int | None = None, restarts: int = 0, traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.env_index, self.exit_code, self.restarts, self.traceback = env_index, exit_code, restarts, traceback


class WorkerTraceback(Exception):
    """The cause of an error that an environment raised in its worker: where it was raised, as text."""


class Lost(Exception):
    """
    A worker is gone, and may be replaced.

    :param worker: the parent's handle of it
    :param kind: ``died``, ``raised`` or ``hung``
    :param env_index: environment that it was busy with, or its first one
    :param how: what happened, to follow "environment 3"
    :param exit_code: of the process; None when it was still running
    :param traceback: the worker's own, empty where it left none
    """

    def __init__(
        self, worker: Any, kind: str, env_index: int, how: str, exit_code: int | None = None, traceback: str = ""
    ) -> None:
        super().__init__(f"environment {env_index} {how}")
        self.worker, self.kind, self.env_index, self.how = worker, kind, env_index, how
        self.exit_code, self.traceback = exit_code, traceback

    def final(self, why: str, restarts: int) -> WorkerLost:
        """
        Make the error of a worker that is not replaced.

        :param why: why it is not
        :param restarts: how often it was started again before
        :return: the error to raise
        """
        told = f"\n\nIn the worker:\n{self.traceback.rstrip()}" if self.traceback else ""
        return WorkerLost(f"{self}; {why}{told}", self.env_index, self.exit_code, restarts, self.traceback)
