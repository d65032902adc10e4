"""
What follows from the KL of a minibatch, decided where the KL is: the early stop of an update and the rate of its steps.

The host would have to wait for each minibatch to decide it. Here a few numbers on the device remember what was decided,
and the host reads them when the epoch is over. Minibatches behind a stop are still computed; nothing moves in them.
"""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_ppo_plus.controllers import Controller, KLBand
from sb3_ppo_plus.flat_adam import RATES, FlatAdam
from sb3_ppo_plus.graphs import APPROX_KL, FIGURES, NUMBERS, Steer, StepKind, padded_width

_KL, _LIMIT = FIGURES.index("kl"), NUMBERS.index("kl_limit")


def can_steer(controller: Controller | None) -> bool:
    """
    :param controller: what moves the learning rate, None for nobody
    :return: whether :class:`Steering` knows its rule
    """
    return controller is None or type(controller) is KLBand


def next_rate(rate: th.Tensor, kl: th.Tensor, rule: KLBand) -> th.Tensor:
    """
    Apply the rule of a :class:`~sb3_ppo_plus.controllers.KLBand` once, on the device.

    :param rate: learning rate []
    :param kl: measured KL; one that is not finite moves nothing []
    :param rule: the controller; its value is not looked at
    :return: the next learning rate []
    """
    down = rule.factor if rule.factor_down is None else rule.factor_down
    if rule.inverse:
        above, below = rate / down, rate * rule.factor
    else:
        above, below = rate * rule.factor, rate / down
    moved = th.where(kl > rule.band * rule.target, above, th.where(kl < rule.target / rule.band, below, rate))
    return th.where(th.isfinite(kl), moved.clamp(rule.min_value, rule.max_value), rate)


class Steering:
    """
    The numbers on the device: rate, rate at the beginning of the epoch, whether the update has stopped, minibatches
    that were measured until then, and whether the next one is the first of the update.

    :param device: where the steps run
    """

    def __init__(self, device: th.device) -> None:
        self.state = th.zeros(5, device=device)
        self.rule: KLBand | None = None

    def begin(self, rate: float, first: bool) -> None:
        """
        An epoch begins.

        :param rate: learning rate of its first step
        :param first: whether it is the first of the update, whose first KL is zero by construction
        """
        self.state.copy_(th.tensor([rate, rate, 0.0, 0.0, float(first)]))

    def end(self) -> tuple[float, bool, int]:
        """
        Read what was decided; the host waits here for the epoch.

        :return: the rate, whether the update stopped, and minibatches that were measured, the one that stopped included
        """
        rate, _, stopped, measured, _ = self.state.tolist()
        return rate, bool(stopped), int(measured)

    def make(self, kind: StepKind, flat: FlatAdam, all_groups: bool) -> Steer:
        """
        :param kind: what the step is made of
        :param flat: where the parameters stand
        :param all_groups: whether the rate is that of all of the optimizer's groups, else of the first alone
        :return: the function that :func:`~sb3_ppo_plus.graphs.make_policy_step` calls
        """
        state, rule = self.state, self.rule
        follows = np.zeros(padded_width(len(NUMBERS) + RATES * len(flat.segments)), dtype=bool)
        for index, segment in enumerate(flat.segments):
            at = len(NUMBERS) + RATES * index
            follows[[at, at + 2]] = all_groups or segment.group == 0
        columns = th.as_tensor(follows, device=state.device)

        def steer(numbers: th.Tensor, measured: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
            rate, start, stopped, count, first = state.unbind(0)
            ended = stopped > 0.0
            stays = ended | (measured[APPROX_KL] > numbers[_LIMIT]) if kind.stops else ended
            if rule is not None:
                moved = th.where(stays | (first > 0.0), rate, next_rate(rate, measured[_KL], rule))
                numbers = th.where(columns, numbers * (moved / start), numbers)
                rate = moved
            count = count + (~ended).to(count.dtype)
            state.copy_(th.stack([rate, start, stays.to(count.dtype), count, th.zeros_like(count)]))
            return numbers, stays if kind.stops else None

        return steer
