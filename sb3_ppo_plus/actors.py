"""
From observations to actions, between two steps of an environment.

SB3 asks ``policy(obs)``, about a hundred small operations of torch and as many objects; for networks of the usual size
that takes longer than the physics of eight robots. :class:`ArrayActor` computes the same in NumPy, on the very memory
of the policy's parameters; :class:`PolicyActor` asks the policy, wherever the first does not know all of it. Both draw
the numbers of torch's global generator that SB3 would draw.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn
from torch.nn.modules import module as torch_module

from sb3_ppo_plus.action_draws import DRAWS, sigmoid
from sb3_ppo_plus.masking import mask_rows, masked

# OpenBLAS shares out among threads a product of more multiply-adds, and these would fight with the threads of the
# physics for the processors: larger ones are cut into pieces.
_PRODUCT = 2**18
# The same for a product with a vector.
_VECTOR_PRODUCT = 9215
_ALL_PRODUCTS = 2**24  # of a step, beyond which torch is faster in spite of its overhead
# What policy(obs) is made of; whoever overrides one of these computes something else.
_OWN_METHODS = ("__call__", "forward", "extract_features", "_get_action_dist_from_latent")


class Actor(ABC):
    """Chooses actions during one rollout."""

    @abstractmethod
    def act(
        self,
        obs: Any,
        actions: np.ndarray,
        values: np.ndarray,
        log_probs: np.ndarray,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """
        Choose actions, and say what is thought of them.

        :param obs: observations [N, O] or a mapping of such arrays
        :param actions: where the actions are written, as the rollout buffer keeps them [N, A]
        :param values: where the value estimates are written [N]
        :param log_probs: where the log-probabilities are written [N]
        :param masks: True where an action is allowed, None for no masks [N, D]
        :return: actions as the environment takes them, in memory that is not written again: clipped to its space, or
            scaled to it where the policy squashes
        """


class PolicyActor(Actor):
    """
    Asks the policy, exactly as SB3's rollout does.

    :param policy: actor-critic policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.device = policy.device
        self.box = policy.action_space if isinstance(policy.action_space, spaces.Box) else None

    def act(
        self,
        obs: Any,
        actions: np.ndarray,
        values: np.ndarray,
        log_probs: np.ndarray,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """See :meth:`Actor.act`."""
        with th.no_grad(), masked(self.policy, masks):
            sampled, value, log_prob = (output.cpu().numpy() for output in self.policy(obs_as_tensor(obs, self.device)))
        actions[...] = sampled.reshape(actions.shape)
        values[...] = value.reshape(-1)
        log_probs[...] = log_prob.reshape(-1)
        if self.box is None:
            return sampled
        if self.policy.squash_output:
            return self.policy.unscale_action(sampled)
        return np.clip(sampled, self.box.low, self.box.high)


class ArrayActor(Actor):
    """
    Computes what SB3's own policy computes, to float32 rounding, in NumPy.

    Parameters are those of the policy, not copies: what changes them in place changes this actor as well.

    :param policy: policy for which :func:`why_not_in_arrays` has nothing to say
    :param n_envs: N, observations of a step
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int) -> None:
        self.policy_actor = PolicyActor(policy)
        networks: Any = policy.mlp_extractor
        self.read = _make_reader(policy, n_envs)
        self.actor = _make_layers([*networks.policy_net, policy.action_net], n_envs)
        self.critic = _make_layers([*networks.value_net, policy.value_net], n_envs)
        self.draw = DRAWS[type(policy.action_dist)](policy, n_envs)

    def act(
        self,
        obs: Any,
        actions: np.ndarray,
        values: np.ndarray,
        log_probs: np.ndarray,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """See :meth:`Actor.act`."""
        features = outputs = self.read(obs)
        for layer in self.critic:
            outputs = layer(outputs)
        values[...] = outputs[:, 0]
        outputs = features
        for layer in self.actor:
            outputs = layer(outputs)
        if masks is not None:
            mask_rows(outputs, masks)
        commands = self.draw(outputs, actions, log_probs)
        total = log_probs.dot(log_probs)
        # NaN equals nothing. SB3's distributions refuse it with an error that names it; let them.
        return commands if total == total else self.policy_actor.act(obs, actions, values, log_probs, masks)


def make_actor(policy: ActorCriticPolicy, n_envs: int) -> Actor:
    """
    Choose how actions are computed in the rollout that begins.

    :param policy: actor-critic policy
    :param n_envs: N, observations of a step
    :return: the actor; making it takes less time than a step
    """
    return ArrayActor(policy, n_envs) if why_not_in_arrays(policy, n_envs) is None else PolicyActor(policy)


# ------------------------------------------------ which policies


def why_not_in_arrays(policy: ActorCriticPolicy, n_envs: int) -> str | None:
    """
    Look whether a policy is made of nothing but what :class:`ArrayActor` knows.

    :param policy: actor-critic policy
    :param n_envs: N, observations of a step
    :return: what is different, None when nothing is
    """
    for name in _OWN_METHODS:
        if getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) or name in vars(policy):
            return f"{type(policy).__name__} has a {name}() of its own"
    if type(policy.action_dist) not in DRAWS:
        return f"its action distribution is a {type(policy.action_dist).__name__}"
    modules = list(policy.modules())
    for parameter in [p for module in modules for p in module._parameters.values() if p is not None]:
        if type(parameter) is not nn.Parameter or parameter.dtype != th.float32 or parameter.device.type != "cpu":
            return "not all of its parameters are float32 on the CPU"
        # SB3 raises an error at the first action of a policy that has become NaN, and so does PolicyActor.
        if not math.isfinite(parameter.detach().numpy().sum()):
            return "not all of its parameters are finite"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "torch has hooks for all modules"
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"its {type(module).__name__} has a hook or a forward() of its own"
    return _unknown_features(policy) or _unknown_networks(policy) or _too_large(modules, n_envs)


def _unknown_features(policy: ActorCriticPolicy) -> str | None:
    space = policy.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    if not all(isinstance(part, spaces.Box) and len(part.shape) == 1 for part in parts):
        return f"observations are {space}, more than vectors"
    for extractor in (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor):
        if type(extractor) is CombinedExtractor and isinstance(space, spaces.Dict):
            found = {name: type(part) for name, part in extractor.extractors.items()}
            if found == dict.fromkeys(space.spaces, nn.Flatten):
                continue
        elif type(extractor) is FlattenExtractor and not isinstance(space, spaces.Dict):
            continue
        return f"its features extractor is {extractor}"
    return None


def _unknown_networks(policy: ActorCriticPolicy) -> str | None:
    extractor: Any = policy.mlp_extractor
    if type(extractor) is not MlpExtractor:
        return f"its mlp_extractor is a {type(extractor).__name__}"
    for head in (policy.action_net, policy.value_net):
        if type(head) is not nn.Linear:
            return f"one of its heads is a {type(head).__name__}"
    for network in (extractor.policy_net, extractor.value_net):
        if type(network) is not nn.Sequential:
            return f"one of its networks is a {type(network).__name__}"
        for index, module in enumerate(network):
            if type(module) is not nn.Linear and (index == 0 or type(module) not in _ACTIVATIONS):
                return f"its networks hold a {type(module).__name__}"
            if isinstance(module, nn.LeakyReLU) and not 0.0 <= module.negative_slope <= 1.0:
                return f"its networks hold a {module}"
    return None


def _too_large(modules: list[nn.Module], n_envs: int) -> str | None:
    layers = [module for module in modules if isinstance(module, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    fits = n_envs * weights <= _ALL_PRODUCTS and all(_pieces(layer, n_envs) for layer in layers)
    return None if fits else f"its layers of {weights} weights in all are large for {n_envs} environments"


# ------------------------------------------------ networks


def _make_reader(policy: ActorCriticPolicy, n_envs: int) -> Callable[[Any], np.ndarray]:
    """What SB3's ``preprocess_obs`` and features extractors do to vectors: float32, side by side."""
    features = np.empty((n_envs, policy.features_dim), np.float32)
    space, extractor = policy.observation_space, policy.features_extractor
    parts: dict[str, np.ndarray] = {}
    if isinstance(space, spaces.Dict) and isinstance(extractor, CombinedExtractor):
        ends = np.cumsum([spaces.flatdim(space[name]) for name in extractor.extractors])
        parts = dict(zip(extractor.extractors, np.split(features, ends[:-1], axis=1), strict=True))

    def read(obs: np.ndarray) -> np.ndarray:
        features[...] = obs
        return features

    def read_parts(obs: dict[str, np.ndarray]) -> np.ndarray:
        for name, part in parts.items():
            part[...] = obs[name]
        return features

    return read_parts if parts else read


def _pieces(linear: nn.Linear, n_envs: int) -> list[slice]:
    """Rows to multiply at once without waking threads; none when even that does not help."""
    weights = linear.weight.numel()
    with_vector = n_envs == 1 or linear.out_features == 1
    largest = (_VECTOR_PRODUCT if with_vector else _PRODUCT) // weights
    count = math.ceil(n_envs / largest) if largest else n_envs + 1
    # One row alone would make it a product with a vector.
    if n_envs // count < (1 if with_vector else 2):
        return []
    return [slice(n_envs * i // count, n_envs * (i + 1) // count) for i in range(count)]


class _Layer:
    """A linear layer and what is applied to it; the array that it returns is overwritten by the next call."""

    def __init__(self, linear: nn.Linear, n_envs: int) -> None:
        self.weight = linear.weight.detach().numpy().T
        self.bias = None if linear.bias is None else linear.bias.detach().numpy()
        self.outputs = np.empty((n_envs, linear.out_features), np.float32)
        self.activations: list[Callable[[np.ndarray], Any]] = []
        self.pieces = _pieces(linear, n_envs)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        outputs = self.outputs
        if len(self.pieces) == 1:
            inputs.dot(self.weight, outputs)
        else:
            for piece in self.pieces:
                inputs[piece].dot(self.weight, outputs[piece])
        if self.bias is not None:
            np.add(outputs, self.bias, outputs)
        for activation in self.activations:
            activation(outputs)
        return outputs


def _make_layers(modules: list[Any], n_envs: int) -> list[_Layer]:
    layers: list[_Layer] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append(_Layer(module, n_envs))
        else:
            layers[-1].activations.append(_ACTIVATIONS[type(module)](module))
    return layers


def _silu(x: np.ndarray) -> None:
    sigmoid(gate := x.copy())
    np.multiply(x, gate, x)


def _elu(x: np.ndarray, alpha: float) -> None:
    below = np.expm1(np.minimum(x, 0.0)) * np.float32(alpha)
    np.add(np.maximum(x, 0.0, out=x), below, x)


# What each does to an array in place.
_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Callable[[np.ndarray], Any]]] = {
    nn.Tanh: lambda module: lambda x: np.tanh(x, x),
    nn.ReLU: lambda module: lambda x: np.maximum(x, 0.0, out=x),
    nn.Sigmoid: lambda module: sigmoid,
    nn.SiLU: lambda module: _silu,
    nn.ELU: lambda module: lambda x: _elu(x, module.alpha),
    nn.LeakyReLU: lambda module: lambda x: np.maximum(x, x * np.float32(module.negative_slope), out=x),
}
