"""``ppo-plus verify``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sb3_ppo_plus.cli.which import add_env, add_trust, add_which_model

HELP = (
    "Prove that an ONNX file acts like the model it was made from: structure, random and recorded observations, and "
    "returns. Exit code 0: it does; 1: it does not."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="ONNX file that `ppo-plus export` wrote")
    add("--model", type=Path, required=True, metavar="RUN_OR_ZIP", help="run folder, or model zip")
    add_env(parser)
    add("--random", type=int, default=1000, metavar="N", help="random observations (1000)")
    add("--episodes", type=int, default=20, metavar="N", help="episodes that model and file play each (20)")
    add("--seed", type=int, default=3_000_000, metavar="N", help="seed of observations and episodes")
    add("--no-store", action="store_true", help="leave the file as it is; else the result goes into its metadata")
    add_which_model(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_FAILED, EXIT_OK
    from sb3_ppo_plus.runs.values import require_number

    for name, value, minimum in (
        ("--random", args.random, 1),
        ("--episodes", args.episodes, 1),
        ("--seed", args.seed, 0),
    ):
        require_number(name, value, minimum=minimum)

    import torch as th

    from sb3_ppo_plus.export.metadata import load_onnx
    from sb3_ppo_plus.runs.exporting import open_source, verify_source

    load_onnx(args.file)
    th.set_num_threads(1)
    source = open_source(args.model, args.env, args.best, args.trust)
    found = verify_source(source, args.file, args.random, args.episodes, args.seed, store=not args.no_store)
    print(f"{args.file} beside {source.path}")
    print(found.text())
    return EXIT_OK if found.passed else EXIT_FAILED
