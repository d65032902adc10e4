"""
Checks of the constructor's arguments: each names the value and the remedy, and all run before anything is
allocated.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.advantages import SCOPES
from sb3_ppo_plus.controllers import KLStop, make_controller
from sb3_ppo_plus.device.options import read_options
from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.losses import VF_LOSSES
from sb3_ppo_plus.nonfinite import NAN_POLICIES
from sb3_ppo_plus.schedules import check_schedule, is_constant, parse_schedule

SUPPORTED_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_settings(settings: Mapping[str, Any]) -> None:
    """
    Check everything that can be checked without an environment.

    :param settings: PPOPlus' arguments, or a loaded model's attributes, by name
    :raises InvalidArgument: at the first value that cannot work
    """
    for check in (
        _check_numbers,
        _check_choices,
        _check_schedules,
        _check_clip_range,
        _check_controllers,
        _check_reference,
        _check_device,
    ):
        check(settings)


def check_environment(settings: Mapping[str, Any], observation_space: Any, action_space: Any, n_envs: int) -> None:
    """
    Check what depends on the environment; warn about a truncated last minibatch in SB3's words.

    :param settings: PPOPlus' arguments by name
    :param observation_space: observation space of the wrapped environment
    :param action_space: its action space
    :param n_envs: N
    :raises InvalidArgument: for a space or a rollout size that cannot work
    """
    if not isinstance(action_space, SUPPORTED_SPACES):
        raise InvalidArgument(
            f"The algorithm only supports {', '.join(space.__name__ for space in SUPPORTED_SPACES)} as action spaces "
            f"but {action_space} was provided; flatten it with a wrapper into a Box or MultiDiscrete space"
        )
    if isinstance(action_space, HybridSpace) and settings["use_sde"]:
        raise InvalidArgument("use_sde=True explores in continuous actions only; leave it out for hybrid actions")
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for part in parts:
        if not isinstance(part, SUPPORTED_SPACES):
            raise InvalidArgument(
                f"observation space {part} is not supported; SB3's policies take Box, Discrete, MultiDiscrete, "
                "MultiBinary and Dict spaces of these: flatten it, e.g. with gymnasium.wrappers.FlattenObservation"
            )
    n_steps, batch_size = settings["n_steps"], settings["batch_size"]
    rollout = n_steps * n_envs
    if settings["normalize_advantage"] and settings["advantage_scope"] != "none" and rollout <= 1:
        raise InvalidArgument(
            f"`n_steps * n_envs` must be greater than 1. Currently n_steps={n_steps} and n_envs={n_envs}; "
            "raise n_steps or pass normalize_advantage=False"
        )
    if settings["advantage_scope"] == "env" and n_steps < 2:
        raise InvalidArgument(
            f"advantage_scope='env' standardizes over the steps of one environment; n_steps={n_steps} is too few"
        )
    if settings["clip_range"] is None and settings["kl_coef"] == 0.0:
        warnings.warn(
            "clip_range=None without kl_coef: nothing keeps the new policy near the old one; "
            "set kl_coef (preset 'paper_penalty' does)",
            stacklevel=3,
        )
    if rollout % batch_size > 0:
        warnings.warn(
            f"You have specified a mini-batch size of {batch_size},"
            f" but because the `RolloutBuffer` is of size `n_steps * n_envs = {rollout}`,"
            f" after every {rollout // batch_size} untruncated mini-batches,"
            f" there will be a truncated mini-batch of size {rollout % batch_size}\n"
            f"We recommend using a `batch_size` that is a factor of `n_steps * n_envs`.\n"
            f"Info: (n_steps={n_steps} and n_envs={n_envs})",
            stacklevel=3,
        )


def _check_numbers(s: Mapping[str, Any]) -> None:
    for name in ("n_steps", "batch_size", "n_epochs"):
        _whole(name, s[name], low=1)
    _whole("critic_epochs", s["critic_epochs"], low=0)
    for name in ("gamma", "gae_lambda"):
        _real(name, s[name], low=0.0, high=1.0)
    for name in ("max_grad_norm", "huber_delta", "vf_error_cap"):
        _real(name, s[name], low=0.0, low_open=True)
    if s["target_kl"] is not None:
        _real("target_kl", s["target_kl"], low=0.0, low_open=True, hint="; None never stops")
    if s["dual_clip"] is not None:
        _real("dual_clip", s["dual_clip"], low=1.0, low_open=True, hint=", typically 3; None switches it off")
    if s["normalize_advantage"] and s["batch_size"] <= 1 and s["advantage_scope"] == "minibatch":
        raise InvalidArgument(
            f"`batch_size` must be greater than 1, got {s['batch_size']}: one advantage cannot be normalized, "
            "see https://github.com/DLR-RM/stable-baselines3/issues/440; raise it or pass normalize_advantage=False"
        )


def _check_choices(s: Mapping[str, Any]) -> None:
    choices = {"vf_loss": VF_LOSSES, "kl_stop": KLStop.MODES, "advantage_scope": SCOPES, "nan_policy": NAN_POLICIES}
    for name, valid in choices.items():
        if s[name] not in valid:
            raise InvalidArgument(f"{name}={s[name]!r} is unknown; choose one of {', '.join(valid)}")
    if s["vf_loss"] == "max" and s["clip_range_vf"] is None:
        raise InvalidArgument("vf_loss='max' compares clipped and unclipped errors; give clip_range_vf, e.g. 0.2")
    if s["kl_stop"] != "minibatch" and s["target_kl"] is None:
        raise InvalidArgument(f"kl_stop={s['kl_stop']!r} needs the KL to stop at; give target_kl, e.g. 0.02")
    if not isinstance(s["compile_update"], bool) and s["compile_update"] != "auto":
        raise InvalidArgument(f"compile_update={s['compile_update']!r} is unknown; choose False, True or 'auto'")
    if not s["normalize_advantage"] and s["advantage_scope"] in ("batch", "env"):
        raise InvalidArgument(
            f"normalize_advantage=False and advantage_scope={s['advantage_scope']!r} contradict each other; drop one"
        )


def _check_schedules(s: Mapping[str, Any]) -> None:
    for name in ("learning_rate", "vf_coef", "kl_coef", "reference_kl_coef"):
        check_schedule(parse_schedule(s[name], name), name, low=0.0)
    check_schedule(parse_schedule(s["ent_coef"], "ent_coef"), "ent_coef")
    if s["critic_learning_rate"] is not None:
        check_schedule(
            parse_schedule(s["critic_learning_rate"], "critic_learning_rate"), "critic_learning_rate", low=0.0
        )
    if s["clip_range_vf"] is not None:
        _check_range("clip_range_vf", s["clip_range_vf"], "pass None to deactivate value clipping")


def _check_clip_range(s: Mapping[str, Any]) -> None:
    clip_range = s["clip_range"]
    if clip_range is None or is_unclipped(clip_range):
        return
    pair = isinstance(clip_range, (tuple, list))
    if pair and len(clip_range) != 2:
        raise InvalidArgument(f"clip_range={clip_range!r} must be one number, a schedule, None or a pair (low, high)")
    low, high = clip_range if pair else (clip_range, clip_range)
    _check_range("clip_range", high, "pass None to deactivate clipping")
    if pair:
        _check_range("clip_range's lower part", low, "pass one number for a symmetric range")
        check_schedule(parse_schedule(low, "clip_range's lower part"), "clip_range's lower part", high=1.0)


def is_unclipped(clip_range: Any) -> bool:
    """
    :param clip_range: a clip range in SB3's form, a number or a schedule
    :return: whether it is the infinite range that stands for None in a saved model
    """
    return (
        not isinstance(clip_range, (tuple, list, str, Mapping))
        and is_constant(clip_range)
        and ((clip_range(1.0) if callable(clip_range) else clip_range) == math.inf)
    )


def _check_range(name: str, value: Any, remedy: str) -> None:
    """A schedule may end at 0, where the last update never arrives; a constant 0 would never let anything move."""
    schedule = parse_schedule(value, name)
    if is_constant(schedule) and not (schedule(1.0) if callable(schedule) else schedule) > 0:
        raise InvalidArgument(f"`{name}` must be positive, got {value!r}; {remedy}")
    check_schedule(schedule, name, low=0.0)


def _check_controllers(s: Mapping[str, Any]) -> None:
    controllers = s["controllers"] or {}
    if not isinstance(controllers, Mapping):
        raise InvalidArgument(
            f"controllers={controllers!r} must map coefficients to controllers, e.g. {{'kl_coef': {{...}}}}"
        )
    for name, config in controllers.items():
        controller = make_controller(name, config)
        start = parse_schedule(s[name], name)
        if not is_constant(start):
            raise InvalidArgument(
                f"controllers[{name!r}] and a {name} schedule were both given; one number can have one mover. "
                f"Pass a constant {name} or drop the controller"
            )
        if name in s.get("controller_state", {}):
            continue  # a loaded model goes on from there, wherever it once started
        value = start(1.0) if callable(start) else start
        if name == "ent_coef" and 0.0 <= value < controller.min_value:
            continue  # SB3's default is 0; the controller begins at its min_value
        if value == 0.0:
            raise InvalidArgument(
                f"controllers[{name!r}] multiplies, and {name}=0 stays 0; give a start such as {name}=1.0"
            )
        if not controller.min_value <= value <= controller.max_value:
            raise InvalidArgument(
                f"{name}={value} lies outside its controller's bounds [{controller.min_value}, "
                f"{controller.max_value}]; move the start, or set min_value and max_value"
            )


def _check_reference(s: Mapping[str, Any]) -> None:
    weighed = s["reference_kl_coef"] != 0.0 or "reference_kl_coef" in (s["controllers"] or {})
    if weighed and s["reference_policy"] is None:
        raise InvalidArgument(f"reference_kl_coef={s['reference_kl_coef']!r} needs a reference_policy to stay near")
    if s["reference_policy"] is not None and not weighed:
        raise InvalidArgument("reference_policy has no weight; give reference_kl_coef, e.g. 0.1, or drop it")


def _check_device(s: Mapping[str, Any]) -> None:
    read_options(s.get("device_options"))


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise InvalidArgument(f"{name}={value!r} must be a whole number of at least {low}")


def _real(name: str, value: Any, low: float, high: float = math.inf, low_open: bool = False, hint: str = "") -> None:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < low or value > high or (low_open and value == low):
        bounds = f"greater than {low}" if low_open else f"between {low} and {high}"
        raise InvalidArgument(f"{name}={value!r} must be {bounds}{hint}")
