"""
Who runs a trial, and how everybody else notices that nobody does any more.

A worker that takes a trial writes a lease into it and beats: it counts up at intervals. Whoever sees a running trial
whose count stands still for the grace period, or whose process is gone from this machine, puts it back among those that
wait; the next worker goes on from its checkpoint. A worker that was thought dead and was not finds another token in the
lease and drops the trial. This needs nothing of a storage but that one of several workers takes a waiting trial, which
all of Optuna's have, and no agreement of clocks.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

LEASE = "lease"
ATTEMPTS = "attempts"
REASON = "reason"


@dataclass(frozen=True)
class Identity:
    """
    A process, known well enough to notice its death.

    :param worker: name of the worker
    :param host: machine, its boot and its process namespace
    :param pid: process id
    :param birth: when the process began, in the kernel's words, since numbers are used again
    """

    worker: str
    host: str
    pid: int
    birth: str


def identify(worker: str) -> Identity:
    """
    :param worker: name of the worker
    :return: this process
    """
    return Identity(worker, _host(), os.getpid(), _birth(os.getpid()))


def is_gone(lease: dict[str, Any]) -> bool:
    """
    :param lease: lease of a trial
    :return: whether its process ran on this machine and does not exist any more
    """
    if lease.get("host") != _host() or os.name == "nt":
        return False
    try:
        os.kill(int(lease["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return _birth(int(lease["pid"])) != lease.get("birth")


class Lease:
    """
    The lease of this worker on one trial, kept up by a thread.

    :param storage: storage of the study
    :param trial_id: id of the trial
    :param identity: this process
    :param interval: seconds between beats; smaller notices a loss sooner and writes more
    :param on_beat: called at each beat, in the thread
    """

    def __init__(
        self,
        storage: BaseStorage,
        trial_id: int,
        identity: Identity,
        interval: float,
        on_beat: Callable[[], None] | None = None,
    ) -> None:
        self.storage = storage
        self.trial_id = trial_id
        self.interval = interval
        self.lost = False
        self.progress: dict[str, Any] = {}
        self._fields = {**vars(identity), "token": uuid.uuid4().hex, "count": 0}
        self._on_beat = on_beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name=f"lease of trial {trial_id}", daemon=True)

    def __enter__(self) -> Lease:
        attempts = int(self.storage.get_trial(self.trial_id).user_attrs.get(ATTEMPTS, 0))
        self.storage.set_trial_user_attr(self.trial_id, ATTEMPTS, attempts + 1)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def is_held(self) -> bool:
        """
        :return: whether the trial is still this worker's, as the storage says now
        """
        trial = self.storage.get_trial(self.trial_id)
        held = (
            trial.state == TrialState.RUNNING and trial.user_attrs.get(LEASE, {}).get("token") == self._fields["token"]
        )
        self.lost |= not held
        return held

    def _keep_up(self) -> None:
        while not self._ended.wait(self.interval):
            if self._on_beat is not None:
                self._on_beat()
            try:
                if not self.is_held():
                    return
                self._write()
            except UpdateFinishedTrialError:
                return
            except Exception:  # the storage was away for longer than it was waited for; the next beat tries again
                continue

    def _write(self) -> None:
        self._fields["count"] += 1
        self.storage.set_trial_user_attr(self.trial_id, LEASE, {**self._fields, "beat": time.time(), **self.progress})


@dataclass
class Watchman:
    """
    Puts back trials that nobody runs.

    :param storage: storage of the study
    :param grace: seconds after which a lease that stands still is taken for dead; several beats, typically 60
    :param max_attempts: a trial that was begun so often has killed its workers, and fails
    """

    storage: BaseStorage
    grace: float
    max_attempts: int
    _seen: dict[int, tuple[Any, float]] = field(default_factory=dict)

    def look(self, study_id: int) -> list[int]:
        """
        :param study_id: study to look after
        :return: numbers of the trials that were put back or failed
        """
        found = []
        for trial in self.storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            if self.is_dead(trial):
                release(self.storage, trial, self.max_attempts)
                found.append(trial.number)
        return found

    def is_dead(self, trial: FrozenTrial) -> bool:
        """
        :param trial: a running trial
        :return: whether its process is gone, or its lease has stood still for the grace period while this looked
        """
        lease = trial.user_attrs.get(LEASE, {})
        if lease and is_gone(lease):
            return True
        mark, now = (lease.get("token"), lease.get("count")), time.monotonic()
        if self._seen.get(trial._trial_id, (None, 0.0))[0] != mark:
            self._seen[trial._trial_id] = (mark, now)
        return now - self._seen[trial._trial_id][1] > self.grace


def release(storage: BaseStorage, trial: FrozenTrial, max_attempts: int) -> None:
    """
    Put a running trial back among those that wait, or fail it when it has cost too many workers.

    :param storage: storage of the study
    :param trial: the trial
    :param max_attempts: how often it may be begun
    """
    attempts = int(trial.user_attrs.get(ATTEMPTS, 0))
    with suppress(UpdateFinishedTrialError):  # somebody else was faster
        if attempts >= max_attempts:
            reason = f"its worker was lost {attempts} times; what it draws may be too much for the machine"
            storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        else:
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def claim(storage: BaseStorage, study_id: int) -> int | None:
    """
    Take the first trial that waits.

    :param storage: storage of the study
    :param study_id: id of the study
    :return: id of a trial that is now this worker's, None when none waits
    """
    for trial in storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.WAITING,)):
        with suppress(UpdateFinishedTrialError):
            if storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                return trial._trial_id
    return None


def _host() -> str:
    """A container may share its name or its kernel with others; its processes it does not share."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _birth(pid: int) -> str:
    """Start time of a process, empty where the system does not tell."""
    try:
        # The name stands in parentheses and may hold anything, so fields are counted from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie is gone: it only waits for its parent.
    return "" if fields[0] in ("Z", "X") else fields[19]
