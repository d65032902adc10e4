"""What an update measures: scalars while it runs, detached on a GPU, and one transfer to the host at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.types import LossTerms


class UpdateMetrics:
    """Collects scalars of one update, by epoch and name."""

    def __init__(self) -> None:
        # numbers, scalar tensors, or several of them in a row [k]
        self._epochs: list[dict[str, list[Any]]] = []
        self.gradient_steps = 0
        self.undone_epochs = 0

    def start_epoch(self) -> None:
        """Mark where an epoch's minibatches begin."""
        self._epochs.append(defaultdict(list))

    def forget_epoch(self) -> None:
        """Leave out what was noted since the current epoch began, which is then done again."""
        self.gradient_steps -= len(self._values("grad_norm", self._epochs[-1:]))
        self._epochs[-1] = defaultdict(list)

    def add_terms(self, terms: LossTerms, row_kl: bool, ratios: bool) -> None:
        """
        Note what a minibatch's loss was made of.

        :param terms: terms of the loss
        :param row_kl: whether the KL of the minibatch is wanted
        :param ratios: whether the extremes of the probability ratio are wanted
        """
        scalars = {
            "loss": terms.loss,
            "policy_loss": terms.policy_loss,
            "value_loss": terms.value_loss,
            "entropy_loss": terms.entropy_loss,
            "approx_kl": terms.approx_kl,
            "clip_fraction": terms.clip_fraction,
        }
        if row_kl:
            scalars["kl"] = terms.approx_kl if terms.kl is None else terms.kl
        if ratios:
            scalars["ratio_min"], scalars["ratio_max"] = th.aminmax(terms.ratio.detach())
        self._add_scalars(scalars)

    def add_step(self, grad_norm: th.Tensor) -> None:
        """
        Note a gradient step.

        :param grad_norm: norm of the gradient before clipping
        """
        self.gradient_steps += 1
        self._add_scalars({"grad_norm": grad_norm})

    def forget_terms(self) -> None:
        """Leave out the terms that were noted last; no step came of them."""
        epoch = self._epochs[-1]
        for name in [name for name in epoch if name != "grad_norm"]:
            epoch[name].pop()
            if not epoch[name]:
                del epoch[name]

    def add_columns(self, columns: Mapping[str, th.Tensor], gradient_steps: int = 0) -> None:
        """
        Note several values of each scalar of the current epoch.

        :param columns: values by name, each [k]
        :param gradient_steps: how many gradient steps they stand for
        """
        self.gradient_steps += gradient_steps
        for name, column in columns.items():
            self._epochs[-1][name].append(column)

    def _add_scalars(self, scalars: Mapping[str, th.Tensor]) -> None:
        epoch = self._epochs[-1]
        for name, scalar in scalars.items():
            # On the host a number is there already, and thousands of small tensors that stay alive would drive the
            # other operations of the update into fresh memory. Elsewhere reading it would wait for it.
            epoch[name].append(scalar.item() if scalar.is_cpu else scalar.detach())

    @property
    def in_first_epoch(self) -> bool:
        """:return: whether the update is still in its first epoch"""
        return len(self._epochs) == 1

    def epoch_mean(self, name: str) -> float:
        """
        Mean of a scalar over the current epoch, for those who must decide before the update ends.

        :param name: name of the scalar
        :return: the mean; NaN when the epoch had no minibatch
        """
        return _mean(self._values(name, self._epochs[-1:]))

    def kl_of_epoch(self) -> float:
        """
        :return: mean KL over the current epoch; NaN when there is nothing to average
        """
        # before the first step of an update the KL is zero by construction and says nothing about the rate
        return _mean(self._values("kl", self._epochs[-1:])[len(self._epochs) == 1 :])

    def kl_of_minibatch(self) -> float:
        """
        :return: KL of the last minibatch; NaN for the first of the update, where it is zero by construction
        """
        chunks = self._epochs[-1].get("kl", [])
        is_first = len(self._epochs) == 1 and len(self._values("kl", [{"kl": chunks[:2]}])) == 1
        return float("nan") if is_first or not chunks else float(self._values("kl", [{"kl": chunks[-1:]}])[-1])

    def mean(self, name: str) -> float:
        """
        Mean of a scalar over the update.

        :param name: name of the scalar
        :return: the mean; NaN when the update had no minibatch
        """
        return _mean(self._values(name, self._epochs))

    def collect(self) -> dict[str, np.ndarray]:
        """
        Bring everything to the host.

        :return: the scalars by name, float32, in the order of the minibatches
        """
        names = list(dict.fromkeys(name for epoch in self._epochs for name in epoch))
        if not names:
            return {}
        columns = [self._values(name, self._epochs).float() for name in names]
        flat = th.cat(columns).cpu().numpy()
        sizes = [len(column) for column in columns]
        return dict(zip(names, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))

    def ratio_extremes(self) -> tuple[float, float] | None:
        """
        :return: smallest and largest probability ratio of the update, None when they were not asked for
        """
        low, high = (self._values(name, self._epochs) for name in ("ratio_min", "ratio_max"))
        return (float(low.min()), float(high.max())) if len(low) else None

    def by_epoch(self, name: str) -> list[np.ndarray]:
        """
        A scalar of each epoch; the last epoch may be incomplete or empty.

        :param name: name of the scalar
        :return: one array an epoch
        """
        return [self._values(name, [epoch]).float().cpu().numpy() for epoch in self._epochs]

    def _values(self, name: str, epochs: list[dict[str, list[Any]]]) -> th.Tensor:
        chunks = [chunk for epoch in epochs for chunk in epoch.get(name, [])]
        if all(isinstance(chunk, float) for chunk in chunks):
            return th.tensor(chunks)
        return th.cat([chunk.reshape(-1) if isinstance(chunk, th.Tensor) else th.tensor([chunk]) for chunk in chunks])


def _mean(values: th.Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
