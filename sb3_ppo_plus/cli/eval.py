"""``ppo-plus eval``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_ppo_plus.cli.which import add_env, add_trust, add_which_model

if TYPE_CHECKING:
    from sb3_ppo_plus.runs.evaluate import Agent

HELP = "Evaluate a trained model: a run folder, or the zip of any on-policy model of SB3, sb3-contrib or this package."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("source", type=Path, metavar="RUN_OR_ZIP", help="run folder, or model zip")
    add_env(parser)
    add("--episodes", type=int, default=20, metavar="N", help="number of episodes (20)")
    add("--seed", type=int, default=2_000_000, metavar="N", help="seed, by default far from those of training")
    add("--stochastic", action="store_true", help="sample actions instead of taking the most likely one")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument(
        "--video",
        type=Path,
        default=None,
        metavar="FILE",
        help="write a video, .gif or .mp4 (needs imageio-ffmpeg); needs no screen",
    )
    picture.add_argument("--render", action="store_true", help="show the episodes in a window, in real time")
    add_which_model(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_OK
    from sb3_ppo_plus.cli.rendering import choose_mujoco_renderer, choose_window
    from sb3_ppo_plus.runs.values import require_number

    require_number("--episodes", args.episodes, minimum=1)
    require_number("--seed", args.seed, minimum=0)
    # Before anything imports mujoco, which reads the choice once.
    if args.render:
        choose_window()
    missing_renderer = choose_mujoco_renderer() if args.video else None

    import torch as th

    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.evaluate import evaluate_agent, load_agent
    from sb3_ppo_plus.runs.ids import is_unity
    from sb3_ppo_plus.runs.video import check_video_path

    if args.video:
        check_video_path(args.video)
    th.set_num_threads(1)  # batches of a few observations gain nothing from more
    agent = load_agent(args.source, args.env, best=args.best, trust=args.trust)
    if is_unity(agent.config.env) and (args.render or args.video):
        raise InvalidArgument(
            f"{agent.config.env} is a Unity game, which draws in its own window: leave out --render and --video, and "
            "train with graphics, or watch the exported file in the editor"
        )
    if args.render:
        finished = _render(agent, args.episodes, args.seed, not args.stochastic)
        return EXIT_OK if finished else EXIT_INTERRUPTED
    evaluation = evaluate_agent(agent, args.episodes, args.seed, deterministic=not args.stochastic)
    _print(agent, evaluation.returns, evaluation.lengths)
    if args.video:
        _record(agent, args.video, args.seed, not args.stochastic, missing_renderer)
    return EXIT_OK


def _render(agent: Agent, n_episodes: int, seed: int, deterministic: bool) -> bool:
    """Show the agent and print the numbers of what was seen; False after Ctrl-C."""
    from sb3_ppo_plus.runs.window import INTERRUPTED, show_agent

    episodes = "1 episode" if n_episodes == 1 else f"{n_episodes} episodes"
    print(f"showing {episodes} of {agent.config.env}; close the window or press Ctrl-C to stop", flush=True)
    shown = show_agent(agent, n_episodes, seed, deterministic)
    if shown.evaluation.returns:
        _print(agent, shown.evaluation.returns, shown.evaluation.lengths)
    else:
        print("no episode was seen to its end")
    return shown.ended != INTERRUPTED


def _print(agent: Agent, returns: list[float], lengths: list[int]) -> None:
    import numpy as np

    from sb3_ppo_plus.runs.evaluate import describe_returns

    print(f"{agent.config.env}: {agent.path}" + (f" with {agent.normalizer.name}" if agent.normalizer else ""))
    print(f"  return           {describe_returns(returns)}")
    print(f"  worst, best      {min(returns):,.1f}, {max(returns):,.1f}")
    print(f"  episode length   {np.mean(lengths):,.1f} ± {np.std(lengths):,.1f}")


def _record(agent: Agent, path: Path, seed: int, deterministic: bool, missing_renderer: str | None) -> None:
    """Record when it can be done; the numbers above are worth more than the video, so its failure is no failure."""
    from sb3_ppo_plus.runs.ids import uses_mujoco
    from sb3_ppo_plus.runs.video import record_video

    if missing_renderer and uses_mujoco(agent.config.env):
        print(f"no video: {missing_renderer}", file=sys.stderr)
        return
    try:
        record_video(agent, path, seed, deterministic)
    except Exception as error:  # rendering fails in as many ways as there are drivers
        logging.getLogger(__name__).debug("recording failed", exc_info=True)
        print(f"no video: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return
    print(f"  video            {path} ({path.stat().st_size / 1e6:.1f} MB)")
