"""ManiSkill's ``ManiSkillVectorEnv``: written to its interface, not tested on the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

from sb3_ppo_plus.envs.adapters.base import AdapterVecEnv, Answer, copied, where_done


class ManiSkillAdapter(AdapterVecEnv):
    """
    A ``ManiSkillVectorEnv`` on the tensor face. **Untested on the real one**: the tests use a fake of its interface.

    With ``auto_reset=True``, its default, ManiSkill resets within the step and gives ``infos["final_observation"]`` for
    all environments when any ended; with ``auto_reset=False`` this adapter resets those that ended
    (``options["env_idx"]``). Either way ``final_obs`` is exact. ``ignore_terminations=True`` leaves time limits as the
    only end. Observations have to be one vector (``obs_mode="state"``) or a flat mapping; ManiSkill's
    ``FlattenRGBDObservationWrapper`` makes such.

    :param env: the environments
    :param rescale_actions: whether the policy acts in [-1, 1], stretched to the bounds of the controller
    :raises InvalidArgument: for spaces that do not fit
    """

    def __init__(self, env: Any, rescale_actions: bool = False) -> None:
        self.env = env
        #: what the last step gave beside observations, such as ``success``
        self.infos: Mapping[str, Any] = {}
        spaces = env.single_observation_space, env.single_action_space
        super().__init__(int(env.num_envs), *spaces, env.device, rescale_actions)
        self.spec = getattr(env, "spec", None)

    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """See :meth:`AdapterVecEnv.begin`."""
        known = [int(seed) for seed in seeds if seed is not None]
        numbers = known if len(known) == self.num_envs else None
        obs, self.infos = self.env.reset(seed=numbers, options=None if options is None else dict(options))
        return copied(obs)

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        obs, rewards, terminated, truncated, self.infos = self.env.step(actions)
        obs = final_obs = copied(self.tensors(obs))
        rewards, terminated, truncated = (copied(self.tensor(value)) for value in (rewards, terminated, truncated))
        done = terminated.bool() | truncated.bool()
        if "final_observation" in self.infos:
            final_obs = where_done(done, self.tensors(self.infos["final_observation"]), obs)
        elif not getattr(self.env, "auto_reset", True) and (ids := done.nonzero()[:, 0]).numel():
            fresh, _ = self.env.reset(options={"env_idx": ids})
            obs = where_done(done, self.tensors(fresh), final_obs)
        return Answer(obs, rewards, terminated, truncated, final_obs)

    def close_library(self) -> None:
        """Close the simulation."""
        self.env.close()
