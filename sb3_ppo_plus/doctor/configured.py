"""The doctor for a configuration of ``ppo-plus``: how its environment is made, and what is wrong with both."""

from __future__ import annotations

import functools

import gymnasium as gym

from sb3_ppo_plus.doctor.before import Checkup, check_before
from sb3_ppo_plus.doctor.rules import check_settings
from sb3_ppo_plus.doctor.settings import settings_of_config
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.envs import EnvMaker, probe_spaces, wrapper_function
from sb3_ppo_plus.runs.ids import find_task, is_unity
from sb3_ppo_plus.runs.native import choose_vec_env, gymnasium_kwargs
from sb3_ppo_plus.runs.prepare import resolve


def check_configuration(config: RunConfig) -> Checkup:
    """
    Look at a configuration and its environment before anything is trained.

    :param config: configuration of a run
    :return: what was found; of games and of tasks that Gymnasium does not know, what the settings and spaces say
    :raises InvalidArgument: when the configuration cannot work
    """
    observation_space, action_space = probe_spaces(config)
    resolved = resolve(config, observation_space)
    settings = settings_of_config(resolved.to_mapping())
    if is_unity(config.env) or isinstance(find_task(config.env), type):
        facts = {"observations": str(observation_space), "actions": str(action_space)}
        return Checkup(check_settings(settings), facts)
    return check_before(functools.partial(make_one, resolved), settings, resolved.seed)


def make_one(config: RunConfig) -> gym.Env:
    """
    :param config: resolved configuration
    :return: one environment with its wrappers, as Gymnasium steps it
    """
    kwargs = gymnasium_kwargs(config.env_kwargs) if choose_vec_env(config) == "torch" else config.env_kwargs
    env = EnvMaker(config.env)(**kwargs)
    wrapper = wrapper_function("env_wrapper", config.env_wrapper)
    return env if wrapper is None else wrapper(env)
