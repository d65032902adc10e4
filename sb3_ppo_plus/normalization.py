"""
Running mean and variance of what an environment gives, the arithmetic of Stable-Baselines3's ``RunningMeanStd``.

The formulas are written once, with operators that arrays and tensors share. On the host they run on NumPy arrays that
share the tensors' memory: its calls cost half of torch's on a few hundred numbers, and its order of summation is that
of SB3, so the statistics equal SB3's bit for bit. On any other device they run on tensors, and nothing waits for the
device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_ppo_plus.errors import InvalidArgument

Values = TypeVar("Values", npt.NDArray[Any], th.Tensor)


def batch_moments(values: Values) -> tuple[Values, Values]:
    """
    mean = sum(x) / n,  var = sum((x - mean)^2) / n

    :param values: observations of one batch, arrays or tensors [n, ...]
    :return: mean and variance over the first axis [...]
    """
    n = values.shape[0]
    mean = values.sum(0) / n
    centred = values - mean
    return mean, (centred * centred).sum(0) / n


def merge_moments(
    mean: Values, var: Values, count: Any, other_mean: Values, other_var: Values, other_count: Any
) -> tuple[Values, Values, Any]:
    """
    Moments of two samples together (Chan, Golub and LeVeque 1979), in SB3's order of operations.

    d = mean_b - mean_a,  n = n_a + n_b
    mean = mean_a + d * n_b / n
    var = (var_a * n_a + var_b * n_b + d^2 * n_a * n_b / n) / n

    :param mean: mean of the first sample [...]
    :param var: variance of the first sample [...]
    :param count: its size, a number or a tensor []
    :param other_mean: mean of the second sample [...]
    :param other_var: variance of the second sample [...]
    :param other_count: its size, a number or a tensor []
    :return: mean, variance and size of both
    """
    delta = other_mean - mean
    total = count + other_count
    squares = var * count + other_var * other_count + delta * delta * count * other_count / total
    return mean + delta * other_count / total, squares / total, total


class RunningMoments:
    """
    Mean, variance and number of all that was seen so far, in float64, on a device.

    The caller decides when they move (:meth:`update`); :meth:`normalize` and :meth:`rescale` only read. Float32 and
    float64 values are averaged in their own precision on the host, as SB3 does, everything else in float64. On other
    devices all is float64 and agrees with the host to rounding, 1e-12 relative for float64 values.

    :param shape: shape of one value, ``()`` for numbers
    :param device: where the statistics and the values live
    :param count: pseudo-observations of mean 0 and variance 1 to begin with, typically 1e-4 as in SB3; more makes the
        first batches count less
    """

    def __init__(self, shape: Sequence[int] = (), device: th.device | str = "cpu", count: float = 1e-4) -> None:
        self.shape = tuple(shape)
        self.device = th.device(device)
        self._on_host = self.device.type == "cpu"
        self._set(th.zeros(self.shape), th.ones(self.shape), th.tensor(count, dtype=th.float64))

    @property
    def mean(self) -> th.Tensor:
        """
        :return: the mean, a copy [...]
        """
        return self._copy(self._mean)

    @property
    def var(self) -> th.Tensor:
        """
        :return: the variance, a copy [...]
        """
        return self._copy(self._var)

    @property
    def count(self) -> th.Tensor:
        """
        :return: how many values were seen, the pseudo-observations included []
        """
        return self._copy(self._count)

    def update(self, values: th.Tensor) -> None:
        """
        Take in a batch; one without rows says nothing.

        :param values: one value per row [n, ...]
        """
        if not len(values):
            return
        batch = self._contiguous(self._take(values))
        mean, var = batch_moments(batch)
        self._merge(mean, var, batch.shape[0])

    def combine(self, other: RunningMoments) -> None:
        """
        Take in what another one has seen, its pseudo-observations included, as SB3's ``combine`` does.

        :param other: statistics of values of the same shape, on any device; they stay as they are
        :raises InvalidArgument: when the shapes differ
        """
        if other.shape != self.shape:
            raise InvalidArgument(
                f"moments of shape {other.shape} cannot be combined with moments of shape {self.shape}"
            )
        self._merge(*(self._own(value) for value in (other.mean, other.var, other.count)))

    def normalize(self, values: th.Tensor, epsilon: float = 1e-8, clip: float = 10.0) -> th.Tensor:
        """
        clip((x - mean) / sqrt(var + epsilon), -clip, clip)

        :param values: values of the statistics' shape, with or without leading axes [..., ...]
        :param epsilon: added to the variance, typically 1e-8; larger flattens values that hardly vary
        :param clip: largest magnitude of the result, typically 5 to 10; smaller hides outliers
        :return: float32, on the same device [..., ...]
        """
        return self._give((self._take(values) - self._mean) / self._scale_of(epsilon), clip)

    def rescale(self, values: th.Tensor, epsilon: float = 1e-8, clip: float = 10.0) -> th.Tensor:
        """
        clip(x / sqrt(var + epsilon), -clip, clip): the mean stays, and so does the sign; for rewards.

        :param values: values of the statistics' shape, with or without leading axes [..., ...]
        :param epsilon: added to the variance, typically 1e-8
        :param clip: largest magnitude of the result, typically 10
        :return: float32, on the same device [..., ...]
        """
        return self._give(self._take(values) / self._scale_of(epsilon), clip)

    def to(self, device: th.device | str) -> RunningMoments:
        """
        :param device: where the statistics are wanted
        :return: a copy there
        """
        moved = RunningMoments(self.shape, device)
        moved._set(self.mean, self.var, self.count)
        return moved

    def state_dict(self) -> dict[str, th.Tensor]:
        """
        :return: mean, variance and count on the host, copies
        """
        return {"mean": self.mean.cpu(), "var": self.var.cpu(), "count": self.count.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from statistics that were saved.

        :param state: mean, variance and count: what :meth:`state_dict` gave, or arrays and a number
        :raises InvalidArgument: when something is missing or has another shape
        """
        values = []
        for name, shape in (("mean", self.shape), ("var", self.shape), ("count", ())):
            if name not in state:
                raise InvalidArgument(f"the state of running moments has no {name!r}; it has {sorted(state)}")
            value = th.as_tensor(state[name], dtype=th.float64)
            if value.shape != shape:
                raise InvalidArgument(
                    f"{name} has shape {tuple(value.shape)} and has to have shape {shape}: these are statistics of "
                    "something else"
                )
            values.append(value)
        self._set(*values)

    def _set(self, mean: th.Tensor, var: th.Tensor, count: th.Tensor) -> None:
        self._mean, self._var, self._count = self._own(mean), self._own(var), self._own(count)
        self._scale: tuple[float, Any] | None = None

    def _merge(self, mean: Any, var: Any, count: Any) -> None:
        # New arrays each time, never written in place: what was given out stays as it was.
        merged = merge_moments(self._mean, self._var, self._count, mean, var, count)
        self._mean, self._var, self._count = merged
        self._scale = None

    def _scale_of(self, epsilon: float) -> Any:
        """sqrt(var + epsilon), computed once for as long as neither changes."""
        if self._scale is None or self._scale[0] != epsilon:
            shifted = self._var + epsilon
            self._scale = epsilon, np.sqrt(shifted) if self._on_host else th.sqrt(shifted)
        return self._scale[1]

    # ------------------------------------------------ between tensors and what the formulas run on

    def _own(self, value: th.Tensor) -> Any:
        copied = value.to(self.device, th.float64, copy=True)
        return copied.numpy() if self._on_host else copied

    def _copy(self, value: Any) -> th.Tensor:
        return th.tensor(value, dtype=th.float64) if self._on_host else value.clone()

    def _take(self, values: th.Tensor) -> Any:
        """Values as the formulas want them; on the host they share the tensor's memory and are only read."""
        if not self._on_host:
            return values.detach().double()  # a 0-d float64 statistic would not lift float32 values to float64
        if values.dtype is not th.float64 and values.dtype is not th.float32:
            values = values.double()
        return values.detach().numpy()

    def _contiguous(self, values: Any) -> Any:
        """The order of summation depends on the layout in memory; SB3 sums rows that lie one after the other."""
        return np.ascontiguousarray(values) if self._on_host else values

    def _give(self, values: Any, clip: float) -> th.Tensor:
        clipped = values.clip(-clip, clip)
        return th.from_numpy(np.asarray(clipped, dtype=np.float32)) if self._on_host else clipped.float()
