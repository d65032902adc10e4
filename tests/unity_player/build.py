"""Makes "builds" of the stand-in, as Unity makes builds of a game."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path
from typing import Any

PLAYER = Path(__file__).parent / "player.py"


def make_build(folder: Path, scene: str, name: str = "game", **options: Any) -> Path:
    """
    Write an executable that starts the stand-in.

    :param folder: where it is written
    :param scene: what it plays
    :param name: its name, without the suffix
    :param options: other options of the player, with underscores; True for flags
    :return: the executable
    """
    arguments = [sys.executable, str(PLAYER), "--scene", scene]
    for key, value in options.items():
        flag = f"--{key.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    build = folder / f"{name}.x86_64"
    build.write_text(f'#!/bin/sh\nexec {shlex.join(arguments)} "$@"\n')
    build.chmod(0o755)
    return build


def free_port() -> int:
    """:return: a port that nobody listens on at this moment"""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
