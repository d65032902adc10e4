"""``ppo-plus train``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_ppo_plus.runs.config import RunConfig
    from sb3_ppo_plus.runs.folder import RunFolder
    from sb3_ppo_plus.runs.train import RunResult

HELP = (
    "Train a model on any Gymnasium environment, or a MujocoTask of your own. Hyperparameters come from the zoo block "
    "of the environment, then --config, then --set, then the flags here; the later one wins. Everything lands in one "
    "run folder."
)

# What --compile takes, and the argument of PPOPlus that it stands for; YAML reads the same words so.
_COMPILE = {"auto": "auto", "on": True, "off": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    suppress = argparse.SUPPRESS
    add = parser.add_argument
    add(
        "--env",
        default=suppress,
        metavar="ID",
        help="Gymnasium id; module:EnvId to import its module first; module:Class for a MujocoTask of your own",
    )
    add("--unity", default=None, metavar="GAME", help="a Unity game instead: its build, or `editor` to wait for Play")
    add("-n", "--n-timesteps", default=suppress, metavar="STEPS", help="environment steps in total, for example 1e6")
    add("--seed", default=suppress, metavar="N", help="seed of everything random (0 when nothing sets it)")
    add("--n-envs", default=suppress, metavar="N", help="environments stepped together")
    add(
        "--vec-env",
        default=suppress,
        metavar="KIND",
        help="native: MuJoCo tasks on native threads; dummy: all in one process; subproc: one process each; "
        "auto: native where it can be, else dummy (auto)",
    )
    add(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help="YAML: a run's config.yml, hyperparameters, or zoo blocks",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one hyperparameter, value in YAML; may be repeated",
    )
    add("--preset", default=suppress, metavar="NAME", help="named set of PPOPlus arguments")
    add("--run-dir", type=Path, default=Path("runs"), metavar="FOLDER", help="where the run folder is made (runs)")
    add(
        "--eval-freq",
        default=suppress,
        metavar="STEPS",
        help="steps between evaluations, 0: only at start and end (a tenth)",
    )
    add("--eval-episodes", default=suppress, metavar="N", help="episodes per evaluation")
    add("--device", default=suppress, help="auto, cpu, cuda, cuda:1, mps")
    add(
        "--compile",
        choices=tuple(_COMPILE),
        default=suppress,
        help="compile the update: on, off, or auto: where the training is long enough and a compiler is there (auto)",
    )
    add("--profile", action="store_true", help="tell where the time went, and how much memory it took")
    games = parser.add_argument_group("Unity games")
    games.add_argument("--behavior", default=suppress, metavar="NAME", help="which behavior is trained")
    games.add_argument("--n-workers", default=suppress, metavar="N", help="copies of the game (1)")
    games.add_argument("--base-port", type=int, default=suppress, metavar="PORT", help="any free ones unless given")
    games.add_argument("--time-scale", type=float, default=suppress, metavar="X", help="times real time (20)")
    games.add_argument("--no-graphics", dest="graphics", action="store_false", default=suppress, help="no screen")
    games.add_argument("--timeout", type=float, default=suppress, metavar="SECONDS", help="for each answer (60)")
    add("--no-progress", action="store_true", help="show no progress")
    add("--verbose", action="store_true", help="print the table of training metrics as well")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_OK
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.layers import assemble

    env = getattr(args, "env", None)
    if args.unity is not None:
        if env is not None:
            raise InvalidArgument(f"--env {env} and --unity {args.unity}: give one of them")
        env = f"unity:{args.unity}"
    config = assemble(env, args.config, [*args.set, *_game_settings(args)], _flags(args))
    result = train_and_report(config, args.run_dir, not args.no_progress, args.verbose, args.profile)
    return EXIT_INTERRUPTED if result.interrupted else EXIT_OK


def train_and_report(
    config: RunConfig, run_dir: Path, progress: bool = True, verbose: bool = False, profile: bool = False
) -> RunResult:
    """
    Train with a progress bar and print the summary.

    :param config: configuration of the run
    :param run_dir: where the run folder is made
    :param progress: whether to show the bar
    :param verbose: whether to print SB3's table
    :param profile: whether to tell where the time went
    :return: what the run came to
    """
    from sb3_ppo_plus.cli.progress import show_progress
    from sb3_ppo_plus.runs.train import prepare_run, train_run

    prepared = prepare_run(config)
    with show_progress(config.env, enabled=progress) as report:
        result = train_run(prepared, run_dir, _command_line(), report, verbose, on_start=_announce, profile=profile)
    _summarize(config.env, result)
    if result.profile is not None:
        print(f"\n{result.profile.table()}")
    return result


def _game_settings(args: argparse.Namespace) -> list[str]:
    """Flags for Unity games, as settings of the environment's arguments."""
    names = ("behavior", "base_port", "time_scale", "graphics", "timeout")
    settings = [f"env_kwargs.{name}={json.dumps(vars(args)[name])}" for name in names if name in args]
    return [*settings, *([f"n_envs={args.n_workers}"] if "n_workers" in args else [])]


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """The configuration keys that flags set; those not given are absent."""
    from sb3_ppo_plus.runs.values import plain

    numbers = ("n_timesteps", "seed", "n_envs", "eval_freq", "eval_episodes")
    flags = {key: vars(args)[key] for key in (*numbers, "vec_env", "preset", "device") if key in args}
    if "compile" in args:
        flags["compile_update"] = _COMPILE[args.compile]
    return {key: _number(plain(value)) if key in numbers else value for key, value in flags.items()}


def _number(value: Any) -> Any:
    """Flags arrive as text; what is no number stays text, and the check of the configuration names it."""
    try:
        return int(value)
    except ValueError:
        return value


def _command_line() -> str:
    """What was typed, with the name of the console script for ``python -m``."""
    program = Path(sys.argv[0]).name
    return shlex.join(["ppo-plus" if program == "__main__.py" else program, *sys.argv[1:]])


def _announce(folder: RunFolder) -> None:
    print(f"writing to {folder.path}", flush=True)


def _summarize(env: str, result: RunResult) -> None:
    """The short summary at the end."""
    from sb3_ppo_plus.runs.evaluate import describe_returns
    from sb3_ppo_plus.runs.ids import is_unity

    folder = result.folder
    minutes, seconds = divmod(round(result.seconds), 60)
    ended = "interrupted after" if result.interrupted else "trained for"
    after = describe_returns(result.after)
    if result.evaluated_at < result.num_timesteps:
        after += f", at step {result.evaluated_at:,}"
    print(f"\n{env}: {ended} {result.num_timesteps:,} steps")
    print(f"  return before    {describe_returns(result.before)}")
    print(f"  return after     {after}")
    print(
        f"  wall time        {minutes} min {seconds:02d} s ({result.steps_per_second:,.0f} steps/s without evaluations)"
    )
    print(f"  run folder       {folder.path}")
    if folder.curve.is_file():
        print(f"  learning curve   {folder.curve}")
    saved = folder.model(best=True) if folder.model(best=True).is_file() else folder.model(best=False)
    print(f"  model            {saved}")
    look = "" if is_unity(env) else " --video video.gif"  # games draw in windows of their own
    print(f"  look at it       ppo-plus eval {folder.path}{look}")
