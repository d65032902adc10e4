"""Losses, gradients and parameters, looked at before they become a step, and the way back when they cannot."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.errors import NonFinite
from sb3_ppo_plus.nonfinite.parameter_copy import ParameterCopy

logger = logging.getLogger(__name__)

_SKIPPED_IN_A_ROW, _RETURNS_IN_A_ROW = "skipped in a row", "returns in a row"
# Gradient steps skipped in a row, after which the policy goes back to where its update began.
PATIENCE = 10
#: what the learning rate is then multiplied with
RATE_FACTOR = 0.5
# Ways back without a gradient step in between that could be taken.
_MAX_RETURNS = 5
_ADVICE = "lower learning_rate, scale rewards and observations, or let nan_policy='quarantine' skip such steps"
_ENDS = "the policy went back and the learning rate was halved {} times in a row without effect; scale rewards"


class UpdateGuard:
    """
    Keeps gradient steps that are not finite from being taken.

    :param policy: policy with its optimizer
    :param quarantines: tells whether such a step is skipped; else it is an error, and the policy is as before the
        update
    :param timestep: gives the timestep of the training, for messages
    :param lower_rate: multiplies the learning rate with a factor from now on, and tells what it did
    :param counts: where it counts: steps ``skipped``, ``returns`` to the beginning of an update, and both ``in a row``
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        quarantines: Callable[[], bool],
        timestep: Callable[[], int],
        lower_rate: Callable[[float], str],
        counts: dict[str, int],
    ) -> None:
        self.policy, self.quarantines, self.timestep, self.lower_rate = policy, quarantines, timestep, lower_rate
        self.counts = counts
        #: whether the rest of this update is left out
        self.gives_up = False
        self._before = ParameterCopy(policy)

    def begin_update(self) -> None:
        """Remember where the update begins."""
        self.gives_up = False
        self._before.take()

    def lets_pass(self, loss: th.Tensor, norm: th.Tensor) -> bool:
        """
        Decide about one gradient step, whose gradients the parameters hold.

        :param loss: scalar
        :param norm: norm of the gradient, scalar
        :return: whether it is taken
        :raises NonFinite: when it is not finite and nothing is skipped
        """
        # A step on a device must not wait for the host: what it spoils is found when the update ends.
        if not norm.is_cpu or math.isfinite(norm.item()):
            self._end_row()
            return True
        self._refuse(*self._what(loss, norm))
        return False

    def all_pass(self, norms: th.Tensor) -> bool:
        """
        Look at steps that a graph has taken on copies of the parameters.

        :param norms: norm of the gradient of each [k]
        :return: whether the steps can be kept; if not, they have to be taken again one by one
        """
        passed = not norms.is_cpu or math.isfinite(norms.sum().item())
        if passed:
            self._end_row()
        return passed

    def end_update(self) -> None:
        """
        Look at what the update has left.

        :raises NonFinite: when a parameter is not finite and nothing is skipped
        """
        found = self._broken_parameter()
        if found is not None:
            self._refuse("parameter", *found, whole_update=True)
        elif not self.gives_up and not self.counts.get(_SKIPPED_IN_A_ROW):
            self.counts.pop(_RETURNS_IN_A_ROW, None)

    def _what(self, loss: th.Tensor, norm: th.Tensor) -> tuple[str, str, float]:
        if not math.isfinite(loss.item()):
            return "loss", "", loss.item()
        for name, parameter in self.policy.named_parameters():
            slope = parameter.grad
            if slope is not None and not bool(th.isfinite(slope).all()):
                return "gradient", name, float(slope[~th.isfinite(slope)][0])
        return "gradient", "(norm)", norm.item()

    def _broken_parameter(self) -> tuple[str, float] | None:
        with th.no_grad():
            total = th.stack(th._foreach_norm(list(self.policy.parameters()))).sum()
        if math.isfinite(total.item()):
            return None
        for name, parameter in self.policy.named_parameters():
            bad = parameter.detach()[~th.isfinite(parameter.detach())]
            if len(bad):
                return name, float(bad[0])
        return None

    def _refuse(self, place: str, key: str, value: float, whole_update: bool = False) -> None:
        if not self.quarantines():
            self._before.restore()
            raise NonFinite(place, None, self.timestep(), key, value, f"the policy is as before the update; {_ADVICE}")
        if not whole_update:
            self._count("skipped")
            if self._count(_SKIPPED_IN_A_ROW) < PATIENCE:
                return
        self._before.restore()
        if self.counts.get(_RETURNS_IN_A_ROW) == _MAX_RETURNS:
            raise NonFinite(place, None, self.timestep(), key, value, _ENDS.format(_MAX_RETURNS))
        self.gives_up = True
        self._end_row()
        self._count("returns")
        self._count(_RETURNS_IN_A_ROW)
        logger.warning(
            "%s%s is %s at timestep %s: the policy is as before the update again, and %s",
            place,
            f" {key}" if key else "",
            value,
            f"{self.timestep():,}",
            self.lower_rate(RATE_FACTOR),
        )

    def _count(self, name: str) -> int:
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]

    def _end_row(self) -> None:
        if _SKIPPED_IN_A_ROW in self.counts:
            del self.counts[_SKIPPED_IN_A_ROW]
