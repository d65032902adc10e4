"""Data files are found in a checkout and in an installed package, and what they hold is usable."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sb3_ppo_plus import resources
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


def test_the_core_space_holds_the_promised_three_and_sb3s_defaults() -> None:
    space = yaml.safe_load(resource_path("tuning", "spaces/core.yml").read_text(encoding="utf-8"))
    assert sorted(space) == ["clip_range", "learning_rate", "n_epochs"]
    defaults = {"clip_range": 0.2, "learning_rate": 3e-4, "n_epochs": 10}
    assert all(space[name]["low"] < value < space[name]["high"] for name, value in defaults.items())
