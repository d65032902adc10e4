"""``ppo-plus doctor``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb3_ppo_plus.doctor.findings import Finding

HELP = (
    "Tell what is wrong, why, and which argument to change: with a run (its folder, or a progress.csv or event file of "
    "Stable-Baselines3), with an environment and a configuration before training (--env, --config), or, without any of "
    "these, with the installation. Exit code 0; with --strict 1 when there is a warning or worse."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: parser of this command
    """
    add = parser.add_argument
    add("run", type=Path, nargs="?", default=None, metavar="RUN", help="folder of a run, finished or not, or its log")
    add("--env", default=None, metavar="ID", help="look at this environment and its block before training")
    add("--config", type=Path, default=None, metavar="FILE", help="look at this configuration before training")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="one hyperparameter; may be repeated")
    add("--output", type=Path, default=None, metavar="FOLDER", help="where doctor.json and doctor.html go (the run)")
    add("--json", action="store_true", help="print the findings as JSON")
    add("--strict", action="store_true", help="exit with 1 when there is a warning or an alarm")


def run(args: argparse.Namespace) -> int:
    """
    :param args: parsed arguments
    :return: exit code
    """
    from sb3_ppo_plus.errors import InvalidArgument

    before = args.env is not None or args.config is not None
    if args.run is not None and before:
        raise InvalidArgument("give a run, or --env and --config to look at a configuration, not both")
    if args.run is None and args.output is not None:
        raise InvalidArgument("--output is for the report of a run; give its folder too")
    if args.set and not before:
        raise InvalidArgument("--set changes a configuration; give --env or --config too")
    if args.run is not None:
        return _run_folder(args)
    return _before(args) if before else _installation(args)


def _run_folder(args: argparse.Namespace) -> int:
    from sb3_ppo_plus.doctor.report import write_reports
    from sb3_ppo_plus.doctor.report_json import report_data, report_text
    from sb3_ppo_plus.doctor.run_folder import examine_run

    found = examine_run(args.run)
    folder = args.output or (args.run if args.run.is_dir() else args.run.parent)
    files = write_reports(folder, found.history, found.journal, found.ended_by)
    findings = found.journal.findings()
    if args.json:
        print(report_text(report_data(found.history, found.journal, found.ended_by)), end="")
        return _exit_code(args, findings)
    print(f"{args.run}: {len(found.history):,} updates, {found.history.step:,} steps, from {found.source.name}")
    if found.ended_by:
        print(f"the run was ended by {found.ended_by}")
    _print_findings(findings)
    for action in found.journal.actions:
        print(f"  done at step {action.step:,} because of {action.code}: {action.what}")
    print(f"\nreport {files[-1]}")
    return _exit_code(args, findings)


def _before(args: argparse.Namespace) -> int:
    from sb3_ppo_plus.doctor.configured import check_configuration
    from sb3_ppo_plus.runs.layers import assemble

    config = assemble(args.env, args.config, args.set)
    checkup = check_configuration(config)
    if args.json:
        content = {"facts": checkup.facts, "findings": [finding.to_mapping() for finding in checkup.findings]}
        print(json.dumps(content, indent=2))
        return _exit_code(args, checkup.findings)
    print(config.env)
    for name, fact in checkup.facts.items():
        print(f"  {name:<14} {fact}")
    _print_findings(sorted(checkup.findings, key=lambda finding: -finding.severity))
    return _exit_code(args, checkup.findings)


def _installation(args: argparse.Namespace) -> int:
    from sb3_ppo_plus.cli import EXIT_FAILED, EXIT_OK
    from sb3_ppo_plus.doctor.installation import FAILED, check_installation

    checks = check_installation()
    if args.json:
        print(json.dumps([vars(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.state:<8} {check.name:<18} {check.detail}")
    return EXIT_FAILED if any(check.state == FAILED for check in checks) else EXIT_OK


def _print_findings(findings: list[Finding]) -> None:
    if not findings:
        print("\nnothing was found")
    for finding in findings:
        when = f", steps {finding.window[0]:,} to {finding.window[1]:,}" if finding.window[1] else ""
        detail = f"; {finding.detail}" if finding.detail else ""
        print(f"\n{finding.severity.word:<8} {finding.code}: {finding.meaning.title}{when}")
        print(f"         {finding.meaning.why}")
        print(f"         measured {finding.value:.4g}, limit {finding.threshold:.4g}{detail}")
        print(f"         try      {finding.remedy}")
        print(f"         more     {finding.page}")


def _exit_code(args: argparse.Namespace, findings: list[Finding]) -> int:
    from sb3_ppo_plus.cli import EXIT_FAILED, EXIT_OK
    from sb3_ppo_plus.doctor.findings import Severity

    bad = any(finding.severity >= Severity.WARNING for finding in findings)
    return EXIT_FAILED if args.strict and bad else EXIT_OK
