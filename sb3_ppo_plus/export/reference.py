"""
How the model itself acts, by SB3's own code: what the file is compared with.

Nothing of the exported graph is used here: wrappers transform observations with their own methods, and ``predict()`` is
the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    StackedObservations,
    VecExtractDictObs,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.heads import takes_masks
from sb3_ppo_plus.export.runner import OnnxPolicy
from sb3_ppo_plus.export.stages import WHOLE, Normalize, Stage, parts_of, stack_layout
from sb3_ppo_plus.masking import masked

Observation = Any


@dataclass(frozen=True)
class Asked:
    """
    One question to the model, and its answer.

    :param seen: observations as the policy sees them [B, ...]
    :param state: state before, None at the start
    :param begins: whether the row's episode begins [B]
    :param masks: allowed actions [B, L]
    :param actions: most likely actions [B, ...]
    """

    seen: Observation
    state: Any
    begins: np.ndarray
    masks: np.ndarray | None
    actions: np.ndarray


class Reference:
    """
    A model with the wrappers of its environment, on observations from anywhere.

    :param model: trained model
    :param wrappers: wrappers of its environment, innermost first
    :param normalizer: statistics to apply when there are no wrappers
    """

    def __init__(self, model: BaseAlgorithm, wrappers: Sequence[Any], normalizer: VecNormalize | None = None) -> None:
        self.model = model
        self.wrappers = list(wrappers) or ([normalizer] if normalizer is not None else [])
        self.masked = takes_masks(model)
        self._stacks: dict[int, Any] = {}
        self._state: Any = None
        self.latest: Asked | None = None

    def predict(self, raw: Observation, begins: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """
        :param raw: observations as the environments gave them [B, ...]
        :param begins: whether the row's episode begins with this observation [B]
        :param masks: allowed actions, for a policy with masks [B, L]
        :return: most likely actions [B, ...]
        """
        seen = self.transform(raw, begins)
        extra = {"action_masks": masks} if self.masked else {}
        before = self._state
        actions, self._state = self.model.predict(seen, state=before, episode_start=begins, deterministic=True, **extra)
        self.latest = Asked(seen, before, begins, masks, np.asarray(actions))
        return self.latest.actions

    def gap(self, given: np.ndarray) -> float:
        """
        Compare with what :meth:`predict` gave last.

        Choices are compared by what the model thinks of them: where two are equally likely, either is right.

        :param given: actions of a file [B, ...]
        :return: largest difference: of a continuous action over max(1, its magnitude), of log-probability for choices
        """
        asked = self.latest
        assert asked is not None
        space = self.model.action_space
        if isinstance(space, HybridSpace) and given.shape == asked.actions.shape:
            return self._hybrid_gap(space, given, asked)
        if isinstance(space, spaces.Box) or given.shape != asked.actions.shape:
            return difference(given, asked.actions)
        if np.array_equal(given, asked.actions):
            return 0.0
        return self._opinion_gap(asked, given)

    def _hybrid_gap(self, space: HybridSpace, given: np.ndarray, asked: Asked) -> float:
        (continuous, choices), (own_continuous, own_choices) = space.split(given), space.split(asked.actions)
        gap = difference(continuous, own_continuous)
        if np.array_equal(choices, own_choices):
            return gap
        mixed = asked.actions.copy()
        mixed[..., space.n_continuous :] = choices
        return max(gap, self._opinion_gap(asked, mixed))

    def _opinion_gap(self, asked: Asked, given: np.ndarray) -> float:
        """How much less likely the model thinks of actions than of its own."""
        with th.no_grad():
            distribution = self._distribution(asked)
            one, other = (
                distribution.log_prob(th.as_tensor(actions, device=self.model.device))
                for actions in (asked.actions, given)
            )
        return float((one - other).abs().max())

    def _distribution(self, asked: Asked) -> Any:
        """The model's action distribution on what it was asked last."""
        policy: Any = self.model.policy
        obs, _ = policy.obs_to_tensor(asked.seen)
        if self.masked and isinstance(policy.action_dist, MaskableDistribution):
            return policy.get_distribution(obs, action_masks=asked.masks)
        if self.masked:
            with masked(policy, asked.masks):
                return policy.get_distribution(obs)
        if not isinstance(policy, RecurrentActorCriticPolicy):
            return policy.get_distribution(obs)
        shape = list(policy.lstm_hidden_state_shape)
        shape[1] = len(asked.begins)
        state = asked.state if asked.state is not None else (np.zeros(shape), np.zeros(shape))
        hidden, cell = (th.as_tensor(part, dtype=th.float32, device=policy.device) for part in state)
        begins = th.as_tensor(asked.begins, dtype=th.float32, device=policy.device)
        return policy.get_distribution(obs, (hidden, cell), begins)[0]

    def transform(self, raw: Observation, begins: np.ndarray) -> Observation:
        """
        :param raw: observations as the environments gave them [B, ...]
        :param begins: whether the row's episode begins [B]
        :return: observations as the policy sees them
        """
        seen = raw
        for wrapper in self.wrappers:
            if isinstance(wrapper, VecNormalize):
                seen = wrapper.normalize_obs(seen)
            elif isinstance(wrapper, VecTransposeImage):
                seen = wrapper.transpose_observations(seen)
            elif isinstance(wrapper, VecExtractDictObs):
                seen = seen[wrapper.key]
            elif isinstance(wrapper, (VecFrameStack, TensorVecFrameStack)):
                seen = self._stack(wrapper, seen, begins)
        return seen

    def _stack(self, wrapper: Any, seen: Observation, begins: np.ndarray) -> Observation:
        stack = self._stacks.get(id(wrapper))
        if stack is None:
            stack = self._stacks[id(wrapper)] = _new_stack(wrapper, len(begins))
            result = stack.reset(seen)
        else:
            ended = [{"terminal_observation": _row(seen, index)} if begin else {} for index, begin in enumerate(begins)]
            result, _ = stack.update(seen, begins, ended)
        # SB3 gives its own arrays, which the next step writes into.
        return {key: part.copy() for key, part in result.items()} if isinstance(result, dict) else result.copy()


class RoundedObservations:
    """
    How far a model's actions move when observations of float64 are rounded to float32, before any wrapper sees them.

    A mass that Humanoid observes is 8.9 with a deviation of 1e-5 or less, hardly more than the accuracy of float32, so
    that normalization leaves rounding of it. No file can be blamed for that, since float32 is what it is given.

    :param model: trained model
    :param wrappers: wrappers of its environment, innermost first
    """

    def __init__(self, model: BaseAlgorithm, wrappers: Sequence[Any]) -> None:
        self.exact, self.rounded = Reference(model, wrappers), Reference(model, wrappers)

    def measure(
        self, raw: Observation, begins: np.ndarray, masks: np.ndarray | None, given: np.ndarray
    ) -> tuple[float, float]:
        """
        :param raw: observations as the environments gave them [B, ...]
        :param begins: whether the row's episode begins [B]
        :param masks: allowed actions, None for a policy without masks [B, L]
        :param given: actions of a file [B, ...]
        :return: largest difference that rounding makes, and that between the file and the model on the rounded
            observations; zeros where there is nothing to round, or no wrapper to make it matter
        """
        parts = raw if isinstance(raw, dict) else {WHOLE: raw}
        if not self.exact.wrappers or all(part.dtype != np.float64 for part in parts.values()):
            return 0.0, 0.0
        single = {key: part.astype(np.float32) if part.dtype == np.float64 else part for key, part in parts.items()}
        exact = self.exact.predict(raw, begins, masks)
        self.rounded.predict(single if isinstance(raw, dict) else single[WHOLE], begins, masks)
        return self.rounded.gap(exact), self.rounded.gap(given)


class FilePolicy:
    """
    A file that plays episodes, row by row of a batch.

    :param policy: opened file
    """

    def __init__(self, policy: OnnxPolicy) -> None:
        self.policy = policy
        self._state: Any = None
        self._rows = 0

    def step(self, raw: Any, begins: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """
        :param raw: observations as the environments gave them [B, ...]
        :param begins: whether the row's episode begins [B]
        :param masks: allowed actions, None for a policy without masks [B, L]
        :return: most likely actions [B, ...]
        """
        if len(begins) != self._rows:
            self._rows, self._state = len(begins), None
        actions, self._state = self.policy.predict(
            raw, self._state, episode_start=begins, deterministic=True, action_masks=masks
        )
        return actions


def _new_stack(wrapper: Any, n_envs: int) -> Any:
    """SB3's stack of a wrapper, for another number of environments."""
    space, (axes, depth) = wrapper.venv.observation_space, stack_layout(wrapper)
    order: Any = {key: "first" if axis == 1 else "last" for key, axis in axes.items()}
    stacked: Any = StackedObservations(n_envs, depth, space, order if isinstance(space, spaces.Dict) else order[WHOLE])
    return stacked


def _row(obs: Observation, index: int) -> Observation:
    """One row; a copy, because SB3 writes into the mapping."""
    return {key: part[index] for key, part in obs.items()} if isinstance(obs, dict) else obs[index]


def sample_observations(
    space: spaces.Space, rows: int, rng: np.random.Generator, stages: Sequence[Stage] = ()
) -> Observation:
    """
    Draw observations that a policy may meet; float32 numbers, which is what the file takes.

    :param space: space of raw observations
    :param rows: B
    :param rng: generator
    :param stages: stages of the graph; where the first one normalizes, unbounded numbers are drawn around its mean
    :return: observations [B, ...], a mapping for a Dict
    """
    first = stages[0] if stages and isinstance(stages[0], Normalize) else None
    drawn = {}
    for key, part in parts_of(space).items():
        scale = first.scale(key) if first is not None else None
        drawn[key] = _sample(part, rows, rng, scale)
    return drawn[WHOLE] if WHOLE in drawn else drawn


def _sample(
    space: spaces.Space, rows: int, rng: np.random.Generator, scale: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    shape = (rows, *(space.shape or ()))
    if isinstance(space, spaces.Discrete):
        return rng.integers(int(space.n), size=rows)
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(np.broadcast_to(space.nvec, shape))
    if isinstance(space, spaces.MultiBinary):
        return rng.integers(2, size=shape).astype(np.int8)
    assert isinstance(space, spaces.Box)
    if np.issubdtype(space.dtype, np.integer):
        return rng.integers(space.low, space.high, size=shape, endpoint=True, dtype=space.dtype)  # type: ignore[arg-type]
    mean, deviation = scale if scale is not None else (np.zeros(()), np.ones(()))
    # Three deviations: far enough that some numbers are clipped, near enough that most are not.
    normal = mean + 3.0 * deviation * rng.standard_normal(shape)
    bounded = space.bounded_below & space.bounded_above & (space.high - space.low < 1e6)
    low, high = np.where(bounded, space.low, 0.0), np.where(bounded, space.high, 1.0)
    uniform = low + (high.astype(np.float64) - low) * rng.random(shape)
    values = np.where(bounded, uniform, normal) if scale is None else normal
    return np.clip(values, space.low, space.high).astype(np.float32)


def sample_masks(sizes: Sequence[int], rows: int, rng: np.random.Generator) -> np.ndarray:
    """
    Draw masks that always leave a choice.

    :param sizes: number of choices of each action
    :param rows: B
    :param rng: generator
    :return: flags [B, sum of sizes]
    """
    parts = []
    for size in sizes:
        part = rng.random((rows, size)) < 0.5
        part[np.arange(rows), rng.integers(size, size=rows)] = True
        parts.append(part)
    return np.concatenate(parts, axis=1)


def difference(actions: np.ndarray, expected: np.ndarray) -> float:
    """
    :param actions: actions of the file [B, ...]
    :param expected: actions of the model [B, ...]
    :return: largest difference, over max(1, magnitude); infinite where one is NaN and the other is not
    """
    if actions.shape != expected.shape:
        raise InvalidArgument(f"the file gives actions of shape {actions.shape}, the model {expected.shape}")
    one, other = np.asarray(actions, np.float64), np.asarray(expected, np.float64)
    gap = np.abs(one - other) / np.maximum(1.0, np.abs(other))
    gap[np.isnan(one) & np.isnan(other)] = 0.0
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))
