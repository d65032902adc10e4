"""Episodes of a model, with the masks that it was trained with, in environments of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable_policy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus.envs.episodes import FirstEpisodes, agents_come_and_go
from sb3_ppo_plus.masking import find_masks


def run_episodes(
    model: BaseAlgorithm,
    env: VecEnv,
    n_episodes: int,
    deterministic: bool = True,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
) -> tuple[list[float], list[int]]:
    """
    Run episodes; it is SB3's ``evaluate_policy``, but for masks and for environments whose agents come and go.

    :param model: any model of SB3; one that takes masks gets those of the environments
    :param env: environments, monitored
    :param n_episodes: number of episodes
    :param deterministic: take the mode of the policy instead of sampling
    :param callback: called as by SB3, where agents stay
    :return: returns and lengths
    """
    masks = find_masks(env) if getattr(model, "takes_masks", False) else None
    if agents_come_and_go(env):
        return _run_first(model, env, n_episodes, deterministic, masks)
    # sb3-contrib's function asks the environment for masks; in all else it is SB3's.
    masked = masks is not None or isinstance(model, MaskablePPO)
    play: Any = evaluate_maskable_policy if masked else evaluate_policy
    returns, lengths = play(
        model,
        env,
        n_eval_episodes=n_episodes,
        deterministic=deterministic,
        return_episode_rewards=True,
        callback=callback,
    )
    return [float(value) for value in returns], [int(length) for length in lengths]


def _run_first(
    model: BaseAlgorithm, env: VecEnv, n_episodes: int, deterministic: bool, masks: Callable[[], np.ndarray] | None
) -> tuple[list[float], list[int]]:
    """The first episodes that begin."""
    episodes = FirstEpisodes(n_episodes, env.num_envs)
    obs: Any = env.reset()
    state, begins = None, np.ones(env.num_envs, bool)
    while not episodes.complete:
        options: dict[str, Any] = {} if masks is None else {"action_masks": masks()}
        actions, state = model.predict(obs, state=state, episode_start=begins, deterministic=deterministic, **options)
        obs, _, begins, infos = env.step(actions)
        episodes.note(begins, infos)
    return [float(episode["r"]) for episode in episodes.ended], [int(episode["l"]) for episode in episodes.ended]
