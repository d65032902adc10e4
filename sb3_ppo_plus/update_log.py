"""What an update writes to SB3's logger: SB3's keys with SB3's meaning, then ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch as th
from stable_baselines3.common.utils import explained_variance

from sb3_ppo_plus.buffers import RowsMixin, flat
from sb3_ppo_plus.coefficients import value_of
from sb3_ppo_plus.device.buffer import DeviceBuffer
from sb3_ppo_plus.metrics import UpdateMetrics
from sb3_ppo_plus.probe import Measurement
from sb3_ppo_plus.types import Coefficients

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

# Ours go to files and TensorBoard; the printed table stays SB3's.
_FILES_ONLY = ("stdout",)


def log_update(model: PPOPlus, coefs: Coefficients, metrics: UpdateMetrics, measured: Measurement | None) -> None:
    """
    Record an update.

    :param model: the model, whose logger is written to
    :param coefs: the numbers that the update used
    :param metrics: what its minibatches measured
    :param measured: KL and entropies after it, None when nothing asked for them
    """
    scalars = metrics.collect()
    if "loss" in scalars:
        _log_like_sb3(model, coefs, metrics, scalars)
    _log_coefficients(model, coefs)
    if measured is not None:
        _log_measured(model, measured)
    if model.log_diagnostics:
        _log_diagnostics(model, metrics, scalars)


def _log_like_sb3(model: PPOPlus, coefs: Coefficients, metrics: UpdateMetrics, scalars: dict[str, np.ndarray]) -> None:
    record = model.logger.record
    buffer = model.rollout_buffer
    assert isinstance(buffer, RowsMixin)
    record("train/entropy_loss", _mean(scalars["entropy_loss"]))
    record("train/policy_gradient_loss", _mean(scalars["policy_loss"]))
    record("train/value_loss", _mean(scalars["value_loss"]))
    # SB3 starts its list anew with each epoch: this is the mean over the last one
    record("train/approx_kl", np.mean([values for values in metrics.by_epoch("approx_kl") if len(values)][-1]))
    record("train/clip_fraction", _mean(scalars["clip_fraction"]))
    # of the last minibatch, which an early stop skipped
    record("train/loss", float(scalars["loss"][-1]))
    if model._rollouts is not None:
        record("train/explained_variance", model._rollouts.explained_variance())
    elif isinstance(buffer, DeviceBuffer):
        record("train/explained_variance", buffer.explained_variance())
    else:
        valid = slice(None) if buffer.valid.all() else flat(buffer.valid)
        explained = explained_variance(buffer.values.flatten()[valid], buffer.returns.flatten()[valid])
        record("train/explained_variance", explained)
    if hasattr(model.policy, "log_std"):
        record("train/std", th.exp(model.policy.log_std).mean().item())
    # counts epochs, as in SB3; gradient steps are train/gradient_steps
    record("train/n_updates", model._n_updates, exclude="tensorboard")
    record("train/clip_range", coefs.clip_high)
    if coefs.clip_range_vf is not None:
        record("train/clip_range_vf", coefs.clip_range_vf)


def _log_coefficients(model: PPOPlus, coefs: Coefficients) -> None:
    """What moves, or exists only here, is logged with the value that the update used; a rate, with its last one."""
    record = model.logger.record
    if model.clip_range_low is not None:
        record("train/clip_range_low", coefs.clip_low)
    if "learning_rate" in model.controllers:
        record("train/learning_rate", value_of(model, "learning_rate"))
    for name in ("ent_coef", "vf_coef", "kl_coef", "reference_kl_coef"):
        if name in model.controllers or callable(getattr(model, name)):
            record(f"train/{name}", getattr(coefs, name))


def _log_measured(model: PPOPlus, measured: Measurement) -> None:
    record = model.logger.record
    record("train/kl", measured.kl, exclude=_FILES_ONLY)
    if measured.reference_kl is not None:
        record("train/reference_kl", measured.reference_kl, exclude=_FILES_ONLY)
    for dimension, entropy in enumerate(measured.entropies or ()):
        record(f"train/entropy_{dimension}", entropy, exclude=_FILES_ONLY)


def _log_diagnostics(model: PPOPlus, metrics: UpdateMetrics, scalars: dict[str, np.ndarray]) -> None:
    record = model.logger.record
    record("train/gradient_steps", metrics.gradient_steps, exclude=_FILES_ONLY)
    if model.kl_stop == "rollback":
        record("train/epochs_undone", metrics.undone_epochs, exclude=_FILES_ONLY)
    if "grad_norm" in scalars:
        record("train/grad_norm", _mean(scalars["grad_norm"]), exclude=_FILES_ONLY)
        record("train/grad_norm_max", float(scalars["grad_norm"].max()), exclude=_FILES_ONLY)
    extremes = metrics.ratio_extremes()
    if extremes is not None:
        record("train/ratio_min", extremes[0], exclude=_FILES_ONLY)
        record("train/ratio_max", extremes[1], exclude=_FILES_ONLY)
        for epoch, values in enumerate(metrics.by_epoch("approx_kl")):
            if len(values):
                record(f"train/approx_kl_epoch_{epoch}", _mean(values), exclude=_FILES_ONLY)


def _mean(values: np.ndarray) -> float:
    """In double precision, as SB3 averages its Python floats."""
    return float(np.mean(values.astype(np.float64)))
