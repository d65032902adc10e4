"""What is rebuilt of Stable-Baselines3 and of this package: schedules, policies, buffers and normalizers."""

from __future__ import annotations

import copyreg
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common import buffers, distributions, policies, torch_layers, utils
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import controllers, hybrid_policy, schedule_shapes
from sb3_ppo_plus.features import VisualExtractor
from sb3_ppo_plus.files import known_spaces, known_torch
from sb3_ppo_plus.files.pickles import BadPickle, Call, Name, Pairs
from sb3_ppo_plus.files.rebuild import Known, Maker, Rebuilder, Untrusted, check_attributes, classes, record

_POLICIES = (
    policies.ActorCriticPolicy,
    policies.ActorCriticCnnPolicy,
    policies.MultiInputActorCriticPolicy,
)
_BUFFERS = (buffers.RolloutBuffer, buffers.DictRolloutBuffer)
_EXTRACTORS = (
    torch_layers.FlattenExtractor,
    torch_layers.NatureCNN,
    torch_layers.CombinedExtractor,
    VisualExtractor,
)
_DISTRIBUTIONS = (
    distributions.DiagGaussianDistribution,
    distributions.SquashedDiagGaussianDistribution,
    distributions.CategoricalDistribution,
    distributions.MultiCategoricalDistribution,
    distributions.BernoulliDistribution,
    distributions.StateDependentNoiseDistribution,
    hybrid_policy.HybridDistribution,
)
_SHAPES = (
    schedule_shapes.ConstantSchedule,
    schedule_shapes.LinearSchedule,
    schedule_shapes.CosineSchedule,
    schedule_shapes.ExponentialSchedule,
    schedule_shapes.PolynomialSchedule,
    schedule_shapes.PiecewiseSchedule,
)
_CONTROLLERS = (controllers.KLBand, controllers.KLProportional, controllers.EntropyTarget)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _holds_schedule(value: Any) -> bool:
    return isinstance(value, (utils.ConstantSchedule, utils.LinearSchedule, *_SHAPES, *_CONTROLLERS, _ProductSchedule))


class _ProductSchedule(utils.LinearSchedule):
    """The zoo's line to zero: the remaining progress times a number, rounded as the zoo rounds it."""

    def __init__(self, start: float) -> None:
        super().__init__(start, 0.0, 1.0)

    def __call__(self, progress_remaining: float) -> float:
        return progress_remaining * self.start

    def __reduce__(self) -> tuple[Any, ...]:
        # SB3 alone has to open what is saved from here
        return copyreg.__newobj__, (utils.LinearSchedule,), self.__dict__  # type: ignore[attr-defined]


def _zoo_line(rebuilder: Rebuilder, call: Call) -> utils.LinearSchedule:
    rebuilder.arguments(call)
    (start,) = rebuilder.state(call).values()
    return _line(start)


def _line(start: Any) -> utils.LinearSchedule:
    if not _number(start):
        raise BadPickle("a line that starts at no number")
    return _ProductSchedule(float(start))


def _old_function(rebuilder: Rebuilder, call: Call) -> Any:
    """
    A function that was pickled with its code.

    Before version 2.7 SB3's schedules were such functions, and so were the zoo's. What they compute is known by their
    name, and the numbers in them are plain; their code is not looked at.
    """
    qualname, module, cells = _function(call)
    if module == "stable_baselines3.common.utils":
        if qualname == "constant_fn.<locals>.func" and len(cells) == 1 and _number(value := rebuilder.value(cells[0])):
            return utils.ConstantSchedule(value)
        if qualname == "get_linear_fn.<locals>.func" and len(cells) == 3:
            end, fraction, start = (rebuilder.value(cell) for cell in cells)
            if _number(end) and _number(fraction) and _number(start) and fraction > 0:
                return utils.LinearSchedule(start, end, fraction)
        if qualname == "get_schedule_fn.<locals>.<lambda>" and len(cells) == 1:
            inner = rebuilder.value(cells[0])
            if _holds_schedule(inner):
                return inner
    if module in ("rl_zoo3.utils", "utils.utils") and qualname == "linear_schedule.<locals>.func" and len(cells) == 1:
        return _line(rebuilder.value(cells[0]))
    raise Untrusted(f"the function {module}.{qualname}")


def _function(call: Call) -> tuple[str, str, list[Any]]:
    """Name and module of a pickled function, and what its closure holds."""
    states = [effect for effect in call.effects if getattr(effect.function, "name", "") == "_function_setstate"]
    parts: Any = states[0].args if len(states) == 1 and len(call.effects) == 1 else ()
    if len(parts) != 2 or not (isinstance(parts[1], tuple) and len(parts[1]) == 2 and isinstance(parts[1][1], Pairs)):
        raise Untrusted("a function")
    slots = {name: value for name, value in parts[1][1] if isinstance(name, str)}
    cells = slots.get("__closure__")
    contents = [cell.args[0] for cell in cells or () if isinstance(cell, Call) and len(cell.args) == 1]
    return str(slots.get("__qualname__")), str(slots.get("__module__")), contents


def _hybrid(rebuilder: Rebuilder, call: Call) -> Any:
    (made_from,) = rebuilder.arguments(call, type)
    if made_from not in _POLICIES:
        raise BadPickle(f"a policy of hybrid actions made from {made_from.__name__}")
    made: Any = object.__new__(hybrid_policy.with_hybrid_actions(made_from))
    known_torch.fill_module(made, rebuilder.state(call))
    return made


_CLOUDPICKLE = ("cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast")
_SCHEDULES: dict[Name, Maker] = {
    Name("stable_baselines3.common.utils", "FloatSchedule"): record(
        utils.FloatSchedule, value_schedule=_holds_schedule
    ),
    Name("stable_baselines3.common.utils", "ConstantSchedule"): record(utils.ConstantSchedule, val=_number),
    Name("stable_baselines3.common.utils", "LinearSchedule"): record(
        utils.LinearSchedule, start=_number, end=_number, end_fraction=_number
    ),
    Name("rl_zoo3.utils", "SimpleLinearSchedule"): Maker(_zoo_line, ("state",)),
    **{Name(module, "_make_function"): Maker(_old_function, ("effects",)) for module in _CLOUDPICKLE},
    **{name: record(kind) for name, kind in classes((*_SHAPES, *_CONTROLLERS)).items()},
}

#: all that models of PPO and PPOPlus hold when nothing in them was written by a user
KNOWN_IN_MODELS = (
    known_spaces.KNOWN
    | known_torch.KNOWN
    | Known(
        values=classes((*_POLICIES, *_BUFFERS, *_EXTRACTORS, RMSpropTFLike)),
        makers={
            **_SCHEDULES,
            **{
                name: known_torch.module(kind)
                for name, kind in classes((*_POLICIES, *_EXTRACTORS, torch_layers.MlpExtractor)).items()
            },
            **{name: record(kind) for name, kind in classes((*_DISTRIBUTIONS, distributions.TanhBijector)).items()},
            Name(hybrid_policy.__name__, "_unpickled"): Maker(_hybrid, ("state",)),
        },
    )
)


def _statistics(value: Any) -> bool:
    return isinstance(value, RunningMeanStd) or (
        isinstance(value, dict) and all(isinstance(part, RunningMeanStd) for part in value.values())
    )


_NORMALIZER: dict[str, Any] = {
    "training": lambda value: isinstance(value, (bool, np.bool_)),
    "norm_obs": lambda value: isinstance(value, (bool, np.bool_)),
    "norm_reward": lambda value: isinstance(value, (bool, np.bool_)),
    "clip_obs": _number,
    "clip_reward": _number,
    "gamma": _number,
    "epsilon": _number,
    "ret_rms": _statistics,
    "observation_space": lambda value: isinstance(value, spaces.Space),
    "action_space": lambda value: isinstance(value, spaces.Space),
}
#: what only the step before the file was written has to do with, and may hold whatever environments tell
_MOMENTARY = ("reset_infos", "old_obs", "old_reward", "_seeds", "_options", "metadata", "render_mode")


def _normalizer(rebuilder: Rebuilder, call: Call) -> VecNormalize:
    rebuilder.arguments(call)
    if len(call.state) != 1 or not isinstance(call.state[0], Pairs):
        raise BadPickle("a VecNormalize without attributes")
    attributes: dict[str, Any] = {}
    for name, node in call.state[0]:
        try:
            attributes.update(rebuilder.mapping(Pairs([(name, node)])))
        except Untrusted:
            if name not in _MOMENTARY:
                raise
    for name, holds in _NORMALIZER.items():
        if name not in attributes or not holds(attributes[name]):
            raise BadPickle(f"a VecNormalize with {name}={str(attributes.get(name))[:80]}")
    if attributes["norm_obs"] and not _statistics(attributes.get("obs_rms")):
        raise BadPickle("a VecNormalize without statistics of observations")
    if not all(isinstance(name, str) and not name.startswith("__") for name in attributes):
        raise BadPickle("a VecNormalize with attributes that are no names")
    check_attributes(VecNormalize, attributes)
    attributes.setdefault("reset_infos", [{} for _ in range(int(attributes.get("num_envs", 1)))])
    made: VecNormalize = object.__new__(VecNormalize)
    made.__setstate__(attributes)
    return made


def _moments(value: Any) -> bool:
    return (isinstance(value, np.ndarray) and value.dtype.kind == "f") or isinstance(value, (float, np.floating))


#: what files of VecNormalize hold
KNOWN_IN_NORMALIZERS = known_spaces.KNOWN | Known(
    makers={
        Name("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"): Maker(_normalizer, ("state",)),
        Name("stable_baselines3.common.running_mean_std", "RunningMeanStd"): record(
            RunningMeanStd, mean=_moments, var=_moments, count=_number
        ),
    }
)


def whole_numbers(value: Any) -> list[int]:
    """
    The whole numbers that decide how large and how many networks become.

    :param value: spaces, or arguments of a policy
    :return: all of them, in order
    """
    if isinstance(value, (bool, np.bool_)):
        return []
    if isinstance(value, (int, np.integer)):
        return [abs(int(value))]
    parts: Any = ()
    if isinstance(value, spaces.Discrete):
        parts = [value.n]
    elif isinstance(value, spaces.MultiDiscrete):
        parts = value.nvec.reshape(-1)
    elif isinstance(value, spaces.MultiBinary):
        parts = np.atleast_1d(value.n)
    elif isinstance(value, (spaces.Dict, dict)):
        parts = value.values()
    elif isinstance(value, (spaces.Tuple, list, tuple)):
        parts = value
    return [number for part in parts for number in whole_numbers(part)]
