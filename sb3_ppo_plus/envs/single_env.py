"""One environment of many, for whoever asks for it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sb3_ppo_plus.envs.base import TensorVecEnv


class SingleEnv:
    """
    One environment of a :class:`TensorVecEnv`, seen by itself; attributes that it lacks are those of the whole.

    :param venv: the environments
    :param index: number of this one
    """

    def __init__(self, venv: TensorVecEnv, index: int) -> None:
        self.venv = venv
        self.index = index

    def __getattr__(self, name: str) -> Any:
        if name == "action_masks" and self.venv.action_masks() is not None:
            return self._action_masks
        # Only what is an attribute of the whole, never its methods: those act on all environments at once.
        if name.startswith("_") or callable(getattr(type(self.venv), name, None)):
            raise AttributeError(f"a single environment of {type(self.venv).__name__} has no {name!r}")
        return getattr(self.venv, name)

    def _action_masks(self) -> np.ndarray:
        masks = self.venv.action_masks()
        assert masks is not None
        return masks[self.index]

    def render(self) -> np.ndarray | None:
        """
        :return: a picture [height, width, 3], None when the environment cannot draw
        """
        return None
