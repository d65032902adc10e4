"""Opening saved models: by default nothing that a file asks for is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from sb3_ppo_plus.files.model_zip import load_untrusted, read_model
from sb3_ppo_plus.resumable import ResumableAlgorithm

SelfLoaded = TypeVar("SelfLoaded", bound="LoadedAlgorithm")


class LoadedAlgorithm(ResumableAlgorithm):
    """An algorithm whose files are data."""

    @classmethod
    def load(
        cls: type[SelfLoaded],
        path: str | Path | Any,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trust: bool = False,
        **kwargs: Any,
    ) -> SelfLoaded:
        """
        Open a zip that PPOPlus or SB3's PPO saved.

        What a model of theirs consists of is rebuilt from the file without unpickling it: spaces, schedules, policies,
        buffers, activations, optimizers. Nothing that the file names is imported or called.

        :param path: file, ".zip" is added when there is none of this name; or a binary stream
        :param env: environments to go on in; None to predict only
        :param device: device of the networks
        :param custom_objects: what the file may not bring itself: classes of your own by their full names
            (``{"my_module.MyExtractor": MyExtractor}``), or values in place of whole attributes as for SB3
            (``{"learning_rate": 3e-4}`` where it is a function)
        :param print_system_info: print the systems of now and then
        :param force_reset: reset the environments before training goes on
        :param trust: open the file as SB3 does, which runs whatever code is in it; only for files that you made
        :param kwargs: attributes to change
        :return: the model
        :raises UntrustedFile: naming the attribute and the class or function that it asks for
        :raises DamagedFile: for a file that is not whole; names file, member and reason
        :raises FileNotFoundError: when there is no such file
        """
        arguments: dict[str, Any] = {
            "env": env,
            "device": device,
            "print_system_info": print_system_info,
            "force_reset": force_reset,
        }
        if trust:
            loaded: SelfLoaded = super().load(path, custom_objects=custom_objects, **arguments, **kwargs)
            return loaded
        return load_untrusted(super().load, cls, path, custom_objects, kwargs=kwargs, **arguments)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Load parameters in place.

        :param load_path_or_dict: zip saved by PPOPlus or PPO, or what ``get_parameters`` returned
        :param exact_match: whether every parameter must be there
        :param device: where the file's tensors are loaded to
        :raises DamagedFile: for a file that is not whole
        """
        if isinstance(load_path_or_dict, dict):
            states: Any = load_path_or_dict
        else:
            states = read_model(load_path_or_dict, with_data=False).states
        super().set_parameters(states, exact_match, device)
