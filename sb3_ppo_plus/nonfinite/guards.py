"""The guards of a model: made as its ``nan_policy`` says, told where the training is, and logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sb3_ppo_plus.coefficients import lower_learning_rate
from sb3_ppo_plus.nonfinite.env_guard import EnvGuard
from sb3_ppo_plus.nonfinite.update_guard import UpdateGuard
from sb3_ppo_plus.resumable import Learning

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus


def guard_envs(model: PPOPlus, learning: Learning) -> None:
    """
    Watch what passes between the algorithm and its environments while a training runs.

    :param model: the model
    :param learning: the training that begins
    """
    if model.nan_policy == "ignore" or model.env is None:
        return
    quarantine = model.nan_policy == "quarantine"
    guard = EnvGuard(model.env, quarantine, lambda: model.num_timesteps, model.nonfinite_counts)
    guard.install()
    learning.env_guard = guard
    learning.at_exit.append(guard.remove)


def update_guard(model: PPOPlus) -> UpdateGuard | None:
    """
    Give the guard of the update that begins, which remembers the policy as it is.

    :param model: the model
    :return: its guard, None when it has none
    """
    if model.nan_policy == "ignore":
        return None
    guard = model._update_guard
    if guard is None or guard.policy is not model.policy or guard.counts is not model.nonfinite_counts:
        guard = UpdateGuard(
            model.policy,
            lambda: model.nan_policy == "quarantine",
            lambda: model.num_timesteps,
            lambda factor: lower_learning_rate(model, factor),
            model.nonfinite_counts,
        )
        model._update_guard = guard
    guard.begin_update()
    return guard


def end_update(model: PPOPlus, guard: UpdateGuard | None) -> None:
    """
    Look at what an update has left, and record what had to be done so far.

    :param model: the model
    :param guard: its guard, None when it has none
    """
    if guard is not None:
        guard.end_update()
        _log(model, "skipped", "train/skipped_steps")
        _log(model, "returns", "train/returns_to_finite")


def log_envs(model: PPOPlus) -> None:
    """
    Record how many episodes were given up so far.

    :param model: the model, whose logger is written to
    """
    _log(model, "quarantined", "rollout/quarantined")


def _log(model: PPOPlus, name: str, key: str) -> None:
    if model.nonfinite_counts.get(name):
        model.logger.record(key, model.nonfinite_counts[name])
