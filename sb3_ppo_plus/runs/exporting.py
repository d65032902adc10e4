"""Export and verification of what lies on the disk: run folders and zips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.export.api import ExportReport, check_arguments, export_onnx
from sb3_ppo_plus.export.metadata import store_verification
from sb3_ppo_plus.export.spec import Origin
from sb3_ppo_plus.export.variants import VariantReport, check_variant, write_variant
from sb3_ppo_plus.export.verify import Verification, verify_onnx
from sb3_ppo_plus.files.normalizer import read_normalizer
from sb3_ppo_plus.runs.config import config_from_mapping
from sb3_ppo_plus.runs.evaluate import Agent, load_agent, model_path
from sb3_ppo_plus.runs.folder import RunFolder
from sb3_ppo_plus.runs.models import load_model
from sb3_ppo_plus.runs.native import task_kwargs
from sb3_ppo_plus.runs.values import read_yaml


@dataclass(frozen=True)
class Source:
    """
    A model on the disk with what belongs to it.

    :param path: its zip
    :param model: the model
    :param agent: model with its environment, None when nothing tells which one that is
    :param normalizer: statistics, for a model without an environment
    """

    path: Path
    model: BaseAlgorithm
    agent: Agent | None
    normalizer: VecNormalize | None

    @property
    def make_env(self) -> Callable[[int, int], VecEnv] | None:
        """From a number of environments and a seed to environments as the model knows them."""
        return self.agent.make_env if self.agent is not None else None

    def origin(self) -> Origin:
        """
        :return: what the metadata tells of it
        """
        folder = RunFolder(self.path.parent)
        # What was trained in, even where the proof plays another environment (--env).
        config = config_from_mapping(read_yaml(folder.config)) if folder.config.is_file() else None
        config = config or (self.agent.config if self.agent is not None else None)
        return Origin(
            checkpoint=self.path.name,
            sha256=hashlib.sha256(self.path.read_bytes()).hexdigest(),
            env_id=config.env if config is not None else None,
            env_kwargs=task_kwargs(config) if config is not None else {},
            env_wrapper=config.env_wrapper if config is not None else None,
            mean_return=_evaluated(folder, best=self.path.name == folder.model(best=True).name),
            run_path=folder.path.name if folder.config.is_file() else None,
        )


def open_source(source: Path, env_id: str | None = None, best: bool = True, trust: bool = False) -> Source:
    """
    :param source: run folder or zip
    :param env_id: environment, None for that of a config.yml beside the zip, or none
    :param best: which model of a run folder
    :param trust: whether what is in the files may be run, see :func:`~sb3_ppo_plus.runs.models.load_model`
    :return: the model with what belongs to it
    :raises InvalidArgument: when something is missing or does not fit
    """
    path = model_path(source, best)
    folder = RunFolder(path.parent)
    if env_id is not None or folder.config.is_file():
        agent = load_agent(path, env_id, best, trust=trust)
        return Source(path, agent.model, agent, None)
    statistics = folder.normalizer(best=path.name == folder.model(best=True).name)
    normalizer = read_normalizer(statistics, trust) if statistics.is_file() else None
    return Source(path, load_model(path, trust=trust), None, normalizer)


@contextmanager
def _wrapped(source: Source) -> Iterator[VecEnv | None]:
    """One environment with its wrappers, to read from; None without one."""
    env = source.make_env(1, 0) if source.make_env is not None else None
    try:
        yield env
    finally:
        if env is not None:
            env.close()


def export_source(
    source: Source,
    path: Path,
    target: str = "generic",
    opset: int | None = None,
    stochastic: bool = False,
    values: bool = False,
    metadata: Mapping[str, Any] | None = None,
    n_episodes: int = 20,
) -> ExportReport:
    """
    Export a model from the disk, with everything that is known about it.

    :param source: result of :func:`open_source`
    :param path: file to write
    :param target: ``generic``, ``robot`` or ``mlagents``
    :param opset: version of ONNX's operators, None for the target's
    :param stochastic: also give drawn actions
    :param values: also give the critic's opinion
    :param metadata: entries of the user
    :param n_episodes: episodes of the proof
    :return: what was written, with the proof
    """
    check_arguments(path, target, opset, stochastic, values)
    with _wrapped(source) as env:
        return export_onnx(
            source.model,
            path,
            target,
            env=env,
            normalizer=source.normalizer,
            opset=opset,
            stochastic=stochastic,
            values=values,
            metadata=metadata,
            origin=source.origin(),
            make_env=source.make_env,
            n_episodes=n_episodes,
        )


def shrink(source: Source, path: Path, size: str, n_episodes: int = 20) -> VariantReport:
    """
    Write a smaller variant beside a file, with the return that it loses.

    :param source: model that the file was made from, with its environment
    :param path: the file
    :param size: ``fp16`` or ``int8``
    :param n_episodes: episodes to measure the return over
    :return: what was written and what it loses
    :raises InvalidArgument: without an environment, because the loss could not be told
    """
    if source.make_env is None:
        raise InvalidArgument(f"{source.path} has no environment to measure the loss of return in; give one")
    return write_variant(path, size, source.model, source.make_env, n_episodes)


def check_size(size: str, source: Source, target: str, opset: int) -> None:
    """
    :param size: ``fp32``, or a variant
    :param source: model with or without its environment
    :param target: target of the float32 file
    :param opset: its opset
    :raises InvalidArgument: for a size that cannot be, or one whose loss cannot be measured
    """
    if size == "fp32":
        return
    check_variant(size, target, opset)
    if source.make_env is None:
        raise InvalidArgument(
            f"size {size} is written together with the return that it loses, and there is no environment to measure it "
            "in; give --env, or export from the run folder"
        )


def verify_source(
    source: Source, path: Path, n_random: int = 1000, n_episodes: int = 20, seed: int = 3_000_000, store: bool = True
) -> Verification:
    """
    Compare a file with a model on the disk.

    :param source: result of :func:`open_source`
    :param path: ONNX file
    :param n_random: random observations
    :param n_episodes: episodes that each of them plays
    :param seed: seed of observations and episodes
    :param store: whether the summary is written into the file's metadata
    :return: what was found
    """
    with _wrapped(source) as env:
        found = verify_onnx(
            path, source.model, env, source.make_env, source.normalizer, n_random, n_episodes, seed=seed
        )
    if store:
        store_verification(path, found.summary())
    return found


def _evaluated(folder: RunFolder, best: bool) -> float | None:
    """Mean return of the evaluation that a model was kept for, None when there was none."""
    if not folder.evaluations.is_file():
        return None
    with np.load(folder.evaluations) as evaluations:
        means = evaluations["results"].mean(axis=1)
    return float(means.max() if best else means[-1]) if len(means) else None
