"""Actions drawn in NumPy from what a policy's last layer gives, with the numbers of torch's generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy


def sigmoid(x: np.ndarray) -> None:
    """1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which does not overflow."""
    np.multiply(x, 0.5, x)
    np.tanh(x, x)
    np.add(x, 1.0, x)
    np.multiply(x, 0.5, x)


class _Gaussian:
    """a = m + s e with e from N(0, 1), and log N(a; m, s) summed over the dimensions."""

    def __init__(self, policy: ActorCriticPolicy, n_envs: int) -> None:
        space: Any = policy.action_space
        self.low, self.high = space.low.reshape(-1), space.high.reshape(-1)
        self.shape = (n_envs, *space.shape)
        self.log_std = policy.log_std.detach().numpy()
        self.seen = b""
        noise = th.empty(n_envs, self.log_std.size)
        self.refresh, self.noise = noise.normal_, noise.numpy()
        self.distance = np.empty_like(self.noise)
        self.halves = np.full(self.log_std.size, -0.5, np.float32)

    def __call__(self, mean: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        # A callback may anneal the deviation between two steps.
        if self.log_std.tobytes() != self.seen:
            self.seen = self.log_std.tobytes()
            self.std = np.exp(self.log_std)
            self.constant = np.float32(self.log_std.sum() + self.log_std.size * 0.5 * math.log(2.0 * math.pi))
        self.refresh()
        sampled = self.noise * self.std
        np.add(mean, sampled, sampled)
        actions[...] = sampled
        # Of the rounded action, as the update computes it.
        distance = np.subtract(sampled, mean, self.distance)
        np.divide(distance, self.std, distance)
        np.multiply(distance, distance, distance)
        np.subtract(distance.dot(self.halves), self.constant, log_probs)
        return np.minimum(np.maximum(sampled, self.low), self.high).reshape(self.shape)


class _Choice:
    """One of k: argmax(p / q) with q from Exp(1), as ``torch.multinomial`` draws a single sample."""

    def __init__(self, n_envs: int, k: int) -> None:
        q = th.empty(n_envs, k)
        self.refresh, self.q = q.exponential_, q.numpy()
        self.rows = np.arange(n_envs)

    def __call__(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifted = logits - logits.max(1, keepdims=True)
        weights = np.exp(shifted)
        self.refresh()
        chosen = (weights / self.q).argmax(1)
        return chosen, shifted[self.rows, chosen] - np.log(weights.sum(1))


class _Categorical:
    def __init__(self, policy: Any, n_envs: int) -> None:
        self.choose = _Choice(n_envs, policy.action_net.out_features)

    def __call__(self, logits: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        chosen, log_probs[...] = self.choose(logits)
        actions[:, 0] = chosen
        return chosen


class _MultiCategorical:
    def __init__(self, policy: Any, n_envs: int) -> None:
        sizes = [int(k) for k in policy.action_dist.action_dims]
        ends = np.cumsum(sizes).tolist()
        self.choices = [(slice(end - k, end), _Choice(n_envs, k)) for end, k in zip(ends, sizes, strict=True)]

    def __call__(self, logits: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        drawn = [choose(logits[:, part]) for part, choose in self.choices]
        sampled = np.stack([chosen for chosen, _ in drawn], axis=1)
        actions[...] = sampled
        log_probs[...] = sum(log_prob for _, log_prob in drawn)
        return sampled


class _Bernoulli:
    """log p(1) = x - log(1 + exp x) and log p(0) = -log(1 + exp x) for the logit x, summed over the dimensions."""

    def __init__(self, policy: Any, n_envs: int) -> None:
        self.p = np.empty((n_envs, policy.action_net.out_features), np.float32)
        self.tensor = th.from_numpy(self.p)

    def __call__(self, logits: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        np.copyto(self.p, logits)
        sigmoid(self.p)
        if math.isnan(self.p.sum()):  # torch's error would say nothing of where it comes from; SB3's does
            log_probs[...] = np.nan
            return self.p
        sampled = th.bernoulli(self.tensor).numpy()
        actions[...] = sampled
        log_probs[...] = (sampled * logits - np.logaddexp(np.float32(0.0), logits)).sum(1)
        return sampled


DRAWS: dict[type, Callable[[ActorCriticPolicy, int], Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]] = {
    DiagGaussianDistribution: _Gaussian,
    CategoricalDistribution: _Categorical,
    MultiCategoricalDistribution: _MultiCategorical,
    BernoulliDistribution: _Bernoulli,
}
