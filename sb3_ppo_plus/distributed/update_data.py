"""The rollout of one rank, with what an update has to know about the rollouts of all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.advantages import standardize_rollout
from sb3_ppo_plus.buffers import unflat
from sb3_ppo_plus.distributed.moments import moments_of, over_all, standardize_by
from sb3_ppo_plus.distributed.ranks import Ranks
from sb3_ppo_plus.probe import Measurement
from sb3_ppo_plus.update_data import UpdateData


class RankedData(UpdateData):
    """
    :class:`~sb3_ppo_plus.update_data.UpdateData` whose advantages and measurements are those of all ranks together.

    An environment lives on one rank, so standardizing each apart (``advantage_scope="env"``) is the same as ever.

    :param ranks: the processes
    :param args: arguments of ``UpdateData``
    """

    def __init__(self, ranks: Ranks, *args: Any) -> None:
        self.ranks = ranks
        super().__init__(*args)
        # Who has a row that counts differs from rank to rank, and all have to make as many gradient steps: minibatches
        # in which no row counts here take part with the weight 0 instead of being left out.
        self.columns.valid = None

    def measure(self, policy: ActorCriticPolicy) -> Measurement:
        """
        Measure the policy on the probes of all ranks; only for an update that needs one.

        :param policy: current policy
        :return: means over the rows that count on any rank
        """
        assert self.probe is not None
        own = super().measure(policy)
        mask = self.probe.mask
        rows = len(self.probe.rows) if mask is None else int(mask.sum())
        values = [own.kl, own.reference_kl or 0.0, *(own.entropies or ())]
        # A rank without a row has measured nothing, which is not a number.
        weighed = [value * rows if rows else 0.0 for value in values]
        total, *sums = self.ranks.gather_numbers([rows, *weighed]).sum(0).tolist()
        kl, reference_kl, *entropies = [value / total if total else math.nan for value in sums]
        return Measurement(
            kl,
            None if own.reference_kl is None else reference_kl,
            None if own.entropies is None else entropies,
        )

    def _set_advantages(self, advantages: np.ndarray) -> None:
        scope = self.needs.scope
        if scope in ("batch", "env"):
            valid = self.columns.mask
            mask = None
            if valid is not None:
                mask = th.as_tensor(unflat(valid.cpu().numpy(), self.buffer.buffer_size).copy())
            values = th.as_tensor(advantages.copy())
            if scope == "env":
                advantages = standardize_rollout(values, mask, scope).numpy()
            else:
                flat_mask = None if mask is None else mask.flatten()
                (moments,) = over_all(self.ranks, [moments_of(values.flatten(), flat_mask)])
                advantages = standardize_by(values.flatten(), flat_mask, moments).view_as(values).numpy()
        self.columns.advantages = self._column(advantages)
