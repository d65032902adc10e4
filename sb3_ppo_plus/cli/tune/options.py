"""Arguments of ``ppo-plus tune COMMAND``; each can also stand in a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Command to where its function is, its groups of options, and its help.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "create": ("search:create", ("new", "trials"), "make a study without running it"),
    "run": (
        "search:run",
        ("new", "trials", "work", "confirm", "export", "after", "report"),
        "make or go on with a study, confirm its best trials, write the winner's block and a report",
    ),
    "worker": ("search:worker", ("which", "work", "worker"), "join a study, from any machine that reaches its storage"),
    "resume": ("search:resume", ("which", "trials", "work", "resume"), "take back what lost workers left, and go on"),
    "status": ("looking:status", ("which", "status"), "what a study is doing"),
    "confirm": (
        "confirming:confirm",
        ("which", "work", "confirm"),
        "repeat the best trials and the baselines on held-out seeds",
    ),
    "export": ("confirming:export", ("which", "export", "pick"), "write the winner as a block of a zoo file"),
    "report": (
        "looking:report",
        ("which", "report"),
        "curves, importances, default against best, in one file",
    ),
    "importance": ("looking:importance", ("which", "json"), "which parameters matter"),
    "serve": ("serving:serve", ("which", "serve"), "a gRPC proxy in front of a database, for many workers"),
    "submit": ("serving:submit", ("which", "work", "submit"), "workers as a SLURM array, or as local processes"),
}

# What an option is when it is given nowhere.
DEFAULTS: dict[str, Any] = {
    "dir": Path("studies"),
    "space": "core",
    "objective": "auc",
    "seeds": (0, 1, 2, 3, 4),
    "n_evals": 20,
    "eval_episodes": 10,
    "sampler": "tpe",
    "sampler_seed": 0,
    "n_startup_trials": 10,
    "pruner": "percentile",
    "pruning_warmup": 0.3,
    "max_attempts": 3,
    "max_failures": 5,
    "n_trials": 60,
    "workers": 1,
    "heartbeat": 5.0,
    "grace": 60.0,
    "checkpoint_interval": 60.0,
    "top_k": 5,
    "race_seeds": (100, 101, 102, 103, 104),
    "confirm_seeds": tuple(range(200, 210)),
    "baselines": ("current", "sb3"),
    "out": Path("zoo_configs/ppo_plus.yml"),
    "format": ("html",),
    "host": "127.0.0.1",
    "port": 13000,
    "engine": "slurm",
    "n_jobs": 8,
    "time": "24:00:00",
    "set": (),
}


def option(args: argparse.Namespace, name: str) -> Any:
    """
    :param args: parsed arguments
    :param name: option, with ``_``
    :return: its value, or the default, or None
    """
    return getattr(args, name, DEFAULTS.get(name))


def add_commands(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of ``ppo-plus tune``
    """
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    for name, (_, groups, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)
        sub.add_argument("--config", action=FromFile, type=Path, metavar="FILE", help="YAML with any of these options")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error, and the debug log")
        for group in ("where", *groups):
            GROUPS[group](sub.add_argument)


class FromFile(argparse.Action):
    """Reads a file of options; what stands on the command line wins, before or after."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        """Parse the file as if its content stood on the command line."""
        given, _rest = parser.parse_known_args(_words(values, parser))
        for name, value in vars(given).items():
            if not hasattr(namespace, name):
                setattr(namespace, name, value)


def seeds(text: str) -> tuple[int, ...]:
    """
    :param text: ``0-4``, ``1,5,7``, or both
    :return: the seeds
    """
    found: list[int] = []
    try:
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            found += range(int(low), int(high) + 1) if dash else [int(low)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no seeds; write 0-4 or 1,5,7") from error
    return tuple(found)


def whole(text: str) -> int:
    """
    :param text: ``1e6`` or ``1000000``
    :return: the number
    """
    try:
        if float(text) != int(float(text)):
            raise ValueError
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error


def names(text: str) -> tuple[str, ...]:
    """
    :param text: words with commas between them
    :return: the words
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def seconds(text: str) -> float:
    """
    :param text: seconds, or with a unit: ``90``, ``30m``, ``8h``
    :return: seconds
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        return float(number) * unit
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90, 30m or 8h") from error


Add = Callable[..., argparse.Action]


def _words(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The content of a file of options as words of a command line."""
    from sb3_ppo_plus.errors import InvalidArgument
    from sb3_ppo_plus.runs.naming import did_you_mean
    from sb3_ppo_plus.runs.values import read_yaml

    known, elsewhere = _by_name(parser), _by_name(_all_options())
    words: list[str] = []
    for key, value in read_yaml(_study_file(path)).items():
        action = known.get(key.replace("-", "_"))
        if action is None and key.replace("-", "_") in elsewhere:
            continue  # one file serves all commands of a study
        if action is None:
            hint = did_you_mean(key.replace("-", "_"), elsewhere) or f"there is {', '.join(sorted(elsewhere))}"
            raise InvalidArgument(f"{path}: unknown option {key!r}; {hint}")
        flag = f"--{key.replace('_', '-')}"
        if action.nargs == 0:
            words += [flag] if value else []
        elif isinstance(action, argparse._AppendAction):
            entries = value.items() if isinstance(value, dict) else [tuple(str(v).split("=", 1)) for v in value]
            words += [f"{flag}={name}={_plain(entry)}" for name, entry in entries]
        else:
            words.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return words


def _by_name(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        text[2:].replace("-", "_"): action
        for action in parser._actions
        for text in action.option_strings
        if text.startswith("--") and text not in ("--help", "--config", "--debug")
    }


def _all_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    for group in GROUPS.values():
        group(parser.add_argument)
    return parser


def _study_file(path: Path) -> Path:
    """A file, or the name of a study that comes with the package."""
    from sb3_ppo_plus.resources import resource_path

    if path.is_file() or path.suffix:
        return path
    try:
        return resource_path("tuning", f"studies/{path}.yml")
    except (FileNotFoundError, ValueError):
        return path


def _plain(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _where(add: Add) -> None:
    add("--study-name", metavar="NAME", help="name of the study (the environment's id, or the only one there is)")
    add(
        "--storage",
        metavar="URL",
        help="journal:PATH, sqlite:///PATH, postgresql://..., mysql://..., grpc://HOST:PORT (a journal in --dir)",
    )
    add("--dir", type=Path, metavar="FOLDER", help="where studies have their folders on this machine (studies)")


def _which(add: Add) -> None:
    add("study", nargs="?", metavar="STUDY", help="its name or its folder, instead of --study-name")


def _new(add: Add) -> None:
    add("--env", metavar="ID", help="environment, as for `ppo-plus train`")
    add("--space", metavar="NAME", help="core, standard, plus, or a YAML file (core)")
    add("--base", type=Path, metavar="FILE", help="hyperparameters that stay, as `ppo-plus train --config` (zoo block)")
    add("--set", action="append", metavar="KEY=VALUE", help="one of them; may be repeated")
    add("-n", "--n-timesteps", type=whole, metavar="STEPS", help="environment steps of a trial (zoo block)")
    add("--n-envs", type=whole, metavar="N", help="environments stepped together (zoo block)")
    add("--vec-env", metavar="KIND", help="native, dummy, subproc or auto, as for `ppo-plus train`")
    add("--objective", help="auc, final, time-to-threshold, or return,wallclock for a Pareto front (auc)")
    add("--threshold", type=float, metavar="RETURN", help="return to reach, for time-to-threshold")
    add("--seeds", type=seeds, metavar="0-4", help="training seeds, one for each trial in turn (0-4)")
    add("--n-evals", type=whole, metavar="N", help="evaluations per trial (20)")
    add("--eval-episodes", type=whole, metavar="N", help="episodes per evaluation (10)")
    add("--sampler", metavar="NAME", help="tpe, gp, cmaes, random, qmc or grid (tpe)")
    add("--sampler-seed", type=whole, metavar="N", help="seed of the draws (0)")
    add("--n-startup-trials", type=whole, metavar="N", help="random trials before the sampler learns (10)")
    add("--pruner", metavar="NAME", help="percentile: the worst quarter ends early; median: the worse half; none")
    add("--pruning-warmup", type=float, metavar="PART", help="part of a trial before which nothing is pruned (0.3)")
    add("--max-attempts", type=whole, metavar="N", help="a trial that was begun so often fails (3)")
    add("--max-failures", type=whole, metavar="N", help="failures in a row after which the study stops (5)")


def _trials(add: Add) -> None:
    add("--n-trials", type=whole, metavar="N", help="trials in all, not only of this call (60)")


def _work(add: Add) -> None:
    add("--workers", type=whole, metavar="N", help="processes, each with one thread (1)")
    add("--timeout", type=seconds, metavar="TIME", help="leave off after 90, 30m or 8h; `tune resume` goes on")
    add("--heartbeat", type=float, metavar="SECONDS", help="between signs of life of a worker (5)")
    add("--grace", type=float, metavar="SECONDS", help="without one after which its trial goes to another (60)")
    add("--checkpoint-interval", type=float, metavar="SECONDS", help="between checkpoints of a trial (60)")
    add("--no-progress", action="store_true", help="show no progress")


def _worker(add: Add) -> None:
    add("--max-trials", type=whole, metavar="N", help="trials to take (all there are)")
    add("--allow-mismatch", action="store_true", help="work although the environment or a package differs")


def _resume(add: Add) -> None:
    add("--retry-failed", action="store_true", help="also begin failed trials anew, as further trials")
    add("--dry-run", action="store_true", help="say what would be taken back, and do nothing")


def _confirm(add: Add) -> None:
    add("--top-k", type=whole, metavar="N", help="trials that race (5)")
    add("--race-seeds", type=seeds, metavar="100-104", help="training seeds of the race (100-104)")
    add("--confirm-seeds", type=seeds, metavar="200-209", help="training seeds of the comparison (200-209)")
    add("--baselines", type=names, metavar="NAMES", help="current (what the study started from), sb3 (current,sb3)")


def _export(add: Add) -> None:
    add("--out", type=Path, metavar="FILE", help="zoo file whose block is replaced (zoo_configs/ppo_plus.yml)")


def _pick(add: Add) -> None:
    add("--trial", type=whole, metavar="N", help="this trial instead of the confirmed winner; needs --unconfirmed")
    add(
        "--unconfirmed",
        action="store_true",
        help="write a trial that was not confirmed, or does not beat the baselines",
    )
    add("--dry-run", action="store_true", help="print the block, and write nothing")


def _after(add: Add) -> None:
    add("--no-confirm", action="store_true", help="stop after the search; `tune confirm` and `tune export` do the rest")
    add("--no-export", action="store_true", help="write no block")


def _json(add: Add) -> None:
    add("--json", action="store_true", help="for programs")


def _status(add: Add) -> None:
    _json(add)
    add("--watch", action="store_true", help="until the study is done, or Ctrl-C")


def _report(add: Add) -> None:
    add("--format", type=names, metavar="NAMES", help="html, md, or both (html)")
    add("--report-dir", type=Path, metavar="FOLDER", help="where it is written (the study's folder)")


def _serve(add: Add) -> None:
    add("--host", help="address to listen on (127.0.0.1: this machine only)")
    add("--port", type=whole, help="port to listen on (13000)")


def _submit(add: Add) -> None:
    add("--engine", metavar="NAME", help="slurm: write and submit an array; local: start processes here (slurm)")
    add("--n-jobs", type=whole, metavar="N", help="workers, one for each task of the array (8)")
    add("--time", metavar="H:M:S", help="time limit of a job; workers are told a minute before (24:00:00)")
    add(
        "--sbatch",
        action="append",
        metavar="LINE",
        help="further option of sbatch, such as --partition=cpu; repeatable",
    )
    add("--dry-run", action="store_true", help="write the script, and submit nothing")


GROUPS: dict[str, Callable[[Add], None]] = {
    "where": _where,
    "which": _which,
    "new": _new,
    "trials": _trials,
    "work": _work,
    "worker": _worker,
    "resume": _resume,
    "confirm": _confirm,
    "export": _export,
    "pick": _pick,
    "after": _after,
    "json": _json,
    "status": _status,
    "report": _report,
    "serve": _serve,
    "submit": _submit,
}
