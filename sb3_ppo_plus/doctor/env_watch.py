"""What can be told of environments only while they run: copies of each other, and how their episodes end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

# Ends that are looked at before the doctor is sure.
_ENDS = 24
_MOST_ENVS = 256


class EndWatch:
    """Counts how the first episodes end: after how many steps, and whether they were cut off."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.truncated = 0

    @property
    def waiting(self) -> bool:
        """:return: whether more ends are wanted"""
        return len(self.lengths) < _ENDS

    def look(self, dones: Sequence[bool], infos: Sequence[Mapping[str, Any]]) -> None:
        """
        :param dones: which environments' episodes ended in this step [N]
        :param infos: their infos [N]
        """
        for index in np.flatnonzero(np.asarray(dones))[: _ENDS - len(self.lengths)]:
            info = infos[index]
            episode = info.get("episode")
            if episode is not None:
                self.lengths.append(int(episode["l"]))
                self.truncated += bool(info.get("TimeLimit.truncated", False))

    def measures(self) -> dict[str, float]:
        """:return: metrics by name"""
        if not self.lengths:
            return {}
        same = len(set(self.lengths)) == 1
        return {
            "doctor/ends": float(len(self.lengths)),
            "doctor/end_length": float(self.lengths[0]) if same else 0.0,
            "doctor/truncated_share": self.truncated / len(self.lengths),
        }

    def state_dict(self) -> dict[str, Any]:
        """:return: plain data"""
        return {"lengths": list(self.lengths), "truncated": self.truncated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.lengths, self.truncated = [int(length) for length in state["lengths"]], int(state["truncated"])


def duplicate_envs(env: VecEnv, first_obs: Any) -> float:
    """
    Count environments that begin like another one because they have its seed.

    Equal starts alone prove nothing: many tasks always begin alike. Equal seeds alone matter only where the start is
    drawn from them, which equal starts show.

    :param env: environments
    :param first_obs: what they began with [N, O], or a mapping of such arrays
    :return: how many are copies
    """
    if not 2 <= env.num_envs <= _MOST_ENVS:
        return 0.0
    starts = _start_keys(first_obs, env.num_envs)
    if len(set(starts)) == len(starts):
        return 0.0
    try:
        seeds = env.get_attr("np_random_seed")
    except Exception:  # environments that have no generator of Gymnasium's
        return 0.0
    if any(not isinstance(seed, (int, np.integer)) or seed < 0 for seed in seeds):
        return 0.0
    pairs = list(zip(starts, (int(seed) for seed in seeds), strict=True))
    return float(len(pairs) - len(set(pairs)))


def _start_keys(obs: Any, n_envs: int) -> list[bytes]:
    parts = list(obs.values()) if isinstance(obs, Mapping) else [obs]
    arrays = [np.asarray(part) for part in parts]
    return [b"".join(array[index].tobytes() for array in arrays) for index in range(n_envs)]
