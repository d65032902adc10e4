"""
Domain randomization on a device: the lines of :mod:`~sb3_ppo_plus.envs.mujoco.randomization`, drawn for all robots at
once.

Every robot draws at every reset, and those whose episode begins keep what was drawn: nobody asks which these are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_ppo_plus.envs.mujoco.batch_physics import BatchPhysics
from sb3_ppo_plus.envs.mujoco.bindings import mujoco
from sb3_ppo_plus.envs.mujoco.device_draws import DeviceDraw, DeviceDraws
from sb3_ppo_plus.envs.mujoco.randomization import LONG_AFTER, Randomizer, Target
from sb3_ppo_plus.envs.mujoco.randomization_terms import TAIL, Term
from sb3_ppo_plus.envs.mujoco.warp_physics import WarpPhysics
from sb3_ppo_plus.errors import InvalidArgument


class DeviceRandomizer:
    """
    Draws the model of each robot anew when its episode begins.

    :param terms: a mapping, as the CPU engine takes it
    :param model: the compiled model
    :param n_envs: N
    :param device: where they are
    :raises InvalidArgument: for unknown fields, names, options or distributions
    """

    def __init__(self, terms: Mapping[str, Any], model: mujoco.MjModel, n_envs: int, device: th.device) -> None:
        # It reads, checks and looks up; a single simulation is enough for that.
        read = Randomizer(terms, BatchPhysics(model, 1, 1), 1)
        self.terms = read.terms
        self._places = [[_Place(target, device) for target in targets] for targets in read.targets]
        #: fields that it writes
        self.fields = sorted({place.field for places in self._places for place in places})
        self.draws = DeviceDraws(n_envs, device)
        #: environment steps of all robots so far; what ``over`` counts
        self.num_steps = 0
        #: by label: what each robot's draw came to, after strength [N, count]
        self.values = {label: th.from_numpy(value).to(device).repeat(n_envs, 1) for label, value in read.values.items()}
        self._nominal = {
            place.field: place.nominal.expand(n_envs, *place.nominal.shape)
            for places in self._places
            for place in places
        }

    def begin(self, mask: th.Tensor, physics: WarpPhysics) -> None:
        """
        Draw for robots whose episode begins; terms that share a field work one after the other.

        :param mask: True for those [N]
        :param physics: the simulations, whose models are written
        """
        draw = self.draws.start()
        fields = dict(self._nominal)
        for term, places in zip(self.terms, self._places, strict=True):
            strength = term.strength_at(self.num_steps)
            drawn = _drawn(term, draw, places[0].count)
            for place in places:
                fields[place.field] = place.write(fields[place.field], term, drawn, strength)
            effective = {
                "scale": lambda drawn, strength, _place: 1.0 + strength * (drawn - 1.0),
                "add": lambda drawn, strength, _place: strength * drawn,
                "set": lambda _drawn, _strength, place: place.read(fields[place.field]),
            }[term.operation](drawn, strength, places[0])
            known = self.values[term.label]
            self.values[term.label] = th.where(mask[:, None], effective[:, : known.shape[1]], known)
        self.draws.finish(draw, mask)
        for name, values in fields.items():
            view = physics.varied[name]
            chosen = mask.view(-1, *[1] * (view.ndim - 1))
            view.copy_(th.where(chosen, values.to(view.dtype).reshape(view.shape), view))
        physics.apply_model()

    def stats(self) -> dict[str, th.Tensor]:
        """
        :return: what each robot's draws came to, named for infos [N], or [N, count] where there are several
        """
        return {
            f"randomization/{label}": drawn[:, 0] if drawn.shape[1] == 1 else drawn
            for label, drawn in self.values.items()
        }

    def finish_schedules(self) -> None:
        """Draw at full strength from the next episode on, as at the end of training; for evaluation."""
        self.num_steps = LONG_AFTER

    def state_dict(self, physics: WarpPhysics) -> dict[str, Any]:
        """
        :param physics: the simulations, whose models were written
        :return: clock, sequences, draws and the randomized fields
        """
        return {
            "num_steps": self.num_steps,
            "draws": self.draws.state_dict(),
            "values": {label: value.cpu().clone() for label, value in self.values.items()},
            "fields": {name: physics.varied[name].cpu().clone() for name in self.fields},
        }

    def load_state_dict(self, state: Mapping[str, Any], physics: WarpPhysics) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :param physics: the simulations, whose models are written
        :raises InvalidArgument: when other fields were randomized
        """
        if set(state["fields"]) != set(self.fields) or set(state["values"]) != set(self.values):
            raise InvalidArgument(
                f"the state has randomization of {sorted(state['values'])}, this environment of "
                f"{sorted(self.values)}; make it with the same randomization"
            )
        self.num_steps = int(state["num_steps"])
        self.draws.load_state_dict(state["draws"])
        self.values = {label: state["values"][label].to(self.draws.device, copy=True) for label in self.values}
        for name, values in state["fields"].items():
            physics.varied[name].copy_(values)
        physics.apply_model()


class _Place:
    """Where a term writes in a field, as indices on the device."""

    def __init__(self, target: Target, device: th.device) -> None:
        self.field = target.field
        # A number alone, such as opt.density, is a vector of one here.
        self.nominal = th.from_numpy(target.nominal).to(device).reshape(target.nominal.shape or (1,))
        self.count = len(target.rows)
        rows = th.from_numpy(target.rows).to(device)
        self._index: Any = (slice(None), rows)
        if target.columns is not None:
            self._index = (slice(None), rows[:, None], th.tensor(list(target.columns), device=device))

    def read(self, values: th.Tensor) -> th.Tensor:
        """What stands there, of each row the first column [N, count]."""
        return values[self._index].reshape(len(values), self.count, -1)[..., 0]

    def write(self, values: th.Tensor, term: Term, drawn: th.Tensor, strength: float) -> th.Tensor:
        """A copy of the field's values with the term applied [N, ...]."""
        current = values[self._index]
        rows = current.reshape(len(values) * self.count, *current.shape[2:])
        changed = values.clone()
        changed[self._index] = term.apply(rows, drawn.reshape(-1), strength).reshape(current.shape)
        return changed


def _drawn(term: Term, draw: DeviceDraw, count: int) -> th.Tensor:
    """What a term draws, as :meth:`Term.draw` does, for all robots [N, count]."""
    first, second = term.parameters
    size = 1 if term.shared else count
    if term.distribution == "normal":
        drawn = first + second * draw.normal(size).clamp(-TAIL, TAIL)
    elif term.distribution == "log_uniform":
        drawn = draw.uniform(math.log(first), math.log(second), size).exp()
    else:
        drawn = draw.uniform(first, second, size)
    return drawn.expand(-1, count)
