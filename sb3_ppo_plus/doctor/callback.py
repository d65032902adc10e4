"""The doctor at a training: it looks once an update, tells each finding once, and acts only when it is asked to."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_plus.doctor.catalogue import CATALOGUE
from sb3_ppo_plus.doctor.env_watch import EndWatch, duplicate_envs
from sb3_ppo_plus.doctor.findings import Finding, Severity, worst
from sb3_ppo_plus.doctor.history import EVALUATION, LOOK_EVERY, NONFINITE, TRAIN, History
from sb3_ppo_plus.doctor.journal import Action, Journal, find
from sb3_ppo_plus.doctor.measures import count_nonfinite, measure_rollout
from sb3_ppo_plus.doctor.network_probe import ActorWatch, mode_layers, probe_networks
from sb3_ppo_plus.doctor.report import write_reports
from sb3_ppo_plus.doctor.rules import check_settings
from sb3_ppo_plus.doctor.settings import Settings, settings_of_model
from sb3_ppo_plus.doctor.treatment import REPAIRABLE, Treatment
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import resident_memory

logger = logging.getLogger(__name__)

_NONFINITE = CATALOGUE["nonfinite"].remedy
ACTS = ("tell", "stop", "repair")
# Updates between two looks into the networks, which take a forward pass over some rows.
_PROBE_EVERY = 10
# Updates after a repair in which the medians still hold what was before it.
_REST = 6
# Rows of a rollout from which every update is looked at, and every second one. Smaller ones are over so soon that a
# look at each of them would take more than a percent of the time; LOOK_EVERY is for them.
_EVERY_ROWS, _SECOND_ROWS = 2048, 1024
# The printed table stays the algorithm's.
_FILES_ONLY, _TABLES_ONLY = ("stdout",), ("stdout", "tensorboard")
# What TensorBoard is given too, at some ten microseconds each.
_SHOWN = frozenset(
    f"doctor/{name}"
    for name in ("saturation", "return_p99", "return_std", "advantage_max", "dead_units", "rank", "obs_constant")
)


class DoctorCallback(BaseCallback):
    """
    Tells what is wrong with a PPO training, why, and which argument to change.

    It draws no random number and changes nothing, unless ``act`` lets it. Its metrics are logged as ``doctor/...``,
    its findings as warnings, each once. It works with PPOPlus and with SB3's PPO, whose log says a little less.

    :param folder: where ``doctor.json`` and ``doctor.html`` are written, None for nowhere
    :param act: what follows from an alarm: ``tell`` logs it; ``stop`` ends the training; ``repair`` goes back to the
        last good policy and halves the learning rate, and stops after ``max_repairs``
    :param ignore: codes that are left out, of docs/doctor.md
    :param max_repairs: repairs after which an alarm ends the training, typically 3
    :raises InvalidArgument: for values that cannot work
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        act: str = "tell",
        ignore: Iterable[str] = (),
        max_repairs: int = 3,
    ) -> None:
        super().__init__()
        if act not in ACTS:
            raise InvalidArgument(f"act={act!r} is not known; give one of {', '.join(ACTS)}")
        ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        unknown = sorted(set(ignore) - CATALOGUE.keys())
        if unknown:
            raise InvalidArgument(f"ignore names {unknown[0]!r}, which is no code; see docs/doctor.md")
        if max_repairs < 0:
            raise InvalidArgument(f"max_repairs={max_repairs} is negative; give 0 to stop at the first alarm")
        self.folder = None if folder is None else Path(folder)
        self.act, self.max_repairs = act, max_repairs
        self.journal, self.history, self.ends = Journal(ignore), History(), EndWatch()
        #: seconds that it took so far, its reports included
        self.seconds = 0.0
        self._pending: dict[str, float] | None = None
        self._pending_step = 0
        self._treatment: Treatment | None = None
        self._treated: Mapping[str, Any] | None = None
        self._copies = 0.0
        self._actor = ActorWatch()
        self._stopping = self._failed = False
        self._resting = 0
        self._resumed = False
        self._last_update: float | None = None

    # ------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """:return: all that it has seen, so that a training that goes on goes on here as well"""
        return {
            "history": self.history.state_dict(),
            "settings": self.history.settings.to_mapping(),
            "journal": self.journal.state_dict(),
            "ends": self.ends.state_dict(),
            "pending": None if self._pending is None else dict(self._pending),
            "pending_step": self._pending_step,
            "actor_still": None if self._pending is None else self._actor.stands_still(),
            "treatment": {"factor": 1.0} if self._treatment is None else self._treatment.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.history = History(Settings.from_mapping(state["settings"]))
        self.history.load_state_dict(state["history"])
        self.journal.load_state_dict(state["journal"])
        self.ends.load_state_dict(state["ends"])
        pending = state["pending"]
        self._pending = None if pending is None else {name: float(value) for name, value in pending.items()}
        self._actor.remember(state["actor_still"])
        self._pending_step, self._treated, self._resumed = int(state["pending_step"]), state["treatment"], True

    # ------------------------------------------------ moments of a training

    def _on_training_start(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise InvalidArgument(f"DoctorCallback looks at PPO, and {type(self.model).__name__} is none")
        self._stopping, self._failed, self._last_update = False, False, None
        self._safely(self._begin)
        learning = getattr(self.model, "_learning", None)
        if learning is not None:
            learning.at_exit.append(self._leave)

    def _begin(self) -> None:
        """Take up what was seen before, or look at what can be seen before the first step."""
        model = self._algorithm()
        settings = settings_of_model(model)
        if self._resumed or 0 < self.history.step <= model.num_timesteps:
            self.history.settings, self._copies = settings, 0.0
        else:
            self.history, self.ends, self._pending = History(settings), EndWatch(), None
            self.journal = Journal(self.journal.ignore)
            self._copies = duplicate_envs(self.training_env, model._last_obs)
            self._tell(self.journal.note(0, [*check_settings(settings), *_check_policy(model)], at_once=True))
        self._resumed = False
        model.logger.output_formats.append(_EvaluationTap(self.history))
        if self.act == "repair":
            self._treatment = Treatment(model)
            if self._treated is not None:
                self._treatment.load_state_dict(self._treated)
        self._treated = None

    def _safely(self, work: Callable[[], None]) -> None:
        """A mistake of the doctor must not end a training that nothing else is wrong with."""
        if self._failed:
            return
        started = time.perf_counter()
        try:
            work()
        except Exception:
            self._failed = True
            logger.exception("the doctor failed, and says no more in this training, which goes on")
        self.seconds += time.perf_counter() - started

    def _on_rollout_start(self) -> None:
        self._safely(self._close_update)

    def _on_step(self) -> bool:
        if self.ends.waiting:
            dones = self.locals["dones"]
            if np.any(dones):
                self.ends.look(dones, self.locals["infos"])
        return not self._stopping

    def _on_rollout_end(self) -> None:
        self._safely(self._open_update)

    def _on_training_end(self) -> None:
        self._safely(self._close_update)
        if getattr(self.model, "_learning", None) is None:
            self._leave()

    def _leave(self) -> None:
        """The training ends, by itself or by an exception."""
        outputs = self.model.logger.output_formats
        outputs[:] = [output for output in outputs if not isinstance(output, _EvaluationTap)]
        self._safely(self._finish)

    def _finish(self) -> None:
        error = sys.exc_info()[1]
        if type(error).__name__ == "NonFinite":
            self._tell_nonfinite(1.0, "the training was ended by it")
        self._write(error, with_page=True)

    # ------------------------------------------------ an update

    def _open_update(self) -> None:
        """Measure a rollout, just before its update."""
        model = self._algorithm()
        self._pending, self._pending_step = {}, model.num_timesteps
        self._actor.take(model.policy)
        if self._looks():
            self._measure(model, self._pending)
        broken = self._pending.get(NONFINITE)
        if broken is None:
            broken = count_nonfinite(model.rollout_buffer)
        if broken:  # the update to come may not survive it
            self._tell_nonfinite(broken, "rollout")

    def _tell_nonfinite(self, count: float, detail: str) -> None:
        step = self._algorithm().num_timesteps
        finding = Finding("nonfinite", Severity.ALARM, count, 0.0, (step, step), _NONFINITE, detail)
        self._tell(self.journal.note(step, [finding]))

    def _looks(self) -> bool:
        """Whether the coming update is looked at; the log of the others is kept as well."""
        rows = self.history.settings.rows or _EVERY_ROWS
        period = 1 if rows >= _EVERY_ROWS else 2 if rows >= _SECOND_ROWS else LOOK_EVERY
        return len(self.history) % period == 0

    def _measure(self, model: OnPolicyAlgorithm, measured: dict[str, float]) -> None:
        ends, normalized = self.ends.measures(), bool(self.history.settings.normalizes_obs)
        all_cut = ends.get("doctor/truncated_share", 1.0) == 1.0
        measured |= measure_rollout(model.rollout_buffer, model.action_space, normalized, all_cut) | ends
        if self._copies:
            measured["doctor/duplicate_envs"] = self._copies
        if len(self.history) % _PROBE_EVERY == 0 and measured.get("doctor/obs_constant", 0.0) < 1.0:
            measured |= probe_networks(model.policy, model.rollout_buffer)
        for name, value in measured.items():
            model.logger.record(name, value, exclude=_FILES_ONLY if name in _SHOWN else _TABLES_ONLY)

    def _close_update(self) -> None:
        """Join what the rollout said and what its update logged, and look at it."""
        if self._pending is None:
            return
        model, values = self._algorithm(), self._pending
        self._pending = None
        logged = model.logger.name_to_value
        looked = bool(values)
        values |= {name: float(value) for name, value in logged.items() if name.startswith(TRAIN) and _is_number(value)}
        values |= self._outside(model)
        still = self._actor.stands_still()
        if still is not None:
            values["doctor/actor_still"] = float(still)
        self.history.append(self._pending_step, values)
        if not looked:
            return
        findings = find(self.history)
        told = self.journal.note(self._pending_step, findings)
        self._tell(told)
        self._act(told, self.journal.current(self._pending_step))
        if any(finding.severity >= Severity.WARNING for finding in told):
            self._write(None, with_page=False)

    def _outside(self, model: OnPolicyAlgorithm) -> dict[str, float]:
        """Returns, speed and memory."""
        values: dict[str, float] = {}
        episodes = model.ep_info_buffer
        if episodes:
            values["rollout/ep_rew_mean"] = float(sum(episode["r"] for episode in episodes)) / len(episodes)
            values["rollout/ep_len_mean"] = float(sum(episode["l"] for episode in episodes)) / len(episodes)
        now, before = time.perf_counter(), self._last_update
        self._last_update = now
        if before is not None:
            values["doctor/steps_per_second"] = model.n_steps * model.n_envs / max(now - before, 1e-9)
            model.logger.record("doctor/steps_per_second", values["doctor/steps_per_second"], exclude=_FILES_ONLY)
        values["time/time_elapsed"] = time.time_ns() / 1e9 - model.start_time / 1e9
        memory = resident_memory() if len(self.history) % _PROBE_EVERY == 0 else None
        if memory is not None:
            values["time/memory_mib"] = memory
        return values

    def _tell(self, findings: list[Finding]) -> None:
        for finding in findings:
            level = logging.INFO if finding.severity == Severity.INFO else logging.WARNING
            logger.log(level, "doctor: %s", finding.sentence())

    def _act(self, told: list[Finding], current: list[Finding]) -> None:
        """Stop or repair after an alarm; keep the state of the model after an update that nothing is wrong with."""
        alarms = [finding for finding in current if finding.severity == Severity.ALARM]
        if self.act == "stop" and alarms:
            self._stop(alarms[0].code)
        if self.act != "repair" or self._treatment is None:
            return
        repairable = [finding for finding in alarms if finding.code in REPAIRABLE]
        if self._resting > 0:
            self._resting -= 1
        elif not repairable:
            if worst([finding for finding in current if finding.code in REPAIRABLE]) != Severity.WARNING:
                self._treatment.note_good()
        elif len(self.journal.actions) >= self.max_repairs:
            self._stop(repairable[0].code)
        else:
            self._note(repairable[0].code, self._treatment.apply())
            self.journal.forgive(REPAIRABLE)
            self._resting = _REST

    def _stop(self, code: str) -> None:
        self._stopping = True
        self._note(code, "the training was stopped")

    def _note(self, code: str, what: str) -> None:
        action = Action(self._pending_step, code, what)
        self.journal.actions.append(action)
        logger.warning("doctor: at step %s because of %s: %s", f"{action.step:,}", code, what)

    def _write(self, error: BaseException | None, with_page: bool) -> None:
        if self.folder is None:
            return
        ended_by = "" if error is None else f"{type(error).__name__}: {' '.join(str(error).split())}"
        try:
            write_reports(self.folder, self.history, self.journal, ended_by, with_page)
        except OSError as failed:
            logger.warning("the doctor's report cannot be written to %s: %s", self.folder, failed)

    def _algorithm(self) -> OnPolicyAlgorithm:
        assert isinstance(self.model, OnPolicyAlgorithm)
        return self.model


def _check_policy(model: OnPolicyAlgorithm) -> list[Finding]:
    """Layers that give one thing while collecting and another while learning."""
    layers = mode_layers(model.policy)
    if not layers:
        return []
    remedy = CATALOGUE["ratio-start"].remedy
    return [Finding("ratio-start", Severity.WARNING, float(len(layers)), 0.0, (0, 0), remedy, ", ".join(layers[:4]))]


class _EvaluationTap(KVWriter):
    """Hears every line of the log, and keeps the evaluations."""

    def __init__(self, history: History) -> None:
        self.history = history

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        :param key_values: figures by name
        :param key_excluded: outputs that do not want them
        :param step: timestep
        """
        if _is_number(key_values.get(EVALUATION)):
            self.history.add_evaluation(step, float(key_values[EVALUATION]))

    def close(self) -> None:
        """There is nothing to close."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.floating, np.integer))
