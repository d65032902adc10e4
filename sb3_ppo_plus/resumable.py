"""Where a training can be cut and joined: between an update and the next rollout, and who waits for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_ppo_plus.masked_model import MaskedAlgorithm
from sb3_ppo_plus.nonfinite.env_guard import EnvGuard

SelfResumable = TypeVar("SelfResumable", bound="ResumableAlgorithm")


@dataclass
class Learning:
    """
    A call of ``learn()`` that is under way.

    :param first_timestep: where it began to count
    :param log_interval: updates between two lines of the log
    :param iterations: rollouts that were begun
    :param finished: rollouts that lie before the latest boundary
    :param boundary: timestep of the latest boundary, at which the current rollout began; None since an update began
    :param callback: callbacks of the call
    :param generator: torch's generator before the exploration noise of the current rollout was drawn, gSDE only
    :param env_guard: what watches its environments for NaN, None for nobody
    :param at_boundary: called before each rollout, when everything that the next step depends on stands still
    :param at_exit: called when the call ends, however it ends, the last first
    """

    first_timestep: int
    log_interval: int | None
    iterations: int = 0
    finished: int = 0
    boundary: int | None = None
    callback: BaseCallback | None = None
    generator: th.Tensor | None = None
    env_guard: EnvGuard | None = None
    at_boundary: list[Callable[[], None]] = field(default_factory=list)
    at_exit: list[Callable[[], None]] = field(default_factory=list)

    def stand_still(self, num_timesteps: int, generator: th.Tensor | None = None) -> None:
        """
        Note that the last update is over and nothing of the next rollout has been drawn.

        :param num_timesteps: where the model is
        :param generator: torch's generator, where noise is drawn next
        """
        self.boundary, self.finished, self.generator = num_timesteps, self.iterations, generator


class Continuation(Protocol):
    """What a checkpoint still has to give to the next call of ``learn()``."""

    #: where the interrupted call began to count, None when the checkpoint lay outside of any
    first_timestep: int | None
    #: rollouts that it had begun and finished
    iterations: int

    def before_learning(self) -> None:
        """Called before anything is drawn."""

    def with_callbacks(self, callback: BaseCallback) -> None:
        """
        Called before the callbacks are told that training starts.

        :param callback: callbacks of the call
        """

    def at_rollout(self, callback: BaseCallback | None) -> None:
        """
        Called before the first rollout.

        :param callback: callbacks of the call
        """


class ResumableAlgorithm(MaskedAlgorithm):
    """Base of PPOPlus, with the seams that checkpoints need; without one it does what SB3 does."""

    _learning: Learning | None = None
    _continuation: Continuation | None = None

    def learn(
        self: SelfResumable,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PPOPlus",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfResumable:
        """
        Train the model.

        A model that :func:`~sb3_ppo_plus.checkpoint.resume` gave goes on with the call that was interrupted: with the
        same ``total_timesteps`` it ends where that call would have ended. With ``reset_num_timesteps=False`` the steps
        count from where the model is, as in SB3.

        :param total_timesteps: environment steps to train for, counted over all environments; whole rollouts are
            collected
        :param callback: callback, list of callbacks or function called at every step
        :param log_interval: updates between two lines of the log
        :param tb_log_name: name of the run in the TensorBoard log
        :param reset_num_timesteps: False goes on counting where the last call stopped
        :param progress_bar: show SB3's progress bar (needs tqdm and rich)
        :return: the model itself
        """
        rest = self._continuation
        learning = self._learning = Learning(0 if reset_num_timesteps else self.num_timesteps, log_interval)
        if rest is not None:
            rest.before_learning()
            if rest.first_timestep is not None and reset_num_timesteps:
                learning.first_timestep, learning.iterations = rest.first_timestep, rest.iterations
                total_timesteps = max(0, total_timesteps - (self.num_timesteps - rest.first_timestep))
                reset_num_timesteps = False
                # SB3 counts from zero which updates are logged; what was done before counts here.
                log_interval = 1 if log_interval is not None else log_interval
        try:
            self._begin_learning(learning)
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
            if self._continuation is not None:
                # Nothing was left to do; a later call goes on from here.
                self._continuation.at_rollout(None)
            return self
        finally:
            self._learning = self._continuation = None
            for leave in reversed(learning.at_exit):
                leave()

    def _begin_learning(self, learning: Learning) -> None:
        """
        Called when ``learn()`` begins, before the first reset.

        :param learning: the call; what is appended to its ``at_exit`` runs when it ends
        """

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        ready = super()._init_callback(callback, progress_bar)
        if self._learning is not None:
            self._learning.callback = ready
        if self._continuation is not None:
            self._continuation.with_callbacks(ready)
        return ready

    def _begin_rollout(self) -> None:
        """The boundary: what a checkpoint gives back takes effect, and who saves has its turn."""
        learning = self._learning
        if learning is None:
            return
        if self._continuation is not None:
            self._continuation.at_rollout(learning.callback)
            self._continuation = None
        learning.stand_still(self.num_timesteps, th.get_rng_state() if self.use_sde else None)
        for look in learning.at_boundary:
            look()
        learning.iterations += 1

    def _begin_update(self) -> None:
        if self._learning is not None:
            self._learning.boundary = None

    def _logged_iteration(self, iteration: int) -> int | None:
        """
        :param iteration: what SB3 counted in this call
        :return: what counts, None when it is not logged
        """
        learning = self._learning
        if learning is None or learning.log_interval is None:
            return iteration
        return learning.iterations if learning.iterations % learning.log_interval == 0 else None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learning", "_continuation"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_learning", "_continuation")}
