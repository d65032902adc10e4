"""Search spaces: which hyperparameters are searched and between which bounds, read from YAML and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_path
from sb3_ppo_plus.runs.config import known_keys
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import read_yaml

BUILT_IN = ("core", "standard", "plus")
# Searched in place of batch_size, so that minibatches always divide the rollout.
N_MINIBATCHES = "n_minibatches"
# Shapes of a coefficient over the run, searched beside its number.
SCHEDULES = {f"{name}_schedule": name for name in ("learning_rate", "clip_range", "ent_coef")}
SHAPES = ("const", "lin", "cos", "exp")
# What makes a trial comparable with the others, or belongs to the machine.
_FIXED = ("env", "seed", "n_timesteps", "eval_freq", "eval_episodes", "device", "threads", "vec_env", "policy")
_TYPES = ("float", "int", "choice")
_KEYS = ("type", "low", "high", "log", "step", "complement", "power_of_two", "choices", "when")


@dataclass(frozen=True)
class Parameter:
    """
    One searched hyperparameter.

    :param name: setting that it fills; a dotted name reaches into a mapping (``policy_kwargs.log_std_init``)
    :param kind: ``float``, ``int`` or ``choice``
    :param low: smallest value
    :param high: largest value
    :param log: draw the logarithm uniformly
    :param step: distance between values, None for any
    :param complement: draw 1 - value instead, which is how gamma and lambda spread evenly
    :param power_of_two: draw the exponent, so that only powers of two appear
    :param choices: label to value
    :param when: other parameter to the labels or values with which this one is drawn at all
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    complement: bool = False
    power_of_two: bool = False
    choices: Mapping[str, Any] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in the storage, which says what was drawn."""
        return f"one_minus_{self.name}" if self.complement else f"log2_{self.name}" if self.power_of_two else self.name

    def distribution(self) -> BaseDistribution:
        """
        :return: what Optuna draws from
        """
        if self.kind == "choice":
            return CategoricalDistribution(list(self.choices))
        if self.power_of_two:
            return IntDistribution(round(math.log2(self.low)), round(math.log2(self.high)))
        low, high = (1 - self.high, 1 - self.low) if self.complement else (self.low, self.high)
        if self.kind == "int":
            return IntDistribution(int(low), int(high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(low, high, log=self.log, step=self.step)

    def value(self, drawn: Any) -> Any:
        """
        :param drawn: what Optuna drew
        :return: value of the setting
        """
        if self.kind == "choice":
            return self.choices[drawn]
        if self.power_of_two:
            return 2 ** int(drawn)
        if self.kind == "int":
            return int(drawn)
        # Four digits are more than any seed noise can tell apart, and people read them.
        drawn = float(f"{drawn:.4g}")
        return round(1 - drawn, 10) if self.complement else drawn

    def drawn(self, value: Any) -> Any:
        """
        :param value: value of the setting
        :return: what Optuna would have drawn for it, moved into the range; None when there is no such draw
        """
        if self.kind == "choice":
            return next((label for label, choice in self.choices.items() if choice == value), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        value = min(max(value, self.low), self.high)
        if self.power_of_two:
            return round(math.log2(value))
        if self.step is not None and not self.log:
            value = self.low + round((value - self.low) / self.step) * self.step
        value = 1 - value if self.complement else value
        return round(value) if self.kind == "int" else float(value)

    def extremes(self) -> list[Any]:
        """
        :return: draws at which it is checked: both ends, or every choice
        """
        found = self.distribution()
        if isinstance(found, CategoricalDistribution):
            return list(found.choices)
        assert isinstance(found, FloatDistribution | IntDistribution)
        return [found.low, found.high]

    def is_drawn(self, draws: Mapping[str, Any], space: Space) -> bool:
        """
        :param draws: draws so far, by label
        :param space: the space it belongs to
        :return: whether its condition holds
        """
        others = {parameter.name: parameter for parameter in space.parameters}
        return all(
            others[name].label in draws and draws[others[name].label] in wanted for name, wanted in self.when.items()
        )


@dataclass(frozen=True)
class Space:
    """
    A search space.

    :param name: ``core``, ``standard``, ``plus``, or the file it came from
    :param parameters: what is searched; a condition only names parameters that come before it
    :param source: the mapping it was read from, for the record
    """

    name: str
    parameters: tuple[Parameter, ...]
    source: Mapping[str, Any]

    def middle(self, forced: Mapping[str, Any]) -> dict[str, Any]:
        """
        :param forced: draws that are given, by label
        :return: a whole draw around them, the rest at its lower end
        """
        draws: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_drawn({**forced, **draws}, self):
                draws[parameter.label] = forced.get(parameter.label, parameter.extremes()[0])
        return draws

    def corners(self) -> list[tuple[Parameter, dict[str, Any]]]:
        """
        :return: whole draws in which each parameter in turn is at each of its ends, its conditions fulfilled
        """
        by_name = {parameter.name: parameter for parameter in self.parameters}
        corners = []
        for parameter in self.parameters:
            for end in parameter.extremes():
                forced = {by_name[name].label: wanted[0] for name, wanted in parameter.when.items()}
                corners.append((parameter, self.middle({**forced, parameter.label: end})))
        return corners


def load_space(name: str | Path) -> Space:
    """
    Read a search space.

    :param name: one of the built-in ones, or a YAML file
    :return: the checked space
    :raises InvalidArgument: when there is no such space, or something in it cannot work
    """
    path = Path(name)
    if str(name) in BUILT_IN:
        path = resource_path("tuning", f"spaces/{name}.yml")
    elif not path.is_file():
        hint = did_you_mean(str(name), BUILT_IN) or f"choose {', '.join(BUILT_IN)}, or give a YAML file"
        raise InvalidArgument(f"there is no search space {str(name)!r}; {hint}")
    return space_from_mapping(str(name), read_yaml(path))


def space_from_mapping(name: str, content: Mapping[str, Any]) -> Space:
    """
    Check a mapping of names to ranges and make a space of it.

    :param name: what the space is called, for the messages
    :param content: name of a setting to its range
    :return: the space
    :raises InvalidArgument: for an unknown parameter, an unknown key, or a range that cannot work
    """
    if not content:
        raise InvalidArgument(f"space {name}: it searches nothing; name at least one parameter")
    parameters: list[Parameter] = []
    for key, entry in content.items():
        where = f"space {name}: {key}"
        _check_name(where, key)
        if not isinstance(entry, Mapping):
            raise InvalidArgument(f"{where} is {entry!r}; give a mapping such as {{type: float, low: 0.1, high: 0.4}}")
        for word in entry:
            if word not in _KEYS:
                raise InvalidArgument(f"{where}: unknown key {word!r}; {did_you_mean(word, _KEYS) or ', '.join(_KEYS)}")
        parameters.append(_parameter(where, key, entry, parameters))
    if "batch_size" in content and N_MINIBATCHES in content:
        raise InvalidArgument(f"space {name}: batch_size and {N_MINIBATCHES} say the same; leave one out")
    return Space(name, tuple(parameters), dict(content))


def _check_name(where: str, name: str) -> None:
    first = name.partition(".")[0]
    known = [key for key in known_keys() if key not in _FIXED]
    if first in _FIXED:
        raise InvalidArgument(f"{where} is the same for all trials of a study; it cannot be searched")
    if first not in known and name not in (N_MINIBATCHES, *SCHEDULES):
        hint = did_you_mean(name, [*known, N_MINIBATCHES, *SCHEDULES]) or "see docs/tuning.md"
        raise InvalidArgument(f"{where}: unknown parameter; {hint}")


def _parameter(where: str, name: str, entry: Mapping[str, Any], earlier: list[Parameter]) -> Parameter:
    kind = entry.get("type", "choice" if "choices" in entry else None)
    if kind not in _TYPES:
        raise InvalidArgument(f"{where}: type is {kind!r}; give {', '.join(_TYPES)}")
    when = _conditions(where, entry.get("when"), earlier)
    if kind == "choice":
        choices = _choices(where, entry.get("choices"))
        for shape in choices.values() if name in SCHEDULES else ():
            if shape not in SHAPES:
                raise InvalidArgument(f"{where}: unknown shape {shape!r}; choose of {', '.join(SHAPES)}")
        return Parameter(name, kind, choices=choices, when=when)
    if name in SCHEDULES:
        raise InvalidArgument(f"{where}: a shape is chosen, not drawn; write choices: [const, lin]")
    low, high = (_number(where, bound, entry.get(bound), kind) for bound in ("low", "high"))
    flags = {word: _flag(where, word, entry.get(word, False)) for word in ("log", "complement", "power_of_two")}
    step = None if entry.get("step") is None else _number(where, "step", entry["step"], kind)
    _check_range(where, kind, low, high, step, flags)
    return Parameter(name, kind, low, high, flags["log"], step, flags["complement"], flags["power_of_two"], when=when)


def _check_range(where: str, kind: str, low: float, high: float, step: float | None, flags: Mapping[str, bool]) -> None:
    if low >= high:
        raise InvalidArgument(f"{where}: low is {low!r} and high is {high!r}; low must be below high")
    if step is not None and (step <= 0 or step > high - low):
        raise InvalidArgument(f"{where}: step is {step!r}; it must be positive and fit between {low!r} and {high!r}")
    if step is not None and (flags["log"] or flags["complement"]):
        raise InvalidArgument(f"{where}: step goes with neither log nor complement; leave one out")
    if flags["complement"] and (kind == "int" or high >= 1 or low < 0):
        raise InvalidArgument(f"{where}: complement is for fractions; give 0 <= low and high < 1, not {low} to {high}")
    if flags["log"] and not flags["complement"] and low <= 0:
        raise InvalidArgument(f"{where}: a logarithmic scale needs low > 0, got {low!r}")
    if flags["power_of_two"]:
        if kind != "int" or low < 1 or any(math.log2(end) % 1 for end in (low, high)):
            raise InvalidArgument(f"{where}: power_of_two needs type int and ends such as 64 and 2048")
        if flags["log"] or flags["complement"] or step is not None:
            raise InvalidArgument(f"{where}: power_of_two goes with neither log nor step nor complement")


def _number(where: str, word: str, value: Any, kind: str) -> float:
    whole = kind == "int"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgument(f"{where}: {word} is {value!r}; give a number")
    if whole and value != int(value):
        raise InvalidArgument(f"{where}: {word} is {value!r}; type int needs a whole number")
    return int(value) if whole else float(value)


def _flag(where: str, word: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{where}: {word} is {value!r}; give true or false")
    return value


def _choices(where: str, choices: Any) -> dict[str, Any]:
    """Label to value; of a list each entry is its own label."""
    if isinstance(choices, list):
        choices = {value if isinstance(value, str) else json.dumps(value): value for value in choices}
    if not isinstance(choices, Mapping) or len(choices) < 2:
        raise InvalidArgument(f"{where}: choices is {choices!r}; give a list of at least two, or a mapping of labels")
    return {str(label): value for label, value in choices.items()}


def _conditions(where: str, when: Any, earlier: list[Parameter]) -> dict[str, tuple[Any, ...]]:
    if when is None:
        return {}
    if not isinstance(when, Mapping):
        raise InvalidArgument(f"{where}: when is {when!r}; give a mapping such as {{vf_loss: max}}")
    by_name = {parameter.name: parameter for parameter in earlier if parameter.kind == "choice"}
    conditions: dict[str, tuple[Any, ...]] = {}
    for name, wanted in when.items():
        if name not in by_name:
            raise InvalidArgument(f"{where}: when names {name!r}, which is no choice that comes before it")
        values = wanted if isinstance(wanted, list) else [wanted]
        labels = tuple(value if isinstance(value, str) else json.dumps(value) for value in values)
        for label in labels:
            if label not in by_name[name].choices:
                there = ", ".join(by_name[name].choices)
                raise InvalidArgument(f"{where}: when says {name}: {label}, but its choices are {there}")
        conditions[name] = labels
    return conditions
