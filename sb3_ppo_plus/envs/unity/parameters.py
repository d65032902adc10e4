"""
Environment parameters, in the form of ML-Agents' own YAML: numbers, samplers that the game draws from, and curricula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_ppo_plus.errors import InvalidArgument

# Name of a sampler: the channel's method, and its parameters in order.
_SAMPLERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "uniform": ("set_uniform_sampler_parameters", ("min_value", "max_value")),
    "gaussian": ("set_gaussian_sampler_parameters", ("mean", "st_dev")),
    "multirangeuniform": ("set_multirangeuniform_sampler_parameters", ("intervals",)),
}
_CRITERIA = ("measure", "behavior", "threshold", "min_lesson_length", "signal_smoothing", "require_reset")
# Share of the old measure in the new one, as in ML-Agents.
_SMOOTHING = 0.25


class Sampler(NamedTuple):
    """
    How the game draws a parameter at each of its resets.

    :param kind: ``uniform``, ``gaussian`` or ``multirangeuniform``
    :param parameters: its parameters in the order of the channel
    """

    kind: str
    parameters: tuple[Any, ...]

    def announce(self, channel: Any, key: str, seed: int) -> None:
        """
        :param channel: ``EnvironmentParametersChannel``
        :param key: name of the parameter
        :param seed: of the game's draws
        """
        method, _ = _SAMPLERS[self.kind]
        getattr(channel, method)(key, *self.parameters, seed)


class Lesson(NamedTuple):
    """
    A lesson of a curriculum; the last one has no end.

    :param name: for the log
    :param value: of the parameter
    :param measure: ``reward`` (mean return of recent episodes) or ``progress`` (share of the training), None for ever
    :param threshold: beyond which the next lesson begins
    :param min_lesson_length: episodes that a lesson lasts at least
    :param signal_smoothing: whether the measure is averaged with its past
    :param require_reset: whether the game is reset when the next lesson begins
    """

    name: str
    value: float | Sampler
    measure: str | None = None
    threshold: float = 0.0
    min_lesson_length: int = 0
    signal_smoothing: bool = False
    require_reset: bool = False


class Curriculum:
    """
    A parameter whose value follows what was learned.

    :param key: name of the parameter
    :param lessons: in order
    """

    def __init__(self, key: str, lessons: Sequence[Lesson]) -> None:
        self.key, self.lessons = key, lessons
        #: number of the current lesson
        self.number = 0
        self._smoothed = 0.0
        self._returns: list[float] = []

    @property
    def lesson(self) -> Lesson:
        """:return: the current lesson"""
        return self.lessons[self.number]

    def note(self, episode_returns: Sequence[float]) -> None:
        """
        :param episode_returns: of episodes that have just ended
        """
        self._returns = [*self._returns, *episode_returns][-max(1, self.lesson.min_lesson_length) :]

    def advance(self, progress: float) -> bool:
        """
        Go on to the next lesson when the current one is done (ML-Agents' rule).

        :param progress: share of the training that is over, in [0, 1]
        :return: whether it was
        """
        lesson = self.lesson
        needed = max(lesson.min_lesson_length, 1 if lesson.measure == "reward" else 0)
        if lesson.measure is None or len(self._returns) < needed:
            return False
        measure = progress
        if lesson.measure == "reward":
            measure = float(np.mean(self._returns))
            if lesson.signal_smoothing:
                measure = self._smoothed = _SMOOTHING * self._smoothed + (1.0 - _SMOOTHING) * measure
        if not measure > lesson.threshold:
            return False
        self.number, self._smoothed, self._returns = self.number + 1, 0.0, []
        return True


def read_parameters(given: Mapping[str, Any] | None) -> dict[str, float | Sampler | Curriculum]:
    """
    Read environment parameters.

    :param given: name to number, to ``{"sampler_type": ..., "sampler_parameters": {...}}``, or to ``{"curriculum":
        [...]}``
    :return: the same, checked
    :raises InvalidArgument: for anything that ML-Agents would not take either
    """
    parameters: dict[str, float | Sampler | Curriculum] = {}
    for key, value in (given or {}).items():
        if not isinstance(key, str) or not key.isascii():
            raise InvalidArgument(f"environment parameter {key!r}: the game takes names of ASCII letters only")
        if isinstance(value, Mapping) and "curriculum" in value:
            parameters[key] = Curriculum(key, _read_lessons(key, value["curriculum"]))
        else:
            parameters[key] = _read_value(key, value)
    return parameters


def _read_value(key: str, value: Any) -> float | Sampler:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and np.isfinite(value):
        return float(value)
    if not isinstance(value, Mapping) or "sampler_type" not in value:
        raise InvalidArgument(
            f"environment parameter {key!r} is {value!r}; give a number, a sampler_type with sampler_parameters, or a "
            "curriculum"
        )
    kind, found = value["sampler_type"], value.get("sampler_parameters", {})
    if kind == "constant":
        return _read_value(key, found.get("value"))
    if kind not in _SAMPLERS:
        raise InvalidArgument(f"environment parameter {key!r}: sampler_type={kind!r}; there are {', '.join(_SAMPLERS)}")
    _, names = _SAMPLERS[kind]
    if set(found) - {"seed"} != set(names):
        raise InvalidArgument(
            f"environment parameter {key!r}: a {kind} sampler takes {', '.join(names)}, not {', '.join(found) or '{}'}"
        )
    intervals = found["intervals"] if kind == "multirangeuniform" else [[found[name] for name in names]]
    for interval in intervals:
        low, high = (_read_number(key, number) for number in interval)
        if (high < low and kind != "gaussian") or (kind == "gaussian" and high < 0.0):
            raise InvalidArgument(
                f"environment parameter {key!r}: {kind} sampler of {list(interval)}, which is no range"
            )
    return Sampler(kind, tuple(found[name] for name in names))


def _read_number(key: str, value: Any) -> float:
    number = _read_value(key, value)
    assert not isinstance(number, Sampler)
    return number


def _read_lessons(key: str, given: Any) -> list[Lesson]:
    if not isinstance(given, Sequence) or not given:
        raise InvalidArgument(f"the curriculum of {key!r} needs a list of lessons, got {given!r}")
    lessons = []
    for number, lesson in enumerate(given):
        last = number == len(given) - 1
        name = str(lesson.get("name", f"Lesson{number}"))
        criteria = lesson.get("completion_criteria")
        if (criteria is None) != last:
            needs = "ends the curriculum and takes no" if last else "needs"
            raise InvalidArgument(f"lesson {name!r} of {key!r} {needs} completion_criteria")
        value = _read_value(key, lesson.get("value"))
        lessons.append(Lesson(name, value) if criteria is None else _read_criteria(key, name, value, criteria))
    return lessons


def _read_criteria(key: str, name: str, value: float | Sampler, criteria: Mapping[str, Any]) -> Lesson:
    where = f"lesson {name!r} of {key!r}"
    unknown = sorted(set(criteria) - set(_CRITERIA))
    if unknown:
        raise InvalidArgument(f"{where}: unknown criterion {unknown[0]!r}; there are {', '.join(_CRITERIA)}")
    measure = criteria.get("measure", "reward")
    if measure not in ("reward", "progress"):
        raise InvalidArgument(f"{where}: measure={measure!r}; there are reward and progress")
    if "threshold" not in criteria:
        raise InvalidArgument(f"{where}: completion_criteria need a threshold")
    return Lesson(
        name,
        value,
        measure,
        _read_number(key, criteria["threshold"]),
        int(criteria.get("min_lesson_length", 0)),
        bool(criteria.get("signal_smoothing", False)),
        bool(criteria.get("require_reset", False)),
    )
