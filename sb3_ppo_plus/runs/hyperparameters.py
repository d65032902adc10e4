"""The names that a configuration may use for PPOPlus, their defaults, and the objects that plain names stand for."""

from __future__ import annotations

import inspect
from typing import Any

import torch as th

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.features import VisualExtractor
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import parse_mapping

# Written without "_" so that "leaky_relu", "LeakyReLU" and "leakyrelu" are the same name.
ACTIVATIONS: dict[str, type[th.nn.Module]] = {
    "elu": th.nn.ELU,
    "gelu": th.nn.GELU,
    "identity": th.nn.Identity,
    "leakyrelu": th.nn.LeakyReLU,
    "mish": th.nn.Mish,
    "relu": th.nn.ReLU,
    "selu": th.nn.SELU,
    "sigmoid": th.nn.Sigmoid,
    "silu": th.nn.SiLU,
    "softplus": th.nn.Softplus,
    "tanh": th.nn.Tanh,
}
OPTIMIZERS: dict[str, type[th.optim.Optimizer]] = {
    "adam": th.optim.Adam,
    "adamw": th.optim.AdamW,
    "radam": th.optim.RAdam,
    "rmsprop": th.optim.RMSprop,
    "sgd": th.optim.SGD,
}
EXTRACTORS: dict[str, type[th.nn.Module]] = {"visual": VisualExtractor}
# These belong to the run (its environments, folder and seed), or to SB3's inside.
_NOT_HYPERPARAMETERS = {"self", "policy", "env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}

# Where a run does otherwise than PPOPlus when nothing is given. A model alone stays bit for bit SB3's by default; a run
# is there to be fast.
RUN_DEFAULTS: dict[str, Any] = {"compile_update": "auto"}


def ppo_defaults() -> dict[str, Any]:
    """
    All hyperparameters of PPOPlus with their defaults, read from its signature.

    :return: name to default
    """
    parameters = inspect.signature(PPOPlus.__init__).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    return {parameter.name: parameter.default for parameter in named if parameter.name not in _NOT_HYPERPARAMETERS}


def plain_policy_kwargs(value: Any) -> dict[str, Any] | None:
    """
    Bring ``policy_kwargs`` into its one written form: a mapping of plain values.

    :param value: a mapping, the zoo's ``"dict(...)"`` string, or None
    :return: the mapping, or None
    """
    if value is None:
        return None
    kwargs = parse_mapping("policy_kwargs", value) if isinstance(value, str) else value
    if not isinstance(kwargs, dict):
        raise InvalidArgument(f"policy_kwargs is {value!r}; give a mapping such as {{net_arch: [64, 64]}}")
    net_arch = kwargs.get("net_arch")
    if isinstance(net_arch, list) and len(net_arch) == 1 and isinstance(net_arch[0], dict):
        # The form of SB3 before 1.8, [dict(pi=..., vf=...)], still common in zoo files.
        kwargs = {**kwargs, "net_arch": net_arch[0]}
    return kwargs


def build_policy_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """
    Put classes where a plain mapping names them (``activation_fn``, ``optimizer_class``,
    ``features_extractor_class``).

    :param kwargs: result of ``plain_policy_kwargs``
    :return: what SB3's policies take
    """
    if kwargs is None:
        return None
    tables: dict[str, dict[str, Any]] = {
        "activation_fn": ACTIVATIONS,
        "optimizer_class": OPTIMIZERS,
        "features_extractor_class": EXTRACTORS,
    }
    return {key: _lookup(key, value, tables[key]) if key in tables else value for key, value in kwargs.items()}


def _lookup(key: str, name: Any, table: dict[str, Any]) -> Any:
    """The class behind a name; the error lists the names."""
    found = table.get(str(name).lower().replace("_", ""))
    if found is None:
        hint = did_you_mean(str(name), table)
        raise InvalidArgument(f"policy_kwargs.{key} is {name!r}; {hint or 'give one of'} ({', '.join(table)})")
    return found
