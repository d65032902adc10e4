"""
Build the documentation as a static site: build/site, from the pages of this repository as they are.

    make docs                     # in an environment of its own, then open build/site/index.html
    python docs/build_site.py     # in an environment with docs/requirements.txt

Pages link each other, results and sources by relative paths, as they do on a code host. So the site has the folders of
the repository; files that pages link to, and that are no pages, are copied. A link that leads nowhere, or to a heading
that is not there, ends the build with an error.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
STAGED, SITE = ROOT / "build" / "site_pages", ROOT / "build" / "site"
# Titles in the navigation; every other page is found by its links and by the search.
NAVIGATION: list[dict[str, object]] = [
    {"Start": "README.md"},
    {"Features": "docs/features.md"},
    {
        "Learning": [
            {"The algorithm": "docs/algorithm.md"},
            {"Presets": "docs/presets.md"},
            {"Schedules": "docs/schedules.md"},
            {"Speed": "docs/speed.md"},
            {"NaN and infinity": "docs/nan.md"},
            {"The doctor": "docs/doctor.md"},
            {"Going on exactly": "docs/resume.md"},
            {"Files": "docs/files.md"},
            {"On a device": "docs/device.md"},
            {"Several processes": "docs/distributed.md"},
        ]
    },
    {
        "Environments": [
            {"MuJoCo and the tensor face": "docs/envs.md"},
            {"MuJoCo on Warp": "docs/warp.md"},
            {"Torch environments": "docs/torch_envs.md"},
            {"Adapters": "docs/adapters.md"},
            {"Worker processes": "docs/processes.md"},
            {"Their state": "docs/env_state.md"},
            {"Unity": "docs/unity.md"},
        ]
    },
    {
        "Tools": [
            {"Command line": "docs/command_line.md"},
            {"Tuning": "docs/tuning.md"},
            {"RL Zoo": "docs/zoo.md"},
            {"Benchmarks of learning": "docs/benchmark.md"},
            {"Export": "docs/export.md"},
            {"The gallery": "docs/gallery.md"},
        ]
    },
    {"Measurements": "benchmarks/README.md"},
    {"Inside": [{"Architecture": "docs/architecture.md"}, {"Contributing": "CONTRIBUTING.md"}]},
    {"Changes": "CHANGELOG.md"},
]
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """
    :return: the pages of the repository, relative to it
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for line in listed.stdout.splitlines() if (ROOT / (path := Path(line))).is_file()]


def linked(page: Path) -> set[Path]:
    """
    :param page: a page, relative to the repository
    :return: files of the repository that it links to
    """
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    found = {first or second for first, second in _LINK.findall(text)}
    targets = {(ROOT / page.parent / link).resolve() for link in found if "://" not in link}
    return {target.relative_to(ROOT) for target in targets if target.is_file() and target.is_relative_to(ROOT)}


def stage(found: list[Path]) -> None:
    """
    Lay out what the site is made from.

    :param found: the pages
    """
    shutil.rmtree(STAGED, ignore_errors=True)
    for path in sorted({*found, *(target for page in found for target in linked(page))}):
        (STAGED / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, STAGED / path)


def main() -> None:
    """Build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    found = pages()
    stage(found)
    in_navigation = set(re.findall(r"'([^']+\.md)'", str(NAVIGATION)))
    missing = sorted(page for page in map(str, found) if page.startswith("docs/") and page not in in_navigation)
    if missing:
        sys.exit(f"docs/build_site.py: NAVIGATION lacks {', '.join(missing)}")
    config = load_config(
        config_file=str(ROOT / "docs" / "mkdocs.yml"),
        docs_dir=str(STAGED),
        site_dir=str(SITE),
        nav=NAVIGATION,
        strict=True,
    )
    build(config)
    print(f"the site is in {SITE}")


if __name__ == "__main__":
    main()
