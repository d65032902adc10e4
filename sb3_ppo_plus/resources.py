"""The single place that knows where the folders of data files are: in a checkout, or in the wheel's copy."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("benchmark_suites", "gallery", "tuning", "zoo_configs")

_PACKAGE = Path(__file__).resolve().parent
# The checkout first: whoever edits a file there expects that file to be read.
_ROOTS = (_PACKAGE.parent, _PACKAGE / "_data")


def resource_path(folder: str, name: str) -> Path:
    """
    Find a data file of this package.

    :param folder: one of ``FOLDERS``
    :param name: path inside that folder with forward slashes, for example ``"spaces/core.yml"``
    :return: path of an existing file
    """
    data_folder = _data_folder(folder)
    path = (data_folder / name).resolve()
    if not path.is_relative_to(data_folder):
        raise ValueError(f"name={name!r} leads out of {data_folder}; give a path inside it")
    if not path.is_file():
        available = ", ".join(_files_in(data_folder)) or "nothing"
        raise FileNotFoundError(f"no file {name!r} in {data_folder}; there is: {available}")
    return path


def resource_files(folder: str) -> list[str]:
    """
    :param folder: one of ``FOLDERS``
    :return: the names that :func:`resource_path` takes for it
    """
    return _files_in(_data_folder(folder))


def _data_folder(folder: str) -> Path:
    """
    Give the first place that has this folder.

    A neighbour of an installed package may by chance be called ``tuning``, so the checkout is recognised by its
    ``pyproject.toml``.
    """
    if folder not in FOLDERS:
        raise ValueError(f"folder={folder!r} holds no data files; choose one of {', '.join(FOLDERS)}")
    checkout, wheel = (root / folder for root in _ROOTS)
    is_checkout = (checkout.parent / "pyproject.toml").is_file() and checkout.is_dir()
    found = checkout if is_checkout else wheel
    if not found.is_dir():
        raise FileNotFoundError(
            f"the data folder {folder!r} is missing: looked in {checkout} and {wheel}; reinstall sb3-ppo-plus"
        )
    return found.resolve()


def _files_in(data_folder: Path) -> list[str]:
    """List the data files of a folder by the names that :func:`resource_path` takes."""
    return sorted(path.relative_to(data_folder).as_posix() for path in data_folder.rglob("*.yml"))
