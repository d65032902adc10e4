"""sb3_ppo_plus.runs.folder and curve: files of a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.curve import draw_learning_curve, read_training_returns
from sb3_ppo_plus.runs.folder import RunFolder, new_run_folder


def test_folders_count_up_and_keep_odd_names_out_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "CartPole-v1_7").mkdir()
    (tmp_path / "CartPole-v1_old").mkdir()
    assert new_run_folder(tmp_path, "CartPole-v1").path == tmp_path / "CartPole-v1_8"
    assert new_run_folder(tmp_path / "new", "module:ALE/Pong-v5").path.name == "module-ALE-Pong-v5_1"


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "X-v0").path, range(64)))
    assert len(set(folders)) == 64
    assert all(folder.is_dir() for folder in folders)


def test_a_place_that_is_not_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match=r"cannot make a run folder in .*file.*--run-dir"):
        new_run_folder(tmp_path / "file", "X-v0")


def test_the_curve_is_a_picture_with_and_without_training_returns(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    np.savez(folder.evaluations, timesteps=[0, 100], results=[[0.0, 1.0], [5.0, 9.0]], ep_lengths=[[1, 1], [1, 1]])
    path = draw_learning_curve(folder, "X-v0")
    without = np.asarray(Image.open(path).convert("RGB"))
    folder.progress.write_text("time/total_timesteps,rollout/ep_rew_mean\n50,\n60,2.0\n100,7.5\n")
    steps, returns = read_training_returns(folder.progress)
    np.testing.assert_array_equal(steps, [60, 100])
    np.testing.assert_array_equal(returns, [2.0, 7.5])
    draw_learning_curve(folder, "X-v0")
    with_returns = np.asarray(Image.open(path).convert("RGB"))
    assert without.shape == with_returns.shape == (540, 960, 3)
    orange = (abs(with_returns.astype(int) - [240, 136, 62]).sum(axis=-1) < 40).sum()
    assert orange > 50
    assert (abs(without.astype(int) - [240, 136, 62]).sum(axis=-1) < 40).sum() == 0
