"""Actions with two kinds of parts, continuous ones and choices, as one space that SB3 can store and pass around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ppo_plus.errors import InvalidArgument


class HybridSpace(spaces.Box):
    """
    n continuous actions followed by a choice in each of b branches, in one vector of n + b numbers.

    It is a Box whose last b entries are whole numbers, so that rollout buffers, wrappers and vectorized environments
    need to know nothing of it. PPOPlus draws the first from a Gaussian and the others from categorical distributions.

    :param continuous: space of the continuous actions, a vector
    :param branches: number of choices of each branch
    :raises InvalidArgument: when one of the two parts is missing or is no such space
    """

    def __init__(self, continuous: spaces.Box, branches: Sequence[int], seed: int | None = None) -> None:
        sizes = np.asarray(branches, np.int64).reshape(-1)
        if not isinstance(continuous, spaces.Box) or len(continuous.shape) != 1 or not continuous.shape[0]:
            raise InvalidArgument(f"the continuous part of a hybrid action is a Box of one dimension, not {continuous}")
        if not len(sizes) or sizes.min() < 1:
            raise InvalidArgument(f"branches={list(branches)!r} of a hybrid action: one or more numbers of choices")
        self.continuous = continuous
        self.branches = spaces.MultiDiscrete(sizes)
        low = np.concatenate([continuous.low, np.zeros(len(sizes))]).astype(np.float32)
        high = np.concatenate([continuous.high, sizes - 1]).astype(np.float32)
        super().__init__(low, high, dtype=np.float32, seed=seed)

    @property
    def n_continuous(self) -> int:
        """:return: number of continuous actions (n)"""
        return int(self.continuous.shape[0])

    @property
    def branch_sizes(self) -> tuple[int, ...]:
        """:return: number of choices of each branch [b]"""
        return tuple(int(size) for size in self.branches.nvec)

    def split(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Take the two parts of some actions apart.

        :param actions: actions of this space [N, n + b] or [n + b]
        :return: the continuous part, float32 [N, n], and the choices, int64 [N, b]
        """
        n = self.n_continuous
        return np.asarray(actions[..., :n], np.float32), np.rint(actions[..., n:]).astype(np.int64)

    def seed(self, seed: int | None = None) -> Any:
        """See :meth:`gymnasium.Space.seed`."""
        parts = np.random.SeedSequence(seed).generate_state(2)
        self.continuous.seed(int(parts[0]))
        self.branches.seed(int(parts[1]))
        return super().seed(seed)

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        """:return: an action of independent uniform parts [n + b]"""
        return np.concatenate([self.continuous.sample(), self.branches.sample()]).astype(np.float32)

    def contains(self, x: Any) -> bool:
        """
        :param x: anything
        :return: whether it is an action of this space
        """
        choices = np.asarray(x)[..., self.n_continuous :] if super().contains(x) else None
        return choices is not None and bool((choices == np.rint(choices)).all())

    def __repr__(self) -> str:
        return f"HybridSpace({self.continuous}, {list(self.branch_sizes)})"

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, HybridSpace) and self.continuous == other.continuous and self.branches == other.branches
        )

    __hash__ = None  # type: ignore[assignment]
