"""
What happens to an observation between the environment and the policy, as modules: the wrappers of a VecEnv, one by one.

An observation is a mapping from keys to tensors; :data:`WHOLE` is the key of one that is no Dict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from sb3_ppo_plus.envs.wrappers import TensorVecFrameStack, TensorVecMonitor
from sb3_ppo_plus.errors import InvalidArgument

logger = logging.getLogger(__name__)

WHOLE = ""
Parts = dict[str, th.Tensor]
# Wrappers that leave observations as they are.
_TRANSPARENT = (VecMonitor, VecCheckNan, VecVideoRecorder, TensorVecMonitor)


def parts_of(space: spaces.Space) -> dict[str, spaces.Space]:
    """
    :param space: observation space
    :return: its parts by key, in the space's order; one part named :data:`WHOLE` when it is no Dict
    """
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {WHOLE: space}


class Stage(th.nn.Module):
    """
    One step on the way of an observation.

    ``forward(obs, memory)`` takes both by key [B, ...] and gives the observation and what is to be remembered.
    """

    #: key of what is remembered -> (shape of one row, dtype)
    memory: dict[str, tuple[tuple[int, ...], th.dtype]] = {}  # noqa: RUF012  # replaced, never written into


class Normalize(Stage):
    """
    ``VecNormalize``: clip((x - mean) / sqrt(var + epsilon), -clip, clip), per key.

    VecNormalize computes in float64. The mean is kept as the sum of two float32 numbers here, so that nothing is lost
    where it is large against the deviation: x minus the first is exact when they are close.

    :param moments: key -> (mean, variance) in float64
    :param epsilon: added to variances
    :param clip: largest magnitude of what comes out
    """

    def __init__(self, moments: Mapping[str, tuple[np.ndarray, np.ndarray]], epsilon: float, clip: float) -> None:
        super().__init__()
        self.keys = list(moments)
        self.clip = float(clip)
        for index, (mean, var) in enumerate(moments.values()):
            coarse = np.asarray(mean, np.float64).astype(np.float32)
            fine = (np.asarray(mean, np.float64) - coarse).astype(np.float32)
            deviation = np.sqrt(np.asarray(var, np.float64) + epsilon).astype(np.float32)
            for name, array in (("coarse", coarse), ("fine", fine), ("deviation", deviation)):
                self.register_buffer(f"{name}_{index}", th.from_numpy(np.array(array)))

    def scale(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """
        :param key: part of the observation
        :return: its mean and deviation; None for a part that is left as it is
        """
        if key not in self.keys:
            return None
        index = self.keys.index(key)
        return tuple(getattr(self, f"{name}_{index}").double().numpy() for name in ("coarse", "deviation"))  # type: ignore[return-value]

    def forward(self, obs: Parts, memory: Parts) -> tuple[Parts, Parts]:
        """
        :param obs: observation by key [B, ...]
        :param memory: passed on
        :return: normalized observation, and the memory
        """
        changed = dict(obs)
        for index, key in enumerate(self.keys):
            coarse, fine, deviation = (getattr(self, f"{name}_{index}") for name in ("coarse", "fine", "deviation"))
            scaled = ((obs[key].float() - coarse) - fine) / deviation
            changed[key] = scaled.clamp(-self.clip, self.clip)
        return changed, memory


class FrameStack(Stage):
    """
    ``VecFrameStack``: the last observations side by side, the newest last; zeros before the first of an episode.

    :param spaces_before: key -> space of one frame
    :param axes: key -> axis of the stack, counted with the batch
    :param depth: number of frames
    """

    def __init__(self, spaces_before: Mapping[str, spaces.Space], axes: Mapping[str, int], depth: int) -> None:
        super().__init__()
        self.axes = dict(axes)
        self.sizes: dict[str, int] = {}
        self.memory = {}
        for key, space in spaces_before.items():
            shape = list(space.shape or ())
            axis = axes[key] - 1 if axes[key] > 0 else axes[key]
            self.sizes[key] = shape[axis]
            shape[axis] *= depth
            self.memory[key] = (tuple(shape), carrier(space))

    def forward(self, obs: Parts, memory: Parts) -> tuple[Parts, Parts]:
        """
        :param obs: newest frame by key [B, ...]
        :param memory: stack of the step before, zeros at the start of an episode, by key [B, ...]
        :return: the new stack, twice
        """
        stacked = {}
        for key, frame in obs.items():
            axis, size = self.axes[key], self.sizes[key]
            old = memory[key]
            kept = old.narrow(axis % old.dim(), size, old.shape[axis] - size)
            stacked[key] = th.cat([kept, frame.to(kept.dtype)], dim=axis)
        return stacked, stacked


class ChannelsFirst(Stage):
    """
    ``VecTransposeImage``: [B, H, W, C] to [B, C, H, W].

    :param keys: which parts are images
    """

    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self.keys = keys

    def forward(self, obs: Parts, memory: Parts) -> tuple[Parts, Parts]:
        """
        :param obs: observation by key [B, ...]
        :param memory: passed on
        :return: observation with channels first, and the memory
        """
        return {key: x.permute(0, 3, 1, 2) if key in self.keys else x for key, x in obs.items()}, memory


class Extract(Stage):
    """
    ``VecExtractDictObs``: one part of a Dict alone.

    :param key: which one
    """

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, obs: Parts, memory: Parts) -> tuple[Parts, Parts]:
        """
        :param obs: observation by key [B, ...]
        :param memory: passed on
        :return: the part, and the memory
        """
        return {WHOLE: obs[self.key]}, memory


def carrier(space: spaces.Space) -> th.dtype:
    """
    :param space: part of an observation
    :return: type of its numbers at the face of the graph: bytes and indices stay integers, all else is float32
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return th.int64
    return th.uint8 if space.dtype == np.uint8 and is_image_space(space, check_channels=False) else th.float32


def read_wrappers(env: VecEnv) -> tuple[spaces.Space, list[Stage]]:
    """
    Read off an environment's wrappers what they do to observations.

    :param env: wrapped environments
    :return: space of the observations that go in, and the stages in the order of the data
    :raises InvalidArgument: for a wrapper that changes observations in a way not known here
    """
    chain = wrappers_of(env)
    space = chain[0].venv.observation_space if chain else env.observation_space
    found = [_stage(wrapper, wrapper.venv.observation_space) for wrapper in chain]
    stages = [stage for stage in found if stage is not None]
    if sum(isinstance(stage, FrameStack) for stage in stages) > 1:
        raise InvalidArgument("the environment has two frame stacks, one around the other; use one with more frames")
    return space, stages


def wrappers_of(env: VecEnv) -> list[VecEnvWrapper]:
    """
    :param env: wrapped environments
    :return: the wrappers, innermost first
    """
    chain: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        chain.insert(0, env)
        env = env.venv
    return chain


def normalize_stage(normalizer: VecNormalize) -> Normalize | None:
    """
    :param normalizer: statistics of SB3 or of this package, with or without environments
    :return: the stage that applies them, None when observations are left as they are
    """
    if not normalizer.norm_obs:
        return None
    rms: Any = normalizer.obs_rms
    moments = rms if isinstance(rms, Mapping) else {WHOLE: rms}
    return Normalize(
        {key: (one.mean, one.var) for key, one in moments.items()}, normalizer.epsilon, normalizer.clip_obs
    )


def _stage(wrapper: VecEnvWrapper, before: spaces.Space) -> Stage | None:
    """The stage of one wrapper, None for one that leaves observations alone."""
    if isinstance(wrapper, VecNormalize):
        return normalize_stage(wrapper)
    if isinstance(wrapper, (VecFrameStack, TensorVecFrameStack)):
        return FrameStack(parts_of(before), *stack_layout(wrapper))
    if isinstance(wrapper, VecTransposeImage):
        if wrapper.skip:
            return None
        images = [key for key, space in parts_of(before).items() if is_image_space(space)]
        return ChannelsFirst(images)
    if isinstance(wrapper, VecExtractDictObs):
        return Extract(wrapper.key)
    if isinstance(wrapper, _TRANSPARENT):
        return None
    if wrapper.observation_space == before:
        logger.warning(
            "%s is taken to leave observations as they are; verify the file with the environment, which compares",
            type(wrapper).__name__,
        )
        return None
    raise InvalidArgument(
        f"{type(wrapper).__name__} changes observations in a way that the exporter does not know; do that in a wrapper "
        "of the single environment, whose observations then go into the file as they are, or in a features extractor"
    )


def stack_layout(wrapper: VecFrameStack | TensorVecFrameStack) -> tuple[dict[str, int], int]:
    """
    :param wrapper: frame stack of SB3 or of this package
    :return: axis of the stack by key, counted with the batch, and the number of frames
    """
    if isinstance(wrapper, TensorVecFrameStack):
        return wrapper.axes, wrapper.n_stack
    whole: Any = wrapper.stacked_obs
    each = getattr(whole, "sub_stacked_observations", {WHOLE: whole})
    return {key: int(one.stack_dimension) for key, one in each.items()}, int(whole.n_stack)
