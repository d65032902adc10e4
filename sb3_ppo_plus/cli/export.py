"""``ppo-plus export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from sb3_ppo_plus.cli.which import add_env, add_trust, add_which_model

HELP = (
    "Write a trained model as one ONNX file, from the raw observation to the command, and prove that it acts like the "
    "model. Takes models of PPOPlus, PPO, A2C, TRPO, MaskablePPO and RecurrentPPO."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("source", type=Path, metavar="RUN_OR_ZIP", help="run folder, or model zip")
    add("-o", "--output", type=Path, default=None, metavar="FILE", help="file to write (beside the zip, .onnx)")
    add(
        "--target",
        default="generic",
        metavar="NAME",
        help="generic; robot: with metadata of a MuJoCo robot; mlagents: for Unity (generic)",
    )
    add_env(parser)
    add("--opset", type=int, default=None, metavar="N", help="version of ONNX's operators (17; 9 for mlagents)")
    add("--stochastic", action="store_true", help="also give actions drawn from the policy")
    add("--values", action="store_true", help="also give the critic's opinion")
    add("--size", default="fp32", metavar="SIZE", help="fp16 or int8: a smaller file too, with the return it loses")
    add("--metadata", type=Path, default=None, metavar="FILE", help="YAML mapping to put into the file")
    add("--episodes", type=int, default=20, metavar="N", help="episodes of the proof (20)")
    add_which_model(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_OK
    from sb3_ppo_plus.runs.values import read_yaml, require_number

    require_number("--episodes", args.episodes, minimum=1)
    metadata = read_yaml(args.metadata) if args.metadata is not None else None

    import torch as th

    from sb3_ppo_plus.export.api import check_arguments
    from sb3_ppo_plus.runs.evaluate import model_path
    from sb3_ppo_plus.runs.exporting import check_size, export_source, open_source, shrink

    output = args.output or model_path(args.source, args.best).with_suffix(".onnx")
    opset = check_arguments(output, args.target, args.opset, args.stochastic, args.values)
    th.set_num_threads(1)
    source = open_source(args.source, args.env, args.best, args.trust)
    check_size(args.size, source, args.target, opset)
    report = export_source(
        source, output, args.target, args.opset, args.stochastic, args.values, metadata, args.episodes
    )
    print(report.text())
    if source.agent is None:
        print("  no environment was given (--env), so returns were not compared and nothing is known about wrappers")
    if args.size != "fp32":
        print(shrink(source, output, args.size, args.episodes).text())
    return EXIT_OK
