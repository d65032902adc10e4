"""What a model that takes action masks does more: it asks the environments for them, and predicts with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.masking import MaskSource, check_maskable, check_masks, find_masks, masked


class _MaskedForward:
    """A policy's ``forward`` under masks; a copy of the policy, as self-play makes them, has its own without them."""

    def __init__(self, policy: ActorCriticPolicy, source: MaskSource, buffer: RowsMixin) -> None:
        self._policy, self._source, self._buffer = policy, source, buffer
        self._forward = policy.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        masks = self._source()
        self._buffer.note_masks(self._buffer.pos, masks)
        with masked(self._policy, masks):
            return self._forward(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._policy, "forward")


class MaskedAlgorithm(OnPolicyAlgorithm):
    """Base of PPOPlus, with what sb3-contrib's MaskablePPO has of its own."""

    use_masking: bool
    #: whether the environments of the training say which actions are allowed
    takes_masks: bool = False

    def mask_source(self, env: VecEnv | None) -> MaskSource | None:
        """
        :param env: environments, or None
        :return: what asks them for their masks, None when nothing is to be masked
        """
        return None if env is None or not self.use_masking else find_masks(env)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._setup_masks()

    def _setup_masks(self) -> None:
        """A model that was loaded without environments keeps what it was trained with."""
        source = self.mask_source(self.env)
        if self.env is not None:
            self.takes_masks = source is not None
        if source is not None:
            check_maskable(self.policy.action_dist)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """
        Give the model other environments.

        :param env: environments of the same spaces
        :param force_reset: whether they are reset before the next rollout
        """
        super().set_env(env, force_reset)
        self._setup_masks()

    @contextmanager
    def masking_forward(self, env: VecEnv, buffer: RolloutBuffer) -> Iterator[None]:
        """
        Inside, each call of the policy takes the masks of the environments, and leaves them in the buffer.

        SB3's rollout calls the policy in no other place, and callbacks that evaluate use ``predict()``.

        :param env: environments of the rollout
        :param buffer: its buffer
        """
        source = self.mask_source(env)
        if source is None:
            yield
            return
        assert isinstance(buffer, RowsMixin)
        policy, before = self.policy, self.policy.__dict__.get("forward")
        policy.forward = _MaskedForward(policy, source, buffer)  # type: ignore[method-assign]
        try:
            yield
        finally:
            del policy.forward
            if before is not None:
                policy.forward = before  # type: ignore[method-assign]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions.

        :param observation: one observation, or one for each environment [N, O]
        :param state: not used, here for models with memory
        :param episode_start: not used
        :param deterministic: the most likely action instead of a draw
        :param action_masks: True where an action is allowed, as the environments' ``action_masks()`` gives it [N, D]
        :return: actions [N, A], and the state
        :raises InvalidArgument: for masks that do not fit, or allow nothing
        """
        if action_masks is not None:
            action_masks = check_masks(action_masks, self.action_space)
        with masked(self.policy, action_masks):
            return super().predict(observation, state, episode_start, deterministic)
