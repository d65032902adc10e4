"""What the doctor measures once a rollout, from the rollout buffer alone: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

# Rows that statistics of observations and actions are taken from.
_ROWS = 2048
# Standard deviation below which an observation counts as constant; a normalizer moves it a little.
_STILL, _STILL_NORMALIZED = 0.0, 1e-3
_TINY = 1e-12
# Steps at the start of a rollout that are looked at for movement.
_STRETCH = 64


def measure_rollout(
    buffer: RolloutBuffer, action_space: spaces.Space, normalized: bool = False, all_cut: bool = False
) -> dict[str, float]:
    """
    :param buffer: full rollout buffer, before the update has reordered it
    :param action_space: action space, whose bounds are looked at
    :param normalized: whether observations come from a VecNormalize
    :param all_cut: whether all episodes end by a time limit
    :return: metrics by name
    """
    measured = {
        **_rewards(buffer, all_cut),
        **_advantages(buffer),
        **_actions(buffer, action_space),
        **_ends(buffer),
        "doctor/nonfinite": count_nonfinite(buffer),
    }
    observations = vector_observations(buffer)
    if observations is not None:
        measured |= measure_observations(observations, normalized)
        measured["doctor/obs_frozen"] = float(stands_still(buffer, normalized))
    return measured


def measure_observations(observations: np.ndarray, normalized: bool = False) -> dict[str, float]:
    """
    :param observations: some of them [M, O]
    :param normalized: whether they come from a VecNormalize
    :return: metrics by name
    """
    deviations = observations.std(axis=0, dtype=np.float64)
    moving = deviations > (_STILL_NORMALIZED if normalized else _STILL)
    share = 1.0 - float(moving.mean())
    if not moving.any():
        return {"doctor/obs_constant": share}
    largest = float(deviations.max())
    return {
        "doctor/obs_constant": share,
        "doctor/obs_std_max": largest,
        "doctor/obs_std_spread": largest / float(deviations[moving].min()),
        "doctor/obs_max": float(max(-observations.min(), observations.max())),
    }


def vector_observations(buffer: RolloutBuffer) -> np.ndarray | None:
    """
    :param buffer: full rollout buffer, in the order [T, N]
    :return: observations of some rows side by side [M, O], None for images and choices
    """
    parts = [part.reshape(-1, part.shape[-1]) for part in _vectors(buffer)]
    taken = [part[:: max(1, len(part) // _ROWS)] for part in parts]
    return np.concatenate(taken, axis=1) if taken else None


def stands_still(buffer: RolloutBuffer, normalized: bool = False) -> bool:
    """
    :param buffer: full rollout buffer, in the order [T, N]
    :param normalized: whether observations come from a VecNormalize
    :return: whether no observation differs from the one before it in the same episode
    """
    parts = list(_vectors(buffer))
    going_on = buffer.episode_starts[1:_STRETCH] == 0
    if not parts or not going_on.any():  # episodes of a single step have nothing to move
        return False
    limit = _STILL_NORMALIZED if normalized else _STILL
    return all(float(np.abs(np.diff(part[:_STRETCH], axis=0)[going_on]).max()) <= limit for part in parts)


def _vectors(buffer: RolloutBuffer) -> Iterator[np.ndarray]:
    """The parts of the observations that are vectors, each [T, N, O]."""
    observations: Any = buffer.observations
    space = buffer.observation_space
    inner = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for name, entry in inner.items():
        array = observations[name] if isinstance(observations, dict) else observations
        if isinstance(entry, spaces.Box) and len(entry.shape) <= 1:
            yield array.reshape(*array.shape[:2], -1)


def _rewards(buffer: RolloutBuffer, all_cut: bool) -> dict[str, float]:
    """The last reward of a cut episode holds the value of what is beyond it, so last rewards are left out then."""
    rewards, starts = buffer.rewards, buffer.episode_starts
    inside = rewards[:-1][starts[1:] == 0] if len(rewards) > 1 else rewards.reshape(-1)
    targets = np.abs(buffer.returns.reshape(-1)[:: max(1, buffer.returns.size // (4 * _ROWS))])
    measured = {
        "doctor/return_p99": _quantile(targets, 0.99),
        "doctor/return_max": float(max(buffer.returns.max(), -buffer.returns.min())),
        "doctor/return_std": float(buffer.returns.std(dtype=np.float64)),
    }
    if inside.size:
        counted = inside if all_cut else rewards
        measured["doctor/reward_range"] = float(inside.max() - inside.min())
        measured["doctor/reward_nonzero"] = float(np.count_nonzero(counted)) / counted.size
    return measured


def _advantages(buffer: RolloutBuffer) -> dict[str, float]:
    advantages = buffer.advantages
    mean, deviation = float(advantages.mean()), float(advantages.std())
    if not deviation > _TINY:
        return {}
    largest = max(float(advantages.max()) - mean, mean - float(advantages.min()))
    return {"doctor/advantage_max": largest / deviation, "doctor/advantage_bias": abs(mean) / deviation}


def _actions(buffer: RolloutBuffer, space: spaces.Space) -> dict[str, float]:
    """Share of the numbers that lie outside of the bounds, and are clipped."""
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        return {}
    actions = buffer.actions.reshape(-1, buffer.actions.shape[-1])
    actions = actions[:: max(1, len(actions) // _ROWS)]
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    if actions.shape[1] != low.size:
        return {}
    return {"doctor/saturation": float(((actions < low) | (actions > high)).mean())}


def _ends(buffer: RolloutBuffer) -> dict[str, float]:
    """How many environments end together: 1 when all do in the same step, 1 / N when each does alone."""
    counts = np.count_nonzero(buffer.episode_starts[1:], axis=1) if len(buffer.episode_starts) > 1 else np.zeros(1)
    total = int(counts.sum())
    if buffer.n_envs < 4 or total < buffer.n_envs:
        return {}
    return {"doctor/ends_together": float((counts.astype(np.float64) ** 2).sum()) / (total * buffer.n_envs)}


def count_nonfinite(buffer: RolloutBuffer) -> float:
    """
    :param buffer: rollout buffer
    :return: how many numbers in it are NaN or infinite
    """
    observations: Any = buffer.observations
    arrays = [*(observations.values() if isinstance(observations, dict) else [observations])]
    arrays += [buffer.rewards, buffer.actions, buffer.values, buffer.log_probs]
    # A sum is not finite when a term is not; only then are they counted.
    return float(
        sum(
            int((~np.isfinite(array)).sum())
            for array in arrays
            if array.dtype.kind == "f" and not np.isfinite(array.sum(dtype=np.float64))
        )
    )


def _quantile(values: np.ndarray, share: float) -> float:
    index = min(len(values) - 1, int(share * len(values)))
    return float(np.partition(values, index)[index])
