"""What an update measures: detached scalars while it runs, one transfer to the host at its end."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch as th

from sb3_ppo_plus.types import LossTerms


class UpdateMetrics:
    """Collects scalars of one update, by name and epoch, on the device."""

    def __init__(self) -> None:
        self._tensors: dict[str, list[th.Tensor]] = defaultdict(list)
        self._ratios: list[th.Tensor] = []
        self._epoch_starts: list[int] = []
        self._minibatches = 0
        self.gradient_steps = 0
        self.undone_epochs = 0

    def start_epoch(self) -> None:
        """Mark where an epoch's minibatches begin."""
        self._epoch_starts.append(self._minibatches)

    def add_terms(self, terms: LossTerms, row_kl: bool, ratios: bool) -> None:
        """
        Note what a minibatch's loss was made of.

        :param terms: terms of the loss
        :param row_kl: whether the KL of the minibatch is wanted
        :param ratios: whether the extremes of the probability ratio are wanted
        """
        self._minibatches += 1
        scalars = {
            "loss": terms.loss,
            "policy_loss": terms.policy_loss,
            "value_loss": terms.value_loss,
            "entropy": -terms.entropy_loss.detach(),
            "approx_kl": terms.approx_kl,
            "clip_fraction": terms.clip_fraction,
        }
        if row_kl:
            scalars["kl"] = terms.approx_kl if terms.kl is None else terms.kl
        if ratios:
            self._ratios.append(terms.ratio.detach())
        for name, value in scalars.items():
            self._tensors[name].append(value.detach())

    def add_step(self, grad_norm: th.Tensor) -> None:
        """
        Note a gradient step.

        :param grad_norm: norm of the gradient before clipping
        """
        self.gradient_steps += 1
        self._tensors["grad_norm"].append(grad_norm.detach())

    def epoch_mean(self, name: str) -> float:
        """
        Mean of a scalar over the current epoch, for those who must decide before the update ends.

        :param name: name of the scalar
        :return: the mean; NaN when the epoch had no minibatch
        """
        return _mean(self._tensors.get(name, [])[self._epoch_starts[-1] :])

    def kl_of_epoch(self) -> float:
        """
        :return: mean KL over the current epoch; NaN when there is nothing to average
        """
        # before the first step of an update the KL is zero by construction and says nothing about the rate
        return _mean(self._tensors.get("kl", [])[max(1, self._epoch_starts[-1]) :])

    def kl_of_minibatch(self) -> float:
        """
        :return: KL of the last minibatch; NaN for the first of the update, where it is zero by construction
        """
        return _mean(self._tensors.get("kl", [])[1:][-1:])

    def mean(self, name: str) -> float:
        """
        Mean of a scalar over the update.

        :param name: name of the scalar
        :return: the mean; NaN when the update had no minibatch
        """
        return _mean(self._tensors.get(name, []))

    def collect(self) -> dict[str, np.ndarray]:
        """
        Bring everything to the host.

        :return: the scalars by name, float32, in the order of the minibatches
        """
        names = list(self._tensors)
        if not names:
            return {}
        sizes = [len(self._tensors[name]) for name in names]
        flat = th.stack([value.float() for name in names for value in self._tensors[name]]).cpu().numpy()
        return dict(zip(names, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))

    def ratio_extremes(self) -> tuple[float, float] | None:
        """
        :return: smallest and largest probability ratio of the update, None when they were not asked for
        """
        if not self._ratios:
            return None
        low, high = th.aminmax(th.cat(self._ratios))
        return float(low), float(high)

    def by_epoch(self, values: np.ndarray) -> list[np.ndarray]:
        """
        Cut a collected scalar into epochs.

        :param values: one number a minibatch
        :return: one array an epoch; the last epoch may be incomplete or empty
        """
        return np.split(values, self._epoch_starts[1:])


def _mean(values: list[th.Tensor]) -> float:
    return float(th.stack(values).mean()) if values else float("nan")
