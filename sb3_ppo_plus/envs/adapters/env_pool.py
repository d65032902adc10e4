"""EnvPool: environments in C++ threads, behind arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.adapters.base import AdapterVecEnv, Answer, copied
from sb3_ppo_plus.envs.arrays import map_observations
from sb3_ppo_plus.errors import InvalidArgument

_MAX_SEED = 2**31 - 1


class EnvPoolAdapter(AdapterVecEnv):
    """
    A synchronous EnvPool on the tensor face.

    EnvPool resets an environment that ended in the next step, whose action is lost. Here those that ended are reset at
    once by their numbers, which a synchronous pool allows, so no row is lost and ``final_obs`` is exact. A pool has its
    seeds from when it is made; a new seed makes a new pool.

    :param task_id: EnvPool's id, such as ``HalfCheetah-v5`` or ``Pong-v5``
    :param n_envs: N, number of environments; EnvPool is at its best with several per thread
    :param seed: seed of the first environment, the others count up; None for a different run each time
    :param device: where the tensors live
    :param rescale_actions: whether the policy acts in [-1, 1], stretched to the bounds
    :param make: what makes pools, for another build of EnvPool; None for ``envpool.make``
    :param kwargs: more for ``envpool.make``: ``num_threads``, ``max_episode_steps``, options of the task
    :raises ImportError: when EnvPool is not installed
    :raises InvalidArgument: for an asynchronous pool, or spaces that do not fit
    """

    def __init__(
        self,
        task_id: str,
        n_envs: int = 1,
        seed: int | None = None,
        device: th.device | str = "cpu",
        rescale_actions: bool = False,
        make: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("batch_size", n_envs) != n_envs:
            raise InvalidArgument(
                f"batch_size={kwargs['batch_size']} makes an asynchronous pool, which answers for some of its {n_envs} "
                "environments only; leave it away"
            )
        self._make, self._task_id, self._kwargs = make or _envpool_make(), task_id, kwargs
        self._seeds_drawn = np.random.default_rng(seed)
        self.pool = self._new_pool([None] * n_envs)
        #: what the last step gave beside observations, as EnvPool gives it
        self.infos: dict[str, Any] = {}
        super().__init__(n_envs, self.pool.observation_space, self.pool.action_space, device, rescale_actions)
        if seed is not None:
            self.seed(seed)

    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """See :meth:`AdapterVecEnv.begin`."""
        if options:
            raise InvalidArgument(
                f"options={dict(options)!r}: EnvPool's environments have none; give them to the adapter"
            )
        if any(seed is not None for seed in seeds):
            self.pool.close()
            self.pool = self._new_pool(seeds)
        obs, self.infos = self.pool.reset()
        return self._in_order(obs, self.infos)

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        obs, rewards, terminated, truncated, self.infos = self.pool.step(actions.cpu().numpy().copy())
        obs, flags = self._in_order(obs, self.infos), self._in_order((rewards, terminated, truncated), self.infos)
        rewards, terminated, truncated = flags
        ended = np.logical_or(terminated, truncated).nonzero()[0]
        final_obs = obs
        if len(ended):
            fresh, infos = self.pool.reset(ended.astype(np.int32))
            obs, ids = copied(final_obs), np.asarray(infos["env_id"])
            for name in obs if isinstance(obs, Mapping) else [None]:
                part, rows = (obs, fresh) if name is None else (obs[name], fresh[name])
                part[ids] = rows
        return Answer(obs, rewards, terminated, truncated, final_obs)

    def close_library(self) -> None:
        """End the threads of the pool."""
        self.pool.close()

    def _new_pool(self, seeds: Sequence[int | None]) -> Any:
        drawn = self._seeds_drawn.integers(_MAX_SEED, size=len(seeds)).tolist()
        numbers = [drawn[i] if seed is None else int(seed) % _MAX_SEED for i, seed in enumerate(seeds)]
        return self._make(self._task_id, env_type="gymnasium", num_envs=len(seeds), seed=numbers, **self._kwargs)

    @staticmethod
    def _in_order(values: Any, infos: Mapping[str, Any]) -> Any:
        """Copies of what a pool gave, which may come in any order and may be overwritten, by number of environment."""
        order = np.argsort(np.asarray(infos["env_id"]), kind="stable")
        if isinstance(values, tuple):
            return tuple(value[order] for value in values)
        return map_observations(lambda value: value[order], values)


def _envpool_make() -> Callable[..., Any]:
    try:
        import envpool
    except ImportError as missing:
        raise ImportError(
            "EnvPoolAdapter needs EnvPool: pip install envpool (Linux, Python 3.11 and newer)"
        ) from missing
    return envpool.make
