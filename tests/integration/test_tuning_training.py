"""A trial that is left and goes on has the curve of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.tuning.training import Checkpoint, Curve, Leave, Training

SETTINGS = ["n_envs=2", "n_steps=64", "batch_size=64", "n_epochs=2", "eval_freq=256", "eval_episodes=2"]


def config() -> RunConfig:
    return assemble("Pendulum-v1", settings=[*SETTINGS, "normalize=true", "n_timesteps=1024", "use_sde=true"])


def train(folder: Path, leave_at: int | None = None) -> Curve:
    def look(steps: int) -> None:
        if steps == leave_at:
            raise Leave

    return Training(config(), folder, lambda curve: None, look).run()


def test_going_on_is_exact(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Leave):
        train(tmp_path / "parts", leave_at=384)
    assert (tmp_path / "parts" / "checkpoint_384.zip").is_file()
    rest = train(tmp_path / "parts")
    assert len(whole.returns) == 5 and len(set(whole.returns)) > 2
    assert (rest.steps, rest.returns) == (whole.steps, whole.returns)
    assert not list((tmp_path / "parts").glob("checkpoint*"))


def test_a_checkpoint_that_cannot_be_read_is_trained_again(tmp_path: Path) -> None:
    with pytest.raises(Leave):
        train(tmp_path / "parts", leave_at=384)
    path = tmp_path / "parts" / "checkpoint_384.zip"
    path.write_bytes(path.read_bytes()[:-100])
    assert Checkpoint(tmp_path / "parts").state.is_file()
    assert train(tmp_path / "parts").returns == train(tmp_path / "whole").returns
