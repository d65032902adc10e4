"""A look into the networks on a few rows of the rollout: dead units, rank of the features, where the ratio starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

logger = logging.getLogger(__name__)

_ROWS, _IMAGE_ROWS = 256, 32
# Deviation over observations, as a share of its layer's mean, below which a unit counts as dead (Sokar et al. 2023).
_DORMANT = 0.025
# Share of the singular values' sum that the rank accounts for (Kumar et al. 2021, "Implicit under-parameterization").
_ENERGY = 0.99
_MODE_LAYERS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
_WEIGHTLESS = (nn.Identity, nn.Flatten, nn.Dropout)


def probe_networks(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> dict[str, float]:
    """
    Pass some rows through the policy, without drawing a random number and without leaving a trace in it.

    :param policy: policy that collected the rollout, in evaluation mode
    :param buffer: full rollout buffer, before the update has reordered it
    :return: metrics by name; none where the policy cannot be looked into
    """
    try:
        with th.no_grad():
            return _probe(policy, buffer)
    except Exception as error:  # a policy may be anything, and a look at it must not end a training
        logger.debug("the networks of %s cannot be looked into: %r", type(policy).__name__, error)
        return {}


def _probe(policy: ActorCriticPolicy, buffer: RolloutBuffer) -> dict[str, float]:
    steps, envs = _rows(buffer)
    obs = obs_as_tensor(_pick(buffer.observations, steps, envs, buffer), policy.device)
    outputs: list[th.Tensor] = []
    with _listening(policy, outputs):
        features = policy.extract_features(obs)
        shared = features if isinstance(features, th.Tensor) else features[0]
        latent = policy.mlp_extractor.forward_actor(shared)
    measured = {"doctor/dead_units": _dead_share(outputs)} if outputs else {}
    rank = feature_rank(latent.float())
    if rank is not None:
        measured["doctor/rank"] = rank
    if getattr(buffer, "masks", None) is None and bool(np.all(getattr(buffer, "valid", True))):
        measured["doctor/ratio_error"] = _ratio_error(policy, buffer, obs, steps, envs)
    return measured


def mode_layers(policy: ActorCriticPolicy) -> list[str]:
    """
    :param policy: a policy
    :return: names of its layers that compute otherwise in an update than in a rollout: dropout and batch normalization
    """
    modules = policy.named_modules()
    return [name for name, module in modules if isinstance(module, _MODE_LAYERS) and getattr(module, "p", 1.0) > 0.0]


class ActorWatch:
    """Sees whether an update changes the last layer of the actor at all."""

    def __init__(self) -> None:
        self._before: tuple[th.Tensor, th.Tensor] | None = None
        self._known: bool | None = None

    def take(self, policy: ActorCriticPolicy) -> None:
        """
        :param policy: policy before an update
        """
        weight = getattr(getattr(policy, "action_net", None), "weight", None)
        self._known = None
        self._before = (weight, weight.detach().clone()) if isinstance(weight, th.Tensor) else None

    def stands_still(self) -> bool | None:
        """:return: whether the update left it as it was; None where there is no such layer"""
        if self._before is None:
            return self._known
        weight, copy = self._before
        return th.equal(weight.detach(), copy)

    def remember(self, still: bool | None) -> None:
        """
        :param still: what :meth:`stands_still` gave before a training was interrupted
        """
        self._before, self._known = None, still


def _rows(buffer: RolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
    """Evenly spaced places of the rollout."""
    total = buffer.buffer_size * buffer.n_envs
    observations: Any = buffer.observations
    largest = max(
        array[0, 0].size for array in (observations.values() if isinstance(observations, dict) else [observations])
    )
    count = min(total, _ROWS if largest <= 4096 else _IMAGE_ROWS)
    places = np.linspace(0, total - 1, count).astype(int)
    return places // buffer.n_envs, places % buffer.n_envs


def _pick(observations: Any, steps: np.ndarray, envs: np.ndarray, buffer: RolloutBuffer) -> Any:
    if isinstance(observations, dict):
        return {name: array[steps, envs] for name, array in observations.items()}
    picked = observations[steps, envs]
    return picked.reshape(len(steps), *(buffer.obs_shape if isinstance(buffer.obs_shape, tuple) else ()))


def _ratio_error(
    policy: ActorCriticPolicy, buffer: RolloutBuffer, obs: Any, steps: np.ndarray, envs: np.ndarray
) -> float:
    """Largest distance of the probability ratio from 1 before the update."""
    actions = th.as_tensor(buffer.actions[steps, envs], device=policy.device)
    if policy.action_space.__class__.__name__ == "Discrete":
        actions = actions.long().flatten()
    _, log_probs, _ = policy.evaluate_actions(obs, actions)
    change = log_probs.cpu().numpy() - buffer.log_probs[steps, envs]
    return float(np.abs(np.expm1(np.clip(change, -20.0, 20.0))).max())


@contextmanager
def _listening(policy: ActorCriticPolicy, outputs: list[th.Tensor]) -> Iterator[None]:
    """Collect what the activations of the actor's layers give."""

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, th.Tensor) and output.dim() == 2 and not isinstance(module, (nn.Linear, *_WEIGHTLESS)):
            outputs.append(output)

    leaves = [module for module in policy.mlp_extractor.modules() if not any(module.children())]
    handles = [module.register_forward_hook(keep) for module in leaves if next(module.parameters(), None) is None]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _dead_share(layers: list[th.Tensor]) -> float:
    """Share of the units that answer to nothing."""
    dead = total = 0
    for layer in layers:
        deviations = layer.float().std(dim=0)
        dead += int((deviations <= _DORMANT * deviations.mean()).sum())
        total += deviations.numel()
    return dead / total


def feature_rank(features: th.Tensor) -> float | None:
    """
    :param features: outputs of a network, one row for each observation [M, F]
    :return: how many directions they span; None for too few rows, and for numbers that are none
    """
    if features.dim() != 2 or len(features) < 16 or not bool(th.isfinite(features).all()):
        return None
    values = th.linalg.svdvals(features - features.mean(dim=0))
    total = values.sum()
    return float((values.cumsum(0) < _ENERGY * total).sum() + 1) if total > 0 else 0.0
