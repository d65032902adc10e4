"""A frozen copy of a trained policy, which a new run is kept near."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.errors import InvalidArgument, UntrustedFile
from sb3_ppo_plus.files.model_zip import load_untrusted, read_model, rebuild_attributes
from sb3_ppo_plus.hybrid_policy import policy_class_for


def freeze(source: Any, device: th.device | str = "cpu") -> ActorCriticPolicy:
    """
    Copy a policy, so that training the original does not move the reference.

    The copy is of the module itself: what SB3 can rebuild a policy from leaves out ``share_features_extractor`` and the
    arguments of policies that users wrote.

    :param source: path of a zip saved by PPOPlus or by SB3's PPO, a model, or a policy
    :param device: where the copy shall live
    :return: the policy in evaluation mode, its parameters without gradient, without its optimizer
    :raises InvalidArgument: when there is no policy to copy
    """
    if isinstance(source, (str, os.PathLike)):
        source = _load(source)
    policy = source.policy if isinstance(source, BaseAlgorithm) else source
    if not isinstance(policy, ActorCriticPolicy):
        raise InvalidArgument(
            f"reference_policy={source!r} must be the path of a saved model, a PPOPlus or PPO model, or an actor-critic"
            " policy"
        )
    skipped = {id(policy.action_dist): _without_graph(policy.action_dist), id(getattr(policy, "optimizer", None)): None}
    frozen: ActorCriticPolicy = copy.deepcopy(policy, skipped)
    frozen.set_training_mode(False)
    return frozen.requires_grad_(False).to(device)


def check_same_kind(reference: ActorCriticPolicy, model: BaseAlgorithm) -> None:
    """
    Refuse a reference policy that was trained for something else.

    :param reference: the frozen policy
    :param model: the model that shall stay near it; its spaces are known, its networks need not be
    :raises InvalidArgument: when spaces differ, or one squashes its actions and the other does not
    """
    for name in ("observation_space", "action_space"):
        given, wanted = getattr(reference, name), getattr(model, name)
        if given != wanted:
            raise InvalidArgument(
                f"reference_policy has {name} {given}, but the environment has {wanted}; they must be equal"
            )
    squashes = bool((model.policy_kwargs or {}).get("squash_output", False))
    if isinstance(reference.action_space, spaces.Box) and reference.squash_output != squashes:
        raise InvalidArgument(
            f"reference_policy has squash_output={reference.squash_output}, the model squash_output={squashes}: their "
            "actions live in different spaces and have no KL; train both alike"
        )


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Put the generators of python, numpy and torch back: SB3's load() reseeds all three."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (SB3 draws from the global generator)
    with th.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _without_graph(distribution: Any) -> Any:
    """
    A copy of an action distribution without what its last use left there: tensors that hang in a graph cannot be
    copied.
    """
    clean = copy.copy(distribution)
    for name, value in list(vars(clean).items()):
        if isinstance(value, th.Tensor):
            setattr(clean, name, value.detach().clone())
        elif name in ("distribution", "weights_dist"):
            setattr(clean, name, None)
        elif isinstance(value, Distribution):
            setattr(clean, name, _without_graph(value))
    return clean


def _load(path: str | os.PathLike[str]) -> BaseAlgorithm:
    from stable_baselines3 import PPO

    shown = os.fspath(path)
    if not (os.path.exists(shown) or os.path.exists(f"{shown}.zip")):
        raise InvalidArgument(f"reference_policy={shown!r}: there is no such file; give the path of a saved model")
    try:
        with generators_untouched():
            found = rebuild_attributes(read_model(shown), PPO)
            # PPO knows nothing of hybrid actions, whose policy has other layers.
            policy_class = policy_class_for(found["policy_class"], found["action_space"])
            loaded: BaseAlgorithm = load_untrusted(PPO.load, PPO, shown, {"policy_class": policy_class}, device="cpu")
            return loaded
    except UntrustedFile as error:
        remedy = "give the model itself as reference_policy, opened with PPOPlus.load(path, trust=True)"
        raise UntrustedFile(error.path, error.member, error.wanted, remedy) from error
