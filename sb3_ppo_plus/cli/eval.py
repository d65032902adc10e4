"""``ppo-plus eval``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_ppo_plus.runs.evaluate import Agent

HELP = "Evaluate a trained model: a run folder, or the zip of any PPO model of SB3 or of this package."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("source", type=Path, metavar="RUN_OR_ZIP", help="run folder, or model zip")
    add("--env", default=None, metavar="ID", help="environment; needed for a zip without a config.yml beside it")
    add("--episodes", type=int, default=20, metavar="N", help="number of episodes (20)")
    add("--seed", type=int, default=2_000_000, metavar="N", help="seed, by default far from those of training")
    add("--stochastic", action="store_true", help="sample actions instead of taking the most likely one")
    add("--film", type=Path, default=None, metavar="FILE", help="write a film, .gif or .mp4 (needs imageio-ffmpeg)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--best", action="store_true", default=True, help="the model with the best evaluation (this is the default)"
    )
    which.add_argument("--last", dest="best", action="store_false", help="the newest model")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer
    from sb3_ppo_plus.runs.values import require_number

    require_number("--episodes", args.episodes, minimum=1)
    require_number("--seed", args.seed, minimum=0)
    # Before anything imports mujoco, which reads the choice once.
    missing_renderer = choose_mujoco_renderer() if args.film else None

    import torch as th

    from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
    from sb3_ppo_plus.runs.film import check_film_path

    if args.film:
        check_film_path(args.film)
    th.set_num_threads(1)  # batches of a few observations gain nothing from more
    agent = load_agent(args.source, args.env, best=args.best)
    evaluation = evaluate_agent(agent, args.episodes, args.seed, deterministic=not args.stochastic)
    _print(agent, evaluation.returns, evaluation.lengths)
    if args.film:
        _film(agent, args.film, args.seed, not args.stochastic, missing_renderer)
    return 0


def _print(agent: Agent, returns: list[float], lengths: list[int]) -> None:
    import numpy as np

    from sb3_ppo_plus.runs.evaluate import describe_returns

    print(f"{agent.config.env}: {agent.path}" + (f" with {agent.normalizer.name}" if agent.normalizer else ""))
    print(f"  return           {describe_returns(returns)}")
    print(f"  worst, best      {min(returns):,.1f}, {max(returns):,.1f}")
    print(f"  episode length   {np.mean(lengths):,.1f} ± {np.std(lengths):,.1f}")


def _film(agent: Agent, path: Path, seed: int, deterministic: bool, missing_renderer: str | None) -> None:
    """Film when it can be done; the numbers above are worth more than the film, so its failure is no failure."""
    from sb3_ppo_plus.runs.envs import uses_mujoco
    from sb3_ppo_plus.runs.film import record_film

    if missing_renderer and uses_mujoco(agent.config.env):
        print(f"no film: {missing_renderer}", file=sys.stderr)
        return
    try:
        record_film(agent, path, seed, deterministic)
    except Exception as error:  # rendering fails in as many ways as there are drivers
        logging.getLogger(__name__).debug("filming failed", exc_info=True)
        print(f"no film: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return
    print(f"  film             {path} ({path.stat().st_size / 1e6:.1f} MB)")
