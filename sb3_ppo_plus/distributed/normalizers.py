"""Running statistics of normalizers, made those of all ranks between two rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ppo_plus.normalization import merge_moments

Part = tuple[Any, Any, float]  # mean, variance, count
State = dict[str, Part]


class SharedNormalizers:
    """
    The normalizers of one rank's environments.

    During a rollout each rank's statistics move by what its own environments give. Between two rollouts what every
    rank has seen since the last time is taken out of its statistics and merged into those that all had then.

    :param env: environments with their wrappers; SB3's ``VecNormalize`` and ``TensorVecNormalize`` are found
    """

    def __init__(self, env: VecEnv | None) -> None:
        self._wrappers: list[VecNormalize] = []
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecNormalize):
                self._wrappers.append(env)
            env = env.venv
        self._base: list[State] = []

    def state(self) -> list[State]:
        """:return: the statistics of now, as plain data"""
        return [_read(wrapper) for wrapper in self._wrappers]

    def begin_with(self, state: list[State]) -> None:
        """
        Set what all ranks have in common.

        :param state: what :meth:`state` gave on one of them
        """
        for wrapper, parts in zip(self._wrappers, state, strict=True):
            if _differ(_read(wrapper), parts):
                _write(wrapper, parts)
        self._base = self.state()

    def seen(self) -> list[State]:
        """:return: moments of what came since the ranks last had the same statistics"""
        return [
            {name: _without(now[name], base[name]) for name in base}
            for now, base in zip(self.state(), self._base, strict=True)
        ]

    def merge(self, everyone: list[list[State]]) -> None:
        """
        :param everyone: what :meth:`seen` gave on each rank, in their order
        """
        for index, wrapper in enumerate(self._wrappers):
            merged = {
                name: _with_all(part, [own[index][name] for own in everyone])
                for name, part in self._base[index].items()
            }
            _write(wrapper, merged)
        self._base = self.state()


def _read(wrapper: VecNormalize) -> State:
    found: dict[str, RunningMeanStd] = {"ret": wrapper.ret_rms}
    obs: Any = wrapper.obs_rms if wrapper.norm_obs else {}
    if isinstance(obs, dict):
        found |= {f"obs.{key}": rms for key, rms in obs.items()}
    else:
        found["obs"] = obs
    return {name: (np.array(rms.mean), np.array(rms.var), float(rms.count)) for name, rms in found.items()}


def _write(wrapper: VecNormalize, state: State) -> None:
    wrapper.ret_rms = _rms(state["ret"])
    if not wrapper.norm_obs:
        return
    keys = [name.removeprefix("obs.") for name in state if name.startswith("obs.")]
    obs: Any = {key: _rms(state[f"obs.{key}"]) for key in keys} if keys else _rms(state["obs"])
    wrapper.obs_rms = obs


def _rms(part: Part) -> RunningMeanStd:
    mean, var, count = part
    rms = RunningMeanStd(shape=np.shape(mean))
    rms.mean, rms.var, rms.count = np.array(mean, np.float64), np.array(var, np.float64), float(count)
    return rms


def _differ(one: State, other: State) -> bool:
    return any(not np.array_equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def _without(now: Part, base: Part) -> Part:
    """The moments that were merged into the base since: ``merge_moments`` solved for the second sample."""
    (mean, var, count), (base_mean, base_var, base_count) = now, base
    n = count - base_count
    if n <= 0.0:
        return np.zeros_like(mean), np.zeros_like(var), 0.0
    new_mean = (mean * count - base_mean * base_count) / n
    squares = var * count - base_var * base_count - np.square(new_mean - base_mean) * base_count * n / count
    return new_mean, np.maximum(squares, 0.0) / n, n


def _with_all(base: Part, parts: list[Part]) -> Part:
    for part in parts:
        if part[2] > 0.0:
            base = merge_moments(*base, *part)
    return base
