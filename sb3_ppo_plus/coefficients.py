"""
From a model's arguments to the numbers of an update: reading coefficients in their many forms, their value in this
update, the shape of its loss, and moving coefficients after it.

A coefficient is an attribute of the model (callbacks may set it) and has at most one mover: a schedule, which is the
attribute itself, or a controller.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.utils import FloatSchedule

from sb3_ppo_plus import optim
from sb3_ppo_plus.controllers import CONTROLLER_TYPES, make_controller
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.probe import Measurement, diagnostic_rows
from sb3_ppo_plus.schedules import BaseSchedule, parse_schedule, tell_num_timesteps
from sb3_ppo_plus.types import Coefficients, LossOptions
from sb3_ppo_plus.update_data import Needs

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

# SB3 keeps the clip ranges as FloatSchedule, the others as they were given.
_AS_GIVEN = ("learning_rate", "critic_learning_rate", "ent_coef", "vf_coef", "kl_coef", "reference_kl_coef")
_RATES = ("learning_rate", "critic_learning_rate")
_CLIP_RANGES = ("clip_range", "clip_range_low", "clip_range_vf")


def setup_coefficients(model: PPOPlus) -> None:
    """
    Bring every schedule into one form, build the controllers and give them back their saved state.

    :param model: model whose arguments were checked, new or just loaded
    """
    if not isinstance(model.clip_range, FloatSchedule):
        clip_range = model.clip_range
        low, high = clip_range if isinstance(clip_range, (tuple, list)) else (None, clip_range)
        # None is kept as an infinite range, which SB3's PPO understands when it opens the zip
        model.clip_range = FloatSchedule(float("inf") if high is None else _own_schedule(high, "clip_range"))
        model.clip_range_low = None if low is None else FloatSchedule(_own_schedule(low, "clip_range"))
    if model.clip_range_vf is not None:
        model.clip_range_vf = FloatSchedule(_own_schedule(model.clip_range_vf, "clip_range_vf"))
    for name in _AS_GIVEN:
        if getattr(model, name) is not None:
            setattr(model, name, _own_schedule(getattr(model, name), name))
    live = {name: make_controller(name, config) for name, config in (model.controllers or {}).items()}
    for name, controller in live.items():
        start = getattr(model, name)
        controller.start_at(start(1.0) if callable(start) else start)
        if name in model.controller_state:
            controller.load_state_dict(model.controller_state[name])
    model._controllers = live
    # plain data where possible, so that a saved model stays readable
    model.controllers = {
        name: controller.to_config()
        if type(controller) is CONTROLLER_TYPES.get(controller.type)
        else copy.deepcopy(controller)
        for name, controller in live.items()
    }
    tell_schedules(model)


def tell_schedules(model: PPOPlus) -> None:
    """
    Tell the schedules that count environment steps where the model is.

    :param model: the model
    """
    for name in (*_AS_GIVEN, *_CLIP_RANGES):
        tell_num_timesteps(getattr(model, name), model.num_timesteps)


def value_of(model: PPOPlus, name: str) -> float:
    """
    The number that a coefficient has now: from its controller, its schedule or itself.

    :param model: the model
    :param name: name of the coefficient
    :return: its value
    :raises InvalidArgument: when a schedule returns NaN
    """
    # A callback of SB3's kind may have put another schedule there; a controller of the rate is this schedule.
    source = model.lr_schedule if name == "learning_rate" else model._controllers.get(name, getattr(model, name))
    value: float = source(model._current_progress_remaining) if callable(source) else source
    if value != value:
        raise InvalidArgument(f"{name} became NaN at step {model.num_timesteps}; correct its schedule {source!r}")
    if model.learning_rate_factor != 1.0 and name in _RATES and name not in model._controllers:
        value *= model.learning_rate_factor
    return value


def read_coefficients(model: PPOPlus) -> Coefficients:
    """
    The numbers of the update that begins.

    :param model: the model
    :return: values of all coefficients of the loss
    """
    clip_high = value_of(model, "clip_range")
    return Coefficients(
        clip_low=clip_high if model.clip_range_low is None else value_of(model, "clip_range_low"),
        clip_high=clip_high,
        clip_range_vf=None if model.clip_range_vf is None else value_of(model, "clip_range_vf"),
        ent_coef=value_of(model, "ent_coef"),
        vf_coef=value_of(model, "vf_coef"),
        kl_coef=value_of(model, "kl_coef"),
        reference_kl_coef=value_of(model, "reference_kl_coef"),
    )


def loss_options(model: PPOPlus) -> LossOptions:
    """
    The shape of the model's loss.

    :param model: the model
    :return: what the loss consists of
    """
    return LossOptions(
        vf_loss=model.vf_loss,
        huber_delta=model.huber_delta,
        vf_error_cap=model.vf_error_cap,
        dual_clip=model.dual_clip,
        standardize_advantages=model.normalize_advantage and model.advantage_scope == "minibatch",
        penalize_kl="kl_coef" in model._controllers or callable(model.kl_coef) or model.kl_coef != 0.0,
        penalize_reference_kl=model._reference is not None,
    )


def update_needs(model: PPOPlus, options: LossOptions) -> Needs:
    """
    What the model's update asks for beyond SB3's minibatches.

    :param model: the model
    :param options: the shape of its loss
    :return: the needs; everything off needs nothing but the diagnostics
    """
    rate = model._controllers.get("learning_rate")
    n_rows = model.n_steps * model.n_envs
    return Needs(
        row_kl=options.penalize_kl or (rate is not None and rate.every != "rollout"),
        rollout_kl=rate is not None or (model.target_kl is not None and model.kl_stop == "rollback"),
        diagnostic_rows=diagnostic_rows(n_rows, model.n_epochs) if model.log_diagnostics else 0,
        recompute=model.recompute_advantages,
        scope=model.advantage_scope if model.normalize_advantage else "none",
    )


def set_learning_rates(model: PPOPlus) -> None:
    """
    Give the optimizer the rates of the next gradient steps.

    :param model: the model
    """
    critic_rate = None if model.critic_learning_rate is None else value_of(model, "critic_learning_rate")
    optim.set_learning_rates(model.policy.optimizer, value_of(model, "learning_rate"), critic_rate)


def lower_learning_rate(model: PPOPlus, factor: float) -> str:
    """
    Multiply the learning rates with a factor, from the next update on and for good.

    :param model: the model
    :param factor: in (0, 1)
    :return: what became of the rate, in words
    """
    before = value_of(model, "learning_rate")
    controller = model._controllers.get("learning_rate")
    if controller is not None:
        controller.start_at(max(controller.min_value, controller.value * factor))
    model.learning_rate_factor *= factor
    return f"learning rate lowered from {before:.3g} to {value_of(model, 'learning_rate'):.3g}"


def move_learning_rate(model: PPOPlus, every: str, metrics: UpdateMetrics) -> None:
    """
    Let the controller of the learning rate act, if there is one for this occasion.

    :param model: the model
    :param every: ``minibatch`` or ``epoch``, whichever just ended
    :param metrics: what the update's minibatches measured
    """
    controller = model._controllers.get("learning_rate")
    if controller is not None and controller.every == every:
        controller.update(metrics.kl_of_epoch() if every == "epoch" else metrics.kl_of_minibatch())
        set_learning_rates(model)


def move_after_rollout(model: PPOPlus, metrics: UpdateMetrics, measured: Measurement | None) -> None:
    """
    Move what moves once a rollout; its next value serves the next update.

    :param model: the model
    :param metrics: what the update's minibatches measured
    :param measured: KL over the whole rollout; there is one whenever a controller follows it
    """
    for name, controller in model._controllers.items():
        if controller.every != "rollout":
            continue
        if name == "ent_coef":
            controller.update(-metrics.mean("entropy_loss"))
        elif measured is not None:
            signal = measured.reference_kl if name == "reference_kl_coef" else measured.kl
            assert signal is not None
            controller.update(signal)


def _own_schedule(value: Any, name: str) -> Any:
    """Read a coefficient; schedules that count steps are copied, so that two models never share a counter."""
    parsed = parse_schedule(value, name)
    return copy.deepcopy(parsed) if isinstance(parsed, BaseSchedule) else parsed
