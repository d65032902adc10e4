"""
The random numbers of a task, for all robots at once and on any device, without asking the device anything.

Number k of robot i is a function of its seed and k (SplitMix64, as :mod:`~sb3_ppo_plus.envs.classic.draws` has it), so
a robot begins its episodes alike whatever the others do, and on whatever device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th

from sb3_ppo_plus.envs.classic.draws import mix

# Candidates of a draw that has to fit somewhere. With one of two taken, none of 64 fits once in 10^19 draws.
_CANDIDATES = 64
_BITS = 53


class DeviceDraws:
    """
    One sequence of random numbers per robot.

    :param n: N, number of robots
    :param device: where they are drawn
    """

    def __init__(self, n: int, device: th.device) -> None:
        self.n, self.device = n, device
        self.keys = th.zeros(n, dtype=th.int64, device=device)
        self.drawn = th.zeros(n, dtype=th.int64, device=device)
        self._seeded = False
        self._constants: dict[tuple[float, ...], th.Tensor] = {}
        self._steps: dict[int, th.Tensor] = {}

    def seed(self, seeds: Sequence[int | None], stream: int = 0) -> None:
        """
        Begin sequences; those that were never seeded are seeded from the operating system.

        :param seeds: one per robot; None goes on with the sequence there is [N]
        :param stream: numbers of another stream have nothing to do with those of this one
        """
        fresh = [seed is not None or not self._seeded for seed in seeds]
        if not any(fresh):
            return
        entropy = np.random.SeedSequence().generate_state(self.n, np.uint64)
        words = [entropy[i] if seed is None else int(seed) % (1 << 64) for i, seed in enumerate(seeds)]
        keys = th.from_numpy(np.asarray(words, np.uint64).view(np.int64)).to(self.device)
        begin = th.tensor(fresh, device=self.device)
        self.keys = th.where(begin, mix(mix(keys + 1) + stream), self.keys)
        self.drawn = th.where(begin, 0, self.drawn)
        self._seeded = True

    def start(self) -> DeviceDraw:
        """
        :return: numbers for a start of every robot; :meth:`finish` says whose were used
        """
        return DeviceDraw(self)

    def finish(self, draw: DeviceDraw, mask: th.Tensor) -> None:
        """
        :param draw: what :meth:`start` gave
        :param mask: True where its numbers were used; the others draw the same again next time [N]
        """
        self.drawn = self.drawn + mask * draw.used

    def uniform(self, offset: int, size: int) -> th.Tensor:
        """
        :param offset: numbers to skip
        :param size: K, numbers per robot
        :return: numbers in (0, 1), neither end included [N, K]
        """
        if size not in self._steps:
            self._steps[size] = th.arange(1, size + 1, device=self.device)
        bits = mix(self.keys[:, None] + mix(self.drawn[:, None] + (offset + self._steps[size])))
        return (((bits >> (64 - _BITS)) & ((1 << _BITS) - 1)).double() + 0.5) * 2.0**-_BITS

    def constant(self, values: float | Sequence[float]) -> th.Tensor:
        """
        :param values: a bound, or one per number
        :return: the same on the device, where it stays: bringing it there anew would make the host wait
        """
        key = tuple(float(value) for value in np.atleast_1d(np.asarray(values, float)))
        if key not in self._constants:
            self._constants[key] = th.tensor(key, dtype=th.float64, device=self.device)
        return self._constants[key]

    def state_dict(self) -> dict[str, Any]:
        """
        :return: where each sequence stands
        """
        return {"keys": self.keys.cpu().clone(), "drawn": self.drawn.cpu().clone(), "seeded": self._seeded}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.keys, self.drawn = (state[name].to(self.device, copy=True) for name in ("keys", "drawn"))
        self._seeded = bool(state["seeded"])


class DeviceDraw:
    """
    The :class:`~sb3_ppo_plus.envs.tasks.base.Draw` of an accelerator: every robot draws, whether it needs to or not.

    :param draws: the sequences
    """

    def __init__(self, draws: DeviceDraws) -> None:
        self.draws = draws
        #: numbers that a start takes
        self.used = 0

    def _next(self, size: int) -> th.Tensor:
        numbers = self.draws.uniform(self.used, size)
        self.used += size
        return numbers

    def uniform(self, low: float | Sequence[float], high: float | Sequence[float], size: int) -> th.Tensor:
        """
        :param low: lower bound
        :param high: upper bound
        :param size: numbers per robot
        :return: uniform numbers, float64 [N, size]
        """
        bottom = self.draws.constant(low)
        return bottom + (self.draws.constant(high) - bottom) * self._next(size)

    def normal(self, size: int) -> th.Tensor:
        """
        :param size: numbers per robot
        :return: standard normal numbers, float64 [N, size]
        """
        return th.special.ndtri(self._next(size))

    def uniform_where(
        self,
        low: float | Sequence[float],
        high: float | Sequence[float],
        size: int,
        accept: Callable[[th.Tensor], th.Tensor],
    ) -> th.Tensor:
        """
        Draw all candidates at once and take the first that fits. Where none does the answer is not a number, and the
        robot is told as diverged: whether to draw on is a question that the host would have to wait for.

        :param low: lower bound
        :param high: upper bound
        :param size: numbers per robot
        :param accept: from candidates [m, size] to whether each is taken [m]
        :return: accepted numbers, float64 [N, size]
        """
        n = self.draws.n
        bottom = self.draws.constant(low)
        numbers = self._next(_CANDIDATES * size).view(n, _CANDIDATES, size)
        candidates = bottom + (self.draws.constant(high) - bottom) * numbers
        fits = accept(candidates.view(n * _CANDIDATES, size)).view(n, _CANDIDATES)
        first = fits.byte().argmax(1)
        taken = candidates.gather(1, first[:, None, None].expand(n, 1, size))[:, 0]
        return taken.masked_fill(~fits.any(1)[:, None], float("nan"))
