"""One training run from its configuration to its folder."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.callbacks import EvaluateAndSave, Progress, ProgressCallback
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.machine import peak_memory, resident_memory
from sb3_ppo_plus.profiling import OTHER, ProfileReport
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters
from sb3_ppo_plus.runs.curve import draw_learning_curve
from sb3_ppo_plus.runs.envs import (
    has_image,
    is_vector,
    make_bare_training_env,
    make_eval_env,
    make_training_env,
    probe_spaces,
)
from sb3_ppo_plus.runs.folder import RunFolder, new_run_folder
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.ids import is_unity
from sb3_ppo_plus.runs.native import choose_vec_env, warn_if_slower
from sb3_ppo_plus.runs.unity import is_editor

logger = logging.getLogger(__name__)

# Training environments count their seeds up from the seed of the run; evaluation starts far from them.
_EVAL_SEED_OFFSET = 1_000_000
# Evaluation episodes that step together; enough that an evaluation takes about as long as one episode.
_EVAL_ENVS = 16


@dataclass(frozen=True)
class RunResult:
    """
    What a run came to.

    :param folder: its files
    :param before: returns of the episodes before training
    :param after: returns of the episodes of the latest evaluation
    :param evaluated_at: timestep of that evaluation
    :param num_timesteps: environment steps done
    :param seconds: wall time of the training with its evaluations
    :param steps_per_second: without the time of the evaluations
    :param interrupted: whether Ctrl-C ended it
    :param profile: where the time went, None unless it was asked for
    """

    folder: RunFolder
    before: list[float]
    after: list[float]
    evaluated_at: int
    num_timesteps: int
    seconds: float
    steps_per_second: float
    interrupted: bool
    profile: ProfileReport | None = None


@dataclass
class PreparedRun:
    """
    A run whose every part is built and checked, but which has not started.

    :param config: resolved configuration
    :param model: model with its environments
    :param eval_env: environments to evaluate in, None where there can be none
    """

    config: RunConfig
    model: PPOPlus
    eval_env: VecEnv | None

    def close(self) -> None:
        """Close the environments; a worker that Ctrl-C took with it must not hide the result."""
        for env in (self.model.get_env(), self.eval_env):
            try:
                if env is not None:
                    env.close()
            except (OSError, EOFError) as error:
                logger.debug("closing an environment failed: %s", error)


def prepare_run(config: RunConfig) -> PreparedRun:
    """
    Resolve a configuration and build its parts, so that bad input is found before a folder is made.

    :param config: configuration
    :return: the run, ready to start
    :raises InvalidArgument: when the configuration cannot work
    """
    check_device(config.device)
    built: list[VecEnv] = []
    if is_unity(config.env):
        # A game takes a while to start: what is looked at is trained in.
        check_policy_kwargs(config)
        built.append(make_bare_training_env(config))
        observation_space = built[0].observation_space
    else:
        observation_space, _ = probe_spaces(config)
    try:
        warn_if_slower(config)
        config = resolve(config, observation_space)
        if config.threads is not None:
            th.set_num_threads(config.threads)
        arguments = {**config.hyperparameters}
        arguments["policy_kwargs"] = build_policy_kwargs(arguments.get("policy_kwargs"))
        env = make_training_env(config, built[0] if built else None)
        built = [env]
        if not is_editor(config.env):
            built.append(make_eval_env(config, min(config.eval_episodes, _EVAL_ENVS), config.seed + _EVAL_SEED_OFFSET))
        model = PPOPlus(config.policy or "MlpPolicy", env, seed=config.seed, device=config.device, **arguments)
    except BaseException as refused:
        for env in built:
            env.close()
        if isinstance(refused, InvalidArgument) or not isinstance(refused, (ValueError, TypeError, AssertionError)):
            raise
        raise InvalidArgument(
            f"the configuration was refused: {' '.join(str(refused).split()) or refused!r}"
        ) from refused
    return PreparedRun(config, model, eval_env=built[1] if len(built) > 1 else None)


def check_policy_kwargs(config: RunConfig) -> None:
    """
    Refuse names that stand for nothing before a game is started.

    :param config: configuration
    :raises InvalidArgument: for an unknown name
    """
    build_policy_kwargs(config.hyperparameters.get("policy_kwargs"))


def resolve(config: RunConfig, observation_space: spaces.Space) -> RunConfig:
    """
    Decide what the configuration left open, mostly by the observation space, and write out every default.

    :param config: configuration as it was put together
    :param observation_space: of one environment
    :return: configuration in which nothing is left open
    """
    images = has_image(observation_space)
    chosen = (
        "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "CnnPolicy" if images else "MlpPolicy"
    )
    hyperparameters = complete_hyperparameters(config.hyperparameters)
    normalize: Any = config.normalize
    if normalize == "auto":
        normalize = is_vector(observation_space)
    if normalize is True or isinstance(normalize, dict):
        # The reward is scaled by the discounted return, so both must discount alike.
        normalize = {"gamma": hyperparameters["gamma"], **(normalize if isinstance(normalize, dict) else {})}
    device = config.device
    if device == "auto":
        # Small networks are faster on the CPU.
        device = "cuda" if images and th.cuda.is_available() else "cpu"
    return replace(
        config,
        vec_env=choose_vec_env(config),
        policy=config.policy or chosen,
        normalize=normalize,
        eval_freq=max(1, config.n_timesteps // 10) if config.eval_freq is None else config.eval_freq,
        device=device,
        threads=1 if config.threads is None and not images else config.threads,
        hyperparameters=hyperparameters,
    )


def train_run(
    run: PreparedRun,
    root: Path,
    command: str = "",
    report: Callable[[Progress], None] | None = None,
    verbose: bool = False,
    callbacks: list[BaseCallback] | None = None,
    on_start: Callable[[RunFolder], None] | None = None,
    profile: bool = False,
) -> RunResult:
    """
    Train, evaluate, and fill a new run folder. Ctrl-C saves the model as it is and returns.

    :param run: result of ``prepare_run``; its environments are closed at the end
    :param root: folder in which the run folder is made
    :param command: command line, noted in config.yml
    :param report: receives the numbers of a progress bar
    :param verbose: also write SB3's table to standard output
    :param callbacks: further callbacks
    :param on_start: called with the folder as soon as it exists
    :param profile: tell where the time went, in the result and in profile.txt
    :return: what the run came to
    """
    config, model = run.config, run.model
    folder = new_run_folder(root, config.env)
    config.write(folder.config, command)
    if on_start is not None:
        on_start(folder)
    model.set_logger(_logger(folder, verbose))
    evaluation = _evaluation(run, folder)
    progress = [ProgressCallback(report, evaluation)] if report is not None else []
    memory_before = resident_memory()
    model.profile.detailed |= profile
    model.profile.restart()
    started, interrupted = time.perf_counter(), False
    try:
        with model.profile.timing({"evaluation": (evaluation, "evaluate")} if evaluation is not None else {}):
            evaluations = [evaluation] if evaluation is not None else []
            model.learn(config.n_timesteps, callback=[*evaluations, *progress, *(callbacks or [])])
        if evaluation is None:
            folder.save_model(model, best=False)
    except KeyboardInterrupt:
        interrupted = True
        folder.save_model(model, best=False)
    finally:
        seconds = time.perf_counter() - started
        told = _profile_report(model, memory_before) if profile else None
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
        steps_per_second=model.num_timesteps / max(seconds - evaluating, 1e-9),
        interrupted=interrupted,
        profile=told,
    )


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
        vector_steps=model.num_timesteps // model.n_envs,
        gradient_steps=model.num_gradient_steps,
        threads=th.get_num_threads(),
        memory=memory,
    )


def check_device(device: str) -> None:
    """
    Check that a device exists; SB3 would silently use the CPU instead.

    :param device: ``auto`` or a torch device
    :raises InvalidArgument: listing the devices of this machine
    """
    cuda = [f"cuda:{index}" for index in range(th.cuda.device_count())] if th.cuda.is_available() else []
    mps = ["mps"] if th.backends.mps.is_available() else []
    there = ["auto", "cpu", *(["cuda"] if cuda else []), *cuda, *mps]
    if device not in there:
        wanted = "is not there" if re.fullmatch(r"(cuda|mps)(:\d+)?", str(device)) else "is not a device"
        raise InvalidArgument(f"device {device!r} {wanted}; this machine has {', '.join(there)}")


class _CurrentStdout:
    """Standard output as it is at the time of writing: a live progress bar puts its own in place while it runs."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _logger(folder: RunFolder, verbose: bool) -> Logger:
    """TensorBoard and CSV, and SB3's table when asked for."""
    outputs: list[KVWriter] = [CSVOutputFormat(str(folder.progress)), TensorBoardOutputFormat(str(folder.path))]
    if verbose:
        outputs.append(HumanOutputFormat(_CurrentStdout()))  # type: ignore[arg-type]
    return Logger(str(folder.path), outputs)
