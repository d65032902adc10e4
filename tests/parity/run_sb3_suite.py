"""
Run Stable-Baselines3's own tests that concern PPO, with PPOPlus in its place.

The tests are those of the installed Stable-Baselines3 version, from its source archive, unchanged. Which of them really
called PPOPlus's constructor is recorded while they run, so the last line claims no more than what happened.

    python tests/parity/run_sb3_suite.py [--workers 2] [--every-test] [-- pytest arguments]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Unpacking a first time is all the work; a second run of the same version finds the folder.
CACHE = ROOT / ".cache" / "sb3"
# Settings of its own, or pytest would look upwards and find those of this project. No warning filters: some tests count
# warnings.
SETTINGS = "[pytest]\naddopts = --import-mode=importlib\n"


def sb3_tests(release: str) -> Path:
    """
    Get the tests folder of a Stable-Baselines3 release.

    :param release: version, as ``2.9.2``
    :return: folder with the test files
    """
    folder = CACHE / release
    if (folder / "tests").is_dir():
        return folder / "tests"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (CACHE.parent / ".gitignore").write_text("*\n")
    download = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    command = [*download, "--no-deps", "--no-binary", ":all:", "-d", str(folder), f"stable_baselines3=={release}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tar.gz")
    unpack_tests(archive, folder / "tests")
    return folder / "tests"


def unpack_tests(archive: Path, target: Path) -> None:
    """
    Unpack only the Python files directly in the tests folder of a source archive.

    Names are rebuilt from their last part and contents are copied as plain files: the archive has no say in where
    something is written. The folder appears at once, so that a stopped run leaves no half of it.

    :param archive: ``.tar.gz``
    :param target: folder to make
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None and path.parts[1:-1] == ("tests",) and path.suffix == ".py":
                (partial / path.name).write_bytes(content.read())
    partial.rename(target)


def ppo_modules(tests: Path) -> list[str]:
    """Name the test files that mention PPO at all; the others cannot build one."""
    found = [path.name for path in sorted(tests.glob("test_*.py")) if "PPO" in path.read_text(encoding="utf-8")]
    if not found:
        raise SystemExit(f"no test file in {tests} mentions PPO: remove {tests.parent} and run again")
    return found


def run(tests: Path, modules: list[str], arguments: argparse.Namespace) -> tuple[int, dict[str, dict[str, Any]]]:
    """
    Run pytest in a process of its own.

    :return: pytest's exit status, and a row per test: outcome, built, chosen, reason
    """
    report = tests.parent / "report.json"
    report.unlink(missing_ok=True)
    (tests / "pytest.ini").write_text(SETTINGS)
    # The plugin lies beside this file; the checkout is what is tested, whatever is installed.
    paths = [str(Path(__file__).resolve().parent), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sb3_suite_plugin", "-p", "no:cacheprovider"]
    command += ["-n", str(arguments.workers), "--durations", "5", "--ppo-report", str(report)]
    command += ["--every-test"] if arguments.every_test else []
    command += arguments.pytest_arguments + modules
    status = subprocess.run(command, cwd=tests, env=environment, stdin=subprocess.DEVNULL).returncode
    return status, json.loads(report.read_text()) if report.is_file() else {}


def summary(release: str, rows: dict[str, dict[str, Any]], seconds: float) -> tuple[list[str], bool]:
    """
    Put the counts in words.

    :param release: Stable-Baselines3's version
    :param rows: one per test
    :param seconds: run time
    :return: lines to print, and whether the run says what it should
    """
    outcomes = Counter(row["outcome"] for row in rows.values())
    passed = [name for name, row in rows.items() if row["outcome"] == "passed"]
    built = [name for name in passed if rows[name]["built"]]
    missed = [name for name, row in rows.items() if row["built"] and not row["chosen"]]
    lines = [f"{row['outcome']}: {name}: {row['reason']}" for name, row in rows.items() if row["outcome"] != "passed"]
    lines += [f"built PPOPlus, but a default run leaves it out: {name}" for name in missed]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()) if outcome != "passed")
    verdict = f"{len(passed)} tests passed, of which {len(built)} built PPOPlus or were refused by it"
    lines.append(f"Stable-Baselines3 {release}: {verdict}{'; ' + counts if counts else ''} ({seconds:.0f} s)")
    return lines, bool(built) and not missed and not outcomes["failed"]


def main() -> int:
    """
    Run the suite.

    :return: exit status
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes that run tests (0: this one)")
    parser.add_argument("--every-test", action="store_true", help="also tests that do not look as if they built PPO")
    parser.add_argument("pytest_arguments", nargs="*", help="handed to pytest, after --")
    arguments = parser.parse_args()
    release = version("stable_baselines3")
    tests = sb3_tests(release)
    start = time.perf_counter()
    status, rows = run(tests, ppo_modules(tests), arguments)
    lines, good = summary(release, rows, time.perf_counter() - start)
    print("\n".join(lines))
    return status or int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
