"""A frozen copy of a trained policy, which a new run is kept near."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_ppo_plus.errors import InvalidArgument


class FrozenPolicy(NamedTuple):
    """
    All that rebuilds a policy, without torch objects, so that it can be saved with a model.

    :param policy_class: class of the policy
    :param arguments: what its constructor takes
    :param parameters: its state dict as arrays
    """

    policy_class: type[ActorCriticPolicy]
    arguments: dict[str, Any]
    parameters: dict[str, np.ndarray]

    def build(self, device: th.device) -> ActorCriticPolicy:
        """
        :param device: where the policy shall live
        :return: the policy, in evaluation mode, its parameters without gradient
        """
        with generators_untouched():
            policy = self.policy_class(**self.arguments).to(device)
        policy.load_state_dict({name: th.as_tensor(array) for name, array in self.parameters.items()})
        policy.set_training_mode(False)
        return policy.requires_grad_(False)


def freeze(source: Any) -> FrozenPolicy:
    """
    Copy a policy, so that training the original does not move the reference.

    :param source: path of a zip saved by PPOPlus or by SB3's PPO, a model, a policy, or a :class:`FrozenPolicy`
    :return: the copy
    """
    if isinstance(source, FrozenPolicy):
        return source
    if isinstance(source, (str, os.PathLike)):
        source = _load(source)
    policy = source.policy if isinstance(source, BaseAlgorithm) else source
    if not isinstance(policy, ActorCriticPolicy):
        raise InvalidArgument(
            f"reference_policy={source!r} must be the path of a saved model, a PPOPlus or PPO model, or an actor-critic"
            " policy"
        )
    parameters = {name: tensor.detach().cpu().numpy().copy() for name, tensor in policy.state_dict().items()}
    return FrozenPolicy(type(policy), policy._get_constructor_parameters(), parameters)


def check_same_spaces(frozen: FrozenPolicy, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    Refuse a reference policy that was trained for something else.

    :param frozen: the reference policy
    :param observation_space: observation space of the model
    :param action_space: action space of the model
    """
    for name, wanted in (("observation_space", observation_space), ("action_space", action_space)):
        given = frozen.arguments[name]
        if given != wanted:
            raise InvalidArgument(
                f"reference_policy has {name} {given}, but the environment has {wanted}; they must be equal"
            )


@contextmanager
def generators_untouched() -> Iterator[None]:
    """
    Put the generators of python, numpy and torch back: building a network draws numbers, SB3's load() reseeds all
    three.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (SB3 draws from the global generator)
    with th.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _load(path: str | os.PathLike[str]) -> BaseAlgorithm:
    from stable_baselines3 import PPO

    shown = os.fspath(path)
    if not (os.path.exists(shown) or os.path.exists(f"{shown}.zip")):
        raise InvalidArgument(f"reference_policy={shown!r}: there is no such file; give the path of a saved model")
    with generators_untouched():
        return PPO.load(shown, device="cpu")
