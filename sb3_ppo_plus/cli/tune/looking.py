"""``ppo-plus tune status``, ``report`` and ``importance``."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_NOTHING, EXIT_OK
from sb3_ppo_plus.cli.tune.options import option
from sb3_ppo_plus.cli.tune.search import find, folder_of
from sb3_ppo_plus.cli.tune.show import is_done, lines_of
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.reading import importances, read_progress, read_study
from sb3_ppo_plus.tuning.study import Opened, open_confirmation

_FORMATS = ("html", "md")


def status(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    try:
        while True:
            done = _tell(opened, bool(option(args, "json")))
            if done or not option(args, "watch"):
                return EXIT_OK
            time.sleep(5)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def report(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    report_and_tell(args, find(args))
    return EXIT_OK


def report_and_tell(args: argparse.Namespace, opened: Opened) -> None:
    """
    Write the report, and say where it is.

    :param args: parsed arguments
    :param opened: the study
    :raises InvalidArgument: for an unknown format
    """
    from sb3_ppo_plus.tuning.report import write_report

    formats = option(args, "format")
    for name in formats:
        if name not in _FORMATS:
            raise InvalidArgument(f"format is {name!r}; choose of {', '.join(_FORMATS)}")
    folder = option(args, "report_dir") or folder_of(args, opened) / "report"
    for path in write_report(read_study(opened), folder, formats):
        print(f"  report           {path}")


def importance(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    found = importances(opened)
    if option(args, "json"):
        print(json.dumps(found, indent=2))
        return EXIT_OK
    if not found:
        print("importances need one objective and at least 10 finished trials that differ")
        return EXIT_NOTHING
    for name, share in found.items():
        print(f"{share:6.1%}  {'█' * round(30 * share):<30}  {name}")
    return EXIT_OK


def _tell(opened: Opened, as_json: bool) -> bool:
    """Say where a study stands; whether it is done."""
    confirmation = open_confirmation(opened)
    progress = [(each, read_progress(each)) for each in filter(None, (opened, confirmation))]
    if as_json:
        print(json.dumps([asdict(state) for _, state in progress], indent=2), flush=True)
    else:
        for each, state in progress:
            first, *rest = lines_of(each, state)
            print(f"{each.name}: {first}", *(f"  {line}" for line in rest), sep="\n", flush=True)
            if state.stopped:
                print(f"  stopped itself: {state.stopped}")
    return all(is_done(state) for _, state in progress)
