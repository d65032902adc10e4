"""Where the wall time goes: named sections, one of which runs at every moment, so that they add up to all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from sb3_ppo_plus.machine import resident_memory

#: what runs while nothing else is named: SB3's own bookkeeping between rollouts and updates
OTHER = "other"

# What the time of a section is told per, where that says something.
_VECTOR_STEP, _GRADIENT_STEP = "vector step", "gradient step"
_UNITS = {
    "policy": _VECTOR_STEP,
    "env": _VECTOR_STEP,
    "callbacks": _VECTOR_STEP,
    "buffer": _VECTOR_STEP,
    "rollout": _VECTOR_STEP,
    "minibatches": _GRADIENT_STEP,
    "gradient": _GRADIENT_STEP,
}


class Profile:
    """
    A clock whose hand always stands on one section.

    Changing the section costs about a sixth of a microsecond, so it is never switched off. Times are counted in whole
    nanoseconds: sums of sections equal the wall time exactly.

    :param detailed: also time environment and policy inside SB3's own rollout loop, by standing in for two of their
        methods while it runs; rollouts of a TensorVecEnv are always told in detail
    """

    def __init__(self, detailed: bool = False) -> None:
        self.detailed = detailed
        self._current = OTHER
        self.restart()

    def restart(self) -> None:
        """Forget all times; the section that runs goes on from zero."""
        self._totals: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._begun = self._since = time.perf_counter_ns()

    def switch(self, section: str) -> str:
        """
        Let another section run from here on.

        :param section: its name
        :return: name of the section that ran until now
        """
        now = time.perf_counter_ns()
        ended = self._current
        self._totals[ended] = self._totals.get(ended, 0) + now - self._since
        self._current, self._since = section, now
        return ended

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """
        Count what runs inside as a section, without what it names itself.

        :param name: its name
        """
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    @contextmanager
    def timing(self, methods: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
        """
        Count the calls of some methods as sections of their own, until the end of the block.

        :param methods: section to (object, name of its method)
        """
        with ExitStack() as undo:
            for section, (owner, name) in methods.items():
                method = getattr(owner, name)
                # someone else's stand-in on the object itself comes back, a method of its class shows again
                if name in vars(owner):
                    undo.callback(setattr, owner, name, method)
                else:
                    undo.callback(delattr, owner, name)
                setattr(owner, name, _TimedMethod(self, section, method, owner, name))
            yield

    def take(self) -> dict[str, float]:
        """
        :return: seconds of each section since the last call, 0 for one that ran before it only; their sum is the wall
            time that passed
        """
        self.switch(self._current)
        since = {section: total - self._taken.get(section, 0) for section, total in self._totals.items()}
        self._taken = dict(self._totals)
        return {section: nanoseconds / 1e9 for section, nanoseconds in since.items()}

    @property
    def totals(self) -> dict[str, float]:
        """
        :return: seconds of each section from the start, or from ``restart()``, to the latest change of section;
            ``take()`` does not shorten them
        """
        return {section: nanoseconds / 1e9 for section, nanoseconds in self._totals.items()}

    @property
    def wall(self) -> float:
        """
        :return: seconds from the start, or from ``restart()``, to the latest change of section: the sum of ``totals``
        """
        return (self._since - self._begun) / 1e9


class _TimedMethod:
    """A method whose calls are a section; if its object is saved or copied meanwhile, the copy has its own method."""

    def __init__(self, profile: Profile, section: str, method: Any, owner: Any, name: str) -> None:
        self._profile, self._section, self._method = profile, section, method
        self._owner, self._name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = self._profile.switch(self._section)
        try:
            return self._method(*args, **kwargs)
        finally:
            self._profile.switch(before)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._owner, self._name)


class Profiled(Protocol):
    """What :func:`log_profile` needs of a model."""

    @property
    def profile(self) -> Profile:
        """Its clock."""

    @property
    def logger(self) -> Any:
        """SB3's logger."""


def log_profile(model: Profiled) -> None:
    """
    Record where the time went since the last call, for every output of the log but the table on the screen.

    :param model: model with a ``profile`` and a logger
    """
    for key, value in profile_values(model.profile.take(), resident_memory()).items():
        model.logger.record(key, value, exclude=("stdout",))


def profile_values(seconds: Mapping[str, float], memory: float | None = None) -> dict[str, float]:
    """
    Name the values as the log has them.

    :param seconds: section to seconds, as ``Profile.take()`` gives them
    :param memory: what the process holds, in MiB; None where that is not known
    :return: ``time/<section>_seconds`` of each section, and ``time/memory_mib`` where it is known
    """
    values = {f"time/{section}_seconds": value for section, value in seconds.items()}
    return values if memory is None else {**values, "time/memory_mib": memory}


@dataclass(frozen=True)
class ProfileReport:
    """
    Time, threads and memory of a whole training.

    :param seconds: section to seconds
    :param wall: wall time of the training in seconds, which the sections add up to
    :param vector_steps: steps of all environments together
    :param gradient_steps: steps of the optimizer
    :param threads: torch's threads
    :param memory: MiB that the process held when training began, holds at its end, and held at most; None for what
        the system does not tell
    """

    seconds: Mapping[str, float]
    wall: float
    vector_steps: int
    gradient_steps: int
    threads: int
    memory: tuple[float | None, float | None, float | None]

    def table(self) -> str:
        """
        Tell it in text. What is shown is rounded so that the numbers of a column add up to its last one.

        :return: lines without a line break at the end
        """
        sections = sorted(self.seconds, key=lambda section: -self.seconds[section])
        times = [self.seconds[section] for section in sections]
        milliseconds = split(times, round(sum(times) * 1e3))
        shares = split(times, round(sum(times) / self.wall * 1000) if self.wall else 0)
        lines = [
            f"{_count(self.vector_steps, _VECTOR_STEP)}, {_count(self.gradient_steps, _GRADIENT_STEP)}, "
            f"torch on {_count(self.threads, 'thread')}",
            f"  {'section':<14}{'seconds':>11}{'share':>10}",
        ]
        for section, ms, share in zip(sections, milliseconds, shares, strict=True):
            row = f"  {section:<14}{ms / 1e3:11.3f}{share / 10:8.1f} %   {self._per_unit(section)}"
            lines.append(row.rstrip())
        total = f"{sum(milliseconds) / 1e3:11.3f}{sum(shares) / 10:8.1f} %"
        lines.append(f"  {'sum':<14}{total}   of {self.wall:.3f} s wall time")
        begin, end, most = ("unknown" if mib is None else f"{mib:,.0f} MiB" for mib in self.memory)
        return "\n".join([*lines, f"memory: {begin} when training began, {end} at its end, {most} at most"])

    def _per_unit(self, section: str) -> str:
        unit = _UNITS.get(section)
        number = self.gradient_steps if unit == _GRADIENT_STEP else self.vector_steps
        if unit is None or not number:
            return ""
        return f"{self.seconds[section] / number * 1e6:10,.1f} us per {unit}"


def split(parts: list[float], whole: int) -> list[int]:
    """
    Round shares of a whole number so that they still add up to it: the largest remainders are rounded up.

    :param parts: sizes of at least 0, in any unit
    :param whole: what the result adds up to
    :return: one whole number a part; all of them 0 when the parts are
    """
    total = sum(parts)
    if not total:
        return [0] * len(parts)
    exact = [part / total * whole for part in parts]
    rounded = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: rounded[index] - exact[index])
    for index in by_remainder[: whole - sum(rounded)]:
        rounded[index] += 1
    return rounded


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
