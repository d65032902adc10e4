"""Random numbers for many environments, each from a generator of its own, as Gymnasium seeds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium.utils import seeding


class Generators:
    """
    One NumPy generator per environment.

    :param n: number of environments
    """

    def __init__(self, n: int) -> None:
        self._generators: list[np.random.Generator | None] = [None] * n

    def seed(self, seeds: Sequence[int | None], stream: int | None = None) -> None:
        """
        Seed those that get a seed, and those that were never seeded from the operating system.

        :param seeds: one per environment; None goes on with the generator there is [n]
        :param stream: None for the draws of Gymnasium's own environments, a number for independent ones of the same
            seed
        """
        for index, seed in enumerate(seeds):
            if seed is not None and stream is not None:
                self._generators[index] = np.random.default_rng([int(seed), stream])
            elif seed is not None or self._generators[index] is None:
                self._generators[index] = seeding.np_random(None if seed is None else int(seed))[0]

    def draw(self, ids: np.ndarray) -> TensorDraw:
        """
        :param ids: environments to draw for [m]
        :return: their random numbers, as tensors
        """
        return TensorDraw(self.draw_arrays(ids))

    def draw_arrays(self, ids: np.ndarray) -> GeneratorDraw:
        """
        :param ids: environments to draw for [m]
        :return: their random numbers, as arrays
        """
        return GeneratorDraw([self[index] for index in ids.tolist()])

    def __getitem__(self, index: int) -> np.random.Generator:
        generator = self._generators[index]
        assert generator is not None, "seed() comes first"
        return generator

    def state_dict(self) -> list[dict[str, Any] | None]:
        """
        :return: state of each generator, None where it was never seeded
        """
        return [None if generator is None else dict(generator.bit_generator.state) for generator in self._generators]

    def load_state_dict(self, state: Sequence[dict[str, Any] | None]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        for index, entry in enumerate(state):
            generator = None
            if entry is not None:
                generator = np.random.Generator(np.random.PCG64())
                generator.bit_generator.state = entry
            self._generators[index] = generator


class GeneratorDraw:
    """
    Random numbers [m, size] from m generators, row by row: the numbers that each alone would have given.

    It is the :class:`~sb3_ppo_plus.envs.tasks.base.Draw` of the CPU engine, in arrays.

    :param generators: one per environment
    """

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = generators

    def uniform(self, low: float | Sequence[float], high: float | Sequence[float], size: int) -> np.ndarray:
        """
        :param low: lower bound
        :param high: upper bound
        :param size: numbers per environment
        :return: uniform numbers [m, size]
        """
        return self._stack([generator.uniform(low, high, size) for generator in self.generators], size)

    def normal(self, size: int) -> np.ndarray:
        """
        :param size: numbers per environment
        :return: standard normal numbers [m, size]
        """
        return self._stack([generator.standard_normal(size) for generator in self.generators], size)

    def uniform_where(
        self,
        low: float | Sequence[float],
        high: float | Sequence[float],
        size: int,
        accept: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """
        :param low: lower bound
        :param high: upper bound
        :param size: numbers per environment
        :param accept: from candidates [1, size] to whether it is taken [1]
        :return: accepted numbers [m, size]
        """
        rows = []
        for generator in self.generators:
            row = generator.uniform(low, high, size)
            while not bool(accept(row[None])):
                row = generator.uniform(low, high, size)
            rows.append(row)
        return self._stack(rows, size)

    @staticmethod
    def _stack(rows: list[np.ndarray], size: int) -> np.ndarray:
        return np.stack(rows) if rows else np.zeros((0, size))


class TensorDraw:
    """
    The same numbers as tensors, for tasks that compute in torch.

    :param draw: the numbers
    """

    def __init__(self, draw: GeneratorDraw) -> None:
        self.draw = draw

    def uniform(self, low: float | Sequence[float], high: float | Sequence[float], size: int) -> th.Tensor:
        """
        :param low: lower bound
        :param high: upper bound
        :param size: numbers per environment
        :return: uniform numbers [m, size]
        """
        return th.from_numpy(self.draw.uniform(low, high, size))

    def normal(self, size: int) -> th.Tensor:
        """
        :param size: numbers per environment
        :return: standard normal numbers [m, size]
        """
        return th.from_numpy(self.draw.normal(size))

    def uniform_where(
        self,
        low: float | Sequence[float],
        high: float | Sequence[float],
        size: int,
        accept: Callable[[th.Tensor], th.Tensor],
    ) -> th.Tensor:
        """
        :param low: lower bound
        :param high: upper bound
        :param size: numbers per environment
        :param accept: from candidates [1, size] to whether it is taken [1]
        :return: accepted numbers [m, size]
        """
        return th.from_numpy(self.draw.uniform_where(low, high, size, lambda row: accept(th.from_numpy(row)).numpy()))
