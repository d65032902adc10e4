"""Save a training so that it can go on exactly, and go on."""

from __future__ import annotations

import glob
import io
import logging
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch as th
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ppo_plus.atomic import remove_strays
from sb3_ppo_plus.checkpoint.callback_states import CallbackStates, put_back
from sb3_ppo_plus.checkpoint.container import read_container, write_container
from sb3_ppo_plus.checkpoint.generators import generators_untouched, set_generator_states
from sb3_ppo_plus.checkpoint.logs import reopen_log
from sb3_ppo_plus.checkpoint.state import TrainingState, capture, put_into, versions
from sb3_ppo_plus.compiled import CannotCompile, CompiledUpdate
from sb3_ppo_plus.distributed.states import own_share
from sb3_ppo_plus.envs.state import restore_env
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.files.archives import NamedStream

if TYPE_CHECKING:
    from sb3_ppo_plus.ppo_plus import PPOPlus

logger = logging.getLogger(__name__)


class CannotSave(InvalidArgument):
    """A checkpoint cannot be written; the message names file and reason, and the file that was there is as it was."""


def save_checkpoint(model: PPOPlus, path: str | os.PathLike[str]) -> list[str]:
    """
    Write a file from which the training goes on as if it had never stopped.

    It holds the model as ``model.save()`` writes it, and beside it everything else that the next step depends on: the
    state of the environments with their normalizer, the random generators, the last observations, counters, controllers
    and callbacks. SB3's ``PPO.load`` and ``PPOPlus.load`` open it too. Between two calls of ``learn()``, and in a
    callback's ``on_rollout_start()``, the moment is one from which going on is exact; within a rollout it is not, and
    :class:`~sb3_ppo_plus.checkpoint.SaveCheckpoints` chooses the moment by itself.

    :param model: the model, with its environments
    :param path: file, ".zip" is added when it has no suffix; it is replaced whole or not at all
    :return: why going on will not be exact, one line per reason; empty when it will be
    :raises CannotSave: when the file cannot be written, or the model holds what cannot be saved
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.zip")
    callback = model._learning.callback if model._learning is not None else None
    state = capture(model, CallbackStates(callback) if callback is not None else None)
    if model._ranks is not None:
        state.inexact.append("it holds the state of one rank alone; SaveCheckpoints keeps those of all")
    for reason in state.inexact:
        logger.warning("%s: going on from it will not be exact: %s", path, reason)
    write_state(model, state, path)
    target = Path(os.path.realpath(path))
    remove_strays(target.parent, glob.escape(target.stem), target.suffix)
    return state.inexact


def write_state(model: PPOPlus, state: TrainingState, path: Path) -> None:
    """
    Write a state, and the parameters that the model has now.

    :param model: the model
    :param state: its state
    :param path: file
    :raises CannotSave: when that is not possible
    """
    buffer = io.BytesIO()
    notes = {"versions": versions(), "inexact": state.inexact, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    try:
        model.save(buffer)
        write_container(path, buffer.getvalue(), state.tree, notes)
    except OSError as error:
        raise CannotSave(f"the checkpoint {path} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        # Whatever a user hung on the model or gave as a state: pickling raises what it likes.
        raise CannotSave(
            f"the checkpoint {path} cannot be written, for the model holds what cannot be saved: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def resume(
    path: str | os.PathLike[str],
    env: GymEnv | str,
    device: th.device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    **kwargs: Any,
) -> PPOPlus:
    """
    Open a checkpoint to go on with the training.

    The environments are made by the caller, as for the training that was saved; they are put into the state in which
    they were. ``learn()`` with the ``total_timesteps`` and the callbacks of the interrupted call then goes on with it
    and ends where it would have ended. The random generators of the process take the state that was saved when
    ``learn()`` is called; opening a checkpoint does not touch them.

    The bits are equal on the same machine, with the same versions and the same number of threads.

    :param path: file that :func:`save_checkpoint` wrote
    :param env: environments, made and wrapped like those of the training, or a Gymnasium id where they were one
    :param device: device to train on
    :param custom_objects: replacements of what the file cannot give back without running code, see ``PPOPlus.load``
    :param kwargs: further arguments of ``PPOPlus.load``, such as ``trust``
    :return: the model
    :raises UntrustedFile: when the model holds something that only running the file's code could give
    :raises DamagedFile: for a file that is not whole
    :raises InvalidArgument: for a model without the state of its training, a newer format, or other environments
    """
    from sb3_ppo_plus.ppo_plus import PPOPlus

    path = Path(path)
    try:
        content, tree, manifest = read_container(path)
    except OSError as error:
        raise InvalidArgument(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    with generators_untouched():
        model = PPOPlus.load(NamedStream(content, path), maybe_make_env(env, 0), device, custom_objects, **kwargs)
        tree, inexact = own_share(tree, model._ranks)
    try:
        assert model.env is not None
        if tree["env"] is not None:
            restore_env(model.env, tree["env"])
        put_into(model, tree)
        rest = _Rest(model, tree)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFile(path, "ppo_plus/state.json", f"{type(error).__name__}: {error}") from error
    model._continuation = rest
    _tell_differences(path, tree, manifest, inexact)
    return model


class _Rest:
    """What the next call of ``learn()`` gets from a checkpoint."""

    def __init__(self, model: PPOPlus, tree: Mapping[str, Any]) -> None:
        self._model, self._tree = model, tree
        learning = tree["learning"]
        self.first_timestep: int | None = None if learning is None else learning["first_timestep"]
        self.iterations: int = 0 if learning is None else learning["iterations"]

    def before_learning(self) -> None:
        model, tree = self._model, self._tree
        if self.first_timestep is None:
            set_generator_states(tree["generators"])
        if tree["compiled"] and model.compile_update is not False and model._update_passes is None:
            try:
                model._update_passes = CompiledUpdate(model.policy, model.critic_epochs > 0)
            except CannotCompile as reason:
                logger.warning("the update was compiled before the checkpoint and cannot be now: %s", reason)

    def with_callbacks(self, callback: BaseCallback) -> None:
        model, folder = self._model, self._tree["log_folder"]
        if folder is not None and not model._custom_logger:
            model._logger = reopen_log(model.logger, folder, self._tree["counters"]["num_timesteps"])
        put_back(callback, self._tree["callbacks"], tell=True)

    def at_rollout(self, callback: BaseCallback | None) -> None:
        if self.first_timestep is None:
            return
        # Once more: what callbacks did when they were told that training starts, they had done before.
        if callback is not None:
            put_back(callback, self._tree["callbacks"])
        model = self._model
        # Speed and elapsed time are those of the whole call.
        model.start_time = time.time_ns() - int(self._tree["seconds"] * 1e9)
        model._num_timesteps_at_start = self.first_timestep
        log = model.logger
        for name, entry in self._tree["log"].items():
            log.name_to_value[name] = entry["value"]
            log.name_to_count[name] = entry["count"]
            log.name_to_excluded[name] = tuple(entry["excluded"])
        set_generator_states(self._tree["generators"])


def _tell_differences(path: Path, tree: Mapping[str, Any], manifest: Mapping[str, Any], inexact: Sequence[str]) -> None:
    """Whatever changes the bits is told once."""
    for reason in (*manifest.get("inexact", ()), *inexact):
        logger.warning("going on from %s is not exact: %s", path, reason)
    if tree["threads"] != th.get_num_threads():
        logger.warning(
            "going on from %s with %d torch threads instead of %d changes the last bits; torch.set_num_threads(%d) "
            "keeps them",
            *(path, th.get_num_threads(), tree["threads"], tree["threads"]),
        )
    written, now = manifest.get("versions", {}), versions()
    changed = [f"{name} {now[name]} instead of {old}" for name, old in written.items() if now.get(name, old) != old]
    if changed:
        logger.warning("going on from %s with %s may change the last bits", path, ", ".join(changed))


def is_checkpoint(path: Path) -> bool:
    """
    :param path: a file
    :return: whether it looks like one, from the names of its members alone
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return "ppo_plus/manifest.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
