"""
What is learned, over seeds: SB3's PPO, PPOPlus with its extras off, and PPOPlus with everything on.

    python benchmarks/learning.py       # runs what is missing in results/learning.jsonl, then prints the table
    python benchmarks/learning.py --env Pendulum-v1 --seeds 0 1 2 --variants plus

Hyperparameters are the blocks of zoo_configs/ppo_plus.yml. Each finished run is written at once; a second call does
only what is missing. The score is the mean return of 100 deterministic episodes of the last model, on environment
seeds that training never saw.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from common import RESULTS, append, load
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.runs.config import RunConfig
from sb3_ppo_plus.runs.envs import make_eval_env, make_training_env, probe_spaces
from sb3_ppo_plus.runs.hyperparameters import build_policy_kwargs
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import resolve
from sb3_ppo_plus.schedules import parse_schedule

ENVS = ("CartPole-v1", "Pendulum-v1", "HalfCheetah-v5")
EPISODES = 100

# Every extra at once. Clip ranges of values are in units of return, and both classic tasks have returns of tens.
EVERYTHING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "clip_range": (0.2, 0.28),
    "clip_range_vf": 20.0,
    "vf_loss": "max",
    "target_kl": 0.05,
    "kl_stop": "rollback",
    "kl_coef": 0.1,
    "controllers": {
        "kl_coef": {"type": "kl_band", "target": 0.02, "max_value": 10.0},
        "learning_rate": {"type": "kl_band", "target": 0.02, "max_value": 2e-3},
        "reference_kl_coef": {"type": "kl_proportional", "target": 5.0, "max_value": 1e-3},
    },
    "ent_coef": {"type": "linear", "start": 1e-3, "end": 0.0},
    "dual_clip": 3.0,
    "advantage_scope": "batch",
    "recompute_advantages": True,
    "critic_learning_rate": 1e-3,
    "critic_epochs": 1,
    "reference_kl_coef": 1e-4,
}


def sb3(env: Any, arguments: dict[str, Any]) -> BaseAlgorithm:
    """SB3's PPO, whose schedules must be callables."""
    scheduled = {name: parse_schedule(arguments[name], name) for name in ("learning_rate", "clip_range")}
    own = {name: value for name, value in arguments.items() if name in signature(PPO).parameters}
    return PPO(env=env, **{**own, **scheduled})


def plus(env: Any, arguments: dict[str, Any]) -> BaseAlgorithm:
    """PPOPlus, every extra off."""
    return PPOPlus(env=env, **arguments)


def everything(env: Any, arguments: dict[str, Any]) -> BaseAlgorithm:
    """PPOPlus, every extra on; the leash is to the untrained policy, loose enough to leave."""
    reference = PPOPlus(env=env, **arguments)
    return PPOPlus(env=env, reference_policy=reference, **{**arguments, **EVERYTHING})


VARIANTS: dict[str, Callable[[Any, dict[str, Any]], BaseAlgorithm]] = {
    "sb3": sb3,
    "plus": plus,
    "everything": everything,
}


def run(env_id: str, variant: str, seed: int) -> dict[str, Any]:
    """
    Train and score one agent.

    :param env_id: environment with a block in the zoo configuration
    :param variant: key of ``VARIANTS``
    :param seed: seed of the model and its environments
    :return: one line of the results
    """
    config = assemble(env_id, flags={"seed": seed})
    config = resolve(config, probe_spaces(config)[0])
    arguments = {name: value for name, value in config.hyperparameters.items() if value is not None}
    arguments["policy_kwargs"] = build_policy_kwargs(arguments.get("policy_kwargs"))
    arguments |= {"policy": config.policy or "MlpPolicy", "seed": seed, "device": "cpu"}
    env = make_training_env(config)
    started = time.perf_counter()
    model = VARIANTS[variant](env, arguments).learn(config.n_timesteps)
    seconds = time.perf_counter() - started
    returns = evaluate(model, config, seed)
    line = {"env": env_id, "variant": variant, "seed": seed, "timesteps": model.num_timesteps}
    return {
        **line,
        "mean_return": float(np.mean(returns)),
        "std_return": float(np.std(returns)),
        "seconds": round(seconds, 1),
    }


def evaluate(model: BaseAlgorithm, config: RunConfig, seed: int) -> list[float]:
    """
    Score a model on episodes of its own, with the statistics of its training environment.

    :param model: trained model
    :param config: configuration of its run
    :param seed: seed of training
    :return: return of each episode, not normalized
    """
    env = make_eval_env(config, n_envs=10, seed=10_000 + seed)
    trained = model.get_vec_normalize_env()
    if isinstance(env, VecNormalize) and trained is not None:
        env.obs_rms = trained.obs_rms
    returns, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, deterministic=True, return_episode_rewards=True)
    return list(returns)


def table(lines: list[dict[str, Any]]) -> str:
    """
    :param lines: results
    :return: Markdown table of means over seeds with 95% intervals (Student's t)
    """
    quantiles = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
    rows = [
        "| environment | timesteps | variant | seeds | mean return | 95% interval | lowest seed |",
        "|---" * 7 + "|",
    ]
    groups = sorted({(line["env"], list(VARIANTS).index(line["variant"])) for line in lines})
    for env, index in groups:
        variant = list(VARIANTS)[index]
        chosen = [line for line in lines if (line["env"], line["variant"]) == (env, variant)]
        returns = np.array([line["mean_return"] for line in chosen])
        n = len(returns)
        half = quantiles[n] * returns.std(ddof=1) / np.sqrt(n) if n in quantiles else float("nan")
        interval = f"{returns.mean() - half:.1f} to {returns.mean() + half:.1f}"
        steps = f"{chosen[0]['timesteps']:,}"
        rows.append(f"| {env} | {steps} | {variant} | {n} | {returns.mean():.1f} | {interval} | {returns.min():.1f} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=list(ENVS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS / "learning.jsonl")
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.filterwarnings("ignore", "You have specified a mini-batch size")
    for env_id in args.env:
        for seed in args.seeds:
            for variant in args.variants:
                done = load(args.results)
                key = {"env": env_id, "variant": variant, "seed": seed}
                if any(key.items() <= line.items() for line in done):
                    continue
                line = run(env_id, variant, seed)
                print(line, flush=True)
                append(args.results, line)
    lines = load(args.results)
    if lines:
        report = table(lines)
        atomic_write(args.results.with_suffix(".md"), f"`python benchmarks/learning.py`\n\n{report}\n")
        print(report)


if __name__ == "__main__":
    main()
