"""A rollout whose rows are tensors on the device that environments and policy live on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from sb3_ppo_plus.buffers import RowsMixin
from sb3_ppo_plus.device.acting import DeviceActor
from sb3_ppo_plus.device.scan import discounted_sums
from sb3_ppo_plus.envs.arrays import to_numpy

_ONE_A_ROW = ("rewards", "episode_starts", "values", "log_probs", "advantages", "returns")


class DeviceBuffer(RowsMixin, RolloutBuffer):
    """
    SB3's rollout buffer with its rows in ``tensors``, [T, N, ...] each.

    ``observations``, ``rewards`` and SB3's other arrays can be read: each is copied to the host when it is first asked
    for after it has changed, and is read-only, because what is written into a copy would change nothing. Rows are never
    reordered: the flat order of its minibatches is step by step, row t N + n for step t of environment n.

    :param buffer_size: T, steps of a rollout
    :param observation_space: a Box or a space of whole numbers, not a Dict
    :param action_space: space of the actions
    :param device: where the rows live
    :param gae_lambda: trade-off of the advantage estimate
    :param gamma: discount factor
    :param n_envs: N, number of environments
    """

    #: the rows by name [T, N, ...]; ``observations`` and ``final_observations`` from the first step on
    tensors: dict[str, th.Tensor]
    #: what chose the actions of the last rollout
    actor: DeviceActor | None

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str,
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
    ) -> None:
        # Without RolloutBuffer's own, whose reset() allocates SB3's arrays.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.gae_lambda, self.gamma = gae_lambda, gamma
        size = (buffer_size, n_envs)
        self.tensors = {name: th.zeros(size, device=self.device) for name in _ONE_A_ROW}
        self.tensors["actions"] = th.zeros((*size, self.action_dim), device=self.device)
        self.tensors["cut"] = th.zeros(size, dtype=th.bool, device=self.device)
        self.valid = np.ones(size, dtype=bool)
        self._idle, self._lost = np.zeros_like(self.valid), np.zeros_like(self.valid)
        self._awaits = np.ones(n_envs, dtype=bool)
        self._copies: dict[str, np.ndarray] = {}
        self.actor = None
        self.reset()

    def reset(self) -> None:
        """Begin a rollout; the memory is used again."""
        BaseBuffer.reset(self)
        self.rows, self.masks, self.truncations = None, None, []
        self.generator_ready = True  # there is nothing to be reordered
        self._copies = {}
        self.tensors["cut"].zero_()

    # ------------------------------------------------ writing

    def put(self, name: str, t: int, row: th.Tensor) -> th.Tensor:
        """
        Copy one step's tensor into its row.

        :param name: name of the rows; they are allocated with the first row where they are not there
        :param t: step of the rollout
        :param row: numbers of that step [N, ...]
        :return: the row itself [N, ...]
        """
        if name not in self.tensors or (t == 0 and "observations" in name and self.tensors[name].dtype != row.dtype):
            shape = self.obs_shape if "observations" in name else row.shape[1:]
            size = (self.buffer_size, self.n_envs, *shape)  # type: ignore[misc]
            self.tensors[name] = th.zeros(size, dtype=row.dtype, device=self.device)
        place = self.tensors[name][t]
        place.copy_(row.reshape(place.shape))
        return place

    def close(self, t: int) -> None:
        """
        :param t: step of the rollout whose rows are complete
        """
        self.pos, self.full = t + 1, t + 1 == self.buffer_size
        self._copies = {}

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: Any) -> None:
        """
        delta_t = r_t + gamma V_{t+1} (1 - d_t) - V_t, A_t = delta_t + gamma lambda (1 - d_t) A_{t+1}; SB3's numbers.

        :param last_values: value of the observations after the last row [N]
        :param dones: whether the last row ended an episode, tensor or array [N]
        """
        rows = self.tensors
        ended = th.as_tensor(dones, device=self.device, dtype=th.float32)
        going_on = 1.0 - th.cat((rows["episode_starts"][1:], ended[None]))
        next_values = th.cat((rows["values"][1:], last_values.reshape(1, -1)))
        terms = rows["rewards"] + self.gamma * next_values * going_on - rows["values"]
        rows["advantages"].copy_(discounted_sums(terms, self.gamma * self.gae_lambda * going_on))
        th.add(rows["advantages"], rows["values"], out=rows["returns"])
        self._copies = {}

    # ------------------------------------------------ reading

    def flat(self, name: str) -> th.Tensor:
        """
        :param name: name of the rows
        :return: the same in the flat order, without a copy [T * N, ...]
        """
        return self.tensors[name].flatten(0, 1)

    def samples(self, at: Any) -> RolloutBufferSamples:
        """
        :param at: a slice of the flat order, or row indices as a tensor on the device [B]
        :return: rows in SB3's form
        """
        names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
        return RolloutBufferSamples(*(self.flat(name)[at] for name in names))

    def explained_variance(self) -> float:
        """
        1 - Var(R - V) / Var(R), as SB3 logs it, computed on the device.

        :return: 1 for a perfect critic, below 0 for one that is worse than a constant; NaN where all returns are equal
        """
        returns, values = self.tensors["returns"], self.tensors["values"]
        spread, errors = th.stack((returns.var(correction=0), (returns - values).var(correction=0))).tolist()
        return float("nan") if spread == 0.0 else 1.0 - errors / spread

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> RolloutBufferSamples:
        first, n = int(batch_inds[0]), len(batch_inds)
        # Rows side by side need no indices there, whose copy the host would wait for.
        if n == int(batch_inds[-1]) - first + 1 and bool((np.diff(batch_inds) == 1).all()):
            return self.samples(slice(first, first + n))
        return self.samples(th.as_tensor(batch_inds, device=self.device))

    def _copy_of(self, name: str) -> np.ndarray:
        if name not in self._copies:
            copy: np.ndarray = to_numpy(self.tensors[name])
            copy.flags.writeable = False
            self._copies[name] = copy
        return self._copies[name]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (), {**self.__dict__, "_copies": {}, "actor": None}


def _unpickled() -> DeviceBuffer:
    return DeviceBuffer.__new__(DeviceBuffer)


def _array(name: str) -> property:
    def read(self: DeviceBuffer) -> np.ndarray:
        return self._copy_of(name)

    read.__doc__ = f":return: ``tensors[{name!r}]`` on the host, read-only [T, N, ...]"
    return property(read)


for _name in ("observations", "actions", *_ONE_A_ROW):
    setattr(DeviceBuffer, _name, _array(_name))
