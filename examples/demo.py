"""Teach a robot to run in about two minutes on two cores; shows the return before and after, and records the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sb3_ppo_plus.cli import main as ppo_plus
from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer
from sb3_ppo_plus.errors import InvalidArgument


def main(argv: list[str] | None = None) -> int:
    """
    Train with the zoo's block of the environment, as ``ppo-plus train`` does, then evaluate, record and export.

    :param argv: words of the command line, None for those of this process
    :return: exit code
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="HalfCheetah-v5", help="Gymnasium id (HalfCheetah-v5)")
    parser.add_argument("-n", "--n-timesteps", type=int, default=300_000, help="environment steps (300000)")
    parser.add_argument("--seed", type=int, default=0, help="seed (0)")
    parser.add_argument("--run-dir", type=Path, default=Path("runs"), help="where the run folder is made (runs)")
    args = parser.parse_args(argv)
    choose_mujoco_renderer()  # before anything imports mujoco

    from sb3_ppo_plus.cli.train import train_and_report
    from sb3_ppo_plus.runs.layers import assemble

    try:
        # Few evaluations: an episode of this robot is a thousand steps.
        flags = {"n_timesteps": args.n_timesteps, "seed": args.seed, "eval_episodes": 8}
        config = assemble(args.env, flags={**flags, "eval_freq": max(1, args.n_timesteps // 6)})
        result = train_and_report(config, args.run_dir)
    except InvalidArgument as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if result.interrupted:
        return 130
    folder = result.folder.path
    print("\nthe best model, on 20 new episodes:")
    code = ppo_plus(["eval", str(folder), "--video", str(folder / "video.gif")])
    onnx = str(folder / "policy.onnx")
    print("\nthe same model as one ONNX file:")
    code = code or ppo_plus(["export", str(folder), "--target", "robot", "-o", onnx, "--episodes", "8"])
    print("\nverified once more, on other episodes:")
    return code or ppo_plus(["verify", onnx, "--model", str(folder), "--episodes", "8", "--seed", "5000000"])


if __name__ == "__main__":
    sys.exit(main())
