"""``ppo-plus resume``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

HELP = (
    "Go on with a run that was interrupted, killed or left, from its newest checkpoint to its end, in the same folder: "
    "it becomes the run that it would have been without the break."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    from sb3_ppo_plus.cli.train import add_display
    from sb3_ppo_plus.cli.which import add_trust

    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run folder, for example runs/HalfCheetah-v5_1")
    add(
        "-n",
        "--n-timesteps",
        default=None,
        metavar="STEPS",
        help="environment steps in total instead of those of the run; schedules then follow the new number",
    )
    add_display(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.checkpoint.signals import SIGNALLED
    from sb3_ppo_plus.cli import EXIT_OK
    from sb3_ppo_plus.cli.progress import show_progress
    from sb3_ppo_plus.cli.train import announce, check_keep, number, summarize
    from sb3_ppo_plus.distributed import join
    from sb3_ppo_plus.runs.ranks import leads
    from sb3_ppo_plus.runs.train import Options, resume_run
    from sb3_ppo_plus.runs.values import plain, require_number

    check_keep(args.keep_checkpoints)
    total = None
    if args.n_timesteps is not None:
        total = int(require_number("n_timesteps", number(plain(args.n_timesteps)), minimum=1))
    name = args.run.name
    with join(), show_progress(name, enabled=not args.no_progress and leads()) as report:
        options = Options(report, args.verbose, (), announce, args.profile, args.keep_checkpoints, not args.no_doctor)
        options = replace(options, trust=args.trust)
        result = resume_run(args.run, total, options)
        if leads():
            summarize(name, result)
    return EXIT_OK if result.signal is None else SIGNALLED + result.signal
