"""
MinAtar's games (Young and Tian 2019, arXiv 1903.03176) as images: 10 x 10 pixels, a channel for each kind of object.

    pip install minatar
    cd benchmarks && ppo-plus benchmark pixels.yml

``minatar_pixels:MinAtarPixels/Breakout-v1`` is Gymnasium's id, after this module's name. The games have sticky actions
and grow harder, as MinAtar's defaults are; only the type of the observation differs, which SB3 takes for an image so.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minatar import Environment

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
#: MinAtar has no limit on an episode; a policy that does nothing may play for ever
MAX_STEPS = 10_000


class MinAtarPixels(gym.Env[np.ndarray, np.int64]):
    """
    A game of MinAtar.

    :param game: one of ``GAMES``
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, game: str) -> None:
        self._game = Environment(game)
        self._actions = self._game.minimal_action_set()
        height, width, channels = self._game.state_shape()
        self.observation_space = spaces.Box(0, 255, (height, width, channels), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._game.seed(seed)
        self._game.reset()
        return self._image(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one frame."""
        reward, ended = self._game.act(self._actions[int(action)])
        return self._image(), float(reward), bool(ended), False, {}

    def _image(self) -> np.ndarray:
        return self._game.state().astype(np.uint8) * np.uint8(255)


for _game in GAMES:
    _name = _game.title().replace("_", "")
    gym.register(
        f"MinAtarPixels/{_name}-v1", "minatar_pixels:MinAtarPixels", max_episode_steps=MAX_STEPS, kwargs={"game": _game}
    )
