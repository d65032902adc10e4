"""A configuration as a block of a zoo file, put in its place without touching the rest of the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters, config_from_mapping
from sb3_ppo_plus.runs.values import read_yaml

# Of the run, not of the task's solution.
_NOT_IN_A_BLOCK = ("env", "seed", "vec_env", "eval_freq", "eval_episodes", "device", "threads")
# Written out even where they equal the default: what a reader looks for first.
_ALWAYS = (
    "n_timesteps",
    "n_envs",
    "policy",
    "n_steps",
    "batch_size",
    "n_epochs",
    "learning_rate",
    "gamma",
    "clip_range",
)


def block_of(config: RunConfig) -> dict[str, Any]:
    """
    :param config: configuration of a run
    :return: its block for a zoo file, without what is the default anyway
    """
    defaults = {**RunConfig(config.env).to_mapping(), **complete_hyperparameters({})}
    block = {
        key: value
        for key, value in config.to_mapping().items()
        if key not in _NOT_IN_A_BLOCK and (key in _ALWAYS or value != defaults.get(key)) and value is not None
    }
    first = [key for key in ("n_timesteps", "n_envs", "policy", "normalize") if key in block]
    return {key: block[key] for key in [*first, *(key for key in block if key not in first)]}


def write_block(path: Path, env: str, block: dict[str, Any], comments: list[str]) -> str:
    """
    Put a block into a zoo file, in place of the one it has for the environment.

    :param path: the file, made when missing
    :param env: environment id
    :param block: the block
    :param comments: lines that say where it comes from
    :return: the text of the block
    :raises InvalidArgument: when the file cannot be read, or cannot be changed without changing more
    """
    text = block_text(env, block, comments)
    old = ""
    if path.is_file():
        read_yaml(path)  # whose error says where a file is wrong
        old = path.read_text(encoding="utf-8")
    new = _replace(old, env, text)
    after = yaml.safe_load(new)
    if {key: value for key, value in after.items() if key != env} != {
        key: value for key, value in (yaml.safe_load(old) or {}).items() if key != env
    }:
        raise InvalidArgument(f"{path} cannot be changed in one place only; give another --out, and copy the block")
    # What is written is what will be read.
    if config_from_mapping({**after[env], "env": env}) != config_from_mapping({**block, "env": env}):
        raise InvalidArgument(f"the block of {env} does not read as it was written; it is:\n{text}")
    atomic_write(path, new)
    return text


def block_text(env: str, block: dict[str, Any], comments: list[str]) -> str:
    """
    :param env: environment id
    :param block: the block
    :param comments: lines that say where it comes from
    :return: YAML
    """
    lines = [f"{yaml.safe_dump(env).splitlines()[0]}:", *(f"  # {comment}" for comment in comments)]
    for key, value in block.items():
        # One line for each setting: what is inside of one stays on it.
        inner = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10_000)
        lines.append(f"  {key}: {inner.removesuffix(chr(10)).removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


def _replace(text: str, env: str, block: str) -> str:
    """The text of a file with another block; comments before the next block stay with that one."""
    start = re.search(rf"^(['\"]?){re.escape(env)}\1:.*$", text, re.MULTILINE)
    if start is None:
        return f"{text.rstrip()}\n\n{block}" if text.strip() else block
    rest = text[start.end() :]
    following = re.search(r"\n(?=[^\s#])", rest)
    if following is None:
        return text[: start.start()] + block
    tail = rest[: following.start()]
    # What stands at the left margin above the next block is said of that one.
    kept = re.search(r"(\n#[^\n]*|\n[ \t]*)*\Z", tail)
    comments = kept.group().lstrip("\n") if kept and "#" in kept.group() else ""
    return text[: start.start()] + block + "\n" + (f"{comments}\n" if comments else "") + rest[following.end() :]
