"""How a configuration is put together: zoo block, then file, then --set, then flags; the later one wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_path
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping, known_keys
from sb3_ppo_plus.runs.hyperparameters import plain_policy_kwargs
from sb3_ppo_plus.runs.ids import is_atari, is_unity
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import apply_setting, parse_settings, read_yaml

ATARI_BLOCK, DEFAULT_BLOCK = "atari", "default"


def assemble(
    env: str | None = None,
    config_file: Path | None = None,
    settings: list[str] | None = None,
    flags: dict[str, Any] | None = None,
    zoo_file: Path | None = None,
) -> RunConfig:
    """
    Put a configuration together.

    :param env: environment id; None takes it from ``config_file``
    :param config_file: a run's config.yml, a file of hyperparameters, or blocks by environment id (RL-Zoo)
    :param settings: ``key=value`` words
    :param flags: values of command line flags; None means that the flag was not given
    :param zoo_file: tuned blocks, None for the package's own
    :return: the checked configuration
    :raises InvalidArgument: when a layer cannot be read or holds a key or value that cannot work
    """
    from_file = read_yaml(config_file) if config_file else {}
    from_file = _select_block(from_file, env, config_file) if _is_zoo_format(from_file) else from_file
    env = env or from_file.get("env")
    if not isinstance(env, str) or not env:
        raise InvalidArgument(f"env is {env!r}; name the environment with --env, for example --env Pendulum-v1")
    # A run's own config.yml is complete: nothing of the zoo may shine through, or the run would not repeat.
    values = {} if "versions" in from_file else zoo_block(env, zoo_file)
    if is_unity(env):
        # Copies of the game, each with many agents; nobody wants eight windows unasked.
        values |= {"n_envs": 1}
    values |= {**from_file, "env": env}
    for path, value in parse_settings(settings or []):
        if path[0] == "policy_kwargs" and isinstance(values.get("policy_kwargs"), str):
            values["policy_kwargs"] = plain_policy_kwargs(values["policy_kwargs"])
        values = apply_setting(values, path, value)
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    return config_from_mapping(values)


def zoo_block(env: str, zoo_file: Path | None = None) -> dict[str, Any]:
    """
    Give what a run starts from when it is told nothing.

    :param env: environment id
    :param zoo_file: tuned blocks, None for the package's own
    :return: the tuned block of the environment, or the one for all Atari games, or the default block
    """
    blocks = read_yaml(zoo_file or resource_path("zoo_configs", "ppo_plus.yml"))
    block = blocks.get(env, blocks.get(env.rpartition(":")[2]))
    if block is None and is_atari(env):
        block = blocks.get(ATARI_BLOCK)
    if block is not None:
        return dict(block)
    default = dict(blocks.get(DEFAULT_BLOCK, {}))
    # An unknown environment may have images or discrete observations, which cannot be normalized.
    return {**default, "normalize": "auto"} if default.get("normalize") is True else default


def _is_zoo_format(content: dict[str, Any]) -> bool:
    """Blocks by environment id: every value is a mapping and no key is one of ours."""
    return (
        bool(content)
        and all(isinstance(value, dict) for value in content.values())
        and not (content.keys() & known_keys())
    )


def _select_block(blocks: dict[str, Any], env: str | None, path: Path | None) -> dict[str, Any]:
    """The block for an environment in a file of blocks; a file with one block needs no name."""
    if env is None and len(blocks) == 1:
        env = next(iter(blocks))
        return {**blocks[env], "env": env}
    if env is None:
        raise InvalidArgument(f"{path} has blocks for {', '.join(blocks)}; choose one with --env")
    name = env.rpartition(":")[2]
    block = blocks.get(env, blocks.get(name, blocks.get(DEFAULT_BLOCK)))
    if block is None:
        hint = did_you_mean(name, blocks) or f"it has {', '.join(blocks)}"
        raise InvalidArgument(f"{path} has no block for {name!r}; {hint}")
    return dict(block)
