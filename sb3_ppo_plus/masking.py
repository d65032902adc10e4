"""
Actions that may not be taken: their logits become hugely negative, wherever the policy makes a distribution.

Huang and Ontañón 2022, https://arxiv.org/abs/2006.14171: a masked action has probability zero and no gradient. The
convention is sb3-contrib's: True where an action is allowed; choice after choice for MultiDiscrete, and (0, 1) after
(0, 1) for MultiBinary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch.distributions import Bernoulli, Categorical

from sb3_ppo_plus.envs.base import TensorVecEnv
from sb3_ppo_plus.envs.hybrid import HybridSpace
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.hybrid_policy import HybridDistribution

#: logit of what is forbidden, as in sb3-contrib: exp() of it is zero, and zero times it is no NaN
FORBIDDEN = -1e8

_METHOD = "action_masks"
MaskSource = Callable[[], np.ndarray]


def mask_sizes(space: spaces.Space) -> tuple[int, ...] | None:
    """
    Say what a mask consists of.

    :param space: action space
    :return: number of entries for each choice, None for a space without choices
    """
    if isinstance(space, HybridSpace):
        return space.branch_sizes
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return (2,) * int(np.prod(space.shape))
    return None


def find_masks(env: VecEnv) -> MaskSource | None:
    """
    Look whether environments say which actions are allowed: with a method ``action_masks()``, as for MaskablePPO.

    :param env: vectorized environment
    :return: function that asks them, None when they do not say
    """
    if mask_sizes(env.action_space) is None:
        return None
    if isinstance(env, TensorVecEnv):
        return None if env.action_masks() is None else lambda: _masks_of(env, env.action_masks())
    return (lambda: _masks_of(env, env.env_method(_METHOD))) if env.has_attr(_METHOD) else None


def prediction_masks(model: Any, env: VecEnv) -> Callable[[], dict[str, Any]]:
    """
    What ``model.predict()`` is to be told of the masks of environments, whether or not there are any.

    :param model: model of PPOPlus, SB3 or sb3-contrib
    :param env: environments that it acts in
    :return: function that gives the arguments to add, to be called before each prediction
    """
    takes = getattr(model, "takes_masks", None)
    if takes is None:  # MaskablePPO does not say
        takes = "action_masks" in inspect.signature(model.predict).parameters
    source = find_masks(env) if takes else None
    return dict if source is None else lambda: {"action_masks": source()}


def _masks_of(env: VecEnv, given: Any) -> np.ndarray:
    found = check_masks(given, env.action_space)
    if len(found) != env.num_envs:
        raise InvalidArgument(f"action_masks() gave {len(found)} rows for {env.num_envs} environments; give one each")
    return found


def check_masks(given: Any, space: spaces.Space) -> np.ndarray:
    """
    Refuse masks that do not say for every action whether it is allowed, and those that allow none.

    :param given: masks as an environment or a caller gives them [N, D], or [D] for one environment
    :param space: action space
    :return: True where an action is allowed [N, D]
    :raises InvalidArgument: naming the environment and the choice where there is one to name
    """
    sizes = mask_sizes(space)
    if sizes is None:
        raise InvalidArgument(f"action_masks were given for {space}, which has no choices to mask; leave them out")
    width = sum(sizes)
    try:
        found = np.asarray(given)
        found = found.reshape(-1, width)
    except ValueError as ragged:
        raise InvalidArgument(
            f"action_masks {_shape(given)} for {space}, which takes {width} entries for each environment, True where "
            "an action is allowed"
        ) from ragged
    if found.dtype != bool:
        # what is no 0 and no 1 is more likely a logit or a probability than a permission
        if found.dtype.kind not in "iuf" or not ((found == 0) | (found == 1)).all():
            raise InvalidArgument(
                f"action_masks of {found.dtype} hold {found.ravel()[:6].tolist()}...; give bool, True where an action "
                "is allowed"
            )
        found = found.astype(bool)
    if not found.all():
        _check_choices(found, sizes, space)
    return found


def _check_choices(masks: np.ndarray, sizes: tuple[int, ...], space: spaces.Space) -> None:
    blocked = ~np.logical_or.reduceat(masks, np.cumsum((0, *sizes[:-1])), axis=1)
    if blocked.any():
        row, choice = (int(index[0]) for index in blocked.nonzero())
        raise InvalidArgument(
            f"action_masks: environment {row} allows nothing in choice {choice} of {space}; allow at least one action, "
            "one that does nothing if need be"
        )


def _shape(given: Any) -> str:
    try:
        return f"of the shape {np.shape(given)}"
    except ValueError:
        return "of rows of different lengths"


@contextmanager
def masked(policy: ActorCriticPolicy, masks: th.Tensor | np.ndarray | None) -> Iterator[None]:
    """
    Inside, every distribution that the policy makes leaves out what is forbidden, whichever method makes it.

    :param policy: actor-critic policy
    :param masks: True where an action is allowed, None for no masks [B, D]
    """
    if masks is None:
        yield
        return
    plain = policy.action_dist
    policy.action_dist = masked_twin(plain, th.as_tensor(masks, dtype=th.bool, device=policy.device))
    try:
        yield
    finally:
        policy.action_dist = plain


def masked_twin(plain: Distribution, masks: th.Tensor) -> Distribution:
    """
    Give a distribution that masks its logits.

    :param plain: SB3's distribution
    :param masks: True where an action is allowed [B, D]
    :return: one of the same kind
    :raises InvalidArgument: for a kind without choices, or one that is not SB3's
    """
    check_maskable(plain)
    return _TWINS[type(plain)](plain, masks)


def check_maskable(distribution: Distribution) -> None:
    """
    :param distribution: distribution of a policy
    :raises InvalidArgument: for a kind without choices, or one that is not SB3's
    """
    if type(distribution) not in _TWINS:
        raise InvalidArgument(
            f"action masks need one of SB3's distributions of choices, not {type(distribution).__name__}; use one of "
            "SB3's policies (MlpPolicy, CnnPolicy, MultiInputPolicy), or pass use_masking=False"
        )


def mask_logits(logits: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """
    :param logits: logits of choices [B, D]
    :param masks: True where an action is allowed [B, D], or of as many entries
    :return: logits, hugely negative where an action is not allowed [B, D]
    """
    return th.where(masks.view(logits.shape), logits, FORBIDDEN)


def mask_binary_logits(logits: th.Tensor, masks: th.Tensor) -> th.Tensor:
    """
    :param logits: log-odds of 1 [B, A]
    :param masks: whether 0 and 1 are allowed, in pairs [B, 2 A]
    :return: log-odds, huge where only one of them is allowed [B, A]
    """
    zero, one = masks.view(*logits.shape, 2).unbind(-1)
    return th.where(one, th.where(zero, logits, -FORBIDDEN), FORBIDDEN)


def _one_row_each(masks: th.Tensor, logits: th.Tensor, width: int) -> th.Tensor:
    rows = masks.reshape(-1, width)
    if len(rows) != len(logits):
        raise InvalidArgument(f"action_masks has {len(rows)} rows for {len(logits)} observations; give one row each")
    return rows


def _masked_categorical(logits: th.Tensor, masks: th.Tensor) -> Categorical:
    # Normalized before as well as after: the roundings of sb3-contrib, so that training gives the same parameters.
    return Categorical(logits=mask_logits(Categorical(logits=logits).logits, masks))


class _MaskedCategorical(CategoricalDistribution):
    def __init__(self, plain: CategoricalDistribution, masks: th.Tensor) -> None:
        super().__init__(plain.action_dim)
        self.masks = masks

    def proba_distribution(self, action_logits: th.Tensor) -> _MaskedCategorical:
        masks = _one_row_each(self.masks, action_logits, self.action_dim)
        self.distribution = _masked_categorical(action_logits, masks)
        return self


class _MaskedMultiCategorical(MultiCategoricalDistribution):
    def __init__(self, plain: MultiCategoricalDistribution, masks: th.Tensor) -> None:
        super().__init__(plain.action_dims)
        self.masks = masks

    def proba_distribution(self, action_logits: th.Tensor) -> _MaskedMultiCategorical:
        sizes = [int(n) for n in self.action_dims]
        masks = _one_row_each(self.masks, action_logits, sum(sizes))
        parts = zip(th.split(action_logits, sizes, dim=1), th.split(masks, sizes, dim=1), strict=True)
        self.distribution = [_masked_categorical(logits, allowed) for logits, allowed in parts]
        return self


class _MaskedBernoulli(BernoulliDistribution):
    def __init__(self, plain: BernoulliDistribution, masks: th.Tensor) -> None:
        super().__init__(plain.action_dims)
        self.masks = masks

    def proba_distribution(self, action_logits: th.Tensor) -> _MaskedBernoulli:
        masks = _one_row_each(self.masks, action_logits, 2 * self.action_dims)
        self.distribution = Bernoulli(logits=mask_binary_logits(action_logits, masks))
        return self


class _MaskedHybrid(HybridDistribution):
    def __init__(self, plain: HybridDistribution, masks: th.Tensor) -> None:
        super().__init__(plain.action_dim, plain.branch_sizes)
        self.choices = _MaskedMultiCategorical(plain.choices, masks)


_TWINS: dict[type, Callable[[Any, th.Tensor], Distribution]] = {
    CategoricalDistribution: _MaskedCategorical,
    MultiCategoricalDistribution: _MaskedMultiCategorical,
    BernoulliDistribution: _MaskedBernoulli,
    HybridDistribution: _MaskedHybrid,
}


def mask_rows(logits: np.ndarray, masks: np.ndarray) -> None:
    """
    The same in NumPy and in place.

    :param logits: logits of choices [N, D], or log-odds of 1 [N, D / 2]
    :param masks: True where an action is allowed [N, D]
    """
    if logits.shape == masks.shape:
        np.copyto(logits, np.float32(FORBIDDEN), where=~masks)
        return
    np.copyto(logits, np.float32(-FORBIDDEN), where=~masks[:, 0::2])
    np.copyto(logits, np.float32(FORBIDDEN), where=~masks[:, 1::2])
