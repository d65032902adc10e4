"""What the doctor does about a finding when it is allowed to: the last good state, and a lower learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_plus.coefficients import lower_learning_rate
from sb3_ppo_plus.nonfinite.parameter_copy import ParameterCopy
from sb3_ppo_plus.ppo_plus import PPOPlus

#: findings that a lower learning rate and an earlier state can help with
REPAIRABLE = frozenset(
    {
        "kl-high",
        "kl-spike",
        "learning-rate-high",
        "epochs-many",
        "clip-fraction-high",
        "critic-blowup",
        "gradient-spike",
        "nonfinite",
    }
)
_FACTOR = 0.5


class ScaledRate:
    """
    A learning rate's schedule, times a factor.

    :param schedule: the schedule
    :param factor: the factor
    """

    def __init__(self, schedule: Callable[[float], float], factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: from 1 to 0
        :return: the rate
        """
        return self.factor * self.schedule(progress_remaining)


class Treatment:
    """
    Keeps the last good state of a model, and goes back to it.

    :param model: the model
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model
        self.factor = 1.0
        self.good_step: int | None = None
        self._copy = ParameterCopy(model.policy)

    def note_good(self) -> None:
        """Remember policy and optimizer as they are, unless there is a number in them that is none."""
        if parameters_finite(self.model):
            self._copy.take()
            self.good_step = self.model.num_timesteps

    def apply(self) -> str:
        """
        Go back to the last good state and halve the learning rate from here on.

        :return: what was done, in words
        """
        parts = []
        if self.good_step is not None:
            self._copy.restore()
            parts.append(f"policy and optimizer restored as they were at step {self.good_step:,}")
        else:
            parts.append("no good state is known to go back to")
        parts.append(self._lower_rate())
        return "; ".join(parts)

    def _lower_rate(self) -> str:
        self.factor *= _FACTOR
        if isinstance(self.model, PPOPlus):
            return lower_learning_rate(self.model, _FACTOR)
        before = _rate(self.model)
        self._scale()
        return f"learning rate lowered from {before:.3g} to {_rate(self.model):.3g}"

    def _scale(self) -> None:
        """SB3's PPO asks its schedule, and nothing else."""
        schedule = self.model.lr_schedule
        base = schedule.schedule if isinstance(schedule, ScaledRate) else schedule
        self.model.lr_schedule = ScaledRate(base, self.factor)

    def state_dict(self) -> dict[str, Any]:
        """:return: plain data; the copy of the parameters is not in it"""
        return {"factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.factor = float(state["factor"])
        # PPOPlus is saved with the rate that it has.
        if self.factor != 1.0 and not isinstance(self.model, PPOPlus):
            self._scale()


def parameters_finite(model: OnPolicyAlgorithm) -> bool:
    """
    :param model: a model
    :return: whether all of its parameters are numbers
    """
    with th.no_grad():
        total = sum(parameter.sum() for parameter in model.policy.parameters())
    return bool(th.isfinite(th.as_tensor(total)))


def _rate(model: OnPolicyAlgorithm) -> float:
    return float(model.lr_schedule(model._current_progress_remaining))
