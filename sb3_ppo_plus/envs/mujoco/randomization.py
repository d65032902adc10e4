"""
Domain randomization as data: which model field, how it is drawn, how strongly at which time.

A plain mapping, so that YAML files and Optuna can hold it::

    {
        "body_mass": {"scale": [0.8, 1.2], "names": ["torso"], "also": ["body_inertia"]},
        "geom_friction": {"scale": {"log_uniform": [0.5, 2.0]}, "columns": [0], "shared": True},
        "opt.gravity": {"add": {"normal": [0.0, 0.2]}, "columns": [2]},
        "kp": {"field": "actuator_gainprm", "scale": [0.9, 1.1], "columns": [0],
               "strength": {"type": "linear", "start": 0.0, "end": 1.0}, "over": 1_000_000},
    }

Tobin et al. 2017, "Domain randomization for transferring deep neural networks from simulation to the real world"; Peng
et al. 2018, "Sim-to-real transfer of robotic control with dynamics randomization".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.draws import Generators
from sb3_ppo_plus.envs.mujoco.library import mujoco
from sb3_ppo_plus.envs.mujoco.physics import Physics
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.schedules import check_schedule, parse_schedule

OPERATIONS = ("scale", "add", "set")
DISTRIBUTIONS = ("uniform", "log_uniform", "normal")
_OPTIONS = ("field", *OPERATIONS, "names", "columns", "shared", "also", "strength", "over")
# Gymnasium's, the engine's and the rewards' idea of a step all hang on it.
_FIXED = {"opt.timestep": "dt is the same for all environments; give the task another frame_skip"}
_NAMED = ("body", "geom", "jnt", "actuator", "site", "tendon", "dof")


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
            drawn = generator.normal(first, second, size)
        elif self.distribution == "log_uniform":
            drawn = np.exp(generator.uniform(math.log(first), math.log(second), size))
        else:
            drawn = generator.uniform(first, second, size)
        return np.broadcast_to(drawn, (count,))

    def apply(self, nominal: np.ndarray, drawn: np.ndarray, strength: float) -> np.ndarray:
        """
        :param nominal: values of the model [count, ...]
        :param drawn: draws [count]
        :param strength: 0 to 1
        :return: values of one environment [count, ...]
        """
        drawn = drawn.reshape(-1, *[1] * (nominal.ndim - 1))
        if self.operation == "scale":
            return nominal * (1.0 + strength * (drawn - 1.0))
        if self.operation == "add":
            return nominal + strength * drawn
        return nominal + strength * (drawn - nominal)


class Randomizer:
    """
    Draws the model of each environment anew when its episode begins.

    :param terms: a mapping as at the top of this file
    :param physics: the simulations
    :param n_envs: N
    :raises InvalidArgument: for unknown fields, names, options or distributions, before anything is simulated
    """

    def __init__(self, terms: Mapping[str, Any], physics: Physics, n_envs: int) -> None:
        self.terms = [parse_term(label, spec) for label, spec in terms.items()]
        self.physics = physics
        self.generators = Generators(n_envs)
        #: environment steps of all environments so far; what ``over`` counts
        self.num_steps = 0
        #: by label: what each environment's draw came to, after strength [N, count]
        self.values: dict[str, np.ndarray] = {}
        self._targets: list[list[_Target]] = []
        for term in self.terms:
            targets = [_Target(term, name, physics) for name in (term.field, *term.also)]
            for other in targets[1:]:
                if _prefix(other.field) != _prefix(term.field):
                    raise InvalidArgument(
                        f"randomization[{term.label!r}]: also has {other.field!r}, which is not of the same objects as "
                        f"{term.field!r}; `also` takes fields named {_prefix(term.field)}_*"
                    )
            self._targets.append(targets)
            count = 1 if term.shared else len(targets[0].rows)
            self.values[term.label] = np.full((n_envs, count), 0.0 if term.operation == "add" else 1.0)

    def begin(self, ids: np.ndarray) -> None:
        """
        Draw for environments whose episode begins; terms that share a field work one after the other.

        :param ids: their numbers, sorted [m]
        """
        for index in ids.tolist():
            for targets in self._targets:
                for target in targets:
                    target.restore(index)
            for term, targets in zip(self.terms, self._targets, strict=True):
                strength = self.strength(term)
                drawn = term.draw(self.generators[index], len(targets[0].rows))
                for target in targets:
                    target.write(index, drawn, strength)
                neutral = {"scale": 1.0, "add": 0.0}.get(term.operation)
                count = self.values[term.label].shape[1]
                effective = drawn if neutral is None else neutral + strength * (drawn - neutral)
                self.values[term.label][index] = effective[:count]
        self.physics.apply_model(ids)

    def strength(self, term: Term) -> float:
        """
        :param term: one line of the randomization
        :return: how much of its draws counts now, 0 to 1
        """
        return float(term.strength(max(0.0, 1.0 - self.num_steps / term.over)))

    def state_dict(self) -> dict[str, Any]:
        """
        :return: clock, generators, draws and the randomized fields
        """
        fields = {name: th.from_numpy(self.physics.expand(name).copy()) for name in self._fields()}
        values = {label: th.from_numpy(value.copy()) for label, value in self.values.items()}
        return {
            "num_steps": self.num_steps,
            "generators": self.generators.state_dict(),
            "values": values,
            "fields": fields,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when other fields were randomized
        """
        if set(state["fields"]) != set(self._fields()) or set(state["values"]) != set(self.values):
            raise InvalidArgument(
                f"the state has randomization of {sorted(state['values'])}, this environment of "
                f"{sorted(self.values)}; make "
                "it with the same randomization"
            )
        self.num_steps = int(state["num_steps"])
        self.generators.load_state_dict(state["generators"])
        for label, value in state["values"].items():
            self.values[label][...] = value.numpy()
        for name, value in state["fields"].items():
            self.physics.expand(name)[...] = value.numpy()
        self.physics.apply_model(np.arange(self.physics.n_envs))

    def _fields(self) -> list[str]:
        return sorted({target.field for targets in self._targets for target in targets})


class _Target:
    """Where a term writes: rows and columns of one field, and what stands there in the model itself."""

    def __init__(self, term: Term, name: str, physics: Physics) -> None:
        if name in _FIXED:
            raise InvalidArgument(f"randomization[{term.label!r}]: {name} cannot differ; {_FIXED[name]}")
        try:
            self.values = physics.expand(name)
        except InvalidArgument as unknown:
            raise InvalidArgument(f"randomization[{term.label!r}]: {unknown}") from unknown
        if self.values.dtype.kind != "f":
            raise InvalidArgument(
                f"randomization[{term.label!r}]: {name} holds whole numbers, which say how a model is built; only "
                "numbers "
                "such as masses, friction and gains can be drawn"
            )
        self.term, self.field = term, name
        # opt.gravity is one vector: its numbers are the rows.
        self._vector = name.startswith("opt.")
        # All environments are equal until the first draw, so the first one is the model.
        self.nominal = self.values[0].copy()
        size = self.nominal.shape[0] if self.nominal.ndim else 1
        rows = term.columns if self._vector and term.columns else None
        self.rows = np.asarray(rows, int) if rows else _rows(term, name, physics.model, size)
        columns = None if self._vector else term.columns
        limit = size if self._vector else math.prod(self.nominal.shape[1:2])
        if term.columns and not all(0 <= column < limit for column in term.columns):
            raise InvalidArgument(
                f"randomization[{term.label!r}]: columns {list(term.columns)} of {name}, which has {limit}, counted "
                "from 0"
            )
        # The fields of `also` are scaled whole: three inertias follow one mass.
        self.columns = columns if columns and name == term.field and self.nominal.ndim > 1 else None

    def restore(self, index: int) -> None:
        self.values[index] = self.nominal

    def write(self, index: int, drawn: np.ndarray, strength: float) -> None:
        # Read from the environment, not from the model: an earlier term may have changed the same entry.
        current = np.atleast_1d(self.values[index])
        place = self.rows if self.columns is None else np.ix_(self.rows, np.asarray(self.columns))
        current[place] = self.term.apply(current[place], drawn, strength)
        self.values[index] = current.reshape(np.shape(self.values[index]))


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
    strength = parse_schedule(spec.get("strength", 1.0), f"{where} strength")
    check_schedule(strength, f"{where} strength", low=0.0, high=1.0)
    over = spec.get("over", 1.0)
    if isinstance(over, bool) or not isinstance(over, (int, float)) or not over > 0:
        raise InvalidArgument(
            f"{where}: over is {over!r}; give the environment steps that the strength takes, such as 1e6"
        )
    if callable(strength) and "strength" in spec and "over" not in spec:
        raise InvalidArgument(f"{where}: a strength that changes needs `over`, the environment steps that it takes")
    return Term(
        label=label,
        field=str(spec.get("field", label)),
        operation=operations[0],
        distribution=distribution,
        parameters=parameters,
        names=_tuple(where, "names", spec, str),
        columns=_tuple(where, "columns", spec, int),
        shared=bool(spec.get("shared", False)),
        also=_tuple(where, "also", spec, str) or (),
        strength=strength if callable(strength) else _constant(float(strength)),
        over=float(over),
    )


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
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(entry, kind) for entry in value):
        raise InvalidArgument(f"{where}: {key} is {value!r}; give a list of {kind.__name__}")
    return tuple(value)


def _rows(term: Term, name: str, model: mujoco.MjModel, size: int) -> np.ndarray:
    """The entries of a field that belong to the named objects."""
    if term.names is None:
        return np.arange(size)
    prefix = _prefix(name)
    if prefix not in _NAMED:
        raise InvalidArgument(
            f"randomization[{term.label!r}]: {name} has no named objects; leave names out (fields that have: "
            f"{', '.join(f'{kind}_*' for kind in _NAMED)})"
        )
    rows: list[int] = []
    for entry in term.names:
        rows += _rows_of(term, prefix, entry, model)
    return np.asarray(rows, int)


def _prefix(name: str) -> str:
    """The kind of object that a field is about: body of body_mass."""
    return name.partition("_")[0]


def _rows_of(term: Term, prefix: str, entry: str, model: mujoco.MjModel) -> list[int]:
    accessor = getattr(model, {"jnt": "joint", "dof": "joint"}.get(prefix, prefix))
    try:
        found = accessor(entry)
    except KeyError as unknown:
        # MuJoCo's message lists the valid names.
        raise InvalidArgument(f"randomization[{term.label!r}]: {' '.join(str(unknown.args[0]).split())}") from unknown
    if prefix == "dof":
        start = int(found.dofadr[0])
        later = [int(adr) for adr in model.jnt_dofadr if adr > start]
        return list(range(start, min(later, default=model.nv)))
    return [int(found.id)]
