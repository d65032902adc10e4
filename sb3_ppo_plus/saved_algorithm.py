"""A model as a file, and its parameters as data: SB3's forms, whatever the extras keep beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import TensorDict

from sb3_ppo_plus import optim
from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.controllers import Controller
from sb3_ppo_plus.loading import LoadedAlgorithm

_NOT_SAVED = ("_controllers", "_reference", "lr_schedule", "profile", "_update_passes", "_update_guard")


class SavedAlgorithm(LoadedAlgorithm):
    """Base of PPOPlus, with all that concerns its files."""

    controller_state: dict[str, dict[str, float]]
    critic_learning_rate: Any
    _controllers: dict[str, Controller]

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model in SB3's zip format, with the state of its controllers; a file is replaced whole or not at all.

        :param path: file (".zip" is added when it has no suffix) or binary stream
        :param exclude: attributes to leave out
        :param include: attributes to keep although SB3 leaves them out
        """
        self.controller_state = {name: controller.state_dict() for name, controller in self._controllers.items()}
        if not isinstance(path, (str, os.PathLike)):
            super().save(path, exclude, include)
            return
        with atomic_path(path if Path(path).suffix else f"{os.fspath(path)}.zip") as temporary:
            super().save(temporary, exclude, include)

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """:return: state dicts of the policy and of its optimizer, the latter always with SB3's single group"""
        with optim.one_group(self.policy, split=self.critic_learning_rate is not None):
            return super().get_parameters()

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load parameters in place.

        :param load_path_or_dict: zip saved by PPOPlus or PPO, or what ``get_parameters`` returned
        :param exact_match: whether every parameter must be there
        :param device: where the file's tensors are loaded to
        """
        with optim.one_group(self.policy, split=self.critic_learning_rate is not None):
            super().set_parameters(load_path_or_dict, exact_match, device)

    def _excluded_save_params(self) -> list[str]:
        # live controllers stay out of the pickle (lr_schedule may be one); load() makes them anew from their state
        return [*super()._excluded_save_params(), *_NOT_SAVED]
