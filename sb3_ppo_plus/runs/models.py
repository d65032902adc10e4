"""A zip of any on-policy algorithm of SB3, sb3-contrib or this package, opened by the class that it belongs to."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer, RecurrentRolloutBuffer
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.known_sb3 import KNOWN_IN_MODELS
from sb3_ppo_plus.files.model_zip import ModelZip, load_untrusted, read_model
from sb3_ppo_plus.files.pickles import BadPickle, Name, read_pickle
from sb3_ppo_plus.files.rebuild import Known, classes

_KNOWN = "PPOPlus, PPO, A2C, TRPO, MaskablePPO and RecurrentPPO"
_MASKABLE = classes(
    (
        *(MaskableActorCriticPolicy, MaskableActorCriticCnnPolicy, MaskableMultiInputActorCriticPolicy),
        *(MaskableRolloutBuffer, MaskableDictRolloutBuffer),
    )
)
_RECURRENT = classes(
    (
        *(RecurrentActorCriticPolicy, RecurrentActorCriticCnnPolicy, RecurrentMultiInputActorCriticPolicy),
        *(RecurrentRolloutBuffer, RecurrentDictRolloutBuffer),
    )
)
_KNOWN_IN_ALL = KNOWN_IN_MODELS | Known(values={**_MASKABLE, **_RECURRENT})


def load_model(path: Path, device: str = "cpu", trust: bool = False) -> BaseAlgorithm:
    """
    Open a model, without being told its class.

    :param path: zip that ``model.save()`` wrote
    :param device: torch device to act on
    :param trust: open it as SB3 does, which runs whatever code is in it; without it a model with classes that a user
        wrote is refused
    :return: the model, without an environment; a zip of SB3's PPO becomes a PPOPlus
    :raises UntrustedFile: when it asks for a class or function that is unknown
    :raises DamagedFile: when it is not whole
    :raises InvalidArgument: when it is of an algorithm that is not on-policy
    """
    try:
        algorithm = _algorithm(read_model(path))
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be loaded: {error.strerror or error}") from error
    if not trust:
        if issubclass(algorithm, PPOPlus):
            return algorithm.load(path, device=device)
        loaded: BaseAlgorithm = load_untrusted(algorithm.load, algorithm, path, known=_KNOWN_IN_ALL, device=device)
        return loaded
    trusted: dict[str, Any] = {"trust": True} if issubclass(algorithm, PPOPlus) else {}
    try:
        return algorithm.load(path, device=device, **trusted)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument(f"{path} cannot be loaded as a {algorithm.__name__} model: {reason[:300]}") from error


def _algorithm(model: ModelZip) -> type[BaseAlgorithm]:
    """Find the class by the names of attributes and weights, which are readable without unpickling anything."""
    names = model.plain.keys() | model.pickled.keys()
    if "gae_lambda" not in names or "policy_class" not in names:
        raise InvalidArgument(
            f"{model.shown} cannot be loaded: it is of no algorithm that is known here, which are {_KNOWN}"
        )
    if any(name.startswith("lstm_actor.") for name in model.states["policy"]):
        return RecurrentPPO
    if any(kind.module.startswith("sb3_contrib.common.maskable") for kind in _named(model)):
        return MaskablePPO
    if "cg_max_steps" in names:
        return TRPO
    return PPOPlus if "clip_range" in names else A2C


def _named(model: ModelZip) -> Iterator[Name]:
    """The classes of the model's buffer and policy, where they are named and not written out."""
    for attribute in ("rollout_buffer_class", "policy_class"):
        try:
            node, _ = read_pickle(model.pickled.get(attribute, b""))
        except BadPickle:
            continue
        if isinstance(node, Name):
            yield node
