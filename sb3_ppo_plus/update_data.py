"""Everything one update reads: the rollout's rows, what is known about them beyond SB3's buffer, and the probe."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.advantages import standardize_rollout
from sb3_ppo_plus.buffers import Columns, RowsMixin, flat, flatten_rows, minibatches, unflat
from sb3_ppo_plus.gathering import EpochRows, why_not_gathered
from sb3_ppo_plus.probe import AdvantageRecomputation, Measurement, Probe
from sb3_ppo_plus.types import Minibatch


class Needs(NamedTuple):
    """
    What an update asks for beyond SB3's minibatches; nothing costs nothing.

    :param row_kl: the KL of each minibatch, so the old distribution of each row
    :param rollout_kl: the KL over the whole rollout
    :param diagnostic_rows: a look at the KL and the entropies on so many rows
    :param recompute: advantages under the newer critic at each epoch
    :param scope: where advantages are standardized
    """

    row_kl: bool
    rollout_kl: bool
    diagnostic_rows: int
    recompute: bool
    scope: str


class UpdateData:
    """
    The rollout as one update sees it. Made before the first gradient step, while the policy is still the one that
    collected.

    :param buffer: full rollout buffer made by ``with_rows``
    :param policy: current policy
    :param reference: frozen reference policy, if there is one
    :param needs: what the update asks for
    :param last_obs: observations after the last step [N, O]
    :param last_dones: whether the last step ended an episode [N]
    """

    def __init__(
        self,
        buffer: RolloutBuffer,
        policy: ActorCriticPolicy,
        reference: ActorCriticPolicy | None,
        needs: Needs,
        last_obs: object,
        last_dones: np.ndarray,
    ) -> None:
        assert isinstance(buffer, RowsMixin)
        self.buffer = buffer
        self.needs = needs
        valid = None if buffer.valid.all() else flat(buffer.valid)
        self.columns = Columns(valid, buffer.device)
        if (masks := buffer.flat_masks()) is not None:
            self.columns.action_masks = th.as_tensor(masks, device=buffer.device)
        all_rows = needs.row_kl or needs.rollout_kl or reference is not None
        self.probe: Probe | None = None
        if all_rows:
            self.probe = Probe(policy, reference, buffer, valid, None)
        elif needs.diagnostic_rows:
            self.probe = _diagnostic_probe(policy, buffer, valid, needs.diagnostic_rows)
        if self.probe is not None and needs.row_kl:
            self.columns.old_distribution = self.probe.distribution
        if self.probe is not None and reference is not None:
            self.columns.reference_distribution = self.probe.reference_distribution
            self.columns.reference_log_prob = self.probe.reference_log_prob
        self._recompute = AdvantageRecomputation(policy, buffer, last_obs, last_dones) if needs.recompute else None
        if needs.scope in ("batch", "env"):
            self._standardize()

    def _standardize(self) -> None:
        """Standardize the advantages of the rollout as the scope says."""
        flatten_rows(self.buffer)
        self._set_advantages(unflat(self.buffer.advantages, self.buffer.buffer_size))

    @cached_property
    def epoch_rows(self) -> EpochRows:
        """:return: the rows as tensors, to be shuffled and cut; read when they are first asked for"""
        return EpochRows(self.buffer, self.columns)

    def minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        """
        One pass over the rollout in SB3's random order, gathered at once where the buffer is SB3's.

        :param batch_size: rows of a minibatch (B); the last one may be smaller
        :return: minibatches
        """
        if why_not_gathered(self.buffer) is None:
            return self.epoch_rows.minibatches(batch_size)
        return minibatches(self.buffer, batch_size, self.columns)

    @property
    def n_rows(self) -> int:
        """:return: rows of the rollout"""
        return self.buffer.buffer_size * self.buffer.n_envs

    def start_epoch(self, epoch: int, policy: ActorCriticPolicy) -> None:
        """
        Bring the advantages up to date with the critic; the first epoch uses those of the rollout.

        :param epoch: index of the epoch
        :param policy: current policy
        """
        if self._recompute is None or epoch == 0:
            return
        advantages, returns = self._recompute(policy)
        self.columns.returns = self._column(returns)
        self._set_advantages(advantages)

    def measure(self, policy: ActorCriticPolicy) -> Measurement:
        """
        Measure the policy on the probe; only for an update that needs one.

        :param policy: current policy
        :return: KL to the policy that collected, KL to the reference, entropies
        """
        assert self.probe is not None
        return self.probe.measure(policy)

    def _set_advantages(self, advantages: np.ndarray) -> None:
        if self.needs.scope in ("batch", "env"):
            valid = self.columns.valid
            mask = None if valid is None else th.as_tensor(unflat(valid, self.buffer.buffer_size).copy())
            advantages = standardize_rollout(th.as_tensor(advantages.copy()), mask, self.needs.scope).numpy()
        self.columns.advantages = self._column(advantages)

    def _column(self, array: np.ndarray) -> th.Tensor:
        return th.as_tensor(flat(array), device=self.buffer.device)


def _diagnostic_probe(
    policy: ActorCriticPolicy, buffer: RolloutBuffer, valid: np.ndarray | None, n_rows: int
) -> Probe | None:
    """What nothing steers by must never stop a training that SB3's PPO can do."""
    try:
        return Probe(policy, None, buffer, valid, n_rows)
    except Exception as error:
        warnings.warn(
            f"log_diagnostics cannot measure {type(policy).__name__} on {type(buffer).__name__} ({error!r}); training "
            "goes on without train/kl and train/entropy_*. Pass log_diagnostics=False to silence this"
        )
        return None
