"""The settings of a run that the doctor's rules look at, read from a model or from a run's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import parse_schedule


@dataclass(frozen=True)
class Settings:
    """
    What is known about a run; None for what is not.

    :param learning_rate: rate at the start
    :param rate_bounds: smallest and largest rate of its controller
    :param n_steps: steps of each environment in a rollout (T)
    :param n_envs: environments (N)
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over a rollout
    :param gamma: discount
    :param clip_range: at the start; infinity for no clipping
    :param ent_coef: at the start
    :param vf_coef: at the start
    :param max_grad_norm: largest norm of a gradient
    :param target_kl: KL at which an update stops
    :param total_timesteps: steps of the whole training
    :param max_entropy: entropy of a uniform policy in nats, for choices only
    :param continuous: whether actions are numbers
    :param normalizes_obs: whether a VecNormalize stands before the observations
    :param normalizes_reward: whether it scales the rewards
    """

    learning_rate: float | None = None
    rate_bounds: tuple[float, float] | None = None
    n_steps: int | None = None
    n_envs: int | None = None
    batch_size: int | None = None
    n_epochs: int | None = None
    gamma: float | None = None
    clip_range: float | None = None
    ent_coef: float | None = None
    vf_coef: float | None = None
    max_grad_norm: float | None = None
    target_kl: float | None = None
    total_timesteps: int | None = None
    max_entropy: float | None = None
    continuous: bool | None = None
    normalizes_obs: bool | None = None
    normalizes_reward: bool | None = None

    @property
    def rows(self) -> int | None:
        """:return: rows of a rollout, N * T"""
        return None if self.n_steps is None or self.n_envs is None else self.n_steps * self.n_envs

    def to_mapping(self) -> dict[str, Any]:
        """:return: plain data, infinities as text"""
        values = asdict(self)
        return {key: str(value) if value in (math.inf, -math.inf) else value for key, value in values.items()}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Settings:
        """
        :param values: what :meth:`to_mapping` gave
        :return: the settings
        """
        known = {entry.name for entry in fields(cls)}
        read: dict[str, Any] = {
            key: float(value) if value in ("inf", "-inf") else value for key, value in values.items()
        }
        if read.get("rate_bounds") is not None:
            read["rate_bounds"] = tuple(read["rate_bounds"])
        return cls(**{key: value for key, value in read.items() if key in known})


def settings_of_model(model: OnPolicyAlgorithm) -> Settings:
    """
    :param model: a PPO of this package or of SB3, with its environments
    :return: its settings
    """
    normalizer = model.get_vec_normalize_env()
    controller = getattr(model, "_controllers", {}).get("learning_rate")
    return Settings(
        learning_rate=_start(controller if controller is not None else model.learning_rate, "learning_rate"),
        rate_bounds=None if controller is None else (controller.min_value, controller.max_value),
        n_steps=model.n_steps,
        n_envs=model.n_envs,
        batch_size=getattr(model, "batch_size", None),
        n_epochs=getattr(model, "n_epochs", None),
        gamma=model.gamma,
        clip_range=_start(getattr(model, "clip_range", None), "clip_range"),
        ent_coef=_start(model.ent_coef, "ent_coef"),
        vf_coef=_start(model.vf_coef, "vf_coef"),
        max_grad_norm=model.max_grad_norm,
        target_kl=getattr(model, "target_kl", None),
        total_timesteps=int(getattr(model, "_total_timesteps", 0)) or None,
        max_entropy=max_entropy(model.action_space),
        continuous=isinstance(model.action_space, spaces.Box),
        normalizes_obs=normalizer is not None and bool(normalizer.norm_obs),
        normalizes_reward=normalizer is not None and bool(normalizer.norm_reward),
    )


def settings_of_config(values: Mapping[str, Any]) -> Settings:
    """
    Read the settings of a run from its configuration; what it leaves to defaults stays unknown.

    :param values: the keys of a config.yml, or of a block of hyperparameters
    :return: the settings
    """
    normalize = values.get("normalize")
    options = normalize if isinstance(normalize, Mapping) else {}
    normalized = bool(normalize) if isinstance(normalize, (bool, Mapping)) else None
    controllers = values.get("controllers")
    rate = controllers.get("learning_rate") if isinstance(controllers, Mapping) else None
    bounds = None
    if isinstance(rate, Mapping) and "min_value" in rate and "max_value" in rate:
        bounds = (float(rate["min_value"]), float(rate["max_value"]))
    numbers: dict[str, Any] = {name: _start(values[name], name) for name in _NUMBERS if values.get(name) is not None}
    whole: dict[str, Any] = {name: int(values[name]) for name in _WHOLE if values.get(name) is not None}
    total = values.get("n_timesteps")
    return Settings(
        **numbers,
        **whole,
        rate_bounds=bounds,
        total_timesteps=None if total is None else int(float(total)),
        normalizes_obs=None if normalized is None else normalized and bool(options.get("norm_obs", True)),
        normalizes_reward=None if normalized is None else normalized and bool(options.get("norm_reward", True)),
    )


_NUMBERS = ("learning_rate", "gamma", "clip_range", "ent_coef", "vf_coef", "max_grad_norm", "target_kl")
_WHOLE = ("n_steps", "n_envs", "batch_size", "n_epochs")


def max_entropy(space: spaces.Space) -> float | None:
    """
    :param space: action space
    :return: entropy of the uniform policy in nats; None where actions are numbers
    """
    if isinstance(space, spaces.Discrete):
        return math.log(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return float(np.log(space.nvec).sum())
    if isinstance(space, spaces.MultiBinary):
        return float(np.prod(space.shape) * math.log(2))
    return None


def _start(value: Any, name: str) -> float | None:
    """The number that a coefficient begins with, from any of its forms; None where it says nothing."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):  # an asymmetric clip range: the wider side
        return max((_start(part, name) or 0.0 for part in value), default=None)
    try:
        parsed = parse_schedule(value, name)
        return float(parsed(1.0)) if callable(parsed) else float(parsed)
    except (InvalidArgument, TypeError, ValueError):
        return None
