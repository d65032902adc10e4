"""A run whose every part is built and checked before a folder is made."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import RunConfig, complete_hyperparameters
from sb3_ppo_plus.runs.envs import (
    has_image,
    is_vector,
    make_bare_training_env,
    make_eval_env,
    make_training_env,
    probe_spaces,
)
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.ids import is_unity
from sb3_ppo_plus.runs.native import choose_vec_env, warn_if_slower
from sb3_ppo_plus.runs.ranks import config_of_this_rank, leads
from sb3_ppo_plus.runs.unity import is_editor

logger = logging.getLogger(__name__)

# Training environments count their seeds up from the seed of the run; evaluation starts far from them.
_EVAL_SEED_OFFSET = 1_000_000
# Evaluation episodes that step together; enough that an evaluation takes about as long as one episode.
_EVAL_ENVS = 16


@dataclass
class PreparedRun:
    """
    A run whose every part is built and checked, but which has not started.

    :param config: resolved configuration
    :param model: model with its environments
    :param eval_env: environments to evaluate in, None where there can be none, and on all ranks but the first
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
        built.append(make_bare_training_env(config_of_this_rank(config)))
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
        env = make_training_env(config_of_this_rank(config), built[0] if built else None)
        built = [env]
        if leads() and not is_editor(config.env):
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
