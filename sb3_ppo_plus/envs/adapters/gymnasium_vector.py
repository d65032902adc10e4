"""Gymnasium's vectorized environments, in each of its three ways to reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from sb3_ppo_plus.envs.adapters.base import AdapterVecEnv, Answer, copied
from sb3_ppo_plus.errors import InvalidArgument

SAME_STEP, NEXT_STEP, DISABLED = "SameStep", "NextStep", "Disabled"


class GymnasiumVectorAdapter(AdapterVecEnv):
    """
    A ``gymnasium.vector.VectorEnv`` on the tensor face: ``SyncVectorEnv``, ``AsyncVectorEnv``, or one of its own kind.

    What is exact depends on its ``autoreset_mode``:

    - ``SAME_STEP`` and ``DISABLED`` are exact; in the second this adapter resets what ended, with ``reset_mask``.
    - ``NEXT_STEP``, Gymnasium's default, spends a step on the reset. That row is marked as one in which nobody acted,
      so PPOPlus does not learn from it; SB3's own algorithms do. Prefer ``SAME_STEP``.

    :param env: the environments
    :param device: where the tensors live; arrays of Gymnasium are copied there
    :param autoreset: ``SameStep``, ``NextStep`` or ``Disabled``; None for what ``env.metadata`` says
    :param rescale_actions: whether the policy acts in [-1, 1], stretched to the bounds
    :raises InvalidArgument: when nobody says how environments are reset, or spaces do not fit
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        device: th.device | str = "cpu",
        autoreset: str | None = None,
        rescale_actions: bool = False,
    ) -> None:
        given = env.metadata.get("autoreset_mode") if autoreset is None else autoreset
        self.autoreset = getattr(given, "value", given)
        if self.autoreset not in (SAME_STEP, NEXT_STEP, DISABLED):
            raise InvalidArgument(
                f"autoreset={autoreset!r} and metadata['autoreset_mode'] is {given!r}; give {SAME_STEP}, {NEXT_STEP} "
                f"or {DISABLED}, whichever {type(env).__name__} does"
            )
        self.env = env
        #: what the last step gave beside observations, as Gymnasium gives it
        self.infos: dict[str, Any] = {}
        self._ended = np.zeros(env.num_envs, bool)
        spaces = env.single_observation_space, env.single_action_space
        super().__init__(env.num_envs, *spaces, device, rescale_actions)
        self.spec, self.render_mode = env.spec, env.render_mode
        self.metadata = {**self.metadata, **env.metadata}

    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """See :meth:`AdapterVecEnv.begin`."""
        known = any(seed is not None for seed in seeds)
        numbers = [None if seed is None else int(seed) for seed in seeds] if known else None
        env: Any = self.env
        obs, self.infos = env.reset(seed=numbers, options=None if options is None else dict(options))
        self._ended[:] = False
        return copied(obs)

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        # A copy: an environment may keep the array, and the caller may overwrite its tensor.
        obs, rewards, terminated, truncated, self.infos = self.env.step(actions.cpu().numpy().copy())
        obs, done = copied(obs), np.logical_or(terminated, truncated)
        if self.autoreset == NEXT_STEP:
            idle, self._ended = self._ended, done
            return Answer(obs, rewards, terminated, truncated, obs, th.from_numpy(idle).to(self.device), True)
        final_obs = obs
        if done.any() and self.autoreset == DISABLED:
            # Copies, because the flags returned may be those that the reset clears.
            rewards, terminated, truncated = np.array(rewards), np.array(terminated), np.array(truncated)
            fresh, _ = self.env.reset(options={"reset_mask": done.copy()})
            obs = copied(final_obs)
            _put(obs, done.nonzero()[0], fresh)
        elif done.any():
            final_obs = copied(obs)
            _put(final_obs, done.nonzero()[0], self._given_final_obs())
        return Answer(obs, rewards, terminated, truncated, final_obs)

    def _given_final_obs(self) -> Any:
        for name in ("final_obs", "final_observation"):
            if name in self.infos:
                return self.infos[name]
        raise InvalidArgument(
            f"{type(self.env).__name__} says that it resets in the same step, and gives no infos['final_obs'] where an "
            f"episode ended; give autoreset={NEXT_STEP} if it resets in the next step"
        )

    def get_images(self) -> Sequence[np.ndarray | None]:
        """
        :return: a picture of each environment, None without ``render_mode="rgb_array"``
        """
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        pictures: Any = self.env.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def close_library(self) -> None:
        """Close the environments, and the processes of an ``AsyncVectorEnv``."""
        self.env.close()


def _put(target: Any, ids: np.ndarray, rows: Any) -> None:
    """Write rows into observations: of full-size arrays, or of Gymnasium's array of one object per environment."""
    objects = isinstance(rows, np.ndarray) and rows.dtype == object
    for index in ids.tolist():
        if isinstance(target, Mapping):
            for name, value in target.items():
                value[index] = rows[index][name] if objects else rows[name][index]
        else:
            target[index] = rows[index]
