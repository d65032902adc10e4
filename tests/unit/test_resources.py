"""Data files are found in a checkout and in an installed package, and what they hold is usable."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_ppo_plus import PPOPlus, resources
from sb3_ppo_plus.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Site-packages as a wheel leaves it; the neighbour of the package that happens to be called tuning is not ours."""
    (tmp_path / "sb3_ppo_plus" / "_data" / "tuning" / "spaces").mkdir(parents=True)
    (tmp_path / "sb3_ppo_plus" / "_data" / "tuning" / "spaces" / "core.yml").write_text("{}")
    (tmp_path / "tuning" / "spaces").mkdir(parents=True)
    (tmp_path / "tuning" / "spaces" / "core.yml").write_text("someone else's")
    monkeypatch.setattr(resources, "_ROOTS", (tmp_path, tmp_path / "sb3_ppo_plus" / "_data"))
    return tmp_path


def test_a_checkout_reads_its_own_files() -> None:
    assert resource_path("tuning", "spaces/core.yml") == ROOT / "tuning" / "spaces" / "core.yml"


def test_an_installed_package_reads_the_copy_of_the_wheel(installed: Path) -> None:
    assert resource_path("tuning", "spaces/core.yml") == installed / "sb3_ppo_plus/_data/tuning/spaces/core.yml"


def test_an_unknown_file_lists_what_there_is(installed: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'spaces/cor\.yml'.*there is: spaces/core\.yml"):
        resource_path("tuning", "spaces/cor.yml")


def test_an_unknown_folder_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"folder='spaces'.*tuning, zoo_configs"):
        resource_path("spaces", "core.yml")


def test_a_missing_data_folder_says_where_it_was_looked_for(installed: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'zoo_configs' is missing.*_data.*reinstall"):
        resource_path("zoo_configs", "ppo_plus.yml")


def test_a_name_cannot_leave_the_folder() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    with pytest.raises(ValueError, match="leads out of"):
        resource_path("tuning", "../pyproject.toml")


def problems_of_space(space: dict[str, dict[str, Any]]) -> list[str]:
    """
    Check a search space against its documented format.

    :param space: content of a file of ``tuning/spaces/``
    :return: one line per mistake
    """
    arguments = inspect.signature(PPOPlus).parameters
    found = [f"{name} is not an argument of PPOPlus" for name in space if name not in arguments]
    for name, entry in space.items():
        if unknown := set(entry) - {"type", "low", "high", "log"}:
            found.append(f"{name} has the unknown keys {sorted(unknown)}")
        kind = {"float": float, "int": int}.get(entry.get("type", ""))
        bounds = (entry.get("low"), entry.get("high"))
        if kind is None or any(type(bound) is not kind for bound in bounds):
            found.append(f"{name}: bounds {bounds} are not two numbers of type {entry.get('type')!r}")
        elif not 0 < bounds[0] < bounds[1]:
            found.append(f"{name}: bounds {bounds} are not positive and in order")
        if entry.get("log", False) not in (True, False):
            found.append(f"{name}: log={entry['log']!r} is not true or false")
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "tuning" / "spaces").glob("*.yml")), ids=lambda path: path.stem)
def test_search_spaces_are_sane(path: Path) -> None:
    space = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert space
    assert problems_of_space(space) == []


def test_the_core_space_holds_the_promised_three_and_sb3s_defaults() -> None:
    space = yaml.safe_load(resource_path("tuning", "spaces/core.yml").read_text(encoding="utf-8"))
    assert sorted(space) == ["clip_range", "learning_rate", "n_epochs"]
    defaults = {"clip_range": 0.2, "learning_rate": 3e-4, "n_epochs": 10}
    assert all(space[name]["low"] < value < space[name]["high"] for name, value in defaults.items())


@pytest.mark.parametrize(
    ("name", "entry", "problem"),
    [
        ("clip_rnage", {"type": "float", "low": 0.1, "high": 0.4}, "not an argument"),
        ("clip_range", {"type": "float", "low": 0.4, "high": 0.1}, "in order"),
        ("learning_rate", {"type": "float", "low": "1e-5", "high": 1e-3}, "not two numbers"),
        ("n_epochs", {"type": "int", "low": 3.0, "high": 20}, "not two numbers"),
        ("n_epochs", {"low": 3, "high": 20}, "not two numbers"),
        ("n_epochs", {"type": "int", "low": 3, "high": 20, "step": 1}, "unknown keys"),
        ("n_epochs", {"type": "int", "low": 3, "high": 20, "log": "yes"}, "log="),
    ],
)
def test_a_wrong_search_space_is_noticed(name: str, entry: dict[str, Any], problem: str) -> None:
    (message,) = problems_of_space({name: entry})
    assert problem in message
