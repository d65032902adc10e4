"""``ppo-plus tune confirm`` and ``export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sb3_ppo_plus.cli import EXIT_INTERRUPTED, EXIT_NOT_BETTER, EXIT_NOTHING, EXIT_OK
from sb3_ppo_plus.cli.tune.looking import report_and_tell
from sb3_ppo_plus.cli.tune.options import option
from sb3_ppo_plus.cli.tune.search import find, make_supervisor, refuse_differences
from sb3_ppo_plus.cli.tune.show import show_trials
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.tuning.confirm import Confirmation, Plan, best_trials, read_decision
from sb3_ppo_plus.tuning.origin import origin_of
from sb3_ppo_plus.tuning.records import Candidate, Comparison
from sb3_ppo_plus.tuning.settings import apply_settings
from sb3_ppo_plus.tuning.study import SETTINGS, Opened
from sb3_ppo_plus.tuning.zoo_block import block_of, block_text, write_block


def confirm(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    refuse_differences(opened, allowed=False)
    return _confirm(args, opened)


def finish(args: argparse.Namespace, opened: Opened) -> int:
    """
    What `tune run` does after its search: confirm, report, and export what was confirmed.

    :param args: parsed arguments
    :param opened: the study
    :return: exit code
    """
    code = _confirm(args, opened)
    if code not in (EXIT_OK, EXIT_NOT_BETTER):
        return code
    report_and_tell(args, opened)
    if code == EXIT_OK and not option(args, "no_export"):
        _export_winner(args, opened)
    return code


def export(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    opened = find(args)
    if not option(args, "unconfirmed"):
        if hasattr(args, "trial"):
            raise InvalidArgument(f"trial {args.trial} was chosen by hand; add --unconfirmed if that is meant")
        return _export_winner(args, opened)
    finished = {trial.number: trial for trial in best_trials(opened)}
    if not finished:
        raise InvalidArgument(f"study {opened.name} has no finished trial")
    number = option(args, "trial") if hasattr(args, "trial") else next(iter(finished))
    if number not in finished:
        raise InvalidArgument(f"trial {number} has not finished; there is {', '.join(map(str, sorted(finished)))}")
    comments = origin_of(opened, f"trial {number}", None, ())
    return _write(args, opened, finished[number].user_attrs[SETTINGS], comments)


def _confirm(args: argparse.Namespace, opened: Opened) -> int:
    plan = Plan(
        top_k=option(args, "top_k"),
        race_seeds=tuple(option(args, "race_seeds")),
        seeds=tuple(option(args, "confirm_seeds")),
        baselines=tuple(option(args, "baselines")),
    )
    if not best_trials(opened):
        print(f"error: study {opened.name} has no finished trial", file=sys.stderr)
        return EXIT_NOTHING
    confirmation = Confirmation(opened, plan)
    if confirmation.advance():
        print(
            f"confirming {len(confirmation.entrants)} trials and {len(confirmation.baselines)} baselines: at most "
            f"{confirmation.total()} runs",
            file=sys.stderr,
        )
        supervisor = make_supervisor(args, opened, stays=True)
        going_on = True
        try:
            with show_trials(confirmation.opened, supervisor.n_workers, not option(args, "no_progress")) as look:

                def advance() -> bool:
                    nonlocal going_on
                    look()
                    going_on = confirmation.advance()
                    return going_on

                supervisor.run(advance, interval=1.0)
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on", file=sys.stderr)
            return EXIT_INTERRUPTED
        if going_on:
            print("not all was run; the same command goes on", file=sys.stderr)
            return EXIT_NOTHING if confirmation.opened.stopped() else EXIT_INTERRUPTED
    return _tell(opened)


def _tell(opened: Opened) -> int:
    candidates, comparisons = read_decision(opened)
    print(f"\nwinner of the race: {candidates[0].name}, {candidates[0].settings}")
    for line in origin_of(opened, candidates[0].name, candidates[0], comparisons)[2:]:
        print(f"  {line}")
    if _beats(comparisons):
        return EXIT_OK
    print("it does not beat them: the intervals do not exclude zero. Search further, or keep what there is")
    return EXIT_NOT_BETTER


def _beats(comparisons: tuple[Comparison, ...]) -> bool:
    return bool(comparisons) and all(comparison.beats for comparison in comparisons)


def _export_winner(args: argparse.Namespace, opened: Opened) -> int:
    candidates, comparisons = read_decision(opened)
    if not candidates:
        raise InvalidArgument(
            f"study {opened.name} is not confirmed; run `ppo-plus tune confirm`, or insist with --unconfirmed"
        )
    winner: Candidate = candidates[0]
    if not _beats(comparisons):
        raise InvalidArgument(
            f"{winner.name} of study {opened.name} does not beat the baselines; insist with --unconfirmed"
        )
    return _write(args, opened, winner.settings, origin_of(opened, winner.name, winner, comparisons))


def _write(args: argparse.Namespace, opened: Opened, settings: dict[str, object], comments: list[str]) -> int:
    block = block_of(apply_settings(opened.spec.base, settings))
    if option(args, "dry_run"):
        print(block_text(opened.spec.env, block, comments), end="")
        return EXIT_OK
    path: Path = option(args, "out")
    write_block(path, opened.spec.env, block, comments)
    print(f"wrote the block of {opened.spec.env} to {path}")
    print(f"  train with it    ppo-plus train --env {opened.spec.env} --config {path}")
    return EXIT_OK
