"""Runs on Unity games: what their environment id says, which arguments they take, and building their environments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sb3_ppo_plus.envs.unity.errors import UnityError
from sb3_ppo_plus.envs.unity.executable import find_executable
from sb3_ppo_plus.envs.unity.others import KINDS
from sb3_ppo_plus.envs.unity.vec_env import UnityVecEnv
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.ids import UNITY_PREFIX, is_unity
from sb3_ppo_plus.runs.models import load_model
from sb3_ppo_plus.runs.naming import did_you_mean

EDITOR = "editor"
# Arguments of UnityVecEnv that a run sets by itself, and what to write instead.
_OF_THE_RUN = {"file_name": "--unity", "n_workers": "n_envs (--n-workers)", "seed": "seed (--seed)"}
_PYTHON_ONLY = ("side_channels",)
_SUFFIX = re.compile(r"\.(x86_64|x86|exe|app)$")
_Result = TypeVar("_Result")


def is_editor(env_id: str) -> bool:
    """
    :param env_id: environment id
    :return: whether it is the Unity editor, of which there is one, that waits for somebody to press Play
    """
    return env_id == UNITY_PREFIX + EDITOR


def game_path(env_id: str) -> str | None:
    """
    :param env_id: ``unity:PATH``
    :return: the path, None for the editor
    """
    return None if is_editor(env_id) else env_id.removeprefix(UNITY_PREFIX)


def game_name(env_id: str) -> str:
    """
    :param env_id: environment id
    :return: the name of its run folder: of a game that of its program
    """
    path = game_path(env_id) if is_unity(env_id) else env_id
    return EDITOR if path is None else _SUFFIX.sub("", PurePosixPath(path).name) if is_unity(env_id) else path


def check_unity(config: RunConfig) -> None:
    """
    Check what can be checked of a game before one is started.

    :param config: configuration of a run with a ``unity:`` id
    :raises InvalidArgument: when there is no such game, or it takes no such argument
    """
    path = game_path(config.env)
    if path is not None:
        _told(find_executable, path)
    if config.env_wrapper:
        raise InvalidArgument(
            f"env_wrapper is {config.env_wrapper!r}, but the agents of a Unity game are no Gymnasium environments; use "
            "a vec_env_wrapper instead"
        )
    known = [name for name in _arguments() if name not in (*_OF_THE_RUN, *_PYTHON_ONLY)]
    for name, value in config.env_kwargs.items():
        if name in _OF_THE_RUN:
            raise InvalidArgument(
                f"env_kwargs.{name} is {value!r}, but {name} belongs to the run; give {_OF_THE_RUN[name]}"
            )
        if name in _PYTHON_ONLY:
            raise InvalidArgument(f"env_kwargs.{name}: functions cannot be configured; use UnityVecEnv in Python")
        if name not in known:
            hint = did_you_mean(name, known) or f"there is {', '.join(known)}"
            raise InvalidArgument(f"env_kwargs.{name}: UnityVecEnv does not take it; {hint}")


def make_unity(config: RunConfig, n_workers: int, seed: int | None, env_kwargs: Mapping[str, Any]) -> UnityVecEnv:
    """
    Start the games of a run.

    :param config: configuration of the run
    :param n_workers: copies of the game
    :param seed: seed of the first; the others count up
    :param env_kwargs: arguments of :class:`~sb3_ppo_plus.envs.UnityVecEnv`
    :return: all of their agents; finished episodes carry SB3's Monitor statistics
    :raises InvalidArgument: for a game that does not start, has no such behavior, or takes no such argument
    """
    check_unity(config)
    arguments = dict(env_kwargs)
    if "others" in arguments:
        arguments["others"] = _players(arguments["others"])
    if "restart_rate" in arguments:
        arguments["restart_rate"] = tuple(arguments["restart_rate"])
    return _told(UnityVecEnv, game_path(config.env), n_workers=n_workers, seed=seed, **arguments)


def evaluation_kwargs(env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Change arguments of the training so that a game beside it disturbs nobody, and is the task that is to be learned.

    :param env_kwargs: arguments of the training
    :return: any free port, a folder of its own for the log, and the last lesson of each curriculum
    """
    changed = {**env_kwargs, "base_port": None}
    if changed.get("log_folder") is not None:
        changed["log_folder"] = str(Path(changed["log_folder"]) / "evaluation")
    parameters = changed.get("environment_parameters")
    if parameters:
        changed["environment_parameters"] = {key: _last_lesson(value) for key, value in parameters.items()}
    return changed


def _last_lesson(value: Any) -> Any:
    lessons = value.get("curriculum") if isinstance(value, Mapping) else None
    # What is no curriculum, or a wrong one, goes through as it is: the games of the training refuse it.
    return lessons[-1].get("value", value) if isinstance(lessons, list) and lessons else value


def _players(others: Any) -> Any:
    """Models for the names of their files."""
    if isinstance(others, Mapping):
        return {name: _players(player) for name, player in others.items()}
    if not isinstance(others, str) or others in KINDS:
        return others
    if others.endswith(".onnx"):
        from sb3_ppo_plus.export.runner import OnnxPolicy

        return OnnxPolicy(Path(others))
    if others.endswith(".zip"):
        return load_model(Path(others))
    raise InvalidArgument(f"env_kwargs.others: {others!r}; give {', '.join(KINDS)}, or the path of a .zip or .onnx")


@cache
def _arguments() -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(UnityVecEnv.__init__).parameters if name != "self")


def _told(function: Callable[..., _Result], *args: Any, **kwargs: Any) -> _Result:
    """Call it; what is wrong with a game, or missing for it, is wrong input."""
    try:
        return function(*args, **kwargs)
    except (UnityError, ImportError) as error:
        raise InvalidArgument(str(error)) from error
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(f"the game takes no such arguments: {' '.join(str(error).split())}") from error
