"""One training of a study: evaluated on the way, checkpointed, and continued where it was left."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.callbacks import EvaluateAndSave
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.folder import RunFolder
from sb3_ppo_plus.runs.prepare import PreparedRun, prepare_run


class Stop(Exception):
    """Training ends here: it was pruned, or another worker has taken it over."""


class Leave(Stop):
    """Training is left in the middle and goes on later: a checkpoint is written first."""


class NotFinite(Exception):
    """A return that is no number."""


@dataclass
class Curve:
    """
    Evaluations so far, and the time that training took.

    :param steps: environment steps, at the nominal times of the evaluations, which all trials share [E]
    :param returns: mean return of each evaluation [E]
    :param seconds: time in training, evaluations not counted
    """

    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """
    Where an unfinished training is kept. One file names the others, so that they always belong together.

    :param folder: folder of the trial
    """

    folder: Path

    @property
    def state(self) -> Path:
        """The file that is written last."""
        return self.folder / "checkpoint.json"

    def save(self, model: PPOPlus, curve: Curve) -> None:
        """
        Save between two updates, from where going on is exact.

        :param model: the model as it is, with its environments
        :param curve: evaluations so far
        """
        stem = f"checkpoint_{model.num_timesteps}"
        save_checkpoint(model, self.folder / f"{stem}.zip")
        atomic_write(self.state, json.dumps({"stem": stem, **vars(curve)}))
        self._clean(stem)

    def load(self, env: VecEnv, config: RunConfig) -> tuple[PPOPlus, Curve] | None:
        """
        :param env: environments to go on in
        :param config: configuration of the run
        :return: model and evaluations so far, None when there is nothing to continue
        """
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            stem = str(state.pop("stem"))
            return resume(self.folder / f"{stem}.zip", env, config.device), Curve(**state)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # what cannot be read is trained again

    def keep_model(self, model: PPOPlus, config: RunConfig) -> None:
        """
        Leave a run folder, which `ppo-plus eval` and `ppo-plus export` open.

        :param model: the model at the end of its training
        :param config: configuration of the run
        """
        folder = RunFolder(self.folder)
        folder.save_model(model, best=False)
        config.write(folder.config, "")
        self.state.unlink(missing_ok=True)
        self._clean("")

    def remove(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _clean(self, stem: str) -> None:
        for path in self.folder.glob("checkpoint_*"):
            if path.stem != stem:
                path.unlink(missing_ok=True)


class _Evaluation(EvaluateAndSave):
    """Evaluates at the nominal times, tells, and lets the trial end."""

    def __init__(self, eval_env: VecEnv, config: RunConfig, curve: Curve, told: Callable[[], None]) -> None:
        super().__init__(eval_env, n_eval_episodes=config.eval_episodes, eval_freq=config.eval_freq or 0)
        self.curve = curve
        self.total = config.n_timesteps
        self.told = told

    def _on_training_start(self) -> None:
        done = len(self.curve.steps)
        self.next_evaluation = max(1, done) * self.eval_freq
        self.last_evaluation = self.num_timesteps if done else -1
        if not done:
            self.evaluate()

    def _on_training_end(self) -> None:
        # The last nominal time is the end of the training, whatever the rollout overshoots.
        if not self.curve.steps or self.curve.steps[-1] < self.total:
            self.evaluate()

    def _keep(self, mean_return: float) -> bool:
        nominal = min(self.total, len(self.curve.steps) * self.eval_freq)
        ended = self.num_timesteps >= self.model._total_timesteps
        self.curve.steps.append(self.total if ended else nominal)
        self.curve.returns.append(mean_return)
        if not math.isfinite(mean_return):
            raise NotFinite(f"the mean return of an evaluation is {mean_return} at step {self.num_timesteps}")
        self.last_mean_reward = mean_return
        self.told()
        return True


class _Watch(BaseCallback):
    """Looks after each update whether to go on; the place where a checkpoint loses nothing."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self.look = look

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if not np.isfinite(self._parameter()):
            raise NotFinite(f"a parameter of the policy is not finite at step {self.num_timesteps}")
        self.look()

    def _parameter(self) -> float:
        return float(sum(float(parameter.detach().sum()) for parameter in self.model.policy.parameters()))


@dataclass
class Training:
    """
    A training that tells and asks as it goes.

    :param config: configuration of the run
    :param folder: where checkpoints and the final model go
    :param on_evaluation: called with the curve after each evaluation; raises ``Stop`` to end the trial
    :param on_update: called with the environment steps done after each update; raises ``Leave`` to go on later
    :param checkpoint_interval: seconds between checkpoints; smaller loses less and writes more
    """

    config: RunConfig
    folder: Path
    on_evaluation: Callable[[Curve], None]
    on_update: Callable[[int], None]
    checkpoint_interval: float = 60.0

    def run(self) -> Curve:
        """
        Train to the end, from the beginning or from the checkpoint in the folder.

        :return: the evaluations
        :raises Stop: when a callback said so
        :raises NotFinite: when a return or a parameter is no number
        :raises InvalidArgument: when the configuration cannot work
        """
        run = prepare_run(self.config)
        try:
            if run.eval_env is None:
                raise InvalidArgument(f"{self.config.env} cannot be evaluated beside the training, so nor be tuned")
            return self._train(run, run.eval_env)
        finally:
            run.close()

    def _train(self, run: PreparedRun, eval_env: VecEnv) -> Curve:
        config, checkpoint = run.config, Checkpoint(self.folder)
        model, curve = checkpoint.load(_env(run.model), config) or (run.model, Curve())
        run.model = model  # whose environments are closed at the end
        started, saved = time.perf_counter(), time.perf_counter()
        before = curve.seconds

        def clock() -> None:
            curve.seconds = before + time.perf_counter() - started - evaluation.seconds

        def told() -> None:
            clock()
            self.on_evaluation(curve)

        def look() -> None:
            nonlocal saved
            clock()
            try:
                self.on_update(model.num_timesteps)
            except Leave:
                checkpoint.save(model, curve)
                raise
            if time.perf_counter() - saved > self.checkpoint_interval:
                checkpoint.save(model, curve)
                saved = time.perf_counter()

        evaluation = _Evaluation(eval_env, config, curve, told)
        if model.num_timesteps < config.n_timesteps:
            model.learn(config.n_timesteps, callback=[evaluation, _Watch(look)])
        checkpoint.keep_model(model, config)
        return curve


def _env(model: PPOPlus) -> VecEnv:
    env = model.get_env()
    assert env is not None
    return env
