"""
Uniform random numbers for the starts of episodes: one sequence per environment, drawn on any device without asking it.

Generators of torch serve a whole batch: what one environment draws would depend on how many there are. Here the n-th
number of an environment is a function of its seed and n, computed with the same integers everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.draws import Generators

_MASK = (1 << 64) - 1


def _signed(value: int) -> int:
    """The same 64 bits, as torch's int64 has them."""
    return value - (1 << 64) if value >> 63 else value


_GAMMA, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(values: th.Tensor, bits: int) -> th.Tensor:
    # torch shifts the sign in; the bits are those of an unsigned number.
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def mix(values: th.Tensor) -> th.Tensor:
    """
    Scramble 64 bits: the output function of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
    number generators").

    :param values: int64 of any shape
    :return: int64 of the same shape
    """
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)


class CounterDraws:
    """
    SplitMix64, one sequence per environment: integers in, uniform numbers in [0, 1) out, nothing leaves the device.

    :param n: N, number of environments
    :param size: K, numbers per start
    :param device: where they are drawn
    :param dtype: float64 has 53 random bits, float32 24 of the same
    """

    def __init__(self, n: int, size: int, device: th.device, dtype: th.dtype) -> None:
        self.n, self.size, self.device, self.dtype = n, size, device, dtype
        self._keys = th.zeros(n, dtype=th.int64, device=device)
        self._drawn = th.zeros(n, dtype=th.int64, device=device)
        self._seeded = False
        self._steps = th.arange(1, size + 1, device=device)[:, None]

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        Begin sequences; those that were never seeded are seeded from the operating system.

        :param seeds: one per environment; None goes on with the sequence there is [N]
        """
        fresh = [seed is not None or not self._seeded for seed in seeds]
        if not any(fresh):
            return
        drawn = np.random.SeedSequence().generate_state(self.n, np.uint64).tolist()
        keys = [_signed((drawn[i] if seed is None else int(seed)) & _MASK) for i, seed in enumerate(seeds)]
        begin = th.tensor(fresh, device=self.device)
        self._keys = th.where(begin, mix(th.tensor(keys, device=self.device) + _GAMMA), self._keys)
        self._drawn = th.where(begin, 0, self._drawn)
        self._seeded = True

    def uniform(self, mask: th.Tensor) -> th.Tensor:
        """
        :param mask: True where numbers are used; the others draw the same again next time [N]
        :return: uniform numbers for all of them [K, N]
        """
        bits = mix(self._keys + (self._drawn + self._steps) * _GAMMA)
        self._drawn = self._drawn + mask * self.size
        if self.dtype == th.float64:
            return _shifted(bits, 11).to(th.float64) * 2.0**-53
        return _shifted(bits, 40).to(self.dtype) * 2.0**-24

    def state_dict(self) -> dict[str, Any]:
        """
        :return: where each sequence stands
        """
        return {"keys": self._keys.clone(), "drawn": self._drawn.clone(), "seeded": self._seeded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self._keys, self._drawn = state["keys"].to(self.device).clone(), state["drawn"].to(self.device).clone()
        self._seeded = bool(state["seeded"])


class GymnasiumDraws:
    """
    The numbers that ``gym.make(id).reset(seed=s)`` draws, from NumPy's generators on the host.

    The host has to learn which episodes ended, so on an accelerator each step waits for it.

    :param n: N, number of environments
    :param size: K, numbers per start
    :param device: where they are wanted
    :param dtype: of the numbers
    """

    def __init__(self, n: int, size: int, device: th.device, dtype: th.dtype) -> None:
        self.n, self.size, self.device, self.dtype = n, size, device, dtype
        self._generators = Generators(n)

    def seed(self, seeds: Sequence[int | None]) -> None:
        """
        :param seeds: one per environment; None goes on with the generator there is [N]
        """
        self._generators.seed(seeds)

    def uniform(self, mask: th.Tensor) -> th.Tensor:
        """
        :param mask: True where numbers are wanted [N]
        :return: uniform numbers, zeros where none were wanted [K, N]
        """
        numbers = np.zeros((self.size, self.n))
        for index in mask.cpu().numpy().nonzero()[0].tolist():
            numbers[:, index] = self._generators[index].random(self.size)
        return th.from_numpy(numbers).to(self.device, self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """
        :return: state of each generator
        """
        return {"generators": self._generators.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self._generators.load_state_dict(state["generators"])


#: where the numbers of starts come from, by name
DRAWS: dict[str, type[CounterDraws] | type[GymnasiumDraws]] = {"counter": CounterDraws, "gymnasium": GymnasiumDraws}
