"""A zip of any on-policy algorithm of SB3, sb3-contrib or this package, opened by the class that it belongs to."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch as th
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument

_KNOWN = "PPOPlus, PPO, A2C, TRPO, MaskablePPO and RecurrentPPO"


def load_model(path: Path, device: str = "cpu") -> BaseAlgorithm:
    """
    Open a model, without being told its class.

    A zip can hold pickled objects, which can run any code: open only files that you trust.

    :param path: zip that ``model.save()`` wrote
    :param device: torch device to act on
    :return: the model, without an environment; a zip of SB3's PPO becomes a PPOPlus
    :raises InvalidArgument: when it is no such zip, or of an algorithm that is not on-policy
    """
    algorithm = _algorithm(path)
    try:
        return algorithm.load(path, device=device)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument(f"{path} cannot be loaded as a {algorithm.__name__} model: {reason[:300]}") from error


def _algorithm(path: Path) -> type[BaseAlgorithm]:
    """Find the class by the names of attributes and weights, which are readable without unpickling anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            weights = th.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InvalidArgument(
            f"{path} cannot be loaded as a model: no zip of SB3 ({' '.join(str(error).split())[:200]})"
        ) from error
    if "gae_lambda" not in data or "policy_class" not in data:
        raise InvalidArgument(f"{path} cannot be loaded: it is of no algorithm that is known here, which are {_KNOWN}")
    if any(name.startswith("lstm_actor.") for name in weights):
        return RecurrentPPO
    if "maskable" in f"{_home(data, 'rollout_buffer_class')} {_home(data, 'policy_class')}".lower():
        return MaskablePPO
    if "cg_max_steps" in data:
        return TRPO
    return PPOPlus if "clip_range" in data else A2C


def _home(data: dict[str, Any], attribute: str) -> str:
    """Module and documentation of a pickled class, as SB3 writes them beside it."""
    entry = data.get(attribute)
    return f"{entry.get('__module__', '')} {entry.get(':type:', '')}" if isinstance(entry, dict) else ""
