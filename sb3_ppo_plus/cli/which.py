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


def add_env(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of a command; gets ``env``
    """
    text = "environment; needed for a zip without a config.yml beside it"
    parser.add_argument("--env", default=None, metavar="ID", help=text)
