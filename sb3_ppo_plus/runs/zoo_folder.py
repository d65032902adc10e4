"""Run folders of RL Baselines3 Zoo, read without running what stands in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping, known_keys
from sb3_ppo_plus.runs.safe_yaml import load_yaml
from sb3_ppo_plus.runs.values import parse_mapping, plain

_TAG = "tag:yaml.org,2002:python/"


class ZooLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also takes the plain data that the zoo writes with tags of Python."""


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    """``OrderedDict``: a sequence with one sequence of pairs."""
    assert isinstance(node, yaml.SequenceNode)
    content = loader.construct_sequence(node, deep=True)
    return dict(content[0]) if content else {}


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


ZooLoader.add_constructor(f"{_TAG}object/apply:collections.OrderedDict", _ordered)
ZooLoader.add_constructor(f"{_TAG}tuple", _sequence)


def load_zoo_yaml(path: Path) -> dict[str, Any]:
    """
    Read a YAML file of the zoo. Its own loader builds any Python object that the file asks for; this one does not.

    :param path: ``config.yml``, ``args.yml``, or a file of hyperparameters
    :return: its content
    :raises InvalidArgument: when it cannot be read, or holds objects beyond ordered mappings and tuples
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), ZooLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidArgument(f"cannot read {path}: {reason}; give a YAML file of plain values") from error
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path} holds {type(content).__name__}, but a mapping is needed")
    return content


def zoo_environment(folder: Path) -> Path | None:
    """
    :param folder: any folder
    :return: the inner folder that the zoo names by its environment, None when it is no run of the zoo
    """
    found = sorted(path.parent for path in folder.glob("*/args.yml") if (path.parent / "config.yml").is_file())
    return found[0] if len(found) == 1 else None


def read_zoo_config(folder: Path) -> RunConfig:
    """
    :param folder: run folder of the zoo, ``logs/ALGO/ENV_1``
    :return: its configuration, as far as a run of this package has it
    :raises InvalidArgument: when it is none, or cannot be read
    """
    inner = zoo_environment(folder)
    if inner is None:
        raise InvalidArgument(f"{folder} is no run of the zoo: it has no <env>/args.yml with a config.yml beside it")
    args, config = load_zoo_yaml(inner / "args.yml"), plain(load_zoo_yaml(inner / "config.yml"))
    known = known_keys()
    values = {key: value for key, value in config.items() if key in known}
    if isinstance(values.get("normalize"), str):
        values["normalize"] = parse_mapping("normalize", values["normalize"])
    if args.get("env_kwargs"):
        values["env_kwargs"] = args["env_kwargs"]
    if args.get("n_timesteps", -1) > 0:
        values["n_timesteps"] = args["n_timesteps"]
    return config_from_mapping({**values, "env": args["env"], "seed": max(0, int(args.get("seed") or 0))})
