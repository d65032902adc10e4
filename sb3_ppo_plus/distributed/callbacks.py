"""The callbacks of one rank, in a training that is counted over all ranks."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CallbackList


class RankCallbacks(CallbackList):
    """
    Stands around the callbacks of a training: they see the timesteps of all ranks, and no rank ends alone.

    A rank that left a rollout by itself would let the others wait for ever, so a callback that wants to end the
    training is heard when the rollout is full.

    :param callback: the user's callback, already initialized
    :param size: number of ranks
    """

    def __init__(self, callback: BaseCallback, size: int) -> None:
        super().__init__([callback])
        self.model = callback.model
        self.size = size
        #: whether a callback wants the training to end
        self.wants_end = False

    def on_step(self) -> bool:
        """:return: True"""
        # SB3 and the tensor rollout have counted the steps of this rank's environments.
        self.model.num_timesteps += (self.size - 1) * self.model.n_envs
        self.wants_end |= not super().on_step()
        return True
