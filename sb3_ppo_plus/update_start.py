"""What one update works with, put together from the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sb3_ppo_plus import coefficients
from sb3_ppo_plus.controllers import KLStop
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.device.rows import DeviceData
from sb3_ppo_plus.distributed.update_data import RankedData
from sb3_ppo_plus.eager import UpdateRun
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.nonfinite.guards import update_guard
from sb3_ppo_plus.update_data import UpdateData

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus


def start_update(model: PPOPlus) -> UpdateRun:
    """
    Read the rollout and the coefficients, while the policy is still the one that collected.

    :param model: model with a full rollout
    :return: what the update works with
    """
    assert model._last_episode_starts is not None
    options, metrics = coefficients.loss_options(model), UpdateMetrics()
    needs = coefficients.update_needs(model, options)
    coefs = coefficients.read_coefficients(model)
    with model.profile.section("measure"):
        last_step = (model._last_obs, model._last_episode_starts)
        make_data: Callable[..., UpdateData] = UpdateData
        if model._ranks is not None:
            make_data = partial(RankedData, model._ranks)
        elif isinstance(model.rollout_buffer, DeviceBuffer):
            make_data = DeviceData
        data = make_data(model.rollout_buffer, model.policy, model._reference, needs, *last_step)
    rate = model._controllers.get("learning_rate")
    return UpdateRun(
        policy=model.policy,
        data=data,
        coefs=coefs,
        options=options,
        stop=KLStop(model.target_kl, model.kl_stop),
        metrics=metrics,
        batch_size=int(model.batch_size),  # numpy's integers are welcome, torch does not split by them
        max_grad_norm=model.max_grad_norm,
        ratios=model.log_diagnostics,
        rate_moves=rate is not None and rate.every == "minibatch",
        move_rate=lambda: coefficients.move_learning_rate(model, "minibatch", metrics),
        profile=model.profile,
        guard=update_guard(model),
    )
