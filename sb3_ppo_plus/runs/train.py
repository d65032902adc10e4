"""One training run from its configuration to its folder, and one that was interrupted to its end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.callbacks import EvaluateAndSave, Progress, ProgressCallback
from sb3_ppo_plus.checkpoint.api import resume
from sb3_ppo_plus.checkpoint.logs import open_log
from sb3_ppo_plus.checkpoint.saving import SaveCheckpoints, checkpoints_in
from sb3_ppo_plus.checkpoint.signals import Preempted
from sb3_ppo_plus.doctor import DoctorCallback, Finding, Severity
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument, UntrustedFile
from sb3_ppo_plus.machine import peak_memory, resident_memory
from sb3_ppo_plus.profiling import OTHER, ProfileReport
from sb3_ppo_plus.runs.curve import draw_learning_curve
from sb3_ppo_plus.runs.folder import RunFolder, new_run_folder
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import PreparedRun, prepare_run
from sb3_ppo_plus.runs.ranks import Launch, decided_by_first, leads, note_launch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """
    What a run came to.

    :param folder: its files
    :param before: returns of the episodes before training
    :param after: returns of the episodes of the latest evaluation
    :param evaluated_at: timestep of that evaluation
    :param num_timesteps: environment steps done
    :param seconds: wall time of the training with its evaluations, since it was started or resumed
    :param steps_per_second: without the time of the evaluations
    :param signal: number of the signal that ended it, None when it came to its end
    :param profile: where the time went, None unless it was asked for
    :param findings: what the doctor warns of, the worst first
    """

    folder: RunFolder
    before: list[float]
    after: list[float]
    evaluated_at: int
    num_timesteps: int
    seconds: float
    steps_per_second: float
    signal: int | None
    profile: ProfileReport | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def interrupted(self) -> bool:
        """:return: whether a signal ended it"""
        return self.signal is not None


@dataclass(frozen=True)
class Options:
    """
    What does not change the outcome of a run.

    :param report: receives the numbers of a progress bar
    :param verbose: also write SB3's table to standard output
    :param callbacks: further callbacks
    :param on_start: called with the folder as soon as the run has one
    :param profile: tell where the time went, in the result and in profile.txt
    :param keep_checkpoints: how many of the newest checkpoints stay, 0 for none
    :param doctor: let the doctor watch, and write its report
    :param launch: who started the ranks of this run, None for a process alone
    :param trust: run the code that is in checkpoints, see ``PPOPlus.load``
    """

    report: Callable[[Progress], None] | None = None
    verbose: bool = False
    callbacks: tuple[BaseCallback, ...] = ()
    on_start: Callable[[RunFolder], None] | None = None
    profile: bool = False
    keep_checkpoints: int = 2
    doctor: bool = True
    launch: Launch | None = None
    trust: bool = False


def train_run(run: PreparedRun, root: Path, command: str = "", options: Options | None = None) -> RunResult:
    """
    Train, evaluate, and fill a new run folder. A signal saves the model as it was after its last update and returns.

    Of several ranks the first one does all of that, and the others learn with it.

    :param run: result of ``prepare_run``; its environments are closed at the end
    :param root: folder in which the run folder is made
    :param command: command line, noted in config.yml
    :param options: what does not change the outcome
    :return: what the run came to
    """
    options = options or Options()

    def make_folder() -> Path:
        folder = new_run_folder(root, run.config.env)
        run.config.write(folder.config, command)
        if options.launch is not None:
            note_launch(folder, options.launch, command)
        return folder.path

    try:
        path = decided_by_first(make_folder)
        assert path is not None
    except BaseException:
        run.close()
        raise
    return _train(run, RunFolder(path), options, after=None)


def resume_run(path: Path, n_timesteps: int | None = None, options: Options | None = None) -> RunResult:
    """
    Go on with a run where its newest checkpoint lies, in the same folder.

    :param path: run folder
    :param n_timesteps: environment steps in total, None for those of the run; other schedules follow from other steps
    :param options: what does not change the outcome
    :return: what the run came to
    :raises InvalidArgument: when there is nothing to go on with, or another process is at it
    """
    folder, options = RunFolder(path), options or Options()
    if not folder.config.is_file():
        raise InvalidArgument(f"{path} is no run folder: it has no {folder.config.name}")
    config = assemble(None, folder.config, [], {} if n_timesteps is None else {"n_timesteps": n_timesteps})
    found = checkpoints_in(folder.checkpoints)
    if not found:
        raise InvalidArgument(f"{path} has no checkpoint in {folder.checkpoints.name}/ to go on from; train anew")
    if found[0][0] >= config.n_timesteps:
        raise InvalidArgument(
            f"{path} has finished its {config.n_timesteps:,} steps; give more with -n, or look at it with "
            f"`ppo-plus eval {path}`"
        )
    run = prepare_run(config)
    try:
        run.model, after = _load_newest(run, [file for _, file in found], options.trust)
        if n_timesteps is not None and leads():
            config.write(folder.config, "")
    except BaseException:
        run.close()
        raise
    return _train(run, folder, options, after)


def _load_newest(run: PreparedRun, files: list[Path], trust: bool) -> tuple[PPOPlus, int]:
    """The newest checkpoint that is whole."""
    env = run.model.get_env()
    assert env is not None
    for position, file in enumerate(files):
        try:
            model = resume(file, env, device=run.config.device, trust=trust)
        except UntrustedFile:
            raise
        except DamagedFile as damage:
            if position == len(files) - 1:
                raise
            logger.warning("%s; the one before it is taken", damage)
            continue
        return model, model.num_timesteps
    raise AssertionError("no file was given")


def _train(run: PreparedRun, folder: RunFolder, options: Options, after: int | None) -> RunResult:
    """From the first step, or the one after a checkpoint, to the files of the run."""
    if not leads():
        return _follow(run, folder, options)
    config, model = run.config, run.model
    evaluation = _evaluation(run, folder)
    doctor = DoctorCallback(folder.path) if options.doctor else None
    memory_before = resident_memory()
    started, first, ended_by = time.perf_counter(), model.num_timesteps, None
    told: ProfileReport | None = None
    try:
        with folder.claimed():
            if options.on_start is not None:
                options.on_start(folder)
            formats = ["csv", "tensorboard", *(["stdout"] if options.verbose else [])]
            model.set_logger(open_log(folder.path, formats, after))
            model.profile.detailed |= options.profile
            model.profile.restart()
            started = time.perf_counter()
            with model.profile.timing({"evaluation": (evaluation, "evaluate")} if evaluation is not None else {}):
                ended_by = _learn(run, folder, (doctor, evaluation), options)
            if evaluation is None or ended_by is not None:
                folder.save_model(model, best=False)
    finally:
        seconds = time.perf_counter() - started
        told = _profile_report(model, memory_before) if options.profile else None
        # What ends here by an exception keeps the files of the latest evaluation.
        if evaluation is not None and evaluation.evaluations_timesteps:
            draw_learning_curve(folder, f"{config.env} (seed {config.seed})")
        model.logger.close()
        run.close()
    if told is not None:
        atomic_write(folder.profile, told.table() + "\n")
    results, evaluating = (evaluation.evaluations_results, evaluation.seconds) if evaluation is not None else ([], 0.0)
    return RunResult(
        folder=folder,
        before=results[0] if results else [],
        after=results[-1] if results else [],
        evaluated_at=evaluation.evaluations_timesteps[-1] if evaluation is not None and results else 0,
        num_timesteps=model.num_timesteps,
        seconds=seconds,
        steps_per_second=(model.num_timesteps - first) / max(seconds - evaluating, 1e-9),
        signal=ended_by,
        profile=told,
        findings=() if doctor is None else tuple(doctor.journal.findings(Severity.WARNING)),
    )


def _follow(run: PreparedRun, folder: RunFolder, options: Options) -> RunResult:
    """Learn as a rank that writes nothing."""
    started, first = time.perf_counter(), run.model.num_timesteps
    try:
        ended_by = _learn(run, folder, (None, None), replace(options, report=None))
    finally:
        run.close()
    seconds, steps = time.perf_counter() - started, run.model.num_timesteps
    return RunResult(folder, [], [], 0, steps, seconds, (steps - first) / max(seconds, 1e-9), ended_by)


def _learn(
    run: PreparedRun, folder: RunFolder, first: tuple[DoctorCallback | None, EvaluateAndSave | None], options: Options
) -> int | None:
    """Learn; gives the number of the signal that ended it, None when it came to its end."""
    # The doctor before the evaluation, which writes the numbers of the last update to the log and forgets them.
    callbacks: list[BaseCallback] = [callback for callback in first if callback is not None]
    evaluation = first[1]
    if options.report is not None:
        callbacks.append(ProgressCallback(options.report, evaluation))
    callbacks += options.callbacks
    if options.keep_checkpoints > 0:
        # The last: what the others did in a step is done when a signal ends the training in it.
        callbacks.append(SaveCheckpoints(folder.checkpoints, keep=options.keep_checkpoints))
    try:
        run.model.learn(run.config.n_timesteps, callback=callbacks)
    except KeyboardInterrupt:
        return int(signal.SIGINT)
    except Preempted as preempted:
        return int(preempted.signal)
    return None


def _evaluation(run: PreparedRun, folder: RunFolder) -> EvaluateAndSave | None:
    if run.eval_env is None:
        logger.warning("%s cannot be evaluated beside the training; the model is saved at the end", run.config.env)
        return None
    return EvaluateAndSave(
        run.eval_env,
        save=lambda best: folder.save_model(run.model, best),
        path=folder.evaluations,
        n_eval_episodes=run.config.eval_episodes,
        eval_freq=run.config.eval_freq or 0,
    )


def _profile_report(model: PPOPlus, memory_before: float | None) -> ProfileReport:
    """What the clock of a model says now, at the end of its training."""
    model.profile.switch(OTHER)
    # in this order: the peak is never below what is held
    memory = (memory_before, resident_memory(), peak_memory())
    return ProfileReport(
        seconds=model.profile.totals,
        wall=model.profile.wall,
        vector_steps=model.num_timesteps // (model.n_envs * (1 if model._ranks is None else model._ranks.size)),
        gradient_steps=model.num_gradient_steps,
        threads=th.get_num_threads(),
        memory=memory,
    )
