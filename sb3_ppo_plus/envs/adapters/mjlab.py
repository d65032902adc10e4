"""mjlab's ``ManagerBasedRlEnv``: written to its interface, not tested on the real one."""

from __future__ import annotations

import logging
from typing import Any

import torch as th

from sb3_ppo_plus.envs.adapters.base import Answer, copied, where_done
from sb3_ppo_plus.envs.adapters.manager_based import ManagerBasedAdapter

logger = logging.getLogger(__name__)


class MjlabAdapter(ManagerBasedAdapter):
    """
    An environment of mjlab on the tensor face. **Untested on the real one**: the tests use a fake of its interface.

    Make it with ``cfg.auto_reset = False``: then this adapter resets the environments that ended by their numbers, and
    ``final_obs`` is exact. It costs one more forward pass of the simulator in steps where anything ended, and mjlab
    takes the observations of all environments again at that reset: histories that a configuration keeps in observations
    get one frame twice, so use ``auto_reset = True`` with those. With ``auto_reset = True`` mjlab gives no final
    observation, and that of the step before takes its place, see
    :class:`~sb3_ppo_plus.envs.adapters.isaac_lab.IsaacLabAdapter`.

    Random numbers are shared by all environments, and seeded with the seed of the first.

    The arguments are those of :class:`~sb3_ppo_plus.envs.adapters.manager_based.ManagerBasedAdapter`.
    """

    _last: Any = None

    def __init__(self, env: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(env, *args, **kwargs)
        self.final_obs_is_exact = not getattr(self.inner_env.cfg, "auto_reset", True)
        if not self.final_obs_is_exact:
            logger.warning(
                "mjlab with auto_reset = True gives no final observations: time limits are bootstrapped with the "
                "observation one step before; set cfg.auto_reset = False"
            )

    def reset_tensors(self) -> Any:
        """
        :return: first observations [N, O], or a mapping
        """
        obs = super().reset_tensors()
        self._last = None if self.final_obs_is_exact else copied(obs)
        return obs

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        before = self._last
        observations, rewards, terminated, truncated, extras = self.env.step(actions)
        self.note_extras(extras)
        obs = final_obs = self.tensors(self.chosen(observations))
        done = self.tensor(terminated, th.bool) | self.tensor(truncated, th.bool)
        if not self.final_obs_is_exact:
            final_obs = where_done(done, before, obs)
            self._last = copied(obs)
        elif ids := done.nonzero()[:, 0].tolist():
            # Its buffers are written anew by the reset.
            rewards, terminated, truncated = (value.clone() for value in (rewards, terminated, truncated))
            final_obs = copied(obs)
            observations, extras = self.env.reset(env_ids=th.tensor(ids, device=self.device))
            self.note_extras(extras)
            obs = where_done(done, self.tensors(self.chosen(observations)), final_obs)
        return Answer(obs, rewards, terminated, truncated, final_obs)
