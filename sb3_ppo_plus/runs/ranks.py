"""A run of several ranks: what differs from rank to rank, and finding the run again after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.checkpoint.saving import checkpoints_in
from sb3_ppo_plus.distributed import current_ranks
from sb3_ppo_plus.distributed.trees import gather_trees
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.folder import RunFolder


@dataclass(frozen=True)
class Launch:
    """
    Who started the processes of a run, so that they find it when they are started again.

    :param key: the launcher: the same after a restart, and of no other launcher
    :param restarts: how often it has started them again
    """

    key: str
    restarts: int


def leads() -> bool:
    """:return: whether this process writes files: rank 0, or a process alone"""
    ranks = current_ranks()
    return ranks is None or ranks.is_first


def config_of_this_rank(config: RunConfig) -> RunConfig:
    """
    Give the environments of each rank seeds, and games ports, of their own.

    :param config: configuration of the run
    :return: the one to make this rank's environments of
    """
    ranks = current_ranks()
    if ranks is None:
        return config
    offset = ranks.rank * config.n_envs
    kwargs = dict(config.env_kwargs)
    if isinstance(kwargs.get("base_port"), int):
        kwargs["base_port"] += offset
    return replace(config, seed=config.seed + offset, env_kwargs=kwargs)


def decided_by_first(decide: Callable[[], Path | None]) -> Path | None:
    """
    :param decide: gives a path, on rank 0
    :return: what it gave, on all ranks
    """
    ranks = current_ranks()
    if ranks is None:
        return decide()
    path = decide() if ranks.is_first else None
    answer = gather_trees(ranks, None if path is None else str(path))[0]
    return None if answer is None else Path(answer)


def note_launch(folder: RunFolder, launch: Launch, command: str) -> None:
    """
    Write down who started a run.

    :param folder: its folder
    :param launch: who started it
    :param command: command line
    """
    atomic_write(folder.launch, json.dumps({"launcher": launch.key, "command": command}) + "\n")


def find_launched(root: Path, launch: Launch, command: str) -> Path | None:
    """
    Find the run that an earlier start by the same launcher has left, with the same command.

    :param root: folder of run folders
    :param launch: who starts this one
    :param command: command line
    :return: the newest such run that has a checkpoint, None when there is none or this is the first start
    """
    if launch.restarts < 1 or not root.is_dir():
        return None
    found = []
    for path in root.iterdir():
        folder = RunFolder(path)
        try:
            note = json.loads(folder.launch.read_text(encoding="utf-8"))
            same = (note["launcher"], note["command"]) == (launch.key, command)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same and checkpoints_in(folder.checkpoints):
            found.append((folder.launch.stat().st_mtime, path))
    return max(found)[1] if found else None
