"""Studies in a storage: made with their trials waiting in it, opened, and prolonged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.tuning.samplers import grid_draws
from sb3_ppo_plus.tuning.settings import PAPER_IMAGES, PAPER_VECTORS, SB3_DEFAULTS, draws_of
from sb3_ppo_plus.tuning.spec import StudySpec, spec_from_json
from sb3_ppo_plus.tuning.storage import hidden, open_storage, quiet_optuna

SPEC = "spec"
STOPPED = "stopped"
SEED, ORIGIN, JOB, SETTINGS, EVALUATIONS, RETRY = "seed", "origin", "job", "settings", "evaluations", "retry_of"
# The confirmation of a study is a study beside it.
CONFIRMATION = "--confirmation"


@dataclass
class Opened:
    """
    A study that is open.

    :param study: Optuna's study
    :param spec: what its trials are
    :param storage: its storage
    :param url: where it is
    """

    study: optuna.Study
    spec: StudySpec
    storage: BaseStorage
    url: str

    @property
    def name(self) -> str:
        """Its name in the storage."""
        return self.study.study_name

    @property
    def study_id(self) -> int:
        """Its id in the storage."""
        return self.storage.get_study_id_from_name(self.study.study_name)

    @property
    def confirms(self) -> bool:
        """Whether it is the confirmation of another one."""
        return self.name.endswith(CONFIRMATION)

    def stopped(self) -> str:
        """
        :return: why the study stopped itself, empty while it goes on
        """
        return str(self.storage.get_study_user_attrs(self.study_id).get(STOPPED) or "")

    def stop(self, reason: str) -> None:
        """
        :param reason: why no further trial begins; empty lets them begin again
        """
        self.storage.set_study_user_attr(self.study_id, STOPPED, reason)

    def count(self, *states: TrialState) -> int:
        """
        :param states: states to count, none for all
        :return: number of trials
        """
        return len(self.storage.get_all_trials(self.study_id, deepcopy=False, states=states or None))


def create_study(url: str, spec: StudySpec) -> Opened:
    """
    Make a study without trials.

    :param url: where
    :param spec: what its trials are
    :return: the study
    :raises InvalidArgument: when there is one of that name
    """
    quiet_optuna()
    storage = open_storage(url, create=True)
    return _create(storage, url, spec.name, spec)


def open_study(url: str, name: str | None = None) -> Opened:
    """
    Open a study.

    :param url: where it is
    :param name: its name; None for the only one there is
    :return: the study
    :raises InvalidArgument: when there is none of that name, or it was not made by this package
    """
    quiet_optuna()
    storage = open_storage(url)
    names = [entry.study_name for entry in storage.get_all_studies()]
    own = [entry for entry in names if not entry.endswith(CONFIRMATION)]
    if name is None:
        if len(own) != 1:
            raise InvalidArgument(f"{hidden(url)} holds {', '.join(own) or 'no study'}; name one with --study-name")
        name = own[0]
    if name not in names:
        hint = did_you_mean(name, own) or f"there is {', '.join(own) or 'none'}"
        raise InvalidArgument(f"there is no study {name!r} in {hidden(url)}; {hint}")
    spec = spec_from_json(_attribute(storage, name, SPEC), f"study {name!r} in {hidden(url)}")
    return _opened(storage, url, name, spec)


def exists(url: str, name: str) -> bool:
    """
    :param url: where
    :param name: name of a study
    :return: whether it is there
    :raises InvalidArgument: when the storage cannot be opened; a missing file is no error
    """
    storage = open_storage(url, create=True)
    return name in [entry.study_name for entry in storage.get_all_studies()]


def open_confirmation(opened: Opened, create: bool = False) -> Opened | None:
    """
    Open the study in which another one is confirmed.

    :param opened: the study
    :param create: make it when it is missing
    :return: its confirmation, None when there is none
    """
    name = opened.name + CONFIRMATION
    if name not in [entry.study_name for entry in opened.storage.get_all_studies()]:
        return _create(opened.storage, opened.url, name, opened.spec) if create else None
    return _opened(opened.storage, opened.url, name, opened.spec)


def prolong(opened: Opened, n_trials: int) -> int:
    """
    Let a study have at least so many trials. All of them wait in the storage from the start, so that the number is
    exact however many workers there are; what they draw is decided when they begin.

    :param opened: the study
    :param n_trials: trials in total
    :return: how many were added
    """
    there = opened.count()
    first = _first_trials(opened.spec)
    for index in range(there, n_trials):
        origin, draws = first[index] if index < len(first) else ("", {})
        attributes = {SEED: opened.spec.seeds[index % len(opened.spec.seeds)], ORIGIN: origin}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            opened.study.enqueue_trial(draws, user_attrs=attributes)
    return max(0, n_trials - there)


def retry_failed(opened: Opened) -> int:
    """
    Add a trial with the same draws for each that failed, unless that was done before.

    :param opened: the study
    :return: how many were added
    """
    trials = opened.study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY) for trial in trials}
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and trial.number not in retried]
    for trial in failed:
        attributes = {SEED: trial.user_attrs[SEED], ORIGIN: trial.user_attrs.get(ORIGIN, ""), RETRY: trial.number}
        opened.study.enqueue_trial(dict(trial.params), user_attrs=attributes)
    return len(failed)


def add_jobs(opened: Opened, jobs: Sequence[dict[str, Any]]) -> None:
    """
    Add trainings whose configuration is given.

    :param opened: a confirmation
    :param jobs: for each a ``candidate``, a ``stage``, a ``seed`` and a ``config``
    """
    for job in jobs:
        opened.study.enqueue_trial({}, user_attrs={SEED: job["seed"], JOB: job})


def origins(spec: StudySpec) -> dict[str, dict[str, Any]]:
    """
    :param spec: a study
    :return: known configurations by where they come from
    """
    images = "Cnn" in str(spec.base.get("policy")) or "(3, " in str((spec.environment or {}).get("observation_space"))
    return {"zoo": spec.base, "sb3": SB3_DEFAULTS, "paper": PAPER_IMAGES if images else PAPER_VECTORS}


def _first_trials(spec: StudySpec) -> list[tuple[str, dict[str, Any]]]:
    """Known configurations, each draw once, then the grid if that is what is searched."""
    space = spec.read_space()
    if spec.sampler == "grid":
        return [("grid", draws) for draws in grid_draws(space)]
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for origin, values in origins(spec).items():
        draws = draws_of(space, values)
        found.setdefault(json.dumps(draws, sort_keys=True), ([], draws))[0].append(origin)
    return [(", ".join(names), draws) for names, draws in found.values()]


def _create(storage: BaseStorage, url: str, name: str, spec: StudySpec) -> Opened:
    directions = [StudyDirection.MAXIMIZE if more else StudyDirection.MINIMIZE for more in spec.goal.maximize]
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    except DuplicatedStudyError as error:
        raise InvalidArgument(
            f"there is a study {name!r} in {hidden(url)} already; go on with `ppo-plus tune resume`, or give another "
            "--study-name"
        ) from error
    study.set_user_attr(SPEC, spec.to_json())
    return Opened(study, spec, storage, url)


def _opened(storage: BaseStorage, url: str, name: str, spec: StudySpec) -> Opened:
    return Opened(optuna.load_study(study_name=name, storage=storage), spec, storage, url)


def _attribute(storage: BaseStorage, name: str, key: str) -> Any:
    return storage.get_study_user_attrs(storage.get_study_id_from_name(name)).get(key)
