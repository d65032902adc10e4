"""Running a module of the zoo with PPOPlus registered, as ``python -m rl_zoo3.MODULE`` would run it."""

from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.resources import resource_path
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.zoo.manager import NAME, Manager
from sb3_ppo_plus.zoo.registration import register
from sb3_ppo_plus.zoo.without_code import without_code

# Command to the zoo's module; those with --algo, of which ppo_plus is the default here.
MODULES = {
    "train": "train",
    "enjoy": "enjoy",
    "record_video": "record_video",
    "record_training": "record_training",
    "benchmark": "benchmark",
    "load_from_hub": "load_from_hub",
    "push_to_hub": "push_to_hub",
    "plot_train": "plots.plot_train",
    "plot_from_file": "plots.plot_from_file",
    "all_plots": "plots.all_plots",
}
_WITH_ALGORITHM = ("train", "enjoy", "record_video", "record_training", "load_from_hub", "push_to_hub")
# Command to a package that its module imports and the zoo does not require.
_NEEDS = {
    "enjoy": "requests",
    "record_video": "requests",
    "record_training": "requests",
    "load_from_hub": "requests",
    "plot_train": "seaborn",
    "plot_from_file": "seaborn",
    "all_plots": "seaborn",
}


def launch(command: str, words: Sequence[str]) -> None:
    """
    Run a command of the zoo.

    :param command: key of ``MODULES``
    :param words: arguments of the zoo's module; ``--algo ppo_plus``, this package's configurations, and the zoo's
        folder of logs are filled in where they are missing. With ``--trust`` it evaluates and unpickles what files and
        words say, as the zoo does
    :raises InvalidArgument: for an unknown command, or one that the installed zoo cannot run
    """
    if command not in MODULES:
        hint = did_you_mean(command, MODULES) or f"there is {', '.join(MODULES)}"
        raise InvalidArgument(f"unknown command of the zoo {command!r}; {hint}")
    package = _NEEDS.get(command)
    if package is not None and find_spec(package) is None:
        raise InvalidArgument(
            f"`{command}` of the installed zoo imports {package}, which is missing; pip install {package}"
        )
    words = list(words)
    trust = "--trust" in words
    words = complete_words(command, [word for word in words if word != "--trust"])
    register(trust)
    before, sys.argv = sys.argv, [f"rl_zoo3.{MODULES[command]}", *words]
    try:
        with warnings.catch_warnings(), nullcontext() if trust else without_code():
            # The zoo's package imports some of its modules before they are run.
            warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
            runpy.run_module(f"rl_zoo3.{MODULES[command]}", run_name="__main__")
    except ImportError as error:
        if command == "push_to_hub" and "generate_metadata" in str(error):
            raise InvalidArgument(
                "the installed zoo cannot upload: it asks the hub's package for generate_metadata, which that package "
                "has made private; upload the run folder with `hf upload ORG/NAME FOLDER`"
            ) from error
        raise
    finally:
        sys.argv, Manager.native = before, False


def complete_words(command: str, words: list[str]) -> list[str]:
    """
    :param command: command of the zoo
    :param words: what was typed
    :return: the same with what is missing; ``--vec-env native``, which the zoo does not know, is taken out and noted
    """
    words, Manager.native = _take_native(words)
    if Manager.native and command != "train":
        raise InvalidArgument(f"--vec-env native is for train, not for {command}")
    if command in _WITH_ALGORITHM and _value(words, "--algo") is None:
        words += ["--algo", NAME]
    if command in ("enjoy", "record_video") and _value(words, "-f", "--folder") is None:
        # The zoo looks among its own pretrained agents, of which none is ours.
        words += ["-f", "logs"]
    if command == "train" and _value(words, "--algo") == NAME and _value(words, "-conf", "--conf-file") is None:
        words += ["-conf", str(resource_path("zoo_configs", "ppo_plus.yml"))]
    return words


def _value(words: Sequence[str], *options: str) -> str | None:
    for index, word in enumerate(words):
        if word in options:
            return words[index + 1] if index + 1 < len(words) else ""
        for option in options:
            if word.startswith(f"{option}="):
                return word.partition("=")[2]
    return None


def _take_native(words: list[str]) -> tuple[list[str], bool]:
    if _value(words, "--vec-env") != "native":
        return words, False
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--vec-env":
            skip = True
        elif not word.startswith("--vec-env="):
            kept.append(word)
    return kept, True
