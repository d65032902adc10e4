"""
The shapes of a number that changes over a run; import them from :mod:`sb3_ppo_plus.schedules`.

An SB3 schedule is a callable of ``progress_remaining`` (1 at the start, 0 at the end) that returns a float. The classes
here are that, and data as well: comparable, picklable, readable, with a plain mapping as their other form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

from sb3_ppo_plus.errors import InvalidArgument

UNITS = ("progress", "steps")
INTERPOLATIONS = ("linear", "step")


def _real(name: str, value: Any) -> float:
    """A plain float, or an error: bools, strings, NaN and infinities are not accepted as numbers."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgument(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _steps(name: str, value: Any) -> int:
    """A whole, non-negative number of environment steps; ``1e6`` is accepted because that is how people write it."""
    number = _real(name, value)
    if number < 0 or number != int(number):
        raise InvalidArgument(f"{name} must be a whole number of environment steps >= 0, got {value!r}")
    return int(value) if isinstance(value, Integral) else int(number)


@dataclass(repr=False)
class BaseSchedule(ABC):
    """
    What all schedules share: the axis on which they are drawn, and a warm-up.

    :param unit: ``"progress"`` (default): positions are fractions of the run, so the curve stretches with
        ``total_timesteps``. ``"steps"``: positions are absolute environment steps, so a resumed or prolonged run
        continues the same curve instead of bending it.
    :param warmup_fraction: fraction of the run, in [0, 1), during which the value goes linearly from ``warmup_start``
        to the curve. 0 (default) is no warm-up; 0.01 to 0.1 is usual; longer is gentler and wastes more of the run.
    :param warmup_steps: the same in environment steps, for ``unit="steps"``
    :param warmup_start: value at step 0 when there is a warm-up, usually 0 (default)
    :raises InvalidArgument: for a value out of its range, or an argument of the other unit
    """

    type_name: ClassVar[str]

    unit: str = field(default="progress", kw_only=True)
    warmup_fraction: float = field(default=0.0, kw_only=True)
    warmup_steps: int = field(default=0, kw_only=True)
    warmup_start: float = field(default=0.0, kw_only=True)
    # State, not configuration: two schedules are equal when they draw the same curve.
    num_timesteps: int | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InvalidArgument(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        foreign = ("_fraction",) if self.unit == "steps" else ("_step", "_steps")
        for item in fields(self):
            if item.name.endswith(foreign) and getattr(self, item.name) != item.default:
                raise InvalidArgument(
                    f"{item.name}={getattr(self, item.name)!r} does not go with unit={self.unit!r}: use the *_step(s) "
                    "arguments with unit='steps' and the *_fraction arguments with unit='progress'"
                )
        self.warmup_start = _real("warmup_start", self.warmup_start)
        self.warmup_steps = _steps("warmup_steps", self.warmup_steps)
        self.warmup_fraction = _real("warmup_fraction", self.warmup_fraction)
        if not 0 <= self.warmup_fraction < 1:
            raise InvalidArgument(f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}")

    def __call__(self, progress_remaining: float) -> float:
        """
        The value now, as SB3 asks for it.

        :param progress_remaining: 1 at the start of the run, 0 at its end; ignored when ``unit="steps"``
        :return: the value
        :raises InvalidArgument: when the unit is steps, the run is under way and nobody told the step count, as happens
            under a plain SB3 model; staying silently at the first value would be worse
        """
        if self.unit == "steps" and self.num_timesteps is None and progress_remaining < 1:
            raise InvalidArgument(
                f"{self!r} counts environment steps but was never told how many: use it with PPOPlus, call "
                "set_num_timesteps() from a callback, or use unit='progress'"
            )
        return self.value_at(progress=progress_remaining, num_timesteps=self.num_timesteps or 0)

    def __getstate__(self) -> dict[str, Any]:
        # a count that was saved would stand still under SB3's PPO, which never tells it; PPOPlus tells it when it loads
        return {**self.__dict__, "num_timesteps": None}

    def value_at(self, *, progress: float | None = None, num_timesteps: int | None = None) -> float:
        """
        The value at a given moment; a pure function that neither reads nor changes the stored step count.

        :param progress: remaining progress, 1 at the start and 0 at the end; needed when ``unit="progress"``
        :param num_timesteps: environment steps done so far; needed when ``unit="steps"``
        :return: the value
        :raises InvalidArgument: when the one that the unit needs is missing
        """
        moment = num_timesteps if self.unit == "steps" else progress
        if moment is None:
            needed = "num_timesteps" if self.unit == "steps" else "progress"
            raise InvalidArgument(f"a schedule with unit={self.unit!r} needs {needed}=..., got None")
        position = float(moment) if self.unit == "steps" else 1 - moment
        if position < self._warmup:
            return self.warmup_start + (self._curve(self._warmup) - self.warmup_start) * position / self._warmup
        return self._curve(position)

    def set_num_timesteps(self, num_timesteps: int) -> None:
        """
        Tell how many environment steps are done; only a schedule with ``unit="steps"`` uses it.

        :param num_timesteps: steps over all environments, SB3's ``model.num_timesteps``
        :raises InvalidArgument: for a negative or fractional count
        """
        self.num_timesteps = _steps("num_timesteps", num_timesteps)

    def key_points(self) -> list[float]:
        """
        Positions where the curve has a corner; between two of them it is monotone, so they bound it.

        :return: fractions of the run that are over, or environment steps, ascending from 0
        """
        return sorted({0.0, self._warmup, *self._corners()})

    def to_config(self) -> dict[str, Any]:
        """
        The plain mapping that :func:`parse_schedule` turns back into an equal schedule; defaults are left out.

        :return: mapping of strings, numbers and lists only, fit for YAML and JSON
        """
        return {"type": self.type_name, **self._given()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._given().items())})"

    @property
    def _warmup(self) -> float:
        return float(self.warmup_steps) if self.unit == "steps" else self.warmup_fraction

    def _given(self) -> dict[str, Any]:
        pairs = {item.name: (getattr(self, item.name), item.default) for item in fields(self) if item.init}
        own_first = sorted(pairs, key=lambda name: name in BaseSchedule.__dataclass_fields__)
        return {name: pairs[name][0] for name in own_first if pairs[name][0] != pairs[name][1]}

    @abstractmethod
    def _curve(self, position: float) -> float:
        """The value at a position, warm-up left aside."""

    def _corners(self) -> list[float]:
        return []


@dataclass(repr=False)
class ConstantSchedule(BaseSchedule):
    """
    The same value all the time (after the warm-up, if there is one).

    :param value: the value
    """

    type_name: ClassVar[str] = "constant"
    value: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.value = _real("value", self.value)

    def _curve(self, position: float) -> float:
        return self.value


@dataclass(repr=False)
class LinearSchedule(BaseSchedule):
    """
    A straight line: ``start + (end - start) * f``, where f goes from 0 to 1 over the window.

    ``LinearSchedule(start, end, end_fraction)`` equals SB3's class of that name, value for value.

    :param start: value up to the beginning of the window
    :param end: value from the end of the window on; 0 is usual for a learning rate
    :param end_fraction: fraction of the run at which the change is complete, in (0, 1]; smaller is earlier
    :param start_fraction: fraction of the run at which the change begins, in [0, end_fraction); it never begins before
        the warm-up is over
    :param start_step: environment step at which the change begins, for ``unit="steps"``
    :param end_step: environment step at which the change is complete; required for ``unit="steps"``
    :raises InvalidArgument: for a number that is not finite or a window that does not end after it begins
    """

    type_name: ClassVar[str] = "linear"
    start: float
    end: float
    end_fraction: float = 1.0
    start_fraction: float = field(default=0.0, kw_only=True)
    start_step: int = field(default=0, kw_only=True)
    end_step: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "end", "end_fraction", "start_fraction"):
            setattr(self, name, _real(name, getattr(self, name)))
        self.start_step = _steps("start_step", self.start_step)
        if self.unit == "steps":
            if self.end_step is None:
                raise InvalidArgument("end_step=None: unit='steps' needs the environment step where `end` is reached")
            self.end_step = _steps("end_step", self.end_step)
        elif not 0 <= self.start_fraction < 1 or not 0 < self.end_fraction <= 1:
            raise InvalidArgument(
                f"start_fraction={self.start_fraction} and end_fraction={self.end_fraction} must be fractions of the "
                "run: 0 <= start_fraction < end_fraction <= 1"
            )
        begin, finish = self._window
        if finish <= begin:
            axis = "environment steps" if self.unit == "steps" else "fractions of the run"
            raise InvalidArgument(
                f"the change must end after it begins and after the warm-up: it begins at {begin:g} and ends at "
                f"{finish:g} ({axis}); move one of them"
            )

    @property
    def _window(self) -> tuple[float, float]:
        if self.end_step is not None:
            return float(max(self.start_step, self.warmup_steps)), float(self.end_step)
        return max(self.start_fraction, self.warmup_fraction), self.end_fraction

    def _curve(self, position: float) -> float:
        begin, finish = self._window
        if position <= begin:
            return self.start
        # Not >=: SB3 evaluates its formula at the end point itself, and rounding makes that differ from `end`.
        return self.end if position > finish else self._between(position - begin, finish - begin)

    def _corners(self) -> list[float]:
        return list(self._window)

    def _between(self, passed: float, length: float) -> float:
        return self.start + passed * (self.end - self.start) / length


@dataclass(repr=False)
class CosineSchedule(LinearSchedule):
    """
    Half a cosine, flat at both ends: ``end + (start - end) * (1 + cos(pi * f)) / 2``.

    Parameters as for :class:`LinearSchedule`. Stays high longer than a line, then falls faster. Source: SGDR,
    Loshchilov & Hutter 2017, one period without restarts.
    """

    type_name: ClassVar[str] = "cosine"

    def _between(self, passed: float, length: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * passed / length)) / 2


@dataclass(repr=False)
class ExponentialSchedule(LinearSchedule):
    """
    Geometric decay, a straight line on a logarithmic axis: ``start * (end / start) ** f``.

    Parameters as for :class:`LinearSchedule`, with ``start`` and ``end`` both > 0; ``start / 100`` is a usual end.
    """

    type_name: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start <= 0 or self.end <= 0:
            raise InvalidArgument(
                f"an exponential schedule needs start > 0 and end > 0, got start={self.start} and end={self.end}; to "
                "reach 0 use a linear, cosine or polynomial one"
            )

    def _between(self, passed: float, length: float) -> float:
        return float(self.start * (self.end / self.start) ** (passed / length))


@dataclass(repr=False)
class PolynomialSchedule(LinearSchedule):
    """
    A power of the remaining part: ``end + (start - end) * (1 - f) ** power``.

    Other parameters as for :class:`LinearSchedule`.

    :param power: > 0, default 2. 1 is the straight line; larger falls early and creeps at the end, smaller (0.5) stays
        high and falls late.
    """

    type_name: ClassVar[str] = "polynomial"
    power: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.power = _real("power", self.power)
        if self.power <= 0:
            raise InvalidArgument(f"power must be > 0 (1 is a straight line, 2 falls early), got {self.power}")

    def _between(self, passed: float, length: float) -> float:
        return float(self.end + (self.start - self.end) * (1 - passed / length) ** self.power)


@dataclass(repr=False)
class PiecewiseSchedule(BaseSchedule):
    """
    Through given points; before the first and after the last point the value is that point's.

    :param points: pairs (where, value), ``where`` strictly increasing: fractions of the run that are over, in [0, 1],
        or environment steps when ``unit="steps"``. They place the curve by themselves, hence no start or end argument.
    :param interpolation: ``"linear"`` (default) joins the points, ``"step"`` keeps each value until the next point
    :raises InvalidArgument: for no points, points that do not increase, or fractions outside [0, 1]
    """

    type_name: ClassVar[str] = "piecewise"
    points: Sequence[Sequence[float]]
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interpolation not in INTERPOLATIONS:
            raise InvalidArgument(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        # Lists, not tuples: the mapping form then survives YAML and JSON unchanged.
        self.points = list(_points(self.points))
        places = [where for where, _ in self.points]
        if any(later <= earlier for earlier, later in pairwise(places)):
            raise InvalidArgument(f"points must be in strictly increasing order of their first number, got {places}")
        if self.unit == "progress" and not all(0 <= where <= 1 for where in places):
            raise InvalidArgument(
                f"points must lie at fractions of the run in [0, 1], got {places}; or use unit='steps'"
            )

    def _curve(self, position: float) -> float:
        where, value = self.points[0]
        for next_where, next_value in self.points[1:]:
            if position < next_where:
                if position <= where or self.interpolation == "step":
                    return value
                return value + (next_value - value) * (position - where) / (next_where - where)
            where, value = next_where, next_value
        return value

    def _corners(self) -> list[float]:
        return [where for where, _ in self.points]


def _points(points: Any) -> Iterator[list[float]]:
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise InvalidArgument(f"points must be a list of (where, value) pairs, got {points!r}")
    for point in points:
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            raise InvalidArgument(f"each of the points must be a pair (where, value), got {point!r}")
        yield [_real("where of a point", point[0]), _real("value of a point", point[1])]
