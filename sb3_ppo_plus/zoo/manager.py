"""The zoo's experiment manager, with what it lacks for PPOPlus."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, known_keys
from sb3_ppo_plus.runs.envs import finish_env, is_vector, normalizer_class, open_normalizer, probe_spaces
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs, plain_policy_kwargs, ppo_defaults
from sb3_ppo_plus.runs.naming import did_you_mean
from sb3_ppo_plus.runs.native import choose_vec_env, make_native
from sb3_ppo_plus.runs.prepare import resolve
from sb3_ppo_plus.runs.values import parse_mapping, plain
from sb3_ppo_plus.runs.zoo_folder import load_zoo_yaml

NAME = "ppo_plus"
# Keys of a block that the zoo takes for itself.
_OF_THE_ZOO = (
    "n_timesteps",
    "n_envs",
    "policy",
    "normalize",
    "env_wrapper",
    "vec_env_wrapper",
    "env_kwargs",
    "frame_stack",
    "monitor_kwargs",
    "callback",
)
# Keys of `ppo-plus train` for which the zoo has arguments of its command line.
_OF_A_RUN = ("env", "seed", "vec_env", "eval_freq", "eval_episodes", "device", "threads", "versions", "command")


class _TrialId(int):
    """A trial's number that counts as given when it is 0: the zoo asks for its truth."""

    def __bool__(self) -> bool:
        return True


class Manager(ExperimentManager):
    """
    The zoo's experiment manager; other algorithms find it as it always was.

    For ``ppo_plus`` every form of configuration that `ppo-plus train` reads works here too, environments can step on
    native threads (:attr:`native`), and some defects are worked around, which docs/zoo.md lists.
    """

    #: step MuJoCo tasks on native threads; the launcher sets it for ``--vec-env native``
    native = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        trial_id = kwargs.get("trial_id")
        if trial_id is not None:
            kwargs["trial_id"] = _TrialId(trial_id)
        super().__init__(*args, **kwargs)
        self._folder_was_there = Path(self.save_path).exists()

    @property
    def is_plus(self) -> bool:
        """Whether this run is of PPOPlus."""
        return bool(self.algo == NAME)

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """As the zoo's; a run that cannot begin leaves no empty folder, which `enjoy` would take for the latest."""
        if self.optimize_hyperparameters and find_spec("pandas") is None:
            # The zoo finds out when the study is done, and loses its report.
            raise InvalidArgument("-optimize needs pandas for its report at the end; pip install pandas")
        try:
            return super().setup_experiment()  # type: ignore[no-any-return]
        except BaseException:
            folder = Path(self.save_path)
            if not self._folder_was_there and not any(folder.rglob("*.zip")):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the zoo's, also from the config.yml of a run, of either kind."""
        if not self.is_plus or not self.config.endswith((".yml", ".yaml")):
            return super().read_hyperparameters()  # type: ignore[no-any-return]
        content = load_zoo_yaml(Path(self.config))
        if not content.keys() & set(known_keys()):
            blocks = {env: plain(block) for env, block in content.items()}
        else:
            run = {key: value for key, value in plain(content).items() if key not in _OF_A_RUN}
            blocks = {str(self.env_name.gym_id): run}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "hyperparams.yml"
            path.write_text(yaml.safe_dump(blocks), encoding="utf-8")
            told, self.config = self.config, str(path)
            try:
                hyperparams, _ = super().read_hyperparameters()
            finally:
                self.config = told
        hyperparams = {key: value for key, value in hyperparams.items() if value is not None}
        self._check_keys(hyperparams)
        return hyperparams, OrderedDict(sorted(hyperparams.items()))

    def load_trial(
        self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True
    ) -> dict[str, Any]:
        """As the zoo's, also from a study of `ppo-plus tune`, which keeps the settings beside the draws."""
        if not self.is_plus or not convert:
            return super().load_trial(storage, study_name, trial_id, convert)  # type: ignore[no-any-return]
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER

        from sb3_ppo_plus.tuning.storage import open_storage

        study = optuna.load_study(storage=open_storage(storage), study_name=study_name)
        trials = study.get_trials()
        if trial_id is not None and not 0 <= trial_id < len(trials):
            raise InvalidArgument(f"--trial-id {trial_id}: study {study_name} has trials 0 to {len(trials) - 1}")
        trial = study.best_trial if trial_id is None else trials[int(trial_id)]
        if "settings" in trial.user_attrs:
            return dict(trial.user_attrs["settings"])
        known = {"n_envs": trial.user_attrs["n_envs"]} if "n_envs" in trial.user_attrs else {}
        return dict(HYPERPARAMS_CONVERTER[NAME]({**trial.params, **known}))

    def _preprocess_schedules(self, hyperparams: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        # PPOPlus reads schedules itself, in every form; the zoo takes each text for a straight line to 0.
        if self.is_plus:
            return hyperparams
        return ExperimentManager._preprocess_schedules(hyperparams)  # type: ignore[no-any-return]

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> Any:
        if self.is_plus:
            hyperparams = self._completed(dict(hyperparams))
        processed = super()._preprocess_hyperparams(hyperparams)
        if self._eval_env_kwargs_args is None:
            # The zoo gives env_kwargs of a block to the environments of the training only.
            self.eval_env_kwargs = self.env_kwargs
        return processed

    def _completed(self, hyperparams: dict[str, Any]) -> dict[str, Any]:
        """Fill in what `ppo-plus train` chooses by the observation space, and put classes where names stand."""
        env_kwargs = hyperparams.get("env_kwargs", self.env_kwargs)
        config = RunConfig(
            env=str(self.env_name.gym_id),
            env_kwargs=plain_mapping("env_kwargs", env_kwargs),
            env_wrapper=hyperparams.get("env_wrapper"),
            vec_env="native" if self.native else "dummy",
        )
        observation_space, _ = probe_spaces(config)
        hyperparams.setdefault("policy", resolve(config, observation_space).policy)
        hyperparams["env_kwargs"] = config.env_kwargs
        if hyperparams.get("normalize") in (True, "auto"):
            hyperparams["normalize"] = is_vector(observation_space)
        policy_kwargs = build_policy_kwargs(plain_policy_kwargs(hyperparams.get("policy_kwargs")))
        if policy_kwargs is not None:
            hyperparams["policy_kwargs"] = policy_kwargs
        self._config = config
        return hyperparams

    def _check_keys(self, hyperparams: dict[str, Any]) -> None:
        known = [*_OF_THE_ZOO, *ppo_defaults()]
        for key in hyperparams:
            if key not in known:
                hint = did_you_mean(key, known) or "it is neither an argument of PPOPlus nor a key of the zoo"
                raise InvalidArgument(f"unknown hyperparameter {key!r} (value {hyperparams[key]!r}); {hint}")

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """As the zoo's, or on native threads."""
        if not self.native:
            return super().create_envs(n_envs, eval_env, no_log)
        if not self.is_plus:
            raise InvalidArgument(f"--vec-env native is for ppo_plus, not for {self.algo}; take dummy or subproc")
        choose_vec_env(self._config)
        env_kwargs = self.eval_env_kwargs if eval_env else self.env_kwargs
        env: VecEnv = make_native(replace(self._config, env_kwargs=env_kwargs), n_envs, self.seed, env_kwargs)
        if self.vec_env_wrapper is not None:
            env = self.vec_env_wrapper(env)
        env = self._maybe_normalize(env, eval_env)
        return finish_env(env, replace(self._config, frame_stack=self.frame_stack))

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        if not self.native:
            return super()._maybe_normalize(env, eval_env)
        kind = normalizer_class(env)
        saved = Path(self.trained_agent).parent / self.env_name / "vecnormalize.pkl"
        if self.continue_training and saved.exists():
            opened = open_normalizer(saved, env)
            opened.training, opened.norm_reward = not eval_env, opened.norm_reward and not eval_env
            return opened
        if not self.normalize:
            return env
        frozen = {"training": False, "norm_reward": False} if eval_env else {}
        return kind(env, **{**self.normalize_kwargs, **frozen})

    def objective(self, trial: optuna.Trial) -> float:
        """As the zoo's; a trial that PPOPlus refuses ends alone."""
        try:
            return float(super().objective(trial))
        except optuna.TrialPruned:
            raise
        except (InvalidArgument, RuntimeError, TypeError, ArithmeticError) as error:
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            raise optuna.TrialPruned from error

    def hyperparameters_optimization(self) -> None:
        """As the zoo's, which fails at its end when no trial was completed."""
        try:
            super().hyperparameters_optimization()
        except ValueError as error:
            if "No trials are completed" in str(error):
                raise InvalidArgument("no trial was completed; run more, or take --pruner none") from error
            raise


def plain_mapping(name: str, value: Any) -> dict[str, Any]:
    """
    :param name: name of the setting
    :param value: a mapping, its text in the zoo's form, or nothing
    :return: the mapping
    """
    return parse_mapping(name, value) if isinstance(value, str) else dict(value or {})
