"""Finding the program of a game, and the arguments that it is started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_ppo_plus.envs.unity.errors import UnityError

_PORT_ARGUMENT = "--mlagents-port"
_LOG_ARGUMENT = "-logFile"
# What Unity's builds are called, by platform; the name may be given with or without it.
_SUFFIXES = {"linux": (".x86_64", ".x86", ""), "win32": (".exe",), "darwin": (".app",)}


def find_executable(file_name: str | os.PathLike[str], platform: str = sys.platform) -> Path:
    """
    Find the program of a build, whose name may lack its suffix, as in ML-Agents.

    :param file_name: the program, or the folder that holds it
    :param platform: ``linux``, ``win32`` or ``darwin``
    :return: what to start
    :raises UnityError: when there is none, or more than one, or it may not be executed
    """
    given = Path(os.path.expanduser(os.fspath(file_name)).strip())
    suffixes = _SUFFIXES.get(platform, ("",))
    named = [given.with_name(given.name + suffix) for suffix in ("", *suffixes)]
    found = [path for path in named if _is_program(path, platform)]
    if not found and given.is_dir():
        inside = [path for path in sorted(given.iterdir()) if _looks_like_build(path, platform)]
        if len(inside) > 1:
            names = ", ".join(path.name for path in inside)
            raise UnityError(f"{given} holds several programs ({names}); give the path of one of them")
        found = inside
    if not found:
        tried = ", ".join(str(path) for path in dict.fromkeys(named))
        raise UnityError(f"there is no game at {given}; tried {tried}. Give the path of a build for this platform")
    program = _inside_app(found[0]) if platform == "darwin" and found[0].is_dir() else found[0]
    if not os.access(program, os.X_OK):
        raise UnityError(f"{program} may not be executed; run: chmod -R 755 {program}")
    return program.resolve()


def _is_program(path: Path, platform: str) -> bool:
    return path.is_dir() and path.suffix == ".app" if platform == "darwin" and path.is_dir() else path.is_file()


def _looks_like_build(path: Path, platform: str) -> bool:
    if platform == "linux":
        return path.is_file() and path.suffix in (".x86_64", ".x86")
    if platform == "win32":
        return path.is_file() and path.suffix == ".exe" and not path.name.startswith("UnityCrashHandler")
    return path.is_dir() and path.suffix == ".app"


def _inside_app(app: Path) -> Path:
    programs = sorted((app / "Contents" / "MacOS").glob("*"))
    if not programs:
        raise UnityError(f"{app} has nothing in Contents/MacOS; build the game again")
    by_name = [path for path in programs if path.name == app.stem]
    return (by_name or programs)[0]


def game_arguments(port: int, graphics: bool, log_file: Path | None, more: Sequence[str]) -> list[str]:
    """
    The arguments that a game is started with.

    :param port: port of the communicator
    :param graphics: whether it may open a window; cameras need it to see anything
    :param log_file: where the player's log goes
    :param more: arguments of the user's; a log file among them wins
    :return: arguments after the program
    """
    arguments = [] if graphics else ["-nographics", "-batchmode"]
    arguments += [_PORT_ARGUMENT, str(port)]
    if log_file is not None and _LOG_ARGUMENT.lower() not in [argument.lower() for argument in more]:
        arguments += [_LOG_ARGUMENT, str(log_file)]
    return [*arguments, *more]
