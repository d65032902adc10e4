"""What README and docs show works: every Python block runs, every command of the README runs, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unity_player"))

from build import make_build  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run(command: list[str], folder: Path, codes: tuple[int, ...] = (0,)) -> str:
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode in codes, f"{' '.join(command)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


# Those of the others wait for the slow tests.
QUICK_PAGES = ("README.md", "docs/resume.md")


def with_blocks(quick: bool) -> list[Path]:
    return [page for page in PAGES if blocks(page, "python") and (name(page) in QUICK_PAGES) is quick]


@pytest.mark.slow
@pytest.mark.parametrize("page", with_blocks(quick=False), ids=name)
def test_python_blocks_of_other_pages_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    test_python_blocks_run_from_top_to_bottom(page, tmp_path)


@pytest.mark.parametrize("page", with_blocks(quick=True), ids=name)
def test_python_blocks_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    run_python("\n".join(["import torch as th", "th.set_num_threads(1)", *blocks(page, "python")]), tmp_path)


def run_python(source: str, folder: Path, name: str = "page.py") -> None:
    """Run a program with its training cut short, beside the robots that the examples drive."""
    for robot in ROOT.glob("examples/*.xml"):
        shutil.copy(robot, folder)
    build_games(folder)
    script = folder / name
    script.write_text(re.sub(r"learn\([\d_]+\)", "learn(2048)", source))
    run([sys.executable, str(script)], folder)


def build_games(folder: Path) -> None:
    """The games that the pages play: stand-ins for Unity's builds."""
    builds = folder / "builds"
    builds.mkdir(exist_ok=True)
    make_build(builds, "balance", "MyGame", agents=4)
    make_build(builds, "two", "Soccer", agents=2)
    (folder / "config").mkdir(exist_ok=True)
    trainer = {"hyperparameters": {"buffer_size": 512, "batch_size": 64}, "max_steps": 512}
    document = {"behaviors": {"Balance": trainer}, "env_settings": {"env_path": "builds/MyGame"}}
    (folder / "config" / "MyGame.yaml").write_text(json.dumps({**document, "engine_settings": {"no_graphics": True}}))


def commands(page: Path) -> list[str]:
    """The ppo-plus commands of a page, cut down to a few seconds."""
    lines = [line.split("#")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    found = [line for line in lines if line.startswith("ppo-plus ")]
    short = [
        re.sub(r" -n \S+", " -n 8_192 --no-progress", line)
        if line.startswith("ppo-plus resume")
        else re.sub(r" -n \S+", " -n 512 --eval-episodes 1 --no-progress", line)
        for line in found
    ]
    return [re.sub(r"--n-trials \S+", "--n-trials 2 --top-k 1 --confirm-seeds 200-202", line) for line in short]


def test_commands_of_the_readme_run(tmp_path: Path) -> None:
    """In the order in which they stand, since the later ones use what the earlier ones wrote."""
    found = commands(ROOT / "README.md")
    assert len(found) >= 2
    for command in found:
        words = command.split()
        if words[1] in ("train", "tune"):
            assert "-n" in words, f"{command!r}: give -n, so that this test can make it short"
        # So short a study finds nothing that is better for certain, and says so.
        codes = (0, 4) if words[1] == "tune" else (0,)
        run([sys.executable, "-m", "sb3_ppo_plus", *words[1:]], tmp_path, codes)


@pytest.mark.slow
def test_commands_of_the_unity_page_run(tmp_path: Path) -> None:
    build_games(tmp_path)
    found = commands(ROOT / "docs/unity.md")
    assert {command.split()[1] for command in found} == {"unity", "train", "export"}
    for command in found:
        run([sys.executable, "-m", "sb3_ppo_plus", *command.split()[1:]], tmp_path)


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"make ([a-z][a-z0-9-]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= shown <= targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_files_that_pages_name_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    named = re.findall(r"`((?:docs|tests|benchmarks|examples|zoo_configs|tuning|sb3_ppo_plus)/[\w./-]+\.\w+)`", text)
    missing += [path for path in named if not (ROOT / path).exists()]
    assert not missing


EXAMPLES = sorted(path for path in ROOT.glob("examples/*.py") if path.name != "demo.py")


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, marks=() if path.stem == "quickstart" else pytest.mark.slow, id=name(path))
        for path in EXAMPLES
    ],
)
def test_examples_are_short_and_run(example: Path, tmp_path: Path) -> None:
    source = example.read_text()
    assert len(source.splitlines()) <= 40
    run_python(source, tmp_path, example.name)


def test_the_own_robot_of_the_docs_is_the_example() -> None:
    assert (ROOT / "examples/own_robot.py").read_text() in blocks(ROOT / "docs/envs.md", "python")


def test_every_switch_is_documented() -> None:
    """Each keyword-only argument of PPOPlus stands in the docs."""
    import inspect

    from sb3_ppo_plus import PPOPlus

    parameters = inspect.signature(PPOPlus.__init__).parameters.values()
    extras = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    text = (ROOT / "docs/algorithm.md").read_text() + (ROOT / "docs/presets.md").read_text()
    assert [extra for extra in extras if extra not in text] == []
    documented = re.findall(r":param (\w+):", PPOPlus.__doc__ or "")
    assert documented == [n for n in inspect.signature(PPOPlus.__init__).parameters if n != "self"]
