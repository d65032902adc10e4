"""What Isaac Lab and mjlab share: groups of observations, logs in ``extras``, a seed for all environments together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gymnasium import spaces

from sb3_ppo_plus.envs.adapters.base import AdapterVecEnv
from sb3_ppo_plus.errors import InvalidArgument

_USUAL_GROUPS = ("policy", "actor")


class ManagerBasedAdapter(AdapterVecEnv):
    """
    Base of the adapters of both libraries.

    :param env: their environment, or ``gym.make``'s wrappers around it
    :param group: group of observations that the policy gets; a list of groups gives a mapping, for policies that read
        several. None for ``policy`` or ``actor``, whichever there is
    :param action_bound: bound of actions, which these libraries leave without one; None for none
    :param rescale_actions: whether the policy acts in [-1, 1], stretched to ``action_bound``
    :raises InvalidArgument: for a group that does not exist, or spaces that do not fit
    """

    def __init__(
        self,
        env: Any,
        group: str | Sequence[str] | None = None,
        action_bound: float | None = None,
        rescale_actions: bool = False,
    ) -> None:
        self.env = env
        self.inner_env = inner = getattr(env, "unwrapped", env)
        groups = inner.single_observation_space
        self.group = _find_group(type(self).__name__, groups, group)
        space = groups[self.group] if isinstance(self.group, str) else spaces.Dict({n: groups[n] for n in self.group})
        #: what the last step gave beside observations
        self.extras: Mapping[str, Any] = {}
        self._log: Any = None
        self._logged: dict[str, list[Any]] = {}
        super().__init__(
            int(inner.num_envs), space, inner.single_action_space, inner.device, rescale_actions, action_bound
        )

    def begin(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> Any:
        """See :meth:`AdapterVecEnv.begin`; one seed serves all environments, that of the first."""
        if options:
            raise InvalidArgument(
                f"options={dict(options)!r}: these environments have none; give them in the configuration"
            )
        obs, extras = self.env.reset(seed=None if seeds[0] is None else int(seeds[0]))
        self.note_extras(extras)
        return self.chosen(obs)

    def chosen(self, observations: Mapping[str, Any]) -> Any:
        """
        :param observations: all groups
        :return: that of the policy, or a mapping of those asked for
        """
        if isinstance(self.group, str):
            return observations[self.group]
        return {name: observations[name] for name in self.group}

    def note_extras(self, extras: Mapping[str, Any]) -> None:
        """
        Keep what is to be logged. The library replaces its log when episodes end, and gives the same one until then.

        :param extras: as a step or a reset gave them
        """
        self.extras, log = extras, extras.get("log")
        if log is not None and log is not self._log:
            self._log = log
            for name, value in log.items():
                self._logged.setdefault(name, []).append(value)

    def take_log(self) -> dict[str, float]:
        """
        :return: means of the library's own figures since the last call, by its names; read from the device only here
        """
        means = {name: sum(float(value) for value in values) / len(values) for name, values in self._logged.items()}
        self._logged = {}
        return means

    def close_library(self) -> None:
        """Close the simulation."""
        self.env.close()


def _find_group(adapter: str, groups: Any, asked: str | Sequence[str] | None) -> str | list[str]:
    names = list(groups)
    if asked is None:
        found = [name for name in _USUAL_GROUPS if name in names]
        if not found:
            raise InvalidArgument(f"{adapter}: group=None, and there is no policy and no actor in {names}; name one")
        return found[0]
    for name in [asked] if isinstance(asked, str) else asked:
        if name not in names:
            raise InvalidArgument(f"{adapter}: group {name!r} does not exist; there is {', '.join(names)}")
    return asked if isinstance(asked, str) else list(asked)
