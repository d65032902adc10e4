"""The configuration of a run: its fields, their checks, and its file."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

import sb3_ppo_plus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.hyperparameters import RUN_DEFAULTS, plain_policy_kwargs, ppo_defaults
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import parse_mapping, require_number

# Written for the reader of config.yml, and skipped when it is loaded.
NOTES = ("versions", "command")
VEC_ENVS = ("auto", "native", "torch", "dummy", "subproc", "unity")
_PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy", "mujoco")


@dataclass(frozen=True)
class RunConfig:
    """
    Everything that decides the outcome of a run.

    :param env: environment id, also ``module:EnvId``; ``module:Class`` for a MujocoTask of your own; ``unity:PATH``
        for a Unity game, ``unity:editor`` for the open editor
    :param seed: seeds the policy, the environments and the evaluation
    :param n_timesteps: environment steps in total; more is slower and usually better
    :param n_envs: environments stepped together; more is faster per step and makes each rollout larger. Of a Unity
        game its copies, each with all of its agents
    :param vec_env: how the environments step: ``native`` (MujocoVecEnv, for MuJoCo tasks), ``torch`` (TorchVecEnv,
        for classic control), ``dummy`` (one process, best for other fast environments), ``subproc`` (one process each,
        for slow ones), or ``auto`` (native where it can be, else dummy)
    :param policy: policy name, or None to choose by the observation space
    :param normalize: False, or the arguments of VecNormalize; ``"auto"`` normalizes when observations are vectors
    :param env_kwargs: arguments of the environment; for a native one also options of MujocoVecEnv (``randomization``)
    :param env_wrapper: import paths of Gymnasium wrappers, innermost first, each a name or {name: arguments}; not for
        native environments
    :param vec_env_wrapper: the same for VecEnv wrappers
    :param frame_stack: stack this many observations, None for no stacking
    :param eval_freq: timesteps between evaluations, None for a tenth of the run, 0 for only at start and end
    :param eval_episodes: episodes per evaluation; more is slower and gives a narrower interval
    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``
    :param threads: torch's threads, at least 1, for rollouts and the upper limit for updates; None is one for vectors
        (small networks are fastest so) and torch's choice for images. MuJoCo's own threads are not meant
    :param hyperparameters: arguments of PPOPlus
    """

    env: str
    seed: int = 0
    n_timesteps: int = 1_000_000
    n_envs: int = 8
    vec_env: str = "auto"
    policy: str | None = None
    normalize: Any = False
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_wrapper: Any = None
    vec_env_wrapper: Any = None
    frame_stack: int | None = None
    eval_freq: int | None = None
    eval_episodes: int = 10
    device: str = "auto"
    threads: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def to_mapping(self) -> dict[str, Any]:
        """
        :return: the flat form that ``config_from_mapping`` reads; hyperparameters stand beside the other keys
        """
        values = asdict(self)
        hyperparameters = values.pop("hyperparameters")
        return {**values, **hyperparameters}

    def write(self, path: Path, command: str) -> None:
        """
        Write the configuration as YAML; loading it repeats the run.

        :param path: file to write
        :param command: command line that started the run, kept as a note
        """
        content = {**self.to_mapping(), "versions": package_versions(), "command": command}
        # safe_dump spells 1e-05 as 1.0e-05, which YAML reads back as the same float.
        atomic_write(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110))


def known_keys() -> list[str]:
    """
    :return: every key that a configuration may have
    """
    own = [entry.name for entry in fields(RunConfig) if entry.name != "hyperparameters"]
    return [*own, *ppo_defaults()]


def config_from_mapping(values: dict[str, Any]) -> RunConfig:
    """
    Check a flat mapping and make a configuration of it.

    :param values: keys of ``known_keys()``, plus the notes of a written file, which are skipped
    :return: the configuration
    :raises InvalidArgument: for an unknown key or a value that cannot work
    """
    values = {key: value for key, value in values.items() if key not in NOTES}
    known = known_keys()
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known) or "see `ppo-plus train --help`"
            raise InvalidArgument(f"unknown hyperparameter {key!r} (value {values[key]!r}); {hint}")
    own = {entry.name: values[entry.name] for entry in fields(RunConfig) if entry.name in values}
    own["hyperparameters"] = {key: value for key, value in values.items() if key not in own}
    return RunConfig(**_checked(own))


def complete_hyperparameters(given: dict[str, Any]) -> dict[str, Any]:
    """
    Write out the defaults as well, so that a later change of a default does not change a repeated run.

    They are PPOPlus's, but for :data:`~sb3_ppo_plus.runs.hyperparameters.RUN_DEFAULTS`. A preset stays a name: PPOPlus
    lets it fill what equals its default, so written-out defaults do not disturb it.

    :param given: hyperparameters that were given
    :return: given values and defaults, those that YAML can hold
    """
    defaults = ppo_defaults()
    writable = {key: value for key, value in defaults.items() if isinstance(value, bool | int | float | str | None)}
    return {**writable, **RUN_DEFAULTS, **given}


def package_versions() -> dict[str, str]:
    """
    :return: versions of what the outcome depends on
    """
    versions = {"sb3-ppo-plus": sb3_ppo_plus.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _checked(own: dict[str, Any]) -> dict[str, Any]:
    """Check the fields of RunConfig one by one and bring them into their one form."""
    minimum = {
        "seed": 0,
        "n_timesteps": 1,
        "n_envs": 1,
        "eval_freq": 0,
        "eval_episodes": 1,
        "frame_stack": 1,
        "threads": 1,
    }
    optional = {"eval_freq", "frame_stack", "threads"}
    for name, smallest in minimum.items():
        if name in own and not (own[name] is None and name in optional):
            own[name] = require_number(name, own[name], minimum=smallest)
    if own.get("vec_env", "auto") not in VEC_ENVS:
        raise InvalidArgument(f"vec_env is {own['vec_env']!r}; give {', '.join(VEC_ENVS[:-1])} or {VEC_ENVS[-1]}")
    if isinstance(own.get("normalize"), str) and own["normalize"] != "auto":
        own["normalize"] = parse_mapping("normalize", own["normalize"])
    if not isinstance(own.get("normalize", False), bool | dict) and own["normalize"] != "auto":
        raise InvalidArgument(f"normalize is {own['normalize']!r}; give true, false or VecNormalize arguments")
    if isinstance(own.get("env_kwargs"), str):
        own["env_kwargs"] = parse_mapping("env_kwargs", own["env_kwargs"])
    own["env_kwargs"] = own.get("env_kwargs") or {}
    if not isinstance(own["env_kwargs"], dict):
        raise InvalidArgument(f"env_kwargs is {own['env_kwargs']!r}; give a mapping of the environment's arguments")
    hyperparameters = own["hyperparameters"]
    if "policy_kwargs" in hyperparameters:
        hyperparameters["policy_kwargs"] = plain_policy_kwargs(hyperparameters["policy_kwargs"])
    for name in ("n_steps", "batch_size", "n_epochs"):
        if hyperparameters.get(name) is not None:
            hyperparameters[name] = require_number(name, hyperparameters[name], minimum=1)
    return own
