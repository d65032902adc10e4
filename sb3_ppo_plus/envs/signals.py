"""
What lies between a policy and a real robot: noisy sensors, late commands, and a low-pass filter before the motors.

Each is a small object on tensors [N, ...] with a state of its own. Rows are started anew by mask, so the same objects
serve an accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.errors import InvalidArgument

_STREAM = 2


class ObservationNoise:
    """
    Gaussian noise on observations, drawn anew at each step.

    :param std: standard deviation, one for all or one per dimension, in the observation's units; a few per cent of a
        signal's spread is typical of encoders and gyroscopes. Larger makes a policy more careful, too large hides the
        state
    :param size: O, dimensions of an observation
    :param device: where observations are
    :raises InvalidArgument: for a negative deviation, or another number of them than dimensions
    """

    def __init__(self, std: float | Sequence[float], size: int, device: th.device | str = "cpu") -> None:
        values: list[Any] = list(std) if isinstance(std, (list, tuple, np.ndarray)) else [std] * size
        if len(values) != size:
            raise InvalidArgument(
                f"observation_noise has {len(values)} deviations and an observation {size} dimensions; give one "
                "number, or "
                f"{size}"
            )
        if not all(_is_number(value) and value >= 0 for value in values):
            raise InvalidArgument(f"observation_noise is {std!r}; give standard deviations of at least 0, such as 0.01")
        self.std = th.tensor(values, dtype=th.float64, device=device)

    def __call__(self, observations: th.Tensor, generator: th.Generator) -> th.Tensor:
        """
        :param observations: clean observations [N, O]
        :param generator: source of the noise
        :return: noisy observations [N, O]
        """
        noise = th.randn(observations.shape, generator=generator, dtype=observations.dtype, device=observations.device)
        return observations + noise * self.std.to(observations.dtype)


class ActionDelay:
    """
    Commands that take effect some steps after they were given; until the first arrives the command is 0.

    :param delay: environment steps, or a pair (low, high) from which each environment draws at reset, both included. 1
        is typical of a control loop that computes while the robot moves; more needs policies that see past actions
    :param n_envs: N
    :param size: A, dimensions of an action
    :param device: where actions are
    :raises InvalidArgument: for anything but whole numbers of at least 0, low first
    """

    def __init__(self, delay: int | Sequence[int], n_envs: int, size: int, device: th.device | str = "cpu") -> None:
        bounds: list[Any] = list(delay) if isinstance(delay, (list, tuple)) else [delay, delay]
        whole = all(isinstance(bound, Integral) and not isinstance(bound, bool) for bound in bounds)
        if len(bounds) != 2 or not whole or not 0 <= bounds[0] <= bounds[1]:
            raise InvalidArgument(
                f"action_delay is {delay!r}; give a number of steps such as 1, or a pair (low, high) to draw from at "
                "reset"
            )
        self.low, self.high = (int(bound) for bound in bounds)
        self.delays = th.full((n_envs,), self.low, device=device)
        self.history = th.zeros(self.high + 1, n_envs, size, device=device)
        self._rows = th.arange(n_envs, device=device)

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: commands given now [N, A]
        :return: commands that take effect now [N, A]
        """
        self.history = th.cat((actions[None].to(self.history.dtype), self.history[:-1]))
        return self.history[self.delays, self._rows]

    def reset(self, mask: th.Tensor, generator: th.Generator) -> None:
        """
        :param mask: True where an episode begins [N]
        :param generator: source of the delays
        """
        drawn = th.randint(self.low, self.high + 1, mask.shape, generator=generator, device=mask.device)
        self.delays = th.where(mask, drawn, self.delays)
        self.history = th.where(mask[None, :, None], 0.0, self.history)

    def state_dict(self) -> dict[str, th.Tensor]:
        """
        :return: delays and commands under way
        """
        return {"delays": self.delays.clone(), "history": self.history.clone()}

    def load_state_dict(self, state: Mapping[str, th.Tensor]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.delays = state["delays"].to(self.delays.device, copy=True)
        self.history = state["history"].to(self.delays.device, copy=True)


class ActionFilter:
    """
    First-order low-pass filter on commands: u += (1 - exp(-2 pi f dt)) (a - u), from 0 at reset.

    :param cutoff: cutoff frequency f, in Hz, typically 2 to 20; lower is smoother, kinder to motors, and slower to
        answer
    :param dt: time between commands, in seconds
    :param n_envs: N
    :param size: A, dimensions of an action
    :param device: where actions are
    :raises InvalidArgument: for a frequency that is not positive
    """

    def __init__(self, cutoff: float, dt: float, n_envs: int, size: int, device: th.device | str = "cpu") -> None:
        if not _is_number(cutoff) or cutoff <= 0:
            raise InvalidArgument(
                f"action_filter is {cutoff!r}; give a cutoff frequency in Hz such as 5.0, or None for none"
            )
        self.gain = 1.0 - math.exp(-2.0 * math.pi * float(cutoff) * dt)
        self.output = th.zeros(n_envs, size, device=device)

    def __call__(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: commands [N, A]
        :return: smoothed commands [N, A]
        """
        self.output = th.lerp(self.output, actions.to(self.output.dtype), self.gain)
        return self.output

    def reset(self, mask: th.Tensor) -> None:
        """
        :param mask: True where an episode begins [N]
        """
        self.output = th.where(mask[:, None], 0.0, self.output)

    def state_dict(self) -> dict[str, th.Tensor]:
        """
        :return: the filter's memory
        """
        return {"output": self.output.clone()}

    def load_state_dict(self, state: Mapping[str, th.Tensor]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.output = state["output"].to(self.output.device, copy=True)


class Signals:
    """
    The three together, as an environment uses them; what is switched off costs nothing.

    :param n_envs: N
    :param observation_size: O
    :param action_size: A
    :param dt: time between commands, in seconds
    :param observation_noise: see :class:`ObservationNoise`; 0 for none
    :param action_delay: see :class:`ActionDelay`; 0 for none
    :param action_filter: see :class:`ActionFilter`; None for none
    :param device: where actions and observations are
    """

    def __init__(
        self,
        n_envs: int,
        observation_size: int,
        action_size: int,
        dt: float,
        observation_noise: float | Sequence[float] = 0.0,
        action_delay: int | Sequence[int] = 0,
        action_filter: float | None = None,
        device: th.device | str = "cpu",
    ) -> None:
        # One generator for all: noise is drawn at every step, and a generator per environment would cost a Python loop.
        self.generator = th.Generator(device)
        self.generator.seed()  # every generator of torch begins alike
        noise = ObservationNoise(observation_noise, observation_size, device)
        delay = ActionDelay(action_delay, n_envs, action_size, device)
        self.noise = noise if bool(noise.std.any()) else None
        self.delay = delay if delay.high > 0 else None
        #: whether commands are changed at all
        self.acts = self.delay is not None or action_filter is not None
        self.filter = None if action_filter is None else ActionFilter(action_filter, dt, n_envs, action_size, device)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: seed of the first environment, None to leave the generator as it is
        """
        if seed is not None:
            # Not the seed itself, which the environment's own draws begin from.
            self.generator.manual_seed(int(np.random.SeedSequence([int(seed), _STREAM]).generate_state(1)[0]))

    def reset(self, mask: th.Tensor) -> None:
        """
        :param mask: True where an episode begins [N]
        """
        if self.delay is not None:
            self.delay.reset(mask, self.generator)
        if self.filter is not None:
            self.filter.reset(mask)

    def act(self, actions: th.Tensor) -> th.Tensor:
        """
        :param actions: what the policy asks for [N, A]
        :return: what reaches the motors [N, A]
        """
        if self.delay is not None:
            actions = self.delay(actions)
        return actions if self.filter is None else self.filter(actions)

    def sense(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: the true ones [N, O]
        :return: what the sensors say [N, O]
        """
        return observations if self.noise is None else self.noise(observations, self.generator)

    def state_dict(self) -> dict[str, Any]:
        """
        :return: generator, delayed commands and filter memory
        """
        parts = {"delay": self.delay, "filter": self.filter}
        return {
            "generator": self.generator.get_state(),
            **{name: part.state_dict() for name, part in parts.items() if part is not None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        :raises InvalidArgument: when delay or filter are on in one and off in the other
        """
        for name, part in (("delay", self.delay), ("filter", self.filter)):
            if (part is not None) != (name in state):
                raise InvalidArgument(
                    f"the state was taken {'with' if name in state else 'without'} action_{name}; make the "
                    "environment with "
                    "the same options"
                )
            if part is not None:
                part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(float(value))
