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
        help="native: MuJoCo tasks on native threads; torch: classic control in torch; dummy: all in one "
        "process; subproc: one process each; auto: native where it can be, else dummy (auto)",
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
    _add_games(parser)
    add_display(parser)


def add_display(parser: argparse.ArgumentParser) -> None:
    """
    Add what does not change a run.

    :param parser: parser of a command that trains
    """
    add = parser.add_argument
    add(
        "--keep-checkpoints",
        type=int,
        default=2,
        metavar="N",
        help="checkpoints that stay, the newest, for `ppo-plus resume`; 0 writes none (2)",
    )
    add("--no-doctor", action="store_true", help="let nobody watch for what goes wrong, see `ppo-plus doctor --help`")
    add("--profile", action="store_true", help="tell where the time went, and how much memory it took")
    add("--no-progress", action="store_true", help="show no progress")
    add("--verbose", action="store_true", help="print the table of training metrics as well")


def _add_games(parser: argparse.ArgumentParser) -> None:
    suppress = argparse.SUPPRESS
    games = parser.add_argument_group("Unity games")
    games.add_argument("--behavior", default=suppress, metavar="NAME", help="which behavior is trained")
    games.add_argument("--n-workers", default=suppress, metavar="N", help="copies of the game (1)")
    games.add_argument("--base-port", type=int, default=suppress, metavar="PORT", help="any free ones unless given")
    games.add_argument("--time-scale", type=float, default=suppress, metavar="X", help="times real time (20)")
    games.add_argument("--no-graphics", dest="graphics", action="store_false", default=suppress, help="no screen")
    games.add_argument("--timeout", type=float, default=suppress, metavar="SECONDS", help="for each answer (60)")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.checkpoint.signals import SIGNALLED
    from sb3_ppo_plus.cli import EXIT_OK
    from sb3_ppo_plus.distributed import join
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.layers import assemble

    env = getattr(args, "env", None)
    if args.unity is not None:
        if env is not None:
            raise InvalidArgument(f"--env {env} and --unity {args.unity}: give one of them")
        env = f"unity:{args.unity}"
    config = assemble(env, args.config, [*args.set, *_game_settings(args)], _flags(args))
    check_keep(args.keep_checkpoints)
    shown = (not args.no_progress, args.verbose, args.profile)
    with join():
        result = train_and_report(config, args.run_dir, *shown, args.keep_checkpoints, not args.no_doctor)
    return EXIT_OK if result.signal is None else SIGNALLED + result.signal


def train_and_report(
    config: RunConfig,
    run_dir: Path,
    progress: bool = True,
    verbose: bool = False,
    profile: bool = False,
    keep_checkpoints: int = 2,
    doctor: bool = True,
) -> RunResult:
    """
    Train with a progress bar and print the summary; after a restart by ``torchrun`` go on instead.

    :param config: configuration of the run
    :param run_dir: where the run folder is made
    :param progress: whether to show the bar
    :param verbose: whether to print SB3's table
    :param profile: whether to tell where the time went
    :param keep_checkpoints: how many of the newest checkpoints stay, 0 for none
    :param doctor: whether the doctor watches
    :return: what the run came to
    """
    from sb3_ppo_plus.cli.launch import launch_of_this_process
    from sb3_ppo_plus.cli.progress import show_progress
    from sb3_ppo_plus.runs.prepare import prepare_run
    from sb3_ppo_plus.runs.ranks import decided_by_first, find_launched, leads
    from sb3_ppo_plus.runs.train import Options, resume_run, train_run

    command, launch = _command_line(), launch_of_this_process()
    begun = None if launch is None else decided_by_first(lambda: find_launched(run_dir, launch, command))
    prepared = prepare_run(config) if begun is None else None
    with show_progress(config.env, enabled=progress and leads()) as report:
        options = Options(report, verbose, (), announce, profile, keep_checkpoints, doctor, launch)
        if prepared is None:
            assert begun is not None
            result = resume_run(begun, options=options)
        else:
            result = train_run(prepared, run_dir, command, options)
    if leads():
        summarize(config.env, result)
    return result


def check_keep(keep: int) -> None:
    """
    :param keep: number of checkpoints to keep
    :raises InvalidArgument: when it is negative
    """
    from sb3_ppo_plus.errors import InvalidArgument

    if keep < 0:
        raise InvalidArgument(f"--keep-checkpoints is {keep}; give 0 for none, or how many of the newest stay")


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
    return {key: number(plain(value)) if key in numbers else value for key, value in flags.items()}


def number(value: Any) -> Any:
    """
    Read a flag, which arrives as text; what is no number stays text, and the check of the configuration names it.

    :param value: the flag, as YAML has it
    :return: the number
    """
    try:
        return int(value)
    except ValueError:
        return value


def _command_line() -> str:
    """What was typed, with the name of the console script for ``python -m``."""
    program = Path(sys.argv[0]).name
    return shlex.join(["ppo-plus" if program == "__main__.py" else program, *sys.argv[1:]])


def announce(folder: RunFolder) -> None:
    """
    :param folder: folder of a run that starts
    """
    print(f"writing to {folder.path}", flush=True)


def summarize(env: str, result: RunResult) -> None:
    """
    Print the short summary at the end.

    :param env: environment id
    :param result: what the run came to
    """
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
    if result.findings:
        codes = ", ".join(finding.code for finding in result.findings)
        print(f"  doctor           {codes}: {folder.path / 'doctor.html'}")
    if result.interrupted:
        print(f"  go on            ppo-plus resume {folder.path}")
    if result.profile is not None:
        print(f"\n{result.profile.table()}")
