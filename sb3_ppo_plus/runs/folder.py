"""One folder per run, and the names of the files in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_ppo_plus.atomic import atomic_path, locked_folder
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.unity import game_name

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass(frozen=True)
class RunFolder:
    """
    The files of one run.

    :param path: the folder
    """

    path: Path

    @property
    def config(self) -> Path:
        """Everything needed to repeat the run."""
        return self.path / "config.yml"

    @property
    def evaluations(self) -> Path:
        """Evaluation results in the format of SB3's EvalCallback."""
        return self.path / "evaluations.npz"

    @property
    def progress(self) -> Path:
        """Training metrics, one row per iteration."""
        return self.path / "progress.csv"

    @property
    def curve(self) -> Path:
        """Picture of the learning curve."""
        return self.path / "learning_curve.png"

    @property
    def profile(self) -> Path:
        """Where the time went; the file exists only for runs that were asked to tell."""
        return self.path / "profile.txt"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints from which the run can go on."""
        return self.path / "checkpoints"

    @property
    def launch(self) -> Path:
        """Who started the ranks of the run; the file exists only where there are several."""
        return self.path / "launch.json"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """
        Keep other processes from training in this folder, as long as this one lives.

        :raises InvalidArgument: when one does
        """
        with locked_folder(self.path) as mine:
            if not mine:
                raise InvalidArgument(f"another process is training in {self.path}; wait for it, or end it")
            yield

    def model(self, best: bool) -> Path:
        """
        :param best: the model with the best evaluation, else the newest one
        :return: path of its zip
        """
        return self.path / ("best_model.zip" if best else "model.zip")

    def normalizer(self, best: bool) -> Path:
        """
        :param best: the statistics that belong to the best model, else to the newest one
        :return: path of the pickled VecNormalize; the file exists only for runs that normalize
        """
        return self.path / ("best_vecnormalize.pkl" if best else "vecnormalize.pkl")

    def save_model(self, model: BaseAlgorithm, best: bool) -> None:
        """
        Write the model and, when the run normalizes, its statistics; each file appears whole or not at all.

        :param model: model to save
        :param best: under which of the two names
        """
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            from stable_baselines3.common.vec_env import VecNormalize

            from sb3_ppo_plus.files.normalizer import write_normalizer

            if type(normalizer) is VecNormalize:
                write_normalizer(self.normalizer(best), normalizer)
            else:
                with atomic_path(self.normalizer(best)) as temporary:
                    normalizer.save(str(temporary))
        with atomic_path(self.model(best)) as temporary:
            model.save(temporary)


def new_run_folder(root: Path, env_id: str) -> RunFolder:
    """
    Make ``root/<EnvId>_<k>`` with the next free number.

    ``mkdir`` fails when the folder exists, so two runs that start together never share one.

    :param root: folder that holds all runs; made when missing
    :param env_id: environment id; characters that a file name cannot have become "-"
    :return: the new folder
    """
    stem = re.sub(r"[^\w.+-]+", "-", game_name(env_id))
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [entry.name.removeprefix(f"{stem}_") for entry in root.iterdir() if entry.name.startswith(f"{stem}_")]
        number = max((int(text) for text in taken if text.isdecimal()), default=0) + 1
        while True:
            try:
                (root / f"{stem}_{number}").mkdir()
                return RunFolder(root / f"{stem}_{number}")
            except FileExistsError:
                number += 1
    except OSError as error:
        raise InvalidArgument(
            f"cannot make a run folder in {root}: {error.strerror}; give a folder that you can write to with --run-dir"
        ) from error
