"""What an algorithm does more when several processes learn its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback

from sb3_ppo_plus.distributed.alike import check_alike, check_callbacks
from sb3_ppo_plus.distributed.callbacks import RankCallbacks
from sb3_ppo_plus.distributed.joining import current_ranks
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.distributed.rollouts import SharedRollouts
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.saved_algorithm import SavedAlgorithm

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

_OF_RANKS = ("_ranks", "_rollouts")


class RankedAlgorithm(SavedAlgorithm):
    """Base of PPOPlus; outside of :func:`~sb3_ppo_plus.distributed.join` it does what a process alone does."""

    _ranks: Ranks | None = None
    _rollouts: SharedRollouts | None = None

    def _setup_model(self) -> None:
        super()._setup_model()
        self._ranks = current_ranks()
        if self._ranks is not None and not self._ranks.is_first:
            self._draw_apart(self._ranks.rank)
            self.set_logger(Logger(folder=None, output_formats=[]))

    def _draw_apart(self, rank: int) -> None:
        """Let environments and generators of this rank draw what no other rank draws."""
        if self.seed is not None:
            self.set_random_seed(self.seed + rank * max(1, self.n_envs or 1))
        else:
            # Without a seed torch begins with the same number in every process.
            th.manual_seed(th.initial_seed() + rank)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        ranks = self._ranks
        if current_ranks() is not ranks:
            raise InvalidArgument(
                "the model was made outside of join() and learns inside, or the other way round; do both inside"
            )
        if ranks is None:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        model = cast("PPOPlus", self)
        check_alike(model, ranks, total_timesteps)
        with th.no_grad():
            for tensor in self.policy.state_dict().values():
                ranks.take_from_first(tensor)
        self._rollouts = SharedRollouts(model, ranks)
        made = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar and ranks.is_first
        )
        self._rollouts.begin()
        self._rollouts.exchange()  # the first observations
        return made

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        ready = super()._init_callback(callback, progress_bar)
        if self._ranks is None or self._rollouts is None:
            return ready
        check_callbacks(ready, self._ranks)
        self._rollouts.callbacks = RankCallbacks(ready, self._ranks.size)
        return self._rollouts.callbacks

    def _begin_rollout(self) -> None:
        super()._begin_rollout()
        if self._rollouts is not None:
            self._rollouts.begin()

    def _end_rollout(self, completed: bool) -> bool:
        """
        :param completed: whether the rollout is full
        :return: whether the training goes on
        """
        return completed if self._rollouts is None else self._rollouts.exchange()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OF_RANKS]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name not in _OF_RANKS}
