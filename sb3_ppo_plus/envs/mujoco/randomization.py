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

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.draws import Generators
from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.physics import Physics
from sb3_ppo_plus.envs.mujoco.randomization_terms import Term, parse_term
from sb3_ppo_plus.errors import InvalidArgument

# Gymnasium's, the engine's and the rewards' idea of a step all hang on it.
_FIXED = {"opt.timestep": "dt is the same for all environments; give the task another frame_skip"}
_NAMED = ("body", "geom", "jnt", "actuator", "site", "tendon", "dof")
# Fields that mean nothing below 0, and those that mean nothing at 0 either.
_NOT_NEGATIVE = (
    "body_mass",
    "body_inertia",
    "geom_friction",
    "geom_size",
    "dof_damping",
    "dof_armature",
    "dof_frictionloss",
    "jnt_stiffness",
    "tendon_stiffness",
    "tendon_damping",
)
_POSITIVE = ("body_mass", "body_inertia", "geom_size")
# More steps than any schedule takes.
LONG_AFTER = 10**15


class Randomizer:
    """
    Draws the model of each environment anew when its episode begins.

    :param terms: a mapping as at the top of this file
    :param physics: the simulations
    :param n_envs: N
    :raises InvalidArgument: for unknown fields, names, options or distributions, before anything is simulated
    """

    def __init__(self, terms: Mapping[str, Any], physics: Physics, n_envs: int) -> None:
        if not isinstance(terms, Mapping):
            raise InvalidArgument(
                f"randomization is {terms!r}; give a mapping such as {{'body_mass': {{'scale': [0.8, 1.2]}}}}"
            )
        self.terms = [parse_term(label, spec) for label, spec in terms.items()]
        self.physics = physics
        self.generators = Generators(n_envs)
        #: environment steps of all environments so far; what ``over`` counts
        self.num_steps = 0
        #: by label: what each environment's draw came to, after strength [N, count]
        self.values: dict[str, np.ndarray] = {}
        #: by term: where it writes, its own field first
        self.targets: list[list[Target]] = []
        for term in self.terms:
            targets = [Target(term, name, physics) for name in (term.field, *term.also)]
            for other in targets[1:]:
                if _prefix(other.field) != _prefix(term.field):
                    raise InvalidArgument(
                        f"randomization[{term.label!r}]: also has {other.field!r}, which is not of the same objects as "
                        f"{term.field!r}; `also` takes fields named {_prefix(term.field)}_*"
                    )
            self.targets.append(targets)
            count = 1 if term.shared else len(targets[0].rows)
            self.values[term.label] = np.full((n_envs, count), 0.0 if term.operation == "add" else 1.0)

    def begin(self, ids: np.ndarray) -> None:
        """
        Draw for environments whose episode begins; terms that share a field work one after the other.

        :param ids: their numbers, sorted [m]
        """
        for index in ids.tolist():
            for targets in self.targets:
                for target in targets:
                    target.restore(index)
            for term, targets in zip(self.terms, self.targets, strict=True):
                strength = term.strength_at(self.num_steps)
                drawn = term.draw(self.generators[index], len(targets[0].rows))
                for target in targets:
                    target.write(index, drawn, strength)
                effective = {
                    "scale": 1.0 + strength * (drawn - 1.0),
                    "add": strength * drawn,
                    "set": targets[0].read(index),
                }[term.operation]
                self.values[term.label][index] = effective[: self.values[term.label].shape[1]]
        self.physics.apply_model(ids)

    def stats(self) -> dict[str, np.ndarray]:
        """
        :return: what each environment's draws came to, named for infos [N], or [N, count] where there are several
        """
        return {
            f"randomization/{label}": drawn[:, 0] if drawn.shape[1] == 1 else drawn
            for label, drawn in self.values.items()
        }

    def finish_schedules(self) -> None:
        """Draw at full strength from the next episode on, as at the end of training; for evaluation."""
        self.num_steps = LONG_AFTER

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
                f"{sorted(self.values)}; make it "
                "with the same randomization"
            )
        self.num_steps = int(state["num_steps"])
        self.generators.load_state_dict(state["generators"])
        for label, value in state["values"].items():
            self.values[label][...] = value.numpy()
        for name, value in state["fields"].items():
            self.physics.expand(name)[...] = value.numpy()
        self.physics.apply_model(np.arange(self.physics.n_envs))

    def _fields(self) -> list[str]:
        return sorted({target.field for targets in self.targets for target in targets})


class Target:
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
                "numbers such as masses, friction and gains can be drawn"
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

        self._check_range()

    def _check_range(self) -> None:
        """Nothing may be drawn that means nothing, such as a negative mass."""
        if self.field not in _NOT_NEGATIVE:
            return
        counted = np.atleast_1d(self.nominal)[self._place]
        for bound in self.term.bounds():
            values = self.term.apply(counted, np.full(len(counted), bound), 1.0)[counted > 0]
            if (values < 0).any() or (self.field in _POSITIVE and (values == 0).any()):
                raise InvalidArgument(
                    f"randomization[{self.term.label!r}]: a draw of {bound:g} makes {self.field} {values.min():g}; "
                    f"keep it {'above' if self.field in _POSITIVE else 'from'} 0 (normal ends after 4 std)"
                )

    @property
    def _place(self) -> Any:
        return self.rows if self.columns is None else np.ix_(self.rows, np.asarray(self.columns))

    def restore(self, index: int) -> None:
        self.values[index] = self.nominal

    def read(self, index: int) -> np.ndarray:
        """What stands there now, of each row the first column."""
        return np.atleast_1d(self.values[index])[self._place].reshape(len(self.rows), -1)[:, 0]

    def write(self, index: int, drawn: np.ndarray, strength: float) -> None:
        # Read from the environment, not from the model: an earlier term may have changed the same entry.
        current = np.atleast_1d(self.values[index])
        current[self._place] = self.term.apply(current[self._place], drawn, strength)
        self.values[index] = current.reshape(np.shape(self.values[index]))


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
