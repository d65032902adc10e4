"""Run folders of this package in the zoo's form, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from sb3_ppo_plus.atomic import atomic_path, atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import config_from_mapping
from sb3_ppo_plus.runs.folder import RunFolder, new_run_folder
from sb3_ppo_plus.runs.ids import is_unity
from sb3_ppo_plus.runs.values import read_yaml
from sb3_ppo_plus.runs.zoo_folder import read_zoo_config, zoo_environment

NAME = "ppo_plus"
# Keys that the zoo writes into config.yml, where the run has a value for them.
_SKIPPED = ("env", "seed", "vec_env", "eval_freq", "eval_episodes", "device", "threads")


def export_run(source: Path, logs: Path) -> Path:
    """
    Copy a run of `ppo-plus train` to where the zoo finds it.

    :param source: run folder
    :param logs: the zoo's folder of logs
    :return: the new folder, ``LOGS/ppo_plus/ENV_<k>``
    :raises InvalidArgument: when it is no such run, or of an environment that the zoo does not have
    """
    folder = RunFolder(source)
    if not folder.config.is_file() or not folder.model(best=False).is_file():
        raise InvalidArgument(f"{source} is no run of `ppo-plus train`: config.yml or model.zip is missing")
    config = config_from_mapping(read_yaml(folder.config))
    if is_unity(config.env) or ":" in config.env:
        raise InvalidArgument(f"{source} is of {config.env}; the zoo has Gymnasium's environments only")
    target = new_run_folder(logs / NAME, config.env).path
    inner = target / target.name.rpartition("_")[0]
    inner.mkdir()
    _copy(folder.model(best=False), target / f"{inner.name}.zip")
    for best, name in ((True, "best_model.zip"),):
        if folder.model(best).is_file():
            _copy(folder.model(best), target / name)
    if folder.evaluations.is_file():
        _copy(folder.evaluations, target / "evaluations.npz")
    if folder.normalizer(best=False).is_file():
        _copy(folder.normalizer(best=False), inner / "vecnormalize.pkl")
    values = {key: value for key, value in config.to_mapping().items() if key not in _SKIPPED and value is not None}
    atomic_write(inner / "config.yml", yaml.safe_dump(values))
    args = {"algo": NAME, "env": config.env, "seed": config.seed, "env_kwargs": None, "n_timesteps": config.n_timesteps}
    atomic_write(inner / "args.yml", yaml.safe_dump(args))
    return target


def import_run(source: Path, runs: Path) -> Path:
    """
    Copy a run of the zoo to where `ppo-plus eval`, `export` and `train --config` find all that belongs to it.

    :param source: the zoo's run folder, ``LOGS/ppo_plus/ENV_<k>``
    :param runs: folder of runs
    :return: the new folder
    :raises InvalidArgument: when it is no run of the zoo
    """
    config, inner = read_zoo_config(source), zoo_environment(source)
    assert inner is not None
    final = source / f"{inner.name}.zip"
    if not final.is_file():
        raise InvalidArgument(f"{source} holds no {final.name}; its training has not ended")
    folder = new_run_folder(runs, config.env)
    _copy(final, folder.model(best=False))
    statistics = inner / "vecnormalize.pkl"
    if statistics.is_file():
        _copy(statistics, folder.normalizer(best=False))
    best = source / "best_model.zip"
    # The zoo keeps one file of statistics, that of the end: a best model beside it would see other observations.
    if best.is_file() and not statistics.is_file():
        _copy(best, folder.model(best=True))
    if (source / "evaluations.npz").is_file():
        _copy(source / "evaluations.npz", folder.evaluations)
    config.write(folder.config, f"ppo-plus zoo import-run {source}")
    return folder.path


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
