"""Everything that the next step of a training depends on, beside what SB3's zip holds."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_ppo_plus.checkpoint.callback_states import CallbackStates
from sb3_ppo_plus.checkpoint.generators import generator_states
from sb3_ppo_plus.compiled import CompiledUpdate
from sb3_ppo_plus.envs.state import capture_env

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

_COUNTERS = ("num_timesteps", "_n_updates", "num_gradient_steps", "_episode_num", "_total_timesteps")
_PACKAGES = ("sb3_ppo_plus", "stable_baselines3", "torch", "numpy", "gymnasium")


@dataclass(frozen=True)
class TrainingState:
    """
    A training at one moment, as copies.

    :param tree: plain data
    :param inexact: why going on will differ from not stopping, one line per reason; empty when it will not
    """

    tree: dict[str, Any]
    inexact: list[str] = field(default_factory=list)


def capture(model: PPOPlus, callbacks: CallbackStates | None = None) -> TrainingState:
    """
    Take the state of a training.

    :param model: the model, between two updates if going on is to be exact
    :param callbacks: takes the states of its callbacks, None outside of ``learn()``
    :return: the state
    """
    learning = model._learning
    inexact: list[str] = []
    env_tree = None
    if model.env is None:
        inexact.append("the model has no environments")
    else:
        env_state = capture_env(model.env)
        env_tree = env_state.tree
        inexact += env_state.inexact
    generators = generator_states()
    if learning is not None:
        if learning.boundary != model.num_timesteps:
            inexact.append(
                "it was saved in the middle of a rollout or an update, whose steps are left out; save in "
                "on_rollout_start(), or let SaveCheckpoints choose the moment"
            )
        elif learning.generator is not None:
            generators["torch"] = learning.generator
    tree = {
        "counters": {name: int(getattr(model, name)) for name in _COUNTERS},
        "progress_remaining": float(model._current_progress_remaining),
        "episodes": _entries(model.ep_info_buffer),
        "successes": _entries(model.ep_success_buffer),
        "last_obs": _copy(model._last_obs),
        "last_original_obs": _copy(model._last_original_obs),
        "last_episode_starts": _copy(model._last_episode_starts),
        "controllers": {name: controller.state_dict() for name, controller in model._controllers.items()},
        "learning": None
        if learning is None
        else {"first_timestep": learning.first_timestep, "iterations": learning.finished},
        "seconds": (time.time_ns() - model.start_time) / 1e9 if learning is not None else 0.0,
        "log": _pending_log(model) if learning is not None else {},
        "log_folder": model.logger.dir if learning is not None and not model._custom_logger else None,
        "generators": generators,
        "env": env_tree,
        "callbacks": callbacks.take() if callbacks is not None else [],
        "threads": th.get_num_threads(),
        "compiled": isinstance(model._update_passes, CompiledUpdate) and not model._update_passes.failed,
    }
    return TrainingState(tree, inexact)


def put_into(model: PPOPlus, tree: Mapping[str, Any]) -> None:
    """
    Set what belongs to the model itself; environments, generators and callbacks are not touched.

    :param model: model of the same kind
    :param tree: ``TrainingState.tree``
    """
    for name, value in tree["counters"].items():
        if name in _COUNTERS:
            setattr(model, name, value)
    model._current_progress_remaining = tree["progress_remaining"]
    window = model._stats_window_size
    model.ep_info_buffer = None if tree["episodes"] is None else deque(tree["episodes"], maxlen=window)
    model.ep_success_buffer = None if tree["successes"] is None else deque(tree["successes"], maxlen=window)
    model._last_obs = tree["last_obs"]
    model._last_original_obs = tree["last_original_obs"]
    model._last_episode_starts = tree["last_episode_starts"]
    for name, state in tree["controllers"].items():
        if name in model._controllers:
            model._controllers[name].load_state_dict(state)


@cache
def versions() -> dict[str, str]:
    """
    :return: versions of what the bits depend on
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _pending_log(model: PPOPlus) -> dict[str, Any]:
    """What was recorded and waits for the next line of the log, where it is a number or text."""
    log = model.logger
    return {
        name: {
            "value": value.item() if isinstance(value, (np.generic, th.Tensor)) else value,
            "count": log.name_to_count.get(name, 0),
            "excluded": list(log.name_to_excluded.get(name, ())),
        }
        for name, value in log.name_to_value.items()
        if isinstance(value, (int, float, str, np.generic, th.Tensor)) and getattr(value, "size", 1) != 0
    }


def _entries(buffer: Any) -> list[Any] | None:
    """What is noted of an episode is not changed any more."""
    return None if buffer is None else list(buffer)


def _copy(value: Any) -> Any:
    """Observations: arrays, mappings and tuples of them."""
    if isinstance(value, Mapping):
        return {str(name): _copy(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(part) for part in value)
    return np.copy(value) if isinstance(value, np.ndarray) else value
