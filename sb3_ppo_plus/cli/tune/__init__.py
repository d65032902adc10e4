"""``ppo-plus tune``."""

from __future__ import annotations

import argparse

from sb3_ppo_plus.cli.tune.options import COMMANDS, add_commands

HELP = (
    "Search hyperparameters with Optuna, confirm what was found on seeds that the search has not seen, and write it as "
    "a block of zoo_configs/ppo_plus.yml. Exit codes: 0 done, 1 failed, 2 wrong input, 3 no trial finished or the "
    "study stopped itself, 4 the winner does not beat the baselines, 130 interrupted (`tune resume` goes on)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add_commands(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from importlib import import_module

    try:
        import optuna  # noqa: F401
    except ImportError as missing:
        raise ImportError('tuning needs Optuna: pip install "sb3-ppo-plus[tune]"') from missing
    module, function = COMMANDS[args.what][0].split(":")
    code: int = getattr(import_module(f"sb3_ppo_plus.cli.tune.{module}"), function)(args)
    return code
