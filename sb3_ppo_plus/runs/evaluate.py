"""Evaluation of a saved model: from a run folder, from a zip inside one, or from any zip of an on-policy algorithm."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, config_from_mapping
from sb3_ppo_plus.runs.envs import finish_env, make_env, open_normalizer, probe_spaces
from sb3_ppo_plus.runs.episodes import run_episodes
from sb3_ppo_plus.runs.folder import RunFolder
from sb3_ppo_plus.runs.ids import is_unity
from sb3_ppo_plus.runs.models import load_model
from sb3_ppo_plus.runs.native import choose_vec_env
from sb3_ppo_plus.runs.unity import evaluation_kwargs
from sb3_ppo_plus.runs.values import read_yaml
from sb3_ppo_plus.runs.zoo_folder import read_zoo_config, zoo_environment

# Episodes that step together.
_ENVS = 20


@dataclass(frozen=True)
class Agent:
    """
    A trained model and what it needs to act.

    :param model: the model, without an environment
    :param path: its zip
    :param config: environment and wrappers
    :param normalizer: file of a VecNormalize, None when observations are used as they are
    :param trust: whether what is in the files may be run
    """

    model: BaseAlgorithm
    path: Path
    config: RunConfig
    normalizer: Path | None
    trust: bool = False

    def make_env(self, n_envs: int, seed: int, env_kwargs: dict[str, object] | None = None) -> VecEnv:
        """
        :param n_envs: number of environments
        :param seed: seed of the first one
        :param env_kwargs: arguments to add to the run's own
        :return: environments as the model knows them, rewards as they are, statistics frozen
        """
        kwargs = {**self.config.env_kwargs, **(env_kwargs or {})}
        if is_unity(self.config.env):
            n_envs, kwargs = 1, evaluation_kwargs(kwargs)  # one copy of the game has many agents
        env = make_env(self.config, n_envs, seed, kwargs)
        if self.normalizer is not None:
            env = normalized = open_normalizer(self.normalizer, env, self.trust)
            normalized.training = normalized.norm_reward = False
        return finish_env(env, self.config)


@dataclass(frozen=True)
class Evaluation:
    """
    Returns and lengths of evaluation episodes.

    :param returns: sum of rewards of each episode
    :param lengths: steps of each episode
    """

    returns: list[float]
    lengths: list[int]


def load_agent(
    source: Path, env_id: str | None = None, best: bool = True, device: str = "cpu", trust: bool = False
) -> Agent:
    """
    Load a model and find out what belongs to it.

    :param source: run folder or zip
    :param env_id: environment, needed when it cannot be known from a config.yml beside the zip
    :param best: which model of a run folder; falls back to the other one while there is only one
    :param device: torch device to act on
    :param trust: whether what is in the files may be run, see :func:`~sb3_ppo_plus.runs.models.load_model`
    :return: the agent
    :raises InvalidArgument: when something is missing or does not fit
    """
    path = model_path(source, best)
    folder = RunFolder(path.parent)
    config = config_from_mapping(read_yaml(folder.config)) if folder.config.is_file() else None
    zoo = zoo_environment(path.parent) if config is None else None
    if zoo is not None:
        config = read_zoo_config(path.parent)
    if config is None and env_id is None:
        raise InvalidArgument(f"{path} does not say which environment it is for (no config.yml beside it); give --env")
    if config is None or (env_id is not None and env_id != config.env):
        # Another environment than the one trained in keeps the wrappers, not what was chosen for that one.
        config = replace(config or RunConfig(""), env=str(env_id), env_kwargs={}, vec_env="auto")
    config = replace(config, vec_env=choose_vec_env(config))
    normalizer = folder.normalizer(best=path.name == folder.model(best=True).name)
    if zoo is not None:
        normalizer = zoo / "vecnormalize.pkl"
    model = load_model(path, device, trust)
    agent = Agent(model, path, config, normalizer if normalizer.is_file() else None, trust)
    check_fits(agent)
    return agent


def evaluate_agent(agent: Agent, n_episodes: int = 20, seed: int = 2_000_000, deterministic: bool = True) -> Evaluation:
    """
    Run episodes and collect their returns.

    :param agent: model with its environment
    :param n_episodes: number of episodes; more is slower and gives a narrower interval
    :param seed: seed of the environments and of sampled actions
    :param deterministic: take the mode of the policy instead of sampling
    :return: returns and lengths
    """
    set_random_seed(seed)
    env = agent.make_env(min(_ENVS, n_episodes), seed)
    try:
        return Evaluation(*run_episodes(agent.model, env, n_episodes, deterministic))
    finally:
        env.close()


def check_fits(agent: Agent) -> None:
    """
    Check that the model can see and act in the environment.

    :param agent: model with its environment
    :raises InvalidArgument: showing both spaces
    """
    if not is_unity(agent.config.env):  # games take a while to start, once is enough
        probe_spaces(agent.config)
    try:
        env = agent.make_env(1, seed=0)
    except DamagedFile:
        raise
    except (ValueError, AssertionError, AttributeError, EOFError, pickle.UnpicklingError) as refused:
        raise InvalidArgument(f"{agent.normalizer} does not fit {agent.config.env}: {refused}") from refused
    mine, theirs = agent.model.observation_space, env.observation_space
    acts, takes = agent.model.action_space, env.action_space
    env.close()
    if mine is None or mine.shape != theirs.shape or type(mine) is not type(theirs):
        raise InvalidArgument(
            f"{agent.path} observes {mine}, but {agent.config.env} shows {theirs}; give another --env"
        )
    if type(acts) is not type(takes) or acts.shape != takes.shape or getattr(acts, "n", 0) != getattr(takes, "n", 0):
        raise InvalidArgument(f"{agent.path} acts in {acts}, but {agent.config.env} takes {takes}; give another --env")


def describe_returns(returns: list[float]) -> str:
    """
    :param returns: returns of episodes
    :return: mean, standard deviation and number of episodes in words
    """
    if not returns:
        return "not evaluated"
    return f"{np.mean(returns):,.1f} ± {np.std(returns):,.1f} ({len(returns)} episodes)"


def model_path(source: Path, best: bool = True) -> Path:
    """
    :param source: run folder or zip
    :param best: which model of a run folder; falls back to the other one while there is only one
    :return: the zip that is meant
    :raises InvalidArgument: when there is none
    """
    if source.is_file():
        return source
    if source.is_dir():
        zoo = zoo_environment(source)
        final = [] if zoo is None else [source / f"{zoo.name}.zip"]
        for candidate in (*final, RunFolder(source).model(best), RunFolder(source).model(not best)):
            if candidate.is_file():
                return candidate
        raise InvalidArgument(f"{source} holds no best_model.zip and no model.zip; give a run folder or a zip")
    if source.with_suffix(".zip").is_file():
        return source.with_suffix(".zip")
    raise InvalidArgument(f"there is no {source}; give a run folder (runs/<EnvId>_<k>) or a model zip")
