"""Callbacks of a run: evaluation that saves atomically, and the numbers of a progress bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.episodes import run_episodes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """
    Where a training stands.

    :param num_timesteps: environment steps so far
    :param total_timesteps: environment steps in total
    :param steps_per_second: since the start of this training, evaluations not counted
    :param seconds_left: estimate of the time to go
    :param mean_return: mean return of the latest training episodes, None before the first one ended
    :param evaluation: mean return of the latest evaluation, None before the first
    """

    num_timesteps: int
    total_timesteps: int
    steps_per_second: float
    seconds_left: float
    mean_return: float | None = None
    evaluation: float | None = None

    @property
    def fraction(self) -> float:
        """Done part of the training, 0 to 1; the last rollout may overshoot and still counts as 1."""
        return min(1.0, self.num_timesteps / max(1, self.total_timesteps))


class EvaluateAndSave(EvalCallback):
    """
    SB3's EvalCallback that also evaluates before the first and after the last update, and writes files whole.

    It is an EvalCallback to every callback that asks for one (``StopTrainingOnRewardThreshold``). Unlike its parent it
    replaces ``evaluations.npz`` in one step and leaves the saving of models to ``save``.

    :param eval_env: environment to evaluate in, wrapped like the one to train in
    :param save: called with True when the model is the best so far and with False after every evaluation
    :param path: where ``evaluations.npz`` is written, None for nowhere
    :param n_eval_episodes: episodes per evaluation; more is slower and gives a narrower interval
    :param eval_freq: timesteps between evaluations; 0 evaluates at the start and the end only
    """

    def __init__(
        self,
        eval_env: VecEnv,
        save: Callable[[bool], None] | None = None,
        path: Path | None = None,
        n_eval_episodes: int = 10,
        eval_freq: int = 10_000,
    ) -> None:
        super().__init__(eval_env, n_eval_episodes=n_eval_episodes, eval_freq=eval_freq, verbose=0)
        self.save = save
        self.path = path
        self.seconds = 0.0
        self.next_evaluation, self.last_evaluation = 0, -1
        self._goes_on = False

    def state_dict(self) -> dict[str, int]:
        """
        :return: when it evaluates next and did last; checkpoints keep it, beside what SB3's EvalCallback remembers
        """
        return {"next_evaluation": self.next_evaluation, "last_evaluation": self.last_evaluation}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """
        Go on without an evaluation at the start.

        :param state: what :meth:`state_dict` gave
        """
        self.next_evaluation, self.last_evaluation = state["next_evaluation"], state["last_evaluation"]
        self._goes_on = True

    def _init_callback(self) -> None:
        # Not the parent's: it warns when training uses other processes and evaluation does not, which is meant here.
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _on_training_start(self) -> None:
        if self._goes_on:
            return
        self.next_evaluation = self.num_timesteps + self.eval_freq
        self.last_evaluation = -1
        self.evaluate()

    def _on_rollout_start(self) -> None:
        self._goes_on = False

    def _on_step(self) -> bool:
        # The evaluation after the last update covers the end, and sees the final model.
        last = self.num_timesteps >= self.model._total_timesteps
        if self.eval_freq <= 0 or last or self.num_timesteps < self.next_evaluation:
            return True
        self.next_evaluation += self.eval_freq * (1 + (self.num_timesteps - self.next_evaluation) // self.eval_freq)
        return self.evaluate()

    def _on_training_end(self) -> None:
        if self.last_evaluation < self.num_timesteps:
            self.evaluate()

    def evaluate(self) -> bool:
        """
        Evaluate the model as it is now, log, write, and save.

        :return: whether training goes on
        """
        started = time.perf_counter()
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        self._is_success_buffer = []
        assert isinstance(self.eval_env, VecEnv)
        returns, lengths = run_episodes(
            self.model, self.eval_env, self.n_eval_episodes, self.deterministic, self._log_success_callback
        )
        self.last_evaluation = self.num_timesteps
        self._record(returns, lengths)
        going_on = self._keep(float(np.mean(returns)))
        self.seconds += time.perf_counter() - started
        return going_on

    def _record(self, returns: list[float], lengths: list[int]) -> None:
        """Append one evaluation to the lists, the file and the log."""
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(returns)
        self.evaluations_length.append(lengths)
        arrays: dict[str, Any] = {}
        if self._is_success_buffer:
            self.evaluations_successes.append(self._is_success_buffer)
            arrays["successes"] = self.evaluations_successes
            self.logger.record("eval/success_rate", float(np.mean(self._is_success_buffer)))
        if self.path is not None:
            with atomic_path(self.path) as temporary:
                np.savez(
                    temporary,
                    timesteps=self.evaluations_timesteps,
                    results=self.evaluations_results,
                    ep_lengths=self.evaluations_length,
                    **arrays,
                )
        self.logger.record("eval/mean_reward", float(np.mean(returns)))
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _keep(self, mean_return: float) -> bool:
        """Save the model, also as the best when it is, and run the callbacks that hang on this one."""
        self.last_mean_reward = mean_return
        going_on = True
        if self.save is not None:
            self.save(False)
        if mean_return > self.best_mean_reward:
            self.best_mean_reward = mean_return
            if self.save is not None:
                self.save(True)
            if self.callback_on_new_best is not None:
                going_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            going_on = going_on and self._on_event()
        return going_on


class ProgressCallback(BaseCallback):
    """
    Report where a training stands; how it is shown is up to the receiver.

    :param report: receives the numbers
    :param evaluation: callback whose time is left out of the speed and whose result is shown, None for none
    :param interval: seconds between reports; smaller is smoother and costs more
    """

    def __init__(
        self, report: Callable[[Progress], None], evaluation: EvaluateAndSave | None = None, interval: float = 0.2
    ) -> None:
        super().__init__()
        self.report = report
        self.evaluation = evaluation
        self.interval = interval

    def _on_training_start(self) -> None:
        self.started = time.perf_counter()
        self.first_timestep = self.num_timesteps
        self.evaluated_before = self.evaluation.seconds if self.evaluation else 0.0
        self.reported = -float("inf")

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if now - self.reported >= self.interval:
            self.reported = now
            self.report(self.measure())
        return True

    def _on_training_end(self) -> None:
        self.report(self.measure())

    def measure(self) -> Progress:
        """
        :return: where the training stands now
        """
        evaluated = self.evaluation.seconds - self.evaluated_before if self.evaluation else 0.0
        elapsed = time.perf_counter() - self.started
        done = self.num_timesteps - self.first_timestep
        total = self.model._total_timesteps
        episodes = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return Progress(
            num_timesteps=self.num_timesteps,
            total_timesteps=total,
            steps_per_second=done / max(elapsed - evaluated, 1e-9),
            # Evaluations recur, so the whole time is the better guess for what is left.
            seconds_left=max(0, total - self.num_timesteps) * elapsed / max(done, 1),
            mean_return=float(np.mean(episodes)) if episodes else None,
            evaluation=self.evaluation.last_mean_reward if self.evaluation else None,
        )


class ExportOnBest(BaseCallback):
    """
    Export the model as ONNX whenever an evaluation finds it better than before.

    Hang it on an evaluation: ``EvalCallback(env, callback_on_new_best=ExportOnBest("best.onnx"))``, or
    ``EvaluateAndSave``. The statistics of the normalizer are those of this moment. A file that would not act as the
    model does is not written; the training goes on, and the reason is logged.

    :param path: file to write, replaced in one step
    :param target: ``generic``, ``robot`` or ``mlagents``
    :param n_random: random observations of the proof, typically 100 to 1000; more takes longer
    :param options: further arguments of :func:`~sb3_ppo_plus.export.export_onnx`
    :raises InvalidArgument: for an unknown target or an opset that it cannot have, and at the start of the training for
        a policy that cannot be exported
    """

    def __init__(self, path: str | Path, target: str = "generic", n_random: int = 200, **options: Any) -> None:
        super().__init__()
        from sb3_ppo_plus.export.api import check_arguments

        chosen = {name: options[name] for name in ("stochastic", "values") if name in options}
        check_arguments(Path(path), target, options.get("opset"), **chosen)
        self.path, self.target, self.n_random, self.options = Path(path), target, n_random, options

    def _init_callback(self) -> None:
        from sb3_ppo_plus.export.graph import check_policy

        check_policy(self.model)

    def _on_step(self) -> bool:
        from sb3_ppo_plus.export.api import export_onnx

        try:
            export_onnx(self.model, self.path, self.target, n_random=self.n_random, **self.options)
        except (InvalidArgument, OSError) as error:
            logger.warning("not exported at step %d: %s", self.num_timesteps, error)
        return True
