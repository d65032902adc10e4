"""The arguments that say which model of a run folder is meant, for every command that takes one."""

from __future__ import annotations

import argparse


def add_which_model(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of a command; gets ``best``, True unless ``--last`` is given
    """
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--best", action="store_true", default=True, help="the model with the best evaluation (default)")
    which.add_argument("--last", dest="best", action="store_false", help="the newest model")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of a command that opens models; gets ``trust``
    """
    text = "run the code that is in the files, as SB3 does; for files that you made, with classes of your own in them"
    parser.add_argument("--trust", action="store_true", help=text)


def add_env(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of a command; gets ``env``
    """
    text = "environment; needed for a zip without a config.yml beside it"
    parser.add_argument("--env", default=None, metavar="ID", help=text)
