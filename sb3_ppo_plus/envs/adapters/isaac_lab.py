"""Isaac Lab's ``ManagerBasedRLEnv`` and ``DirectRLEnv``: written to their interface, not tested on the real ones."""

from __future__ import annotations

import logging
from typing import Any

import torch as th

from sb3_ppo_plus.envs.adapters.base import Answer, copied, where_done
from sb3_ppo_plus.envs.adapters.manager_based import ManagerBasedAdapter

logger = logging.getLogger(__name__)


class IsaacLabAdapter(ManagerBasedAdapter):
    """
    An environment of Isaac Lab on the tensor face. **Untested on the real one**: the tests use a fake of its interface.

    Isaac Lab resets within the step. Version 3 gives the observations of before in ``extras["final_obs"]`` when its
    configuration says ``compute_final_obs = True``, and ``final_obs`` is exact. Without them ``final_obs`` of an
    environment that ended is the observation that the last action was based on, one step old, so a time limit is
    bootstrapped with the value of that; ``final_obs_is_exact`` says which, and the log says it once. The observation
    after the reset would be wrong by a whole episode.

    Random numbers are shared by all environments, and seeded with the seed of the first.

    The arguments are those of :class:`~sb3_ppo_plus.envs.adapters.manager_based.ManagerBasedAdapter`.
    """

    #: False once an episode ended without ``extras["final_obs"]``
    final_obs_is_exact = True
    _last: Any = None

    def advance(self, actions: th.Tensor) -> Answer:
        """See :meth:`AdapterVecEnv.advance`."""
        before = self._last
        observations, rewards, terminated, truncated, extras = self.env.step(actions)
        self.note_extras(extras)
        obs = self.tensors(self.chosen(observations))
        # Not looked at: asking whether anything ended would make the host wait.
        done = self.tensor(terminated, th.bool) | self.tensor(truncated, th.bool)
        given = extras.get("final_obs")
        if given is not None:
            final_obs = where_done(done, self.tensors(self.chosen(given)), obs)
        elif self._promises_final_obs():
            final_obs = obs  # nothing ended
        else:
            self._tell()
            final_obs = where_done(done, before, obs)
            self._last = copied(obs)
        return Answer(obs, rewards, terminated, truncated, final_obs)

    def reset_tensors(self) -> Any:
        """
        :return: first observations [N, O], or a mapping
        """
        obs = super().reset_tensors()
        self._last = None if self._promises_final_obs() else copied(obs)
        return obs

    def _promises_final_obs(self) -> bool:
        return bool(getattr(getattr(self.inner_env, "cfg", None), "compute_final_obs", False))

    def _tell(self) -> None:
        if self.final_obs_is_exact:
            self.final_obs_is_exact = False
            logger.warning(
                "Isaac Lab gives no final observations: time limits are bootstrapped with the observation one step "
                "before. Isaac Lab 3 gives them with cfg.compute_final_obs = True"
            )
