"""A file is either the old one or the whole new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sb3_ppo_plus.atomic import atomic_path, atomic_write, remove_strays


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    atomic_write(tmp_path / "text", "größe")
    atomic_write(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == b"gr\xc3\xb6\xc3\x9fe"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "config.yml"
    target.write_text("old")
    atomic_write(target, "new")
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["config.yml"]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b" / "file", "x")
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"


def test_an_error_while_writing_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="full disk"), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("full disk")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.zip"]


def test_the_target_does_not_change_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_the_temporary_file_keeps_folder_and_suffix(tmp_path: Path) -> None:
    # numpy.savez and torch-zip writers append a suffix to names that lack it, which would leave the named file empty.
    with atomic_path(tmp_path / "model.zip") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".zip"
        assert temporary.name.startswith(".")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_are_those_of_a_plain_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    atomic_write(tmp_path / "atomic", "x")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_umask_is_the_same_afterwards(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    atomic_write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    for name in (".model-abcdefgh.zip", ".model-abcdefg.zip", ".model-abcdefgh.pkl", ".models-abcdefgh.zip"):
        (tmp_path / name).write_text("half")
    with atomic_path(tmp_path / "model.zip") as temporary:
        remove_strays(tmp_path, "model", ".zip")
        assert temporary.exists() and not (tmp_path / ".model-abcdefgh.zip").exists()
        temporary.write_text("whole")
    remove_strays(tmp_path, "model*", ".zip")
    left = {".model-abcdefg.zip", ".model-abcdefgh.pkl", "model.zip"}
    assert set(os.listdir(tmp_path)) == left
