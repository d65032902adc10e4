"""``ppo-plus enjoy``: watch a model, one of your own or one of those that come with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sb3_ppo_plus.cli import eval as evaluation
from sb3_ppo_plus.cli.rendering import has_screen
from sb3_ppo_plus.cli.which import add_env, add_trust, add_which_model
from sb3_ppo_plus.errors import InvalidArgument

HELP = (
    "Watch a trained model: a run folder, a zip, or a robot of the gallery. Without a screen: --video FILE, or numbers."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("source", type=Path, nargs="?", default=None, metavar="RUN_OR_ZIP", help="run folder, or model zip")
    add("--from-gallery", default=None, metavar="NAME", help="a model that comes with the package, HalfCheetah-v5")
    add("--list", action="store_true", help="list the models of the gallery")
    add_env(parser)
    add("--episodes", type=int, default=5, metavar="N", help="number of episodes (5)")
    add("--seed", type=int, default=2_000_000, metavar="N", help="seed, by default far from those of training")
    add("--stochastic", action="store_true", help="sample actions instead of taking the most likely one")
    add("--video", type=Path, default=None, metavar="FILE", help="write a .gif or .mp4 instead of opening a window")
    add_which_model(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.runs.gallery import gallery_folder

    if args.list:
        return _list()
    if (args.source is None) == (args.from_gallery is None):
        raise InvalidArgument(
            "give either a run folder or zip, or --from-gallery NAME; `ppo-plus enjoy --list` names the gallery"
        )
    if args.from_gallery is not None:
        args.source = gallery_folder(args.from_gallery)
    args.render = args.video is None and has_screen()
    if args.video is None and not args.render:
        print("there is no screen here, so only numbers follow; --video FILE records what it does", file=sys.stderr)
    return evaluation.run(args)


def _list() -> int:
    """Print the names of the gallery with the first line of each card below its title."""
    from sb3_ppo_plus.cli import EXIT_OK
    from sb3_ppo_plus.runs.gallery import CARD, gallery_folder, gallery_names

    for name in gallery_names():
        card = (gallery_folder(name) / CARD).read_text(encoding="utf-8").splitlines()
        print(f"{name:<28}{next((line for line in card[1:] if line), '')}")
    return EXIT_OK
