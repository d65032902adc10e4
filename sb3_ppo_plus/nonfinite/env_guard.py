"""
What passes between the algorithm and its environments, looked at where it comes from.

The innermost environments are watched, because every wrapper further out may keep statistics. While a training runs
three methods of that object stand behind others of the same name; afterwards they are as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_ppo_plus.buffers import LOST_ROW
from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.errors import NonFinite
from sb3_ppo_plus.nonfinite.find import Found, all_finite, find_in_one, find_in_rows, is_finite, parts
from sb3_ppo_plus.types import ArrayStep, TensorStep

logger = logging.getLogger(__name__)

# Where a number may be none, in the order in which a step meets them.
_PLACES = ("action", "observation", "reward", "final observation")
# In the info of a step whose episode was given up: what was found.
QUARANTINED = "quarantined"
# Episodes of one environment that may be given up in a row: without one in between that came to its end, or that lasted
# for some steps.
_IN_A_ROW, _SOME = 10, 20
# Those that are told; all are counted.
_TOLD = 5
_ADVICE = "correct the environment, or let nan_policy='quarantine' reset it and go on"
_POLICY_ADVICE = "the policy gave it, whose parameters are no longer sound; lower learning_rate, or scale observations"


class EnvGuard:
    """
    Finds NaN and infinity in observations, rewards, final observations and actions.

    :param env: environments with all their wrappers
    :param quarantine: whether an environment that gives one is reset and its episode given up; else it is an error
    :param timestep: gives the timestep of the training, for messages
    :param counts: where episodes that were given up are counted, as ``quarantined``
    """

    def __init__(self, env: VecEnv, quarantine: bool, timestep: Callable[[], int], counts: dict[str, int]) -> None:
        while isinstance(env, VecEnvWrapper):
            env = env.venv
        self.env, self.quarantine, self.timestep, self.counts = env, quarantine, timestep, counts
        self._in_a_row, self._last = [0] * env.num_envs, [0] * env.num_envs
        self._steps = 0
        self._originals: dict[str, Any] = {}
        self._inside = False
        # Sums by place and environment, 0 while all is sound, where nobody is to wait for the device; else None.
        self._noted: th.Tensor | None = None

    def install(self) -> None:
        """Begin to look."""
        if isinstance(self.env, TensorVecEnv):
            replacements: dict[str, Any] = {
                "reset_tensors": self._reset_tensors,
                "step_tensors": self._step_tensors,
                "step_arrays": self._step_arrays,
            }
        else:
            replacements = {"reset": self._reset, "step_async": self._step_async, "step_wait": self._step_wait}
        for name, method in replacements.items():
            self._originals[name] = getattr(self.env, name)
            setattr(self.env, name, method)

    def remove(self) -> None:
        """Leave the environments as they were."""
        for name in self._originals:
            vars(self.env).pop(name, None)

    # ------------------------------------------------ environments that speak NumPy

    def _reset(self) -> Any:
        obs = self._originals["reset"]()
        if all_finite(obs):
            return obs
        for found in find_in_rows(obs):
            self._refuse_or_count("observation", found)
            self._begin_anew(found.env, obs)
        return obs

    def _step_async(self, actions: Any) -> None:
        if isinstance(actions, np.ndarray) and not is_finite(actions):
            raise self._error("action", find_in_rows(actions)[0])
        self._originals["step_async"](actions)

    def _step_wait(self) -> Any:
        obs, rewards, dones, infos = self._originals["step_wait"]()
        self._steps += 1
        finished = np.asarray(dones).nonzero()[0]
        sound = all_finite(obs) and is_finite(np.asarray(rewards))
        if not sound or not all(all_finite(infos[env].get("terminal_observation", ())) for env in finished):
            return self._treat(obs, rewards, dones, infos)
        for env in finished:
            self._in_a_row[env] = 0
        return obs, rewards, dones, infos

    def _treat(self, obs: Any, rewards: Any, dones: Any, infos: Any) -> Any:
        """Give up the episodes in which something was found."""
        broken: dict[int, tuple[str, Found]] = {}
        for env in np.flatnonzero(dones).tolist():
            found = find_in_one(env, infos[env].get("terminal_observation", ()))
            if found is not None:
                broken[env] = "final observation", found
        for place, value in (("reward", rewards), ("observation", obs)):
            for found in find_in_rows(value):
                broken.setdefault(found.env, (place, found))
        rewards, dones, infos = np.array(rewards), np.array(dones), list(infos)
        for env, (place, found) in sorted(broken.items()):
            self._refuse_or_count(place, found)
            if not dones[env] or find_in_one(env, _row(obs, env)) is not None:
                self._begin_anew(env, obs)
            rewards[env], dones[env] = 0.0, True
            # Nothing to bootstrap from, and nothing to learn from.
            infos[env] = {"TimeLimit.truncated": True, LOST_ROW: True, QUARANTINED: _words(place, found)}
        return obs, rewards, dones, infos

    def _begin_anew(self, env: int, obs: Any) -> None:
        """Reset one environment, and put its first observation where the broken one stood."""
        found: Found | None = None
        for _ in range(_IN_A_ROW):
            try:
                first, info = self.env.env_method("reset", indices=[env])[0]
            except Exception as error:
                raise NonFinite(
                    "observation", env, self.timestep(), "", float("nan"), f"and it cannot be reset alone: {error}"
                ) from error
            found = find_in_one(env, first)
            if found is None:
                self.env.reset_infos[env] = info
                _put_row(obs, env, first)
                return
        assert found is not None
        raise self._error("observation", found, "even after ten resets; ")

    # ------------------------------------------------ environments that speak tensors

    def _reset_tensors(self) -> Any:
        obs = self._originals["reset_tensors"]()
        if not all_finite(obs):
            raise self._error("observation", find_in_rows(obs)[0])
        return obs

    def _step_tensors(self, actions: th.Tensor) -> TensorStep:
        return self._look("step_tensors", actions)

    def _step_arrays(self, actions: np.ndarray) -> ArrayStep:
        return self._look("step_arrays", actions)

    def _look(self, name: str, actions: Any) -> Any:
        """One of the two may be made of the other; it is looked at once."""
        if self._inside:
            return self._originals[name](actions)
        if self._noted is not None and name == "step_tensors":
            return self._note(self._noted, actions)
        if not is_finite(actions):
            raise self._error("action", find_in_rows(actions)[0])
        self._inside = True
        try:
            step = self._originals[name](actions)
        finally:
            self._inside = False
        if not (all_finite(step.obs) and is_finite(step.rewards)):
            place, value = ("observation", step.obs) if is_finite(step.rewards) else ("reward", step.rewards)
            raise self._error(place, find_in_rows(value)[0])
        if step.final_obs is not step.obs and not all_finite(step.final_obs):
            raise self._error("final observation", find_in_rows(step.final_obs)[0])
        return step

    # ------------------------------------------------ without waiting for the device

    def defer(self) -> None:
        """From here on ``step_tensors`` only notes on the device what it sees; whoever calls it asks :meth:`noted`."""
        assert isinstance(self.env, TensorVecEnv)
        self._noted = th.zeros(len(_PLACES), self.env.num_envs, device=self.env.device)
        self._sound = th.zeros_like(self._noted)
        self._noted_steps = 0

    def _note(self, noted: th.Tensor, actions: th.Tensor) -> TensorStep:
        step: TensorStep = self._originals["step_tensors"](actions)
        seen = [actions, step.obs, step.rewards]
        if step.final_obs is not step.obs:
            seen.append(step.final_obs)
        for sums, value in zip(noted.unbind(0), seen, strict=False):
            for _, part in parts(value):
                if part.is_floating_point():
                    # x - x is 0 for a number and NaN for what is none, and NaN stays in a sum.
                    sums += (part - part).reshape(len(part), -1).sum(1)
        self._sound += noted == noted
        self._noted_steps += 1
        return step

    def noted(self) -> th.Tensor:
        """
        :return: NaN where anything was noted since :meth:`defer`, else 0, on the device []
        """
        assert self._noted is not None
        return self._noted.sum()

    def refuse_noted(self) -> None:
        """
        Say what was noted first, and forget it all.

        :raises NonFinite: always; the number itself is gone, so it is told as NaN
        """
        assert self._noted is not None
        broken, sound = self._noted.isnan().cpu().numpy(), self._sound.cpu().numpy()
        first = int(sound[broken].min())
        place, env = np.argwhere(broken & (sound == first))[0].tolist()
        since = (self._noted_steps - first - 1) * self.env.num_envs
        self.defer()
        raise self._error(_PLACES[place], Found(env, "", float("nan")), timestep=self.timestep() - since)

    # ------------------------------------------------ what follows

    def _refuse_or_count(self, place: str, found: Found) -> None:
        if not self.quarantine:
            raise self._error(place, found)
        count = self.counts["quarantined"] = self.counts.get("quarantined", 0) + 1
        if self._steps - self._last[found.env] > _SOME:
            self._in_a_row[found.env] = 0
        self._last[found.env] = self._steps
        self._in_a_row[found.env] += 1
        if self._in_a_row[found.env] > _IN_A_ROW:
            raise self._error(
                place, found, f"{_IN_A_ROW} episodes of this environment ended like this shortly one after the other; "
            )
        if count <= _TOLD:
            more = "; further ones are only counted" if count == _TOLD else ""
            logger.warning(
                "environment %d is reset and its episode given up at timestep %s: %s%s",
                found.env,
                f"{self.timestep():,}",
                _words(place, found),
                more,
            )

    def _error(self, place: str, found: Found, why: str = "", timestep: int | None = None) -> NonFinite:
        advice = _ADVICE
        if place == "action":
            advice = _POLICY_ADVICE
        elif self.quarantine:
            alone = "" if why else f"{type(self.env).__name__} cannot reset one environment alone; "
            advice = f"{why or alone}correct the environment"
        step = self.timestep() if timestep is None else timestep
        return NonFinite(place, found.env, step, found.key, found.value, advice)


def _words(place: str, found: Found) -> str:
    return f"{place}{found.key} is {found.value}"


def _row(obs: Any, env: int) -> Any:
    if isinstance(obs, dict):
        return {name: part[env] for name, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(part[env] for part in obs)
    return obs[env]


def _put_row(obs: Any, env: int, first: Any) -> None:
    if isinstance(obs, dict):
        for name, part in obs.items():
            part[env] = first[name]
    elif isinstance(obs, tuple):
        for part, one in zip(obs, first, strict=True):
            part[env] = one
    else:
        obs[env] = first
