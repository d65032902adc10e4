"""``ppo-plus tune create``, ``run``, ``worker`` and ``resume``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_NOTHING, EXIT_OK
from sb3_ppo_plus.cli.tune.options import DEFAULTS, option
from sb3_ppo_plus.cli.tune.show import describe_values, show_trials
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.values import parse_settings, read_yaml
from sb3_ppo_plus.tuning.lease import Watchman
from sb3_ppo_plus.tuning.reading import read_progress
from sb3_ppo_plus.tuning.records import FINISHED, RUNNING, WAITING
from sb3_ppo_plus.tuning.space import load_space
from sb3_ppo_plus.tuning.spec import StudySpec, differences, make_spec
from sb3_ppo_plus.tuning.storage import hidden, journal_url
from sb3_ppo_plus.tuning.study import Opened, create_study, exists, open_confirmation, open_study, prolong, retry_failed
from sb3_ppo_plus.tuning.supervisor import Supervisor

# Options of a study that are fields of its specification.
_FIELDS = (
    "objective",
    "threshold",
    "sampler",
    "sampler_seed",
    "n_startup_trials",
    "pruner",
    "pruning_warmup",
    "seeds",
    "n_evals",
    "max_attempts",
    "max_failures",
)
# Options of a study that are keys of its configuration.
_FLAGS = ("n_timesteps", "n_envs", "vec_env", "eval_episodes")
# Fields of WorkerOptions that are options of the command line.
WORK = ("heartbeat", "grace", "checkpoint_interval")


def create(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = _create(args)
    print(f"study {opened.name} with {opened.count()} trials in {hidden(opened.url)}")
    print(f"  work on it       ppo-plus tune worker {_reach(args, opened)}")
    print(f"  look at it       ppo-plus tune status {_reach(args, opened)}")
    return EXIT_OK


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.cli.tune.confirming import finish

    opened = _create_or_open(args)
    code = work(args, opened)
    if code != EXIT_OK or option(args, "no_confirm"):
        return code
    return finish(args, opened)


def worker(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    refuse_differences(opened, bool(option(args, "allow_mismatch")))
    return work(args, opened)


def resume(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    studies = [opened, *filter(None, [open_confirmation(opened)])]
    if option(args, "dry_run"):
        for each in studies:
            _tell_running(each)
        return EXIT_OK
    refuse_differences(opened, allowed=False)
    for each in studies:
        each.stop("")
        watchman = Watchman(each.storage, option(args, "grace"), each.spec.max_attempts)
        for number in watchman.look(each.study_id):
            print(f"trial {number} of {each.name}: its worker is gone, another goes on with it")
    if option(args, "retry_failed"):
        print(f"{retry_failed(opened)} failed trials begin anew")
    if hasattr(args, "n_trials"):
        prolong(opened, args.n_trials)
    return work(args, opened)


def find(args: argparse.Namespace) -> Opened:
    """
    Open the study that the arguments mean.

    :param args: parsed arguments
    :return: the study
    :raises InvalidArgument: when it cannot be known, or is not there
    """
    name = option(args, "study") or option(args, "study_name")
    if option(args, "storage"):
        return open_study(args.storage, name)
    folder = Path(name) if name and Path(name).is_dir() else None
    if folder is None and name is None:
        there = sorted(path.parent for path in option(args, "dir").glob("*/journal.log"))
        if len(there) != 1:
            known = ", ".join(path.name for path in there) or "none"
            raise InvalidArgument(
                f"which study? in {option(args, 'dir')} there is {known}; name one, or give --storage"
            )
        folder = there[0]
    if folder is None:
        folder = option(args, "dir") / _file_name(str(name))
        if not folder.is_dir():
            known_names = [path.parent.name for path in option(args, "dir").glob("*/journal.log")]
            hint = did_you_mean(str(name), known_names) or "see `ppo-plus tune run --help`, or give --storage"
            raise InvalidArgument(f"there is no study {name!r} in {option(args, 'dir')}; {hint}")
    url_file = folder / "storage.url"
    url = url_file.read_text(encoding="utf-8").strip() if url_file.is_file() else journal_url(folder)
    return open_study(url)


def folder_of(args: argparse.Namespace, opened: Opened) -> Path:
    """
    :param args: parsed arguments
    :param opened: the study
    :return: its folder on this machine
    """
    given = option(args, "study")
    if given and Path(given).is_dir():
        return Path(given)
    path: Path = option(args, "dir") / _file_name(opened.name)
    return path


def work(args: argparse.Namespace, opened: Opened) -> int:
    """
    Work on a study with processes of this machine, and show it.

    :param args: parsed arguments
    :param opened: the study
    :return: exit code
    """
    supervisor = make_supervisor(args, opened)
    try:
        with show_trials(opened, supervisor.n_workers, enabled=not option(args, "no_progress")) as look:
            supervisor.run(look)
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with: ppo-plus tune resume {_reach(args, opened)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return _summarize(args, opened)


def make_supervisor(args: argparse.Namespace, opened: Opened, **options: Any) -> Supervisor:
    """
    :param args: parsed arguments
    :param opened: the study
    :param options: further options of the workers
    :return: what starts and watches the workers
    :raises InvalidArgument: for numbers that cannot work
    """
    n_workers = option(args, "workers")
    if n_workers < 1:
        raise InvalidArgument(f"workers is {n_workers}; give at least 1")
    settings = {name: option(args, name) for name in WORK}
    for name, value in settings.items():
        if value <= 0:
            raise InvalidArgument(f"{name} is {value}; give seconds above 0")
    if settings["grace"] < 3 * settings["heartbeat"]:
        raise InvalidArgument(
            f"grace is {settings['grace']:g} and heartbeat {settings['heartbeat']:g}; give a grace of at least three "
            "heartbeats, or workers that are only busy lose their trials"
        )
    cores = os.cpu_count() or 1
    if n_workers > cores:
        print(f"note: {n_workers} workers share {cores} cores", file=sys.stderr)
    settings |= {"seconds": option(args, "timeout"), "max_trials": option(args, "max_trials"), **options}
    return Supervisor(opened, folder_of(args, opened), n_workers, settings)


def refuse_differences(opened: Opened, allowed: bool) -> None:
    """
    :param opened: the study
    :param allowed: only warn
    :raises InvalidArgument: when trials of this machine would not be comparable
    """
    found = differences(opened.spec)
    if found and not allowed:
        raise InvalidArgument(
            f"study {opened.name} was made with something else: {'; '.join(found)}. Install the same, or pass "
            "`tune worker --allow-mismatch` if you know that it does not matter"
        )
    for line in found:
        print(f"note: {line}", file=sys.stderr)


def _create_or_open(args: argparse.Namespace) -> Opened:
    url, name = _place(args)
    if not exists(url, name):
        return _create(args)
    opened = open_study(url, name)
    _refuse_other_options(args, opened.spec)
    refuse_differences(opened, allowed=False)
    opened.stop("")
    # Without a number: as many as there are, so that running the same line again adds none.
    prolong(opened, args.n_trials if hasattr(args, "n_trials") else 0)
    ended = read_progress(opened).ended
    print(f"going on with study {name}: {ended} of {opened.count()} trials are done")
    return opened


def _create(args: argparse.Namespace) -> Opened:
    if option(args, "n_trials") < 1:
        raise InvalidArgument(f"n_trials is {option(args, 'n_trials')}; give at least 1")
    flags = {name: option(args, name) for name in _FLAGS}
    config = assemble(option(args, "env"), option(args, "base"), list(option(args, "set")), flags)
    url, name = _place(args, config.env)
    options = {field: option(args, field) for field in _FIELDS}
    space = load_space(option(args, "space"))
    spec = make_spec(config, space, name=name, command=shlex.join(["ppo-plus", *sys.argv[1:]]), **options)
    opened = create_study(url, spec)
    prolong(opened, option(args, "n_trials"))
    folder = folder_of(args, opened)
    spec.write(folder / "study.yml")
    if option(args, "storage"):
        _note_storage(folder, url)
    return opened


def _note_storage(folder: Path, url: str) -> None:
    """So that the study's name is enough on this machine; a password stays out of files."""
    if hidden(url) == url:
        atomic_write(folder / "storage.url", f"{url}\n")


def _place(args: argparse.Namespace, env: str | None = None) -> tuple[str, str]:
    """Storage and name of a study that may not exist yet."""
    name = option(args, "study_name") or env or option(args, "env")
    if not name:
        raise InvalidArgument("env is None; name the environment with --env, for example --env Pendulum-v1")
    url = option(args, "storage") or journal_url(option(args, "dir") / _file_name(name))
    return url, name


def _refuse_other_options(args: argparse.Namespace, spec: StudySpec) -> None:
    """A study stays what it was when it was created; the line that created it goes on with it."""
    there = {**{name: getattr(spec, name) for name in _FIELDS}, **spec.base}
    given = {name: getattr(args, name) for name in (*_FIELDS, "env", *_FLAGS) if hasattr(args, name)}
    if hasattr(args, "space"):
        there["space"], given["space"] = spec.space, dict(load_space(args.space).source)
    if hasattr(args, "base") or hasattr(args, "set"):
        config = assemble(spec.env, option(args, "base"), list(option(args, "set"))).to_mapping()
        names = {path[0] for path, _ in parse_settings(list(option(args, "set")))}
        names |= set(read_yaml(args.base)) if hasattr(args, "base") else set()
        given |= {name: json.loads(json.dumps(config[name])) for name in names if name in config}
    for name, value in given.items():
        if value != there.get(name):
            raise InvalidArgument(
                f"study {spec.name} was made with {name} {there.get(name)!r}, not {value!r}; leave it out to go on, or "
                "give another --study-name"
            )


def _tell_running(opened: Opened) -> None:
    for state in read_progress(opened).workers:
        what = "its process is gone" if state.gone else f"last sign of life {state.silent:.0f} s ago"
        print(f"trial {state.number} of {opened.name}, worker {state.worker or 'unknown'}: {what}")
    waiting = read_progress(opened).counts[WAITING]
    print(f"{opened.name}: {waiting} trials wait")


def _summarize(args: argparse.Namespace, opened: Opened) -> int:
    progress = read_progress(opened)
    counts = ", ".join(f"{count} {state}" for state, count in progress.counts.items() if count)
    print(f"\nstudy {opened.name}: {counts}")
    if progress.best is not None:
        number, values = progress.best
        print(f"  best so far      trial {number}: {describe_values(opened.spec.goal, values)}")
    print(f"  folder           {folder_of(args, opened)}")
    if progress.stopped:
        print(f"error: the study stopped itself: {progress.stopped}", file=sys.stderr)
        return EXIT_NOTHING
    if not progress.counts[FINISHED] and not progress.counts[WAITING] + progress.counts[RUNNING]:
        print("error: no trial finished; see error.txt in the folders of the trials", file=sys.stderr)
        return EXIT_NOTHING
    if progress.counts[WAITING] + progress.counts[RUNNING]:
        print(f"  go on with       ppo-plus tune resume {_reach(args, opened)}")
        return EXIT_OK if option(args, "max_trials") else EXIT_INTERRUPTED
    return EXIT_OK


def _reach(args: argparse.Namespace, opened: Opened) -> str:
    """Arguments that lead to the same study again."""
    if option(args, "storage"):
        return f"--storage {shlex.quote(hidden(opened.url))} --study-name {shlex.quote(opened.name)}"
    where = "" if option(args, "dir") == DEFAULTS["dir"] else f"--dir {shlex.quote(str(option(args, 'dir')))} "
    return where + shlex.quote(option(args, "study") or opened.name)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
