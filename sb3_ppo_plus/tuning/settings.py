"""From a draw to the configuration of a run, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters, config_from_mapping
from sb3_ppo_plus.runs.hyperparameters import plain_policy_kwargs
from sb3_ppo_plus.runs.values import apply_setting
from sb3_ppo_plus.schedules import parse_schedule
from sb3_ppo_plus.tuning.space import N_MINIBATCHES, SCHEDULES, Space
from sb3_ppo_plus.validation import check_settings

# Stable-Baselines3's defaults, beside which everything else is PPOPlus's default.
SB3_DEFAULTS: dict[str, Any] = {
    "n_envs": 1,
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "learning_rate": 3e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
# Schulman et al. 2017, tables 3 (MuJoCo) and 5 (Atari).
PAPER_VECTORS: dict[str, Any] = dict(SB3_DEFAULTS)
PAPER_IMAGES: dict[str, Any] = {
    **SB3_DEFAULTS,
    "n_envs": 8,
    "n_steps": 128,
    "batch_size": 256,
    "n_epochs": 3,
    "learning_rate": 2.5e-4,
    "clip_range": 0.1,
    "vf_coef": 1.0,
    "ent_coef": 0.01,
}


def settings_of(space: Space, draws: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """
    Turn a draw into settings that replace those of the base.

    A drawn number of a coefficient takes the place of the number in the base's schedule and keeps its shape, unless
    the shape is searched too. A number of minibatches becomes the largest batch size that divides the rollout.

    :param space: the space
    :param draws: draws by label
    :param base: flat configuration of the study
    :return: settings by name, dotted where they reach into a mapping
    """
    settings: dict[str, Any] = {}
    for parameter in space.parameters:
        if parameter.label in draws:
            settings[parameter.name] = parameter.value(draws[parameter.label])
    shapes = {SCHEDULES[name]: settings.pop(name) for name in SCHEDULES if name in settings}
    for name in ("learning_rate", "clip_range", "ent_coef", "clip_range_vf", "kl_coef", "vf_coef"):
        if name in shapes:
            number = settings.get(name, _start(base.get(name), name))
            settings[name] = number if shapes[name] == "const" or number is None else f"{shapes[name]}_{number!r}"
        elif name in settings:
            settings[name] = _in_shape(base.get(name), settings[name])
    if N_MINIBATCHES in settings:
        rollout = int(settings.get("n_steps", base["n_steps"]) * settings.get("n_envs", base["n_envs"]))
        settings["batch_size"] = batch_size(rollout, settings.pop(N_MINIBATCHES))
    return settings


def batch_size(rollout: int, n_minibatches: int) -> int:
    """
    :param rollout: rows of a rollout, n_steps times n_envs
    :param n_minibatches: how many minibatches are wanted
    :return: the divisor of the rollout nearest to the wanted size on a logarithmic scale, at least 2
    """
    wanted = rollout / n_minibatches
    divisors = [size for size in range(2, rollout + 1) if rollout % size == 0] or [rollout]
    return min(divisors, key=lambda size: abs(math.log(size / wanted)))


def apply_settings(base: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """
    :param base: flat configuration of the study
    :param settings: result of ``settings_of``
    :return: the configuration of a run
    :raises InvalidArgument: when it cannot work
    """
    values = dict(base)
    if isinstance(values.get("policy_kwargs"), str):
        values["policy_kwargs"] = plain_policy_kwargs(values["policy_kwargs"])
    for name, value in settings.items():
        values = apply_setting(values, tuple(name.split(".")), value)
    controllers = values.get("controllers")
    if isinstance(controllers, Mapping):
        # A choice of null means none; an empty mapping is the same as leaving the argument out.
        values["controllers"] = {name: entry for name, entry in controllers.items() if entry is not None} or None
    return config_from_mapping(values)


def draws_of(space: Space, origin: Mapping[str, Any]) -> dict[str, Any]:
    """
    Find the draw that comes nearest to a known configuration.

    :param space: the space
    :param origin: flat configuration
    :return: draws by label; parameters for which there is no draw are left out
    """
    draws: dict[str, Any] = {}
    for parameter in space.parameters:
        if not parameter.is_drawn(draws, space):
            continue
        value = _known(parameter.name, origin)
        drawn = None if value is None and parameter.kind != "choice" else parameter.drawn(value)
        if drawn is not None:
            draws[parameter.label] = drawn
    return draws


def check_space(space: Space, base: Mapping[str, Any]) -> None:
    """
    Check every end of every range with PPOPlus's own checks, before anything is run.

    :param space: the space
    :param base: flat configuration of the study
    :raises InvalidArgument: naming the parameter, the value, and what is wrong with it
    """
    for parameter, draws in space.corners():
        try:
            config = apply_settings(base, settings_of(space, draws, base))
            check_settings({**complete_hyperparameters(config.hyperparameters), **_UNWRITTEN, **config.hyperparameters})
        except (InvalidArgument, TypeError) as refused:
            value = parameter.value(draws[parameter.label])
            raise InvalidArgument(
                f"space {space.name}: {parameter.name} = {value!r} cannot work: {refused}"
            ) from refused


# Arguments whose defaults YAML cannot hold.
_UNWRITTEN: dict[str, Any] = {"controllers": None, "reference_policy": None}


def _known(name: str, origin: Mapping[str, Any]) -> Any:
    """The value that a configuration has for a parameter of a space."""
    if name == N_MINIBATCHES:
        return origin["n_steps"] * origin["n_envs"] / origin["batch_size"] if "batch_size" in origin else None
    if name in SCHEDULES:
        return _shape(origin.get(SCHEDULES[name]))
    value: Any = origin
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return _start(value, name)


def _start(value: Any, name: str) -> Any:
    """The number a schedule starts from; what is no schedule stays as it is."""
    is_schedule = isinstance(value, Mapping) and "type" in value and "start" in value
    if is_schedule or (isinstance(value, str) and "_" in value):
        schedule = parse_schedule(value, name)
        return schedule(1.0) if callable(schedule) else schedule
    return value


def _shape(value: Any) -> str | None:
    if isinstance(value, str) and "_" in value:
        return value.partition("_")[0]
    return "const" if isinstance(value, int | float) else None


def _in_shape(known: Any, number: Any) -> Any:
    """A number in the shape of a schedule."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return number
    if isinstance(known, str) and "_" in known:
        return f"{known.partition('_')[0]}_{number!r}"
    if isinstance(known, Mapping) and isinstance(known.get("start"), int | float) and known["start"]:
        ends = {"end": known["end"] * number / known["start"]} if isinstance(known.get("end"), int | float) else {}
        return {**known, "start": number, **ends}
    return number
