"""What a task in torch is: functions of the states of all environments at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch as th
from gymnasium import spaces

from sb3_ppo_plus.errors import InvalidArgument


class Moved(NamedTuple):
    """
    What one step of a task leads to.

    :param state: states after it, in the dtype of those before [D, N]
    :param rewards: rewards, of any floating dtype [N]
    :param terminated: True where the task ends the episode [N]
    """

    state: th.Tensor
    rewards: th.Tensor
    terminated: th.Tensor


class TorchTask(ABC):
    """
    A task without a simulator: D numbers of state, and how they move.

    Subclasses compute with torch alone, on [D, N] tensors whose rows lie together in memory, without loops over
    environments, without ``if`` on a value, and without writing into what they are given. Then a step needs no word
    from the device to the host.
    """

    #: Gymnasium's id of the same task, None where it has none
    env_id: ClassVar[str | None] = None
    #: steps after which an episode is cut off, -1 for no limit
    max_episode_steps: int = -1
    #: uniform random numbers that a start takes (K)
    n_draws: int
    observation_space: spaces.Space
    action_space: spaces.Space

    def start_bounds(self, options: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
        """
        Say between what the numbers of a start are drawn.

        :param options: what ``set_options()`` or ``reset(options=...)`` asks for; None for an ordinary start
        :return: lower and upper bounds [K]
        :raises InvalidArgument: for options that the task does not have
        """
        if options:
            raise InvalidArgument(f"options={dict(options)!r}: {type(self).__name__} has none; leave them away")
        return [0.0] * self.n_draws, [1.0] * self.n_draws

    @abstractmethod
    def start(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: uniform numbers within :meth:`start_bounds`, in the dtype of states [K, N]
        :return: states of new episodes, of the same dtype [D, N]
        """

    @abstractmethod
    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        """
        :param state: states [D, N]
        :param actions: as the policy gives them: float32 [N, A], or whole numbers [N]
        :param first: True where this is the first step of an episode [N]
        :return: what came of it
        """

    @abstractmethod
    def observe(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: states [D, N]
        :return: observations, float32 [N, O]
        """


def low_and_high(task: str, options: Mapping[str, Any] | None, low: float, high: float) -> tuple[float, float]:
    """
    Read the two options that Gymnasium's tasks share.

    :param task: its name, for the message
    :param options: a mapping that may have ``low`` and ``high``, None for neither
    :param low: lower bound without options
    :param high: upper bound without options
    :return: lower and upper bound
    :raises InvalidArgument: for other options, or bounds in the wrong order
    """
    found = named_numbers(task, options, {"low": low, "high": high})
    if found["low"] > found["high"]:
        raise InvalidArgument(f"options of {task}: low={found['low']} is above high={found['high']}; exchange them")
    return found["low"], found["high"]


def named_numbers(task: str, options: Mapping[str, Any] | None, defaults: Mapping[str, float]) -> dict[str, float]:
    """
    :param task: its name, for the message
    :param options: numbers by name, None for none
    :param defaults: the names there are, and what holds where nothing is said
    :return: a number for each name
    :raises InvalidArgument: for other names, or what is no number
    """
    given = dict(options or {})
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise InvalidArgument(f"options of {task}: {unknown[0]!r} is unknown; there is {', '.join(defaults)}")
    try:
        return {name: float(given.get(name, default)) for name, default in defaults.items()}
    except (TypeError, ValueError) as failed:
        raise InvalidArgument(f"options of {task}: {given!r} holds what is no number; give floats") from failed
