"""
Numbers that change over a run: the shapes, reading one from plain YAML, and checking one before it is used.

Only the standard library is imported here and below, so that configuration can be checked without loading torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedule_shapes import (
    BaseSchedule,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    PolynomialSchedule,
)

__all__ = [
    "BaseSchedule",
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "LinearSchedule",
    "PiecewiseSchedule",
    "PolynomialSchedule",
    "ScheduleFunction",
    "check_schedule",
    "is_constant",
    "parse_schedule",
    "tell_num_timesteps",
]

ScheduleFunction = Callable[[float], float]

_TYPES: dict[str, type[BaseSchedule]] = {
    shape.type_name: shape
    for shape in (
        ConstantSchedule,
        LinearSchedule,
        CosineSchedule,
        ExponentialSchedule,
        PolynomialSchedule,
        PiecewiseSchedule,
    )
}
_SHARED = {item.name for item in fields(BaseSchedule)}
# RL-Zoo writes "lin_3e-4". A line and a cosine decay to 0; a geometric decay cannot, and ends two decades lower.
_PREFIXES: dict[str, Callable[[float], BaseSchedule]] = {
    "const": ConstantSchedule,
    "lin": lambda start: LinearSchedule(start, 0.0),
    "cos": lambda start: CosineSchedule(start, 0.0),
    "exp": lambda start: ExponentialSchedule(start, start / 100),
}
_FORMS = (
    "a number, a callable of progress_remaining, a string such as '3e-4' or 'lin_3e-4' (const_, lin_, cos_, exp_), or "
    "a mapping such as {'type': 'linear', 'start': 3e-4, 'end': 0}"
)


def parse_schedule(value: Any, name: str) -> float | ScheduleFunction:
    """
    Read a coefficient in any of the forms in which configuration files and people write one.

    :param value: a number; a callable of ``progress_remaining`` (returned as it is); a numeric string, because YAML 1.1
        reads ``3e-4`` as a string; an RL-Zoo string ``lin_3e-4`` (from that number linearly to 0), ``cos_3e-4`` (the
        same along a cosine), ``exp_3e-4`` (geometrically to a hundredth of it) or ``const_3e-4``; or a mapping with
        ``type`` and that class's arguments, as :meth:`~sb3_ppo_plus.schedules.BaseSchedule.to_config` makes it
    :param name: argument that the value is for, named in errors
    :return: a float, or a schedule
    :raises InvalidArgument: for anything else; unknown types and keys are answered with the valid and the nearest ones
    """
    if isinstance(value, Mapping):
        return _from_mapping(value, name)
    if isinstance(value, str):
        return _from_string(value, name)
    if callable(value):
        function: ScheduleFunction = value
        return function
    if _is_real(value) and math.isfinite(value):
        return float(value)
    raise InvalidArgument(f"{name} must be {_FORMS}, got {value!r}")


def check_schedule(
    schedule: Any,
    name: str,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
) -> None:
    """
    Evaluate a schedule at the start, in the middle and at the end of a run, and refuse values that cannot work.

    The shapes of this module are evaluated at all of their corners too, which bounds the whole curve.

    :param schedule: a number or a callable of ``progress_remaining``, also wrapped in SB3's ``FloatSchedule``
    :param name: argument that the schedule is for, named in errors
    :param low: smallest allowed value; None for no limit
    :param high: largest allowed value; None for no limit
    :param low_open: True when ``low`` itself is not allowed either; mind that most decaying schedules end at 0
    :raises InvalidArgument: naming the argument, the moment and the value that is not a finite real number in range
    """
    schedule = _unwrap(schedule)
    for moment, value in _samples(schedule, name):
        if not _is_real(value) or not math.isfinite(value):
            raise InvalidArgument(f"{name} must be a finite real number{moment}, got {value!r}")
        too_low = low is not None and (value <= low if low_open else value < low)
        too_high = high is not None and value > high
        if too_low or too_high:
            raise InvalidArgument(f"{name} must be {_range_text(low, high, low_open)}{moment}, got {value!r}")


def is_constant(schedule: Any) -> bool:
    """
    Whether a coefficient provably never changes.

    :param schedule: a number, a schedule of this package or of SB3, or any callable
    :return: True for a number, for our ``ConstantSchedule`` without warm-up, and for SB3's ``ConstantSchedule``, bare
        or in a ``FloatSchedule``; False for every other callable, since nobody can look into it
    """
    schedule = _unwrap(schedule)
    if isinstance(schedule, ConstantSchedule):
        return not (schedule.warmup_fraction or schedule.warmup_steps)
    # SB3's ConstantSchedule, known by its only attribute because this module does not import SB3.
    return _is_real(schedule) or (list(getattr(schedule, "__dict__", ())) == ["val"] and _is_real(schedule.val))


def tell_num_timesteps(schedule: Any, num_timesteps: int) -> None:
    """
    Tell a coefficient how many environment steps are done, if it is a schedule that wants to know.

    :param schedule: anything that a coefficient may be: a number, a callable, or one in SB3's ``FloatSchedule``;
        numbers and callables without ``set_num_timesteps`` are left alone
    :param num_timesteps: steps over all environments, SB3's ``model.num_timesteps``
    """
    told = getattr(_unwrap(schedule), "set_num_timesteps", None)
    if callable(told):
        told(num_timesteps)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _unwrap(schedule: Any) -> Any:
    """The schedule inside SB3's FloatSchedule, which never nests."""
    return getattr(schedule, "value_schedule", schedule)


def _from_string(text: str, name: str) -> float | ScheduleFunction:
    prefix, underscore, rest = text.strip().partition("_")
    number = _number_from(rest if underscore else prefix)
    if not isinstance(number, float) or not math.isfinite(number) or (underscore and prefix not in _PREFIXES):
        raise InvalidArgument(f"{name} must be {_FORMS}, got {text!r}")
    if not underscore:
        return number
    try:
        return _PREFIXES[prefix](number)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}={text!r}: {error}") from error


def _from_mapping(config: Mapping[Any, Any], name: str) -> BaseSchedule:
    given = {key: _number_from(value) for key, value in config.items()}
    type_name = given.pop("type", None)
    if not isinstance(type_name, str) or type_name not in _TYPES:
        raise InvalidArgument(f"{name}: unknown schedule type {type_name!r}{_nearest(type_name, list(_TYPES))}")
    shape = _TYPES[type_name]
    # The shape's own arguments before those that all shapes share, so that an error lists the likely ones first.
    arguments = sorted((item for item in fields(shape) if item.init), key=lambda item: item.name in _SHARED)
    valid = [item.name for item in arguments]
    for key in given:
        if key not in valid:
            raise InvalidArgument(f"{name}: unknown key {key!r} of a {type_name} schedule{_nearest(key, valid)}")
    missing = [item.name for item in arguments if item.default is MISSING and item.name not in given]
    if missing:
        raise InvalidArgument(f"{name}: a {type_name} schedule needs {' and '.join(missing)}, got {dict(config)!r}")
    try:
        return shape(**given)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}={dict(config)!r}: {error}") from error


def _number_from(value: Any) -> Any:
    """Turn the strings that YAML 1.1 makes of ``3e-4`` into numbers, also inside lists; the rest is validated later."""
    if isinstance(value, list | tuple):
        return [_number_from(item) for item in value]
    if not isinstance(value, str) or "_" in value:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _nearest(word: Any, valid: list[str]) -> str:
    near = get_close_matches(word, valid, n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}? Valid: {', '.join(valid)}" if near else f"; valid: {', '.join(valid)}"


def _samples(schedule: Any, name: str) -> list[tuple[str, Any]]:
    """Pairs of a moment, in words, and the value there."""
    if isinstance(schedule, BaseSchedule) and schedule.unit == "steps":
        return [(f" at step {step:.0f}", schedule.value_at(num_timesteps=int(step))) for step in schedule.key_points()]
    if callable(schedule):
        corners = schedule.key_points() if isinstance(schedule, BaseSchedule) else []
        moments = sorted({1.0, 0.5, 0.0, *(1 - corner for corner in corners)}, reverse=True)
        return [(f" at progress_remaining={moment:g}", schedule(moment)) for moment in moments]
    if _is_real(schedule):
        return [("", schedule)]
    raise InvalidArgument(f"{name} must be a number or a callable of progress_remaining, got {schedule!r}")


def _range_text(low: float | None, high: float | None, low_open: bool) -> str:
    parts = [f"{'>' if low_open else '>='} {low:g}"] if low is not None else []
    return " and ".join(parts + ([f"<= {high:g}"] if high is not None else []))
