"""The zoo without ``eval``, unsafe YAML and unpickling: files and words are plain values and known names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from rl_zoo3 import exp_manager, utils
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files import known_torch
from sb3_ppo_plus.runs.envs import open_normalizer
from sb3_ppo_plus.runs.named import import_named
from sb3_ppo_plus.runs.zoo_folder import ZooLoader

_NAMES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (HerReplayBuffer, ReplayBuffer, DictReplayBuffer, RolloutBuffer, RMSpropTFLike)},
    **{
        f"{prefix}.{kind.__name__}": kind
        for kind in known_torch.KNOWN.values.values()
        for prefix in (("th.optim", "torch.optim") if "optim" in kind.__module__ else ("nn", "th.nn", "torch.nn"))
    },
}
_LONGEST = 10_000


def literal(text: str) -> Any:
    """
    Read what the zoo would give to ``eval``: literals, ``dict(...)``, and names of layers, optimizers and buffers.

    :param text: Python text
    :return: its value
    :raises InvalidArgument: for anything else
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it has {len(text)} letters")
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InvalidArgument(
            f"{text[:100]!r} is no plain value ({error}); write literals, dict(...), nn.ReLU and the like, or give "
            "--trust to run it"
        ) from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {_value(key): _value(item) for key, item in zip(keys, values, strict=True) if key}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words) if all(word.arg for word in words):
            return {str(word.arg): _value(word.value) for word in words}
        case ast.Name() | ast.Attribute() if ast.unparse(node) in _NAMES:
            return _NAMES[ast.unparse(node)]
    raise ValueError(f"{ast.unparse(node)[:60]!r} is none")


def _check_wrappers(hyperparams: dict[str, Any], key: str = "env_wrapper") -> Any:
    entries = hyperparams.get(key)
    for entry in entries if isinstance(entries, list) else [entries] if entries is not None else []:
        path = next(iter(entry), None) if isinstance(entry, dict) else entry
        if not isinstance(path, type):
            import_named(key, path, VecEnv if key.startswith("vec_env") else gym.Wrapper, functions=True)
    return _get_wrapper_class(hyperparams, key)


_get_wrapper_class = utils.get_wrapper_class


def _class_by_name(name: str) -> type:
    for base in (BasePolicy, BaseCallback):
        try:
            return import_named("policy or callback", name, base)  # type: ignore[no-any-return]
        except InvalidArgument as error:
            refused = error
    raise refused


def _open_normalizer(load_path: str, venv: VecEnv) -> VecNormalize:
    return open_normalizer(Path(load_path), venv)


@contextmanager
def without_code() -> Iterator[None]:
    """Put readers in the place of what would run code, in the modules of the zoo, until the end of the block."""
    places: list[tuple[Any, str, Any]] = [
        (yaml, "UnsafeLoader", ZooLoader),
        (VecNormalize, "load", staticmethod(_open_normalizer)),
    ]
    for module in (exp_manager, utils):
        places += [
            (module, "eval", literal),  # found before the builtin
            (module, "get_wrapper_class", _check_wrappers),
            (module, "get_class_by_name", _class_by_name),
        ]
    missing = object()
    before = [(place, name, vars(place).get(name, missing)) for place, name, _ in places]
    try:
        for place, name, value in places:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            if value is missing:
                delattr(place, name)
            else:
                setattr(place, name, value)
