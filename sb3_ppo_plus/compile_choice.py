"""Whether a model's update is compiled: what was asked for, what is worth it, and what is possible."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import torch as th

from sb3_ppo_plus.coefficients import set_learning_rates
from sb3_ppo_plus.compiled import CannotCompile, CompiledUpdate, warn_of_fallback
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.options import read_options
from sb3_ppo_plus.device.passes import DeviceUpdate
from sb3_ppo_plus.distributed.passes import RankedUpdate
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.eager import EagerUpdate, UpdateRun
from sb3_ppo_plus.plain_policy import has_image

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

logger = logging.getLogger(__name__)

COMPILE_UPDATE = (False, True, "auto")
#: gradient steps from which a compilation pays for itself, about: fifteen seconds once against 1.5 milliseconds a step
#: (benchmarks/results: start_speed.md, update_speed.md)
MIN_GRADIENT_STEPS = 10_000


def choose_update(model: PPOPlus, run: UpdateRun) -> EagerUpdate:
    """
    Give the passes of this update, compiled where that was asked for and can be.

    :param model: the model; what was chosen stays with it
    :param run: what its update works with
    :return: the passes
    """
    if model._ranks is not None:
        return _choose_for_ranks(model, model._ranks)
    on_device = isinstance(model.rollout_buffer, DeviceBuffer)
    if model.compile_update is False and not on_device:
        return EagerUpdate()
    chosen = model._update_passes
    critic_apart = model.critic_epochs > 0
    if isinstance(chosen, CompiledUpdate):
        if chosen.failed:
            chosen = EagerUpdate(final=True)
        elif not chosen.fits(model.policy, critic_apart) or isinstance(chosen, DeviceUpdate) != on_device:
            chosen = None
    if chosen is None or not chosen.final:
        chosen = _choose_on_device(model) if on_device else _choose(model)
    if isinstance(chosen, DeviceUpdate):
        controller = model._controllers.get("learning_rate") if run.rate_moves else None
        chosen.steer(controller, partial(set_learning_rates, model), model.critic_learning_rate is None)
    if isinstance(chosen, CompiledUpdate):
        try:
            chosen.prepare(run)
        except CannotCompile as reason:
            chosen = _fall_back(model, reason)
    model._update_passes = chosen
    return chosen


def _choose_for_ranks(model: PPOPlus, ranks: Ranks) -> EagerUpdate:
    if model._update_passes is None and model.compile_update is not False:
        told = logging.WARNING if model.compile_update is True else logging.INFO
        logger.log(told, "update: eager, for a gradient of several ranks is exchanged before it is clipped")
    if not isinstance(model._update_passes, RankedUpdate):
        model._update_passes = RankedUpdate(ranks)
    return model._update_passes


def planned_gradient_steps(model: PPOPlus) -> int:
    """
    :param model: model that is learning
    :return: gradient steps until its call of learn() ends, the current update included
    """
    n_rows = model.n_steps * model.n_envs
    updates = 1 + max(0, model._total_timesteps - model.num_timesteps) // n_rows
    return updates * model.n_epochs * -(-n_rows // model.batch_size)


def _choose(model: PPOPlus) -> EagerUpdate:
    planned = planned_gradient_steps(model)
    if model.compile_update == "auto":
        if planned < MIN_GRADIENT_STEPS:
            # Asked again at every update, since learn() may be called for more; told once.
            level = logging.INFO if model._update_passes is None else logging.DEBUG
            logger.log(level, "update: eager, %d gradient steps are too few to wait for a compilation", planned)
            return EagerUpdate()
        if model.device.type == "cpu" and has_image(model.observation_space):
            logger.info("update: eager, convolutions on the processor take as long in a graph")
            return EagerUpdate(final=True)
        missing = missing_compiler(model.device)
        if missing is not None:
            logger.info("update: eager, %s", missing)
            return EagerUpdate(final=True)
    try:
        compiled = CompiledUpdate(model.policy, model.critic_epochs > 0)
    except CannotCompile as reason:
        return _fall_back(model, reason)
    logger.info("update: compiled, for %d gradient steps; the first use takes some seconds", planned)
    return compiled


def _choose_on_device(model: PPOPlus) -> EagerUpdate:
    """Where rows live on the device, so do the decisions; what compiles is asked once, for graphs are recorded anew."""
    compiles = model.compile_update is True
    if model.compile_update == "auto" and planned_gradient_steps(model) >= MIN_GRADIENT_STEPS:
        compiles = missing_compiler(model.device) is None
    try:
        return DeviceUpdate(model.policy, model.critic_epochs > 0, compiles, read_options(model.device_options))
    except CannotCompile as reason:
        return _fall_back(model, reason)


def _fall_back(model: PPOPlus, reason: CannotCompile) -> EagerUpdate:
    if model.compile_update is False:
        logger.warning("update: operation by operation, since the policy is not a function of tensors (%s)", reason)
    else:
        warn_of_fallback(reason)
    return EagerUpdate(final=True)


def missing_compiler(device: th.device) -> str | None:
    """
    :param device: where the update will run
    :return: what is missing to compile for it, None when nothing is
    """
    if device.type == "cpu":
        from torch._inductor import cpp_builder

        try:
            cpp_builder.get_cpp_compiler()
        except Exception as error:
            return f"no C++ compiler was found ({type(error).__name__})"
        return None
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton is not installed"
    return f"there is no compiler for the device {device.type}"
