"""One line of a domain randomization: read from plain data, checked, and drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from sb3_ppo_plus.envs.tasks.ops import Array
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import BaseSchedule, check_schedule, parse_schedule, tell_num_timesteps

OPERATIONS = ("scale", "add", "set")
DISTRIBUTIONS = ("uniform", "log_uniform", "normal")
_OPTIONS = ("field", *OPERATIONS, "names", "columns", "shared", "also", "strength", "over")
# Draws of a normal distribution end this many deviations from its mean, so that what it can lead to is known.
TAIL = 4.0


@dataclasses.dataclass(frozen=True)
class Term:
    """
    One line of a randomization: a field, where in it, and what happens to it.

    :param label: its name in reports
    :param field: MjModel field, or ``opt.<name>``
    :param operation: scale, add or set
    :param distribution: uniform, log_uniform or normal
    :param parameters: low and high, or mean and deviation
    :param names: bodies, geoms, joints, ...; None for all of the field
    :param columns: columns of the field, None for all
    :param shared: one draw for all entries of an environment, instead of one for each
    :param also: fields that get the same draw, for example body_inertia beside body_mass
    :param strength: from progress remaining to how much of the draw counts, 0 (the model as it is) to 1
    :param over: environment steps, of all environments together, that the strength takes from start to end
    """

    label: str
    field: str
    operation: str
    distribution: str
    parameters: tuple[float, float]
    names: tuple[str, ...] | None = None
    columns: tuple[int, ...] | None = None
    shared: bool = False
    also: tuple[str, ...] = ()
    strength: Callable[[float], float] = dataclasses.field(default=lambda _progress_remaining: 1.0)
    over: float = 1.0

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """
        :param generator: of one environment
        :param count: entries of the field that are drawn
        :return: draws [count]
        """
        first, second = self.parameters
        size = 1 if self.shared else count
        if self.distribution == "normal":
            drawn = first + second * generator.standard_normal(size).clip(-TAIL, TAIL)
        elif self.distribution == "log_uniform":
            drawn = np.exp(generator.uniform(math.log(first), math.log(second), size))
        else:
            drawn = generator.uniform(first, second, size)
        return np.broadcast_to(drawn, (count,))

    def bounds(self) -> tuple[float, float]:
        """
        :return: the smallest and the largest draw
        """
        first, second = self.parameters
        return (first - TAIL * second, first + TAIL * second) if self.distribution == "normal" else (first, second)

    def strength_at(self, num_steps: int) -> float:
        """
        :param num_steps: environment steps of all environments so far
        :return: how much of a draw counts, 0 to 1
        """
        tell_num_timesteps(self.strength, num_steps)
        return float(self.strength(max(0.0, 1.0 - num_steps / self.over)))

    def apply(self, nominal: Array, drawn: Array, strength: float) -> Array:
        """
        :param nominal: values of the model, in an array or a tensor [count, ...]
        :param drawn: draws [count]
        :param strength: 0 to 1
        :return: values of one environment, or of all in one row after the other [count, ...]
        """
        drawn = drawn.reshape(-1, *[1] * (nominal.ndim - 1))
        if self.operation == "scale":
            return nominal * (1.0 + strength * (drawn - 1.0))
        if self.operation == "add":
            return nominal + strength * drawn
        return nominal + strength * (drawn - nominal)


def parse_term(label: str, spec: Any) -> Term:
    """
    Read one line of a randomization.

    :param label: its key; the field as well, unless the line names one
    :param spec: mapping with one of scale, add, set, and options
    :return: the term
    :raises InvalidArgument: naming what is wrong and what is valid
    """
    where = f"randomization[{label!r}]"
    if not isinstance(spec, Mapping):
        raise InvalidArgument(f"{where} is {spec!r}; give a mapping such as {{'scale': [0.8, 1.2]}}")
    for key in spec:
        if key not in _OPTIONS:
            close = get_close_matches(str(key), _OPTIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(_OPTIONS)}"
            raise InvalidArgument(f"{where}: unknown option {key!r}; {hint}")
    operations = [name for name in OPERATIONS if name in spec]
    if len(operations) != 1:
        raise InvalidArgument(
            f"{where} has {operations or 'no operation'}; give exactly one of {', '.join(OPERATIONS)}"
        )
    distribution, parameters = _distribution(where, spec[operations[0]])
    also = _tuple(where, "also", spec, str) or ()
    if also and operations[0] != "scale":
        raise InvalidArgument(f"{where}: also goes with scale, whose factor means the same for every field")
    if len({str(spec.get("field", label)), *also}) <= len(also):
        raise InvalidArgument(f"{where}: also names {list(also)}; name each field once, and not the term's own")
    strength = parse_schedule(spec.get("strength", 1.0), f"{where} strength")
    check_schedule(strength, f"{where} strength", low=0.0, high=1.0)
    over = spec.get("over", 1.0)
    if isinstance(over, bool) or not isinstance(over, (int, float)) or not over > 0:
        raise InvalidArgument(
            f"{where}: over is {over!r}; give the environment steps that the strength takes, such as 1e6"
        )
    by_steps = isinstance(strength, BaseSchedule) and strength.unit == "steps"
    if callable(strength) and not by_steps and "over" not in spec:
        raise InvalidArgument(f"{where}: a strength that changes needs `over`, the environment steps that it takes")
    return Term(
        label=label,
        field=str(spec.get("field", label)),
        operation=operations[0],
        distribution=distribution,
        parameters=parameters,
        names=_tuple(where, "names", spec, str),
        columns=_tuple(where, "columns", spec, int),
        shared=_flag(where, "shared", spec),
        also=also,
        strength=strength if callable(strength) else _constant(float(strength)),
        over=float(over),
    )


def _flag(where: str, key: str, spec: Mapping[str, Any]) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{where}: {key} is {value!r}; give true or false")
    return value


def _constant(value: float) -> Callable[[float], float]:
    return lambda _progress_remaining: value


def _distribution(where: str, value: Any) -> tuple[str, tuple[float, float]]:
    name = "uniform"
    if isinstance(value, Mapping):
        if len(value) != 1 or next(iter(value)) not in DISTRIBUTIONS:
            raise InvalidArgument(
                f"{where}: {dict(value)!r} is no distribution; give [low, high], or one of "
                "{'uniform': [low, high]}, {'log_uniform': [low, high]}, {'normal': [mean, std]}"
            )
        name, value = next(iter(value.items()))
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise InvalidArgument(f"{where}: {name} is {value!r}; give two finite numbers")
    first, second = float(numbers[0]), float(numbers[1])
    if name == "normal" and second < 0:
        raise InvalidArgument(f"{where}: normal has a standard deviation of {second}; give [mean, std], std at least 0")
    if name != "normal" and first > second:
        raise InvalidArgument(f"{where}: {name} has low {first} above high {second}; swap them")
    if name == "log_uniform" and first <= 0:
        raise InvalidArgument(f"{where}: log_uniform has low {first}; its numbers are positive")
    return name, (first, second)


def _tuple(where: str, key: str, spec: Mapping[str, Any], kind: type) -> tuple[Any, ...] | None:
    value = spec.get(key)
    if value is None:
        return None
    fits = isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, kind) for item in value)
    if not fits or not value:
        raise InvalidArgument(f"{where}: {key} is {value!r}; give a list of {kind.__name__}, or leave it out for all")
    return tuple(value)
