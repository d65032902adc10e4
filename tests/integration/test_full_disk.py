"""What a disk that is really full, or a folder that is really closed, does to checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.checkpoint import CannotSave, SaveCheckpoints, checkpoints_in, resume, save_checkpoint

KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={1024 * KIB}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """Leave so many bytes."""
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * max(0, free.f_bavail * free.f_bsize - leave))
    return ballast


def room_for_two(folder: Path) -> int:
    """Bytes of two checkpoints of the model and half of a third."""
    path = folder / "checkpoint.zip"
    save_checkpoint(model().learn(64), path)
    size = path.stat().st_size
    path.unlink()
    return 5 * size // 2


def model() -> PPOPlus:
    return PPOPlus("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu")


def test_the_earlier_checkpoint_stays_and_the_next_is_written_when_there_is_room(small_disk: Path) -> None:
    trained = model().learn(64)
    path = small_disk / "checkpoint.zip"
    save_checkpoint(trained, path)
    before = path.read_bytes()
    ballast = fill(small_disk, leave=64 * KIB)
    trained.learn(64, reset_num_timesteps=False)
    with pytest.raises(CannotSave, match=r"disk/checkpoint\.zip cannot be written: No space left on device"):
        save_checkpoint(trained, path)
    with pytest.raises(OSError, match="No space left on device"):
        trained.save(path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(small_disk)) == ["ballast", "checkpoint.zip"]
    assert resume(path, env="CartPole-v1").num_timesteps == 64
    ballast.unlink()
    save_checkpoint(trained, path)
    assert resume(path, env="CartPole-v1").num_timesteps == 128


def test_training_goes_on_over_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(small_disk, leave=room_for_two(small_disk))
    model().learn(64 * 6, SaveCheckpoints(small_disk, keep=9, cost=0.0))
    assert [step for step, _ in checkpoints_in(small_disk)] == [64, 0]
    assert all(resume(path, env="CartPole-v1").num_timesteps == step for step, path in checkpoints_in(small_disk))
    told = [record.getMessage() for record in caplog.records if "No space left on device" in record.getMessage()]
    assert len(told) == 1 and str(small_disk) in told[0] and "training goes on" in told[0]
    assert not [name for name in os.listdir(small_disk) if name.startswith(".")]


def test_training_stops_at_a_full_disk_when_it_shall(small_disk: Path) -> None:
    fill(small_disk, leave=room_for_two(small_disk))
    with pytest.raises(CannotSave, match="No space left on device"):
        model().learn(64 * 6, SaveCheckpoints(small_disk, keep=9, cost=0.0, on_error="raise"))
    assert [step for step, _ in checkpoints_in(small_disk)] == [64, 0]


# As a user without rights, whom folders can be closed to.
AS_NOBODY = """
import os, sys
from tests.integration.test_full_disk import model
from sb3_ppo_plus.checkpoint import CannotSave, save_checkpoint

trained = model().learn(64)
save_checkpoint(trained, sys.argv[2])  # imports what it needs while it may
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    save_checkpoint(trained, sys.argv[1])
except CannotSave as error:
    print(error)
"""


def test_a_folder_that_is_closed_is_named_and_the_earlier_file_stays(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "checkpoint.zip").write_bytes(b"earlier")
    closed.chmod(0o555)
    command = [sys.executable, "-c", AS_NOBODY, str(closed / "checkpoint.zip"), str(tmp_path / "a.zip")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"the checkpoint {closed / 'checkpoint.zip'} cannot be written: Permission denied"
    assert (closed / "checkpoint.zip").read_bytes() == b"earlier"
    assert os.listdir(closed) == ["checkpoint.zip"]
    closed.chmod(0o755)
