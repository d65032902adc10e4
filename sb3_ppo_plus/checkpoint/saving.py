"""The callback that writes checkpoints by itself, and reads the newest one back."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus.atomic import remove_strays
from sb3_ppo_plus.checkpoint.api import CannotSave, write_state
from sb3_ppo_plus.checkpoint.callback_states import CallbackStates
from sb3_ppo_plus.checkpoint.signals import SignalWatch, interruption
from sb3_ppo_plus.checkpoint.state import TrainingState, capture, put_into
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.distributed.states import gather_states
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.nonfinite.parameter_copy import ParameterCopy

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint_(\d+)\.zip")
ON_ERROR = ("warn", "raise")


class SaveCheckpoints(BaseCallback):
    """
    Write a checkpoint between updates, as often as it costs next to nothing, and when a signal ends the training.

    After SIGTERM, SIGUSR1 or Ctrl-C a checkpoint of the latest moment between two updates is written, and ``learn()``
    ends: with ``KeyboardInterrupt`` after Ctrl-C, else with :class:`~sb3_ppo_plus.checkpoint.Preempted`, which ends the
    process with the exit code 143 (SIGTERM) or 138 (SIGUSR1). That takes until the current step of the environments is
    over, in an evaluation or a long update at most four seconds, and the time of writing. A second signal ends the
    process at once.

    Where several ranks learn together, each of them needs this callback. All take part in the decision to write, and
    rank 0 writes the states of all into one file. After a signal to any of them all end, between two updates, so that
    it takes as long as a rollout with its update.

    :param folder: where ``checkpoint_<timesteps>.zip`` are written; made when missing
    :param keep: how many are kept, the newest ones; older ones are removed
    :param cost: largest share of the training's time that goes into writing, typically 0.01; smaller loses more when
        the process is killed, 0 writes after every update
    :param signals: whether signals are listened to, in the main thread only
    :param on_error: when a checkpoint cannot be written, on a full disk for example: ``warn`` goes on training and
        tries again, ``raise`` ends the training with :class:`~sb3_ppo_plus.checkpoint.CannotSave`; the earlier
        checkpoints stay in both cases
    :raises InvalidArgument: for values that cannot work
    """

    #: it meets the other ranks between updates
    on_every_rank = True

    def __init__(
        self,
        folder: str | Path,
        keep: int = 2,
        cost: float = 0.01,
        signals: bool = True,
        on_error: str = "warn",
    ) -> None:
        super().__init__()
        if keep < 1:
            raise InvalidArgument(f"keep={keep} keeps no checkpoint; give 1 or more")
        if not 0.0 <= cost <= 1.0:
            raise InvalidArgument(f"cost={cost} is no share of the time; give a number from 0 to 1")
        if on_error not in ON_ERROR:
            raise InvalidArgument(f"on_error={on_error!r} is not known; give one of {', '.join(ON_ERROR)}")
        self.folder, self.keep, self.cost, self.on_error = Path(folder), keep, cost, on_error
        self.watch = SignalWatch() if signals else None
        #: seconds spent so far in taking states and in writing them
        self.seconds = 0.0
        self._failing = False
        self._told: set[str] = set()
        self._state: TrainingState | None = None
        self._parameters: ParameterCopy | None = None
        self._written: int | None = None
        self._ranks: Ranks | None = None

    def _on_training_start(self) -> None:
        model = self._model()
        learning = getattr(model, "_learning", None)
        if learning is None or learning.callback is None:
            raise InvalidArgument("SaveCheckpoints works in PPOPlus.learn(), which calls it between updates")
        self._callbacks = CallbackStates(learning.callback)
        self._started, self._state = time.perf_counter(), None
        self._ranks = model._ranks
        if self.watch is not None and self._ranks is not None:
            self.watch.patience = 0.0  # nobody leaves an update or a rollout alone
        alone = self.watch is not None and self._ranks is None
        self._parameters = ParameterCopy(model.policy) if alone else None
        learning.at_boundary.append(self._at_boundary)
        learning.at_exit.append(self._leave)
        if self.watch is not None:
            self.watch.open()

    def _on_step(self) -> bool:
        if self.watch is not None and self.watch.received is not None and self._ranks is None:
            self.watch.check()
        return True

    def _on_training_end(self) -> None:
        model = self._model()
        learning = model._learning
        if learning is not None and learning.boundary is None:
            learning.stand_still(model.num_timesteps)
            self._take()
        if self._state is not None:
            self._write(self._state)

    def _at_boundary(self) -> None:
        if self._ranks is not None:
            self._at_boundary_of(self._ranks)
            return
        if self.watch is not None:
            self._take()
            self.watch.check()
        if self._is_due():
            if self.watch is None:
                self._take()
            assert self._state is not None
            self._write(self._state)

    def _at_boundary_of(self, ranks: Ranks) -> None:
        """A signal to one rank is one to all, and rank 0's clock says when to write."""
        received = 0 if self.watch is None else self.watch.received or 0
        answers = ranks.gather_numbers([received, self._is_due()])
        number = int(answers[:, 0].max())
        if number or answers[0, 1]:
            self._take()
            assert self._state is not None
            self._write(self._state)
        if number:
            raise interruption(number)

    def _is_due(self) -> bool:
        elapsed = time.perf_counter() - self._started
        return self.seconds <= self.cost * elapsed or self.cost == 0.0 or self._written is None

    def _leave(self) -> None:
        """The call of learn() ends."""
        if self.watch is None:
            return
        try:
            if self.watch.received is not None and self._state is not None and self._parameters is not None:
                model = self._model()
                self._parameters.restore()
                put_into(model, self._state.tree)
                self._write(self._state)
        finally:
            self.watch.close()

    def _take(self) -> None:
        with self._clock():
            self._state = capture(self._model(), self._callbacks)
            if self._parameters is not None:
                self._parameters.take()

    def _write(self, state: TrainingState) -> None:
        number = state.tree["counters"]["num_timesteps"]
        if number == self._written and self._ranks is None:
            return
        path = self.folder / f"checkpoint_{number}.zip"
        with self._clock():
            try:
                whole = state if self._ranks is None else gather_whole(self._ranks, state, path)
                if whole is None:
                    return
                self._tell(path, whole)
                write_state(self._model(), whole, path)
            except CannotSave as error:
                if self.on_error == "raise":
                    raise
                if not self._failing:
                    logger.warning("%s; training goes on, and the checkpoints before it stay", error)
                self._failing = True
                return
            self._failing, self._written = False, number
            remove_strays(self.folder, "checkpoint_*", ".zip")
            for _, old in checkpoints_in(self.folder)[self.keep :]:
                if old != path:
                    old.unlink(missing_ok=True)

    def _tell(self, path: Path, state: TrainingState) -> None:
        for reason in state.inexact:
            if reason not in self._told:
                logger.warning("%s: going on from it will not be exact: %s", path, reason)
        self._told.update(state.inexact)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - before

    def _model(self) -> PPOPlus:
        return cast("PPOPlus", self.model)


def gather_whole(ranks: Ranks, state: TrainingState, path: Path) -> TrainingState | None:
    """
    :param ranks: the processes
    :param state: this rank's state
    :param path: file that is to be written
    :return: on rank 0 the state of all of them, None on the others
    :raises CannotSave: when a rank has what cannot be saved
    """
    try:
        return gather_states(ranks, state)
    except InvalidArgument as error:
        raise CannotSave(f"the checkpoint {path} cannot be written: {error}") from error


def checkpoints_in(folder: str | Path) -> list[tuple[int, Path]]:
    """
    :param folder: folder of :class:`SaveCheckpoints`
    :return: timesteps and files, the newest first
    """
    found = [
        (int(match[1]), path) for path in Path(folder).glob("checkpoint_*.zip") if (match := _NAME.fullmatch(path.name))
    ]
    return sorted(found, reverse=True)
