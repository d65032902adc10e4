"""
What PPOPlus adds to SB3's rollout buffers, without a copy of them: which rows a minibatch holds, which rows count, and
the final observation of truncated episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_ppo_plus.advantages import Gaps, gae_over_gaps
from sb3_ppo_plus.distributions import DistributionParams, take_rows
from sb3_ppo_plus.envs.arrays import pick
from sb3_ppo_plus.types import Minibatch, Observations

# What an environment says in a step's info, or in its stats, about an agent with a rhythm of its own: that it was not
# asked in this step, so its action had no effect; that it will be asked in the next one (which goes without saying);
# and that the outcome of its last action was lost with the process that it lived in.
INVALID_ROW, AWAITS_ACTION, LOST_ROW = "invalid_row", "awaits_action", "lost_row"

if TYPE_CHECKING:
    _Base = RolloutBuffer
else:
    _Base = object


class Truncation(NamedTuple):
    """
    An episode that was cut off.

    :param step: row of the rollout, in [0, T)
    :param env: environment, in [0, N)
    :param final_obs: observation before the reset, as the environment gave it
    """

    step: int
    env: int
    final_obs: Any


class RowsMixin(_Base):
    """Mixed into the rollout buffer class by :func:`with_rows`."""

    rows: np.ndarray | None
    #: which rows count in the update [T, N]
    valid: np.ndarray
    truncations: list[Truncation]
    #: which actions were allowed; None where nobody said [T, N, D]
    masks: np.ndarray | None
    _idle: np.ndarray
    _lost: np.ndarray
    _awaits: np.ndarray

    def reset(self) -> None:
        super().reset()
        self.rows = None
        self.valid = np.ones((self.buffer_size, self.n_envs), dtype=bool)
        self._idle, self._lost = np.zeros_like(self.valid), np.zeros_like(self.valid)
        self._awaits = np.ones(self.n_envs, dtype=bool)
        self.masks = None
        self.truncations = []
        if isinstance(self.action_space, spaces.Box) and not np.issubdtype(self.action_space.dtype, np.floating):
            # SB3 stores actions in the space's dtype since 2.7.1. A Gaussian sample cut to an integer is not the action
            # whose log-probability was stored, and the ratio would not start at 1.
            self.actions = self.actions.astype(np.float32)

    def note_infos(self, infos: list[dict[str, Any]], dones: np.ndarray, keep_final_obs: bool) -> None:
        """
        Keep from the infos of the step that is about to be added what the update needs later.

        :param infos: one mapping an environment
        :param dones: whether the episode ended in this step [N]
        :param keep_final_obs: whether the final observations of truncated episodes are wanted
        """
        for env, info in enumerate(infos):
            if info.get(INVALID_ROW, False):
                self._idle[self.pos, env], self.valid[self.pos, env] = True, False
            if info.get(LOST_ROW, False):
                self._lost[self.pos, env] = True
            self._awaits[env] = info.get(AWAITS_ACTION, True)
            truncated = dones[env] and info.get("TimeLimit.truncated", False)
            if keep_final_obs and truncated and info.get("terminal_observation") is not None:
                self.truncations.append(Truncation(self.pos, env, info["terminal_observation"]))

    def note_stats(self, step: int, stats: Mapping[str, np.ndarray]) -> None:
        """
        Keep from a step's figures what the update needs later.

        :param step: row of the rollout
        :param stats: figures of the step by name, each [N]
        """
        if INVALID_ROW in stats:
            self._idle[step] = np.not_equal(stats[INVALID_ROW], 0)
            self.valid[step] = ~self._idle[step]
        if LOST_ROW in stats:
            self._lost[step] = np.not_equal(stats[LOST_ROW], 0)
        if AWAITS_ACTION in stats:
            self._awaits[...] = np.not_equal(stats[AWAITS_ACTION], 0)

    def note_masks(self, step: int, masks: np.ndarray) -> None:
        """
        Keep which actions were allowed.

        :param step: row of the rollout
        :param masks: True where an action is allowed [N, D]
        """
        if self.masks is None:
            self.masks = np.ones((self.buffer_size, *masks.shape), dtype=bool)
        self.masks[step] = masks

    def flat_masks(self) -> np.ndarray | None:
        """:return: which actions were allowed, in the flat order of minibatches [N * T, D]"""
        masks = self.masks
        return None if masks is None else masks.swapaxes(0, 1).reshape(-1, masks.shape[-1])

    @property
    def gaps(self) -> Gaps | None:
        """:return: where rows are not one decision each, None when all are"""
        found = Gaps(self._idle, self._lost, ~self._awaits)
        return found if any(part.any() for part in found) else None

    def compute_over_gaps(self, gaps: Gaps, last_values: np.ndarray, dones: np.ndarray) -> None:
        """
        Compute advantages and returns from decision to decision, and leave out those without an outcome.

        :param gaps: where rows are not one decision each
        :param last_values: value of the observations after the last row [N]
        :param dones: whether the last row ended an episode [N]
        """
        ended = np.concatenate([self.episode_starts[1:] > 0, dones[None].astype(bool)])
        self.advantages[...], self.valid = gae_over_gaps(
            self.rewards, self.values, last_values, ended, gaps, self.gamma, self.gae_lambda
        )
        self.returns[...] = self.advantages + self.values

    def note_truncations(self, step: int, envs: np.ndarray, final_obs: Any) -> None:
        """
        Keep final observations for the update.

        :param step: row of the rollout
        :param envs: environments whose episode was cut off in it
        :param final_obs: observations before any reset [N, O]
        """
        self.truncations += [Truncation(step, env, pick(final_obs, env)) for env in envs.tolist()]

    def __reduce__(self) -> tuple[Any, ...]:
        # the class was made at run time: pickle finds the user's class, which is imported, and makes it again
        return _unpickled, (type(self).__mro__[2],), self.__dict__

    def drawn_rows(self) -> np.ndarray | None:
        """
        :return: the rows that were drawn last [B], once; None when there were none since
        """
        rows, self.rows = self.rows, None
        return rows

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
        self.rows = batch_inds
        return super()._get_samples(batch_inds, env)


@cache
def with_rows(buffer_class: type[RolloutBuffer]) -> type[RolloutBuffer]:
    """
    A rollout buffer class that keeps track of its rows; everything else is inherited.

    :param buffer_class: SB3's RolloutBuffer, DictRolloutBuffer or a user's own
    :return: subclass of both that class and :class:`RowsMixin`
    """
    if issubclass(buffer_class, RowsMixin):
        return buffer_class
    return type(buffer_class.__name__, (RowsMixin, buffer_class), {})


def _unpickled(buffer_class: type[RolloutBuffer]) -> RolloutBuffer:
    rows_class = with_rows(buffer_class)
    return rows_class.__new__(rows_class)


class Columns:
    """
    What one update knows about each row beyond the buffer, in the buffer's flat order (environment by environment).

    :param valid: which rows count; None when all do [N * T]
    """

    def __init__(self, valid: np.ndarray | None, device: th.device) -> None:
        self.valid = valid
        self.mask = None if valid is None else th.as_tensor(valid, device=device)
        self.advantages: th.Tensor | None = None
        self.returns: th.Tensor | None = None
        self.old_distribution: DistributionParams | None = None
        self.reference_distribution: DistributionParams | None = None
        self.reference_log_prob: th.Tensor | None = None
        self.action_masks: th.Tensor | None = None

    def minibatch(self, samples: Any, actions: th.Tensor, rows: np.ndarray | None) -> Minibatch:
        """
        Join a buffer's samples with the columns.

        :param samples: SB3's RolloutBufferSamples or DictRolloutBufferSamples
        :param actions: their actions as the policy takes them
        :param rows: their row indices [B]
        :return: the minibatch
        """
        batch = Minibatch(
            samples.observations,
            actions,
            samples.old_values,
            samples.old_log_prob,
            samples.advantages,
            samples.returns,
        )
        known = self._known()
        if not known:
            return batch
        if rows is None:
            raise TypeError("the rollout buffer's get() must draw its rows through _get_samples(batch_inds)")
        at = th.as_tensor(rows, device=samples.returns.device)
        taken: dict[str, Any] = {
            name: column[at] if isinstance(column, th.Tensor) else take_rows(column, at)
            for name, column in known.items()
        }
        return batch._replace(**taken)

    def join_all(self, rows: Minibatch) -> Minibatch:
        """
        Join all rows of the buffer, in its flat order, with the columns.

        :param rows: every row, as SB3's buffer has it
        :return: the same with what the update adds
        """
        return rows._replace(**self._known())

    def _known(self) -> dict[str, Any]:
        return {name: column for name, column in vars(self).items() if column is not None and name != "valid"}


def minibatches(buffer: RolloutBuffer, batch_size: int, columns: Columns) -> Iterator[Minibatch]:
    """
    One pass over the rollout in SB3's random order.

    A minibatch without a row that counts is left out: its zero gradient would still move the parameters through Adam's
    momentum.

    :param buffer: a full rollout buffer made by :func:`with_rows`
    :param batch_size: rows of a minibatch; the last one may be smaller
    :param columns: what the update adds to the rows
    :return: minibatches of [B] rows
    """
    assert isinstance(buffer, RowsMixin)
    buffer.drawn_rows()  # a get() that does not draw through _get_samples must not inherit somebody else's rows
    for samples in buffer.get(batch_size):
        rows = buffer.drawn_rows()
        if columns.valid is not None and rows is not None and not columns.valid[rows].any():
            continue
        yield columns.minibatch(samples, policy_actions(buffer, samples.actions), rows)


def flatten_rows(buffer: RolloutBuffer) -> None:
    """
    Bring the buffer's arrays into the flat order of its minibatches, which SB3 does at the first draw of a rollout.

    Going through ``get()`` keeps one owner of that order; numpy's generator is put back, so that the draws of the
    update stay those of SB3's PPO.

    :param buffer: a full rollout buffer
    """
    if buffer.generator_ready:
        return
    state = np.random.get_state()  # noqa: NPY002 (SB3 draws from the global generator)
    next(buffer.get(1))
    np.random.set_state(state)  # noqa: NPY002


def flat(array: np.ndarray) -> np.ndarray:
    """
    Put a [T, N] array into the buffer's flat order.

    :param array: one number a row [T, N]
    :return: the same, environment by environment [N * T]
    """
    return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(-1)


def unflat(array: np.ndarray, n_steps: int) -> np.ndarray:
    """
    The inverse of :func:`flat`.

    :param array: one number a row, flat [N * T] or [N * T, 1]
    :param n_steps: T
    :return: the same as [T, N]
    """
    return array.reshape(-1, n_steps).swapaxes(0, 1)


def observations_at(buffer: RolloutBuffer, rows: np.ndarray) -> tuple[Observations, th.Tensor]:
    """
    Observations and actions of some rows of a flattened buffer.

    :param buffer: a rollout buffer after :func:`flatten_rows`
    :param rows: row indices [B]
    :return: observations [B, O] and actions [B, A], [B] for Discrete
    """
    samples = buffer._get_samples(rows)
    return samples.observations, policy_actions(buffer, samples.actions)


def policy_actions(buffer: RolloutBuffer, actions: th.Tensor) -> th.Tensor:
    """
    Buffers hold floats; policies take the actions of a Discrete space as integers.

    :param buffer: rollout buffer
    :param actions: actions as it gives them [B, A]
    :return: actions [B, A], [B] for Discrete
    """
    return actions.long().flatten() if isinstance(buffer.action_space, spaces.Discrete) else actions
