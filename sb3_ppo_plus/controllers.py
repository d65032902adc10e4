"""
Numbers that a measured signal moves: the KL coefficient, the learning rate, the entropy coefficient.

A controller *is* an SB3 schedule (a callable of the remaining progress that returns its value), because SB3 sets the
optimizer's rate from the schedule at every update: whoever adapts the rate must be that schedule. It also has
``update(signal)`` and a ``state_dict()`` of plain numbers, which is saved with the model.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np

from sb3_ppo_plus.errors import InvalidArgument

EVERY = ("minibatch", "epoch", "rollout")


class Controller(ABC):
    """
    A bounded number and the rule that moves it.

    :param target: value that the signal is held near
    :param min_value: lower bound of the number
    :param max_value: upper bound of the number
    :param every: how often the rule is applied: ``minibatch``, ``epoch`` or ``rollout``
    """

    type: ClassVar[str]

    def __init__(self, target: float, min_value: float, max_value: float, every: str) -> None:
        self.target = _number("target", target)
        self.min_value = _positive("min_value", min_value)
        self.max_value = _positive("max_value", max_value)
        if self.min_value >= self.max_value:
            raise InvalidArgument(f"min_value={min_value} must be smaller than max_value={max_value}")
        if every not in EVERY:
            raise InvalidArgument(f"every={every!r} is unknown; choose one of {', '.join(EVERY)}")
        self.every = every
        self.value = self.min_value

    def __call__(self, progress_remaining: float) -> float:
        """
        Be an SB3 schedule.

        :param progress_remaining: ignored: a controller follows its signal, not the clock
        :return: the current value
        """
        return self.value

    def start_at(self, value: float) -> None:
        """
        Begin at the coefficient that the user gave.

        :param value: starting value; it is moved into the bounds
        """
        self.value = min(max(value, self.min_value), self.max_value)

    def update(self, signal: float) -> float:
        """
        Apply the rule once.

        :param signal: what was measured; a signal that is not finite moves nothing
        :return: the new value
        """
        if math.isfinite(signal):
            self.start_at(self._next(signal))
        return self.value

    @abstractmethod
    def _next(self, signal: float) -> float:
        """The value that the rule wants next, before the bounds."""

    def state_dict(self) -> dict[str, float]:
        """:return: everything that changed since construction, as plain numbers"""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """
        Go on where a saved controller stopped.

        :param state: what ``state_dict`` returned
        """
        self.start_at(float(state["value"]))

    def to_config(self) -> dict[str, Any]:
        """:return: the plain mapping that builds this controller anew"""
        names = [name for name in inspect.signature(type(self)).parameters]
        return {"type": self.type, **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.to_config().items() if name != "type")
        return f"{type(self).__name__}(value={self.value:.4g}, {settings})"


class KLBand(Controller):
    """
    Leave the number alone while target / band <= KL <= band * target; outside multiply or divide it by a factor.

    One rule serves two opposite uses. A KL *coefficient* grows when the KL is too large (PPO paper, section 4: band
    1.5, factor 2; RLlib: band 2, up by 1.5, down by 2). A *learning rate* shrinks then (rsl_rl, rl_games, skrl, Brax:
    band 2, factor 1.5). Given as a mapping, ``inverse`` and the defaults come from the coefficient that is moved.

    :param target: KL to hold, in nats, typically 0.003 to 0.03; larger learns faster and less safely
    :param band: > 1, width of the band in which nothing moves; larger is calmer
    :param factor: > 1, what a KL outside the band multiplies or divides by; larger reacts faster and oscillates more
    :param factor_down: > 1, what a *decrease* divides by, when it differs from ``factor``
    :param min_value: lower bound of the number
    :param max_value: upper bound of the number
    :param every: ``rollout``, ``epoch`` or ``minibatch``; a minibatch of a few thousand rows makes a noisy signal
    :param inverse: whether a KL that is too large makes the number smaller
    """

    type = "kl_band"

    def __init__(
        self,
        target: float,
        band: float = 1.5,
        factor: float = 2.0,
        factor_down: float | None = None,
        min_value: float = 1e-4,
        max_value: float = 1e2,
        every: str = "rollout",
        inverse: bool = False,
    ) -> None:
        super().__init__(_positive("target", target), min_value, max_value, every)
        self.band = _above_one("band", band)
        self.factor = _above_one("factor", factor)
        self.factor_down = None if factor_down is None else _above_one("factor_down", factor_down)
        self.inverse = inverse

    def _next(self, signal: float) -> float:
        too_large = signal > self.band * self.target
        too_small = signal < self.target / self.band
        if not (too_large or too_small):
            return self.value
        if too_large != self.inverse:
            return self.value * self.factor
        return self.value / (self.factor if self.factor_down is None else self.factor_down)


class KLProportional(Controller):
    """
    value <- value * (1 + gain * clip(KL / target - 1, -clip, clip)): small steps, in proportion to the error.

    Ziegler et al. 2019, section 2.2 (there ``gain`` is batch size over horizon), used by veRL and OpenRLHF.

    :param target: KL to hold, in nats, typically 0.003 to 0.03
    :param gain: in (0, 1]; larger reacts faster
    :param clip: largest relative error that counts, typically 0.2
    :param min_value: lower bound of the number
    :param max_value: upper bound of the number
    :param every: ``rollout``, ``epoch`` or ``minibatch``
    :param inverse: whether a KL that is too large makes the number smaller
    """

    type = "kl_proportional"

    def __init__(
        self,
        target: float,
        gain: float = 1.0,
        clip: float = 0.2,
        min_value: float = 1e-4,
        max_value: float = 1e2,
        every: str = "rollout",
        inverse: bool = False,
    ) -> None:
        super().__init__(_positive("target", target), min_value, max_value, every)
        self.gain = _positive("gain", gain)
        self.clip = _positive("clip", clip)
        if self.gain * self.clip >= 1.0:
            raise InvalidArgument(
                f"gain * clip = {self.gain * self.clip} must stay below 1, or one step could reach zero"
            )
        self.inverse = inverse

    def _next(self, signal: float) -> float:
        error = min(max(signal / self.target - 1.0, -self.clip), self.clip)
        return self.value * (1.0 + self.gain * (-error if self.inverse else error))


class EntropyTarget(Controller):
    """
    value <- value * exp(rate * clip(target - entropy, -1, 1)): raise the entropy bonus while the entropy is too low.

    The multiplicative form of SAC's temperature update (Haarnoja et al. 2018, equation 18), which keeps the coefficient
    positive. A coefficient that starts below ``min_value`` starts at it.

    :param target: entropy to hold, in nats, summed over the action dimensions. A Gaussian of std s has
        A * (1.42 + log s), which is negative for small s; a uniform choice among n has log n
    :param rate: relative change per nat of error, typically 0.01 to 0.5; larger reacts faster and oscillates more
    :param min_value: lower bound of the coefficient
    :param max_value: upper bound; a bonus too large makes the deviation run away on clipped Gaussians
    :param every: ``rollout``, ``epoch`` or ``minibatch``
    """

    type = "entropy_target"

    def __init__(
        self,
        target: float,
        rate: float = 0.1,
        min_value: float = 1e-5,
        max_value: float = 0.1,
        every: str = "rollout",
    ) -> None:
        super().__init__(target, min_value, max_value, every)
        self.rate = _positive("rate", rate)

    def _next(self, signal: float) -> float:
        return self.value * math.exp(self.rate * min(max(self.target - signal, -1.0), 1.0))


CONTROLLER_TYPES: dict[str, type[Controller]] = {cls.type: cls for cls in (KLBand, KLProportional, EntropyTarget)}

# What may be moved, by which rules, and the field's defaults for that use.
_KL_RULES = ("kl_band", "kl_proportional")
_RATE_DEFAULTS = {"min_value": 1e-5, "max_value": 1e-2, "every": "epoch", "inverse": True}
MOVABLE: dict[str, dict[str, dict[str, Any]]] = {
    "learning_rate": {
        "kl_band": {"band": 2.0, "factor": 1.5, **_RATE_DEFAULTS},
        "kl_proportional": _RATE_DEFAULTS,
    },
    "kl_coef": {rule: {} for rule in _KL_RULES},
    "reference_kl_coef": {rule: {} for rule in _KL_RULES},
    "ent_coef": {"entropy_target": {}},
}
# Only the learning rate can move within an update: the others are part of the loss that the update minimizes.
_MOVES_WITHIN_UPDATE = ("learning_rate",)
_RULES = {
    "paper": {"band": 1.5, "factor": 2.0},
    "rllib": {"band": 2.0, "factor": 1.5, "factor_down": 2.0},
    "rsl_rl": {"band": 2.0, "factor": 1.5},
}


def make_controller(name: str, config: Mapping[str, Any] | Controller) -> Controller:
    """
    Build the controller of one coefficient from plain data.

    :param name: coefficient that it moves: ``learning_rate``, ``kl_coef``, ``reference_kl_coef`` or ``ent_coef``
    :param config: mapping with ``type`` (``kl_band``, ``kl_proportional``, ``entropy_target``) and that type's
        parameters; ``kl_band`` also takes ``rule``: ``paper`` (1.5, 2), ``rllib`` (2, up 1.5, down 2) or ``rsl_rl`` (2,
        1.5). An instance is copied, so that two models never share its state
    :return: a controller that belongs to the caller
    """
    where = f"controllers[{name!r}]"
    if name not in MOVABLE:
        raise InvalidArgument(
            f"{where}: no controller can move {name!r}{_near(name, MOVABLE)}; valid: {', '.join(MOVABLE)}"
        )
    if isinstance(config, Controller):
        controller = copy.deepcopy(config)
    elif isinstance(config, Mapping):
        controller = _from_mapping(where, name, dict(config))
    else:
        raise InvalidArgument(f"{where}={config!r} must be a mapping such as {{'type': 'kl_band', 'target': 0.01}}")
    if not isinstance(getattr(controller, "type", None), str):
        raise InvalidArgument(f"{where}: {type(controller).__name__} has no name; give the class an attribute `type`")
    if controller.type in CONTROLLER_TYPES and controller.type not in MOVABLE[name]:
        raise InvalidArgument(f"{where}: {controller.type} cannot move {name}; valid: {', '.join(MOVABLE[name])}")
    if getattr(controller, "inverse", name == "learning_rate") != (name == "learning_rate"):
        raise InvalidArgument(
            f"{where}: inverse={name != 'learning_rate'} would move it the wrong way: a KL that is too large must "
            "lower a learning rate (inverse=True) and raise a coefficient (inverse=False)"
        )
    if controller.every != "rollout" and name not in _MOVES_WITHIN_UPDATE:
        raise InvalidArgument(
            f"{where}: every={controller.every!r} is for learning_rate alone; {name} moves once per rollout"
        )
    return controller


def _from_mapping(where: str, name: str, config: dict[str, Any]) -> Controller:
    allowed = MOVABLE[name]
    kind = config.pop("type", None)
    if kind not in allowed:
        hint = "is missing" if kind is None else f"{kind!r} cannot move {name}{_near(str(kind), allowed)}"
        raise InvalidArgument(f"{where}: type {hint}; valid: {', '.join(allowed)}")
    settings = dict(allowed[kind])
    if kind == "kl_band" and "rule" in config:
        rule = config.pop("rule")
        if rule not in _RULES:
            raise InvalidArgument(f"{where}: rule={rule!r} is unknown; valid: {', '.join(_RULES)}")
        settings.update(_RULES[rule])
    parameters = inspect.signature(CONTROLLER_TYPES[kind]).parameters
    for key in config:
        if key not in parameters:
            valid = [*parameters, "rule"] if kind == "kl_band" else list(parameters)
            raise InvalidArgument(f"{where}: unknown setting {key!r}{_near(key, valid)}; valid: {', '.join(valid)}")
    if "target" not in config:
        raise InvalidArgument(
            f"{where}: target is missing; give the {'entropy' if kind == 'entropy_target' else 'KL'} to hold"
        )
    try:
        return CONTROLLER_TYPES[kind](**{**settings, **config})
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None


class KLStop:
    """
    Decides when an update has moved the policy far enough. It stops, it never steers.

    ``minibatch`` is SB3's rule: the k3 estimate is checked before each gradient step. ``epoch`` checks the mean over
    the epoch after it. ``rollback`` measures the whole rollout after the epoch and undoes an epoch that overshot.

    :param target_kl: KL in nats, None never stops; the update ends beyond 1.5 times it, as in SB3
    :param mode: ``minibatch``, ``epoch`` or ``rollback``
    """

    MODES: ClassVar[tuple[str, ...]] = ("minibatch", "epoch", "rollback")

    def __init__(self, target_kl: float | None, mode: str) -> None:
        # in single precision, as SB3 compares
        self.limit = math.inf if target_kl is None else float(np.float32(1.5 * target_kl))
        self.mode = mode
        self.checks_minibatches = target_kl is not None and mode == "minibatch"
        self.checks_epochs = target_kl is not None and mode == "epoch"
        self.undoes_epochs = target_kl is not None and mode == "rollback"

    def exceeded(self, kl: float) -> bool:
        """
        :param kl: measured KL in nats
        :return: whether the update must end; a KL that is not a number (no row counted) does not end it, as in SB3
        """
        return kl > self.limit


def _near(word: str, candidates: Any) -> str:
    matches = get_close_matches(word, list(candidates), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidArgument(f"{name}={value!r} must be a finite number")
    return float(value)


def _positive(name: str, value: Any) -> float:
    if _number(name, value) <= 0.0:
        raise InvalidArgument(f"{name}={value!r} must be greater than 0")
    return float(value)


def _above_one(name: str, value: Any) -> float:
    if _number(name, value) <= 1.0:
        raise InvalidArgument(f"{name}={value!r} must be greater than 1")
    return float(value)
