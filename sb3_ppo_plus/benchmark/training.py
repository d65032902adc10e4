"""One run of a benchmark: trained as ``ppo-plus train`` trains, and measured."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.benchmark.plan import sb3_arguments
from sb3_ppo_plus.benchmark.results import Curve, RunPlace
from sb3_ppo_plus.callbacks import EvaluateAndSave
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.folder import RunFolder
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.native import choose_vec_env
from sb3_ppo_plus.runs.prepare import prepare_run
from sb3_ppo_plus.schedules import parse_schedule

#: bins of a learning curve
BINS = 100
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")


class NotFinite(Exception):
    """A return that is no number."""


@dataclass(frozen=True)
class Standing:
    """
    Where a run stands.

    :param steps: environment steps done
    :param total: environment steps in total
    :param seconds: training time, evaluations not counted
    :param mean_return: mean return of the latest training episodes, None before the first one ended
    """

    steps: int
    total: int
    seconds: float
    mean_return: float | None


class _Episodes(deque[Any]):
    """SB3's buffer of the latest episodes, which also tells of each one that is put in."""

    def __init__(self, there: Iterable[Any], maxlen: int | None, told: Callable[[float], None]) -> None:
        super().__init__(there, maxlen)
        self.told = told

    def extend(self, entries: Iterable[Any]) -> None:
        """:param entries: statistics of episodes"""
        entries = list(entries)
        for entry in entries:
            self.told(float(entry["r"]))
        super().extend(entries)


class Recorder(BaseCallback):
    """
    Notes the return of every training episode with its step and time, and tells where the run stands.

    :param evaluation: callback whose time is not counted
    :param tell: receives where the run stands
    :param interval: seconds between two times that it is told
    """

    def __init__(self, evaluation: EvaluateAndSave, tell: Callable[[Standing], None], interval: float = 0.5) -> None:
        super().__init__()
        self.evaluation, self.tell, self.interval = evaluation, tell, interval
        self.steps: list[int] = []
        self.times: list[float] = []
        self.returns: list[float] = []
        self.started = time.perf_counter()
        self._told = -math.inf

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return time.perf_counter() - self.started - self.evaluation.seconds

    def _on_training_start(self) -> None:
        buffer = self.model.ep_info_buffer
        # Reading the infos of every step would make a rollout on tensors build them; SB3 picks out the episodes anyway.
        self.model.ep_info_buffer = _Episodes(buffer or (), self.model._stats_window_size, self._note)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self._told >= self.interval:
            self._told = now
            self._tell()
        return True

    def _on_training_end(self) -> None:
        self.model.ep_info_buffer = deque(self.model.ep_info_buffer or (), self.model._stats_window_size)
        self._tell()

    def _note(self, episode_return: float) -> None:
        self.steps.append(self.model.num_timesteps)
        self.times.append(self.seconds)
        self.returns.append(episode_return)

    def _tell(self) -> None:
        latest = self.returns[-100:]
        mean = float(np.mean(latest)) if latest else None
        self.tell(Standing(self.model.num_timesteps, self.model._total_timesteps, self.seconds, mean))


class _Evaluation(EvaluateAndSave):
    """Notes the training time of each evaluation as well."""

    def __init__(self, eval_env: VecEnv, config: RunConfig) -> None:
        super().__init__(eval_env, n_eval_episodes=config.eval_episodes, eval_freq=config.eval_freq or 0)
        self.started = 0.0
        self.times: list[float] = []

    def evaluate(self) -> bool:
        """:return: whether training goes on"""
        self.times.append(time.perf_counter() - self.started - self.seconds)
        return super().evaluate()


def train_one(
    kind: str,
    config: RunConfig,
    last_episodes: int,
    place: RunPlace,
    tell: Callable[[Standing], None],
    n_threads: int | None = None,
) -> dict[str, Any]:
    """
    Train, evaluate on the way and at the end, and write configuration, learning curve and model.

    :param kind: ``ppo_plus`` or ``sb3``
    :param config: configuration of the run
    :param last_episodes: training episodes whose mean is the training return
    :param place: where its files go
    :param tell: receives where the run stands, about twice a second
    :param n_threads: MuJoCo's threads, None for one for each processor; the outcome is the same
    :return: the measured fields of :class:`~sb3_ppo_plus.benchmark.results.Result`
    :raises InvalidArgument: when the configuration cannot work
    :raises NotFinite: when a return is no number
    """
    run = prepare_run(_sharing(config, n_threads))
    try:
        if run.eval_env is None:
            raise InvalidArgument(f"{config.env} cannot be evaluated beside the training, so it is no benchmark")
        replace(run.config, env_kwargs=config.env_kwargs).write(place.config, "")
        model: BaseAlgorithm = run.model if kind == "ppo_plus" else _sb3_model(run.config, run.model.get_env())
        evaluation = _Evaluation(run.eval_env, run.config)
        recorder = Recorder(evaluation, tell)
        evaluation.started = recorder.started
        model.learn(run.config.n_timesteps, callback=[evaluation, recorder])
        seconds = recorder.seconds
        curve = make_curve(recorder, evaluation, model.num_timesteps, seconds)
        write_curve(curve, place.curve)
        RunFolder(place.path).save_model(model, best=False)
    finally:
        run.close()
    final = evaluation.evaluations_results[-1]
    last = recorder.returns[-last_episodes:]
    if not np.isfinite([*final, *last]).all():
        raise NotFinite(f"a return is no number: evaluation {np.mean(final)}, training {np.mean(last or [0])}")
    return {
        "training_return": float(np.mean(last)) if last else None,
        "training_episodes": len(last),
        "final_returns": [float(value) for value in final],
        "steps": int(model.num_timesteps),
        "seconds": seconds,
    }


def make_curve(recorder: Recorder, evaluation: _Evaluation, n_timesteps: int, seconds: float) -> Curve:
    """
    :param recorder: episodes of the training
    :param evaluation: evaluations of the training
    :param n_timesteps: environment steps done
    :param seconds: training time
    :return: the learning curve
    """
    edges = np.linspace(0, n_timesteps, BINS + 1)
    steps, returns = np.array(recorder.steps, float), np.array(recorder.returns, float)
    bins = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, BINS - 1)
    episodes = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, weights=returns, minlength=BINS)
    means = np.full(BINS, np.nan)
    np.divide(sums, episodes, out=means, where=episodes > 0)
    # Between two episodes the time is taken to pass evenly with the steps.
    known_steps, known_times = [0, *recorder.steps, n_timesteps], [0.0, *recorder.times, seconds]
    return Curve(
        steps=edges[1:],
        seconds=np.interp(edges[1:], known_steps, known_times),
        returns=means,
        episodes=episodes,
        eval_steps=np.array(evaluation.evaluations_timesteps),
        eval_seconds=np.array(evaluation.times),
        eval_returns=np.array(evaluation.evaluations_results, float),
    )


def write_curve(curve: Curve, path: Path) -> None:
    """
    :param curve: a learning curve
    :param path: file to write
    """
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **vars(curve))


def _sharing(config: RunConfig, n_threads: int | None) -> RunConfig:
    if n_threads is None or "n_threads" in config.env_kwargs or choose_vec_env(config) != "native":
        return config
    return replace(config, env_kwargs={**config.env_kwargs, "n_threads": n_threads})


def _sb3_model(config: RunConfig, env: VecEnv | None) -> PPO:
    """SB3's own PPO in the same environments, with those of its defaults that nothing replaced."""
    taken = sb3_arguments()
    arguments = {name: value for name, value in config.hyperparameters.items() if name in taken}
    for name in _SCHEDULES:
        if arguments.get(name) is not None:
            arguments[name] = parse_schedule(arguments[name], name)
    arguments["policy_kwargs"] = build_policy_kwargs(arguments.get("policy_kwargs"))
    assert env is not None
    return PPO(config.policy or "MlpPolicy", env, seed=config.seed, device=config.device, **arguments)
