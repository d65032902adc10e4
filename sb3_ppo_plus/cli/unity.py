"""``ppo-plus unity``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "Look into a Unity game, or convert a configuration of mlagents-learn."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    commands = parser.add_subparsers(dest="what", required=True, metavar="info | convert")
    info = commands.add_parser("info", help="behaviors, observations and actions of a game")
    info.add_argument("game", metavar="GAME", help="the build, or `editor` to wait for Play")
    info.add_argument("--no-graphics", action="store_true", help="for machines without a screen")
    info.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="to wait for the game (60)")
    info.add_argument("--base-port", type=int, default=None, metavar="PORT", help="any free one unless given")
    info.add_argument("--exchanges", type=int, default=50, metavar="N", help="how long to look (50)")
    info.add_argument("--json", action="store_true", help="for programs")
    convert = commands.add_parser("convert", help="from mlagents-learn's YAML to that of `ppo-plus train --config`")
    convert.add_argument("file", type=Path, metavar="FILE", help="trainer configuration of mlagents-learn")
    convert.add_argument("--behavior", default=None, metavar="NAME", help="which one, where there are several")
    convert.add_argument("--n-agents", type=int, default=None, metavar="N", help="agents of it in one game")
    convert.add_argument("-o", "--output", type=Path, default=None, metavar="FILE", help="instead of the terminal")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_OK

    (_info if args.what == "info" else _convert)(args)
    return EXIT_OK


def _info(args: argparse.Namespace) -> None:
    from sb3_ppo_plus.envs.unity.errors import UnityError
    from sb3_ppo_plus.envs.unity.looking import look_into
    from sb3_ppo_plus.errors import InvalidArgument

    game = None if args.game == "editor" else args.game
    try:
        found = look_into(game, not args.no_graphics, args.timeout, args.base_port, args.exchanges)
    except UnityError as error:
        raise InvalidArgument(str(error)) from error
    print(json.dumps(found.to_json(), indent=2) if args.json else "\n".join(found.lines()))


def _convert(args: argparse.Namespace) -> None:
    import yaml

    from sb3_ppo_plus.atomic import atomic_write
    from sb3_ppo_plus.runs.mlagents_config import convert
    from sb3_ppo_plus.runs.values import read_yaml

    result = convert(read_yaml(args.file), args.behavior, args.n_agents)
    notes = "".join(f"# {note}\n" for note in result.notes)
    head = f"# behavior {result.behavior} of {args.file.name}; what differs:\n{notes}"
    text = head + yaml.safe_dump(result.config, sort_keys=False, default_flow_style=None, width=110)
    if args.output is None:
        print(text, end="")
        return
    atomic_write(args.output, text)
    print(f"wrote {args.output}")
    print("\n".join(f"  {note}" for note in result.notes))
