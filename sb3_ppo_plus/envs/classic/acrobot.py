"""Two links that are swung up by a motor between them (Sutton 1996), as Gymnasium computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ppo_plus.envs.classic.task import Moved, TorchTask, low_and_high
from sb3_ppo_plus.errors import InvalidArgument

_DT = 0.2
_MAX_TURN = (4 * math.pi, 9 * math.pi)
# Mass 1 kg, length 1 m, moment of inertia 1 kg m^2, centre of mass in the middle of each link.
_M, _L, _LC, _I, _G = 1.0, 1.0, 0.5, 1.0, 9.8
# The fastest links that Gymnasium's own bounds allow turn less than this many times within a step.
_WRAPS = 8


class Acrobot(TorchTask):
    """
    Gymnasium's ``Acrobot-v1``. State: angles of the two joints in rad and their velocities [4, N].

    :param book_or_nips: ``book`` for the equations of Sutton and Barto's book, ``nips`` for those of the paper
    :raises InvalidArgument: for anything else
    """

    env_id = "Acrobot-v1"
    n_draws = 4

    def __init__(self, book_or_nips: str = "book") -> None:
        if book_or_nips not in ("book", "nips"):
            raise InvalidArgument(f"book_or_nips={book_or_nips!r}; there is book and nips")
        self.max_episode_steps = 500
        self.book_or_nips = book_or_nips
        high = np.array([1.0, 1.0, 1.0, 1.0, *_MAX_TURN], np.float32)
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def start_bounds(self, options: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
        """
        :param options: ``low`` and ``high`` of all four numbers of the state
        :return: bounds [4]
        """
        low, high = low_and_high("Acrobot", options, -0.1, 0.1)
        return [low] * 4, [high] * 4

    def start(self, numbers: th.Tensor) -> th.Tensor:
        """
        :param numbers: the state itself [4, N]
        :return: states, rounded to float32 as Gymnasium's are [4, N]
        """
        return numbers.float().to(numbers.dtype)

    def step(self, state: th.Tensor, actions: th.Tensor, first: th.Tensor) -> Moved:
        """
        One Runge-Kutta step of fourth order.

        :param state: states [4, N]
        :param actions: 0, 1, 2 for a torque of -1, 0, 1 N m [N]
        :param first: not used [N]
        :return: what came of it; an episode ends when the tip is above the height of one link
        """
        torque = (actions - 1).to(state.dtype)
        half = _DT / 2.0
        k1 = self._rates(state, torque)
        k2 = self._rates(state + half * k1, torque)
        k3 = self._rates(state + half * k2, torque)
        k4 = self._rates(state + _DT * k3, torque)
        after = state + _DT / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        turns = [after[2 + joint].clamp(-limit, limit) for joint, limit in enumerate(_MAX_TURN)]
        after = th.cat((_wrapped(after[:2]), th.stack(turns)))
        terminated = -th.cos(after[0]) - th.cos(after[1] + after[0]) > 1.0
        return Moved(after, terminated.to(state.dtype) - 1.0, terminated)

    def observe(self, state: th.Tensor) -> th.Tensor:
        """
        :param state: states [4, N]
        :return: cosine and sine of each angle, and the velocities, float32 [N, 6]
        """
        first, second, *turns = state.unbind()
        return th.stack((th.cos(first), th.sin(first), th.cos(second), th.sin(second), *turns), dim=1).float()

    def _rates(self, state: th.Tensor, torque: th.Tensor) -> th.Tensor:
        """The equations of motion: how fast each number of the state changes [4, N]."""
        angle1, angle2, turn1, turn2 = state.unbind()
        cos2, sin2 = th.cos(angle2), th.sin(angle2)
        d1 = _M * _LC**2 + _M * (_L**2 + _LC**2 + 2 * _L * _LC * cos2) + _I + _I
        d2 = _M * (_LC**2 + _L * _LC * cos2) + _I
        phi2 = _M * _LC * _G * th.cos(angle1 + angle2 - math.pi / 2.0)
        phi1 = (
            -_M * _L * _LC * turn2.square() * sin2
            - 2 * _M * _L * _LC * turn2 * turn1 * sin2
            + (_M * _LC + _M * _L) * _G * th.cos(angle1 - math.pi / 2)
            + phi2
        )
        pull = torque + d2 / d1 * phi1
        if self.book_or_nips == "book":
            pull = pull - _M * _L * _LC * turn1.square() * sin2
        rate2 = (pull - phi2) / (_M * _LC**2 + _I - d2.square() / d1)
        return th.stack((turn1, turn2, -(d2 * rate2 + phi1) / d1, rate2))


def _wrapped(angles: th.Tensor) -> th.Tensor:
    """Bring angles into [-pi, pi] by whole turns, one after the other, which is how Gymnasium rounds."""
    for _ in range(_WRAPS):
        angles = th.where(angles > math.pi, angles - 2 * math.pi, angles)
        angles = th.where(angles < -math.pi, angles + 2 * math.pi, angles)
    return angles
