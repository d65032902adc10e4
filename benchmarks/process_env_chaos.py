"""
Training while workers are killed: 100,000 steps of CartPole with a worker killed every 1,000 steps on average.

    python benchmarks/process_env_chaos.py      # prints the table and writes benchmarks/results/process_env_chaos.md

Each seed is trained twice, with and without kills; the score is the mean return of 100 deterministic episodes of the
last model. Finished runs are kept in a file beside the table, and a second call does what is missing.
"""

from __future__ import annotations

import argparse
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import append, commit, load, machine, results_file
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import ProcessVecEnv

ENV, N_ENVS = "CartPole-v1", 8
# The block of zoo_configs/ppo_plus.yml.
ARGUMENTS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "learning_rate": "lin_1e-3",
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "clip_range": "lin_0.2",
}


class Killer(BaseCallback):
    """
    Kills a worker now and then.

    :param env: whose workers
    :param every: environment steps between kills, on average
    :param seed: of when, and of whom
    """

    def __init__(self, env: ProcessVecEnv, every: int, seed: int) -> None:
        super().__init__()
        self.env, self.every, self.random, self.kills = env, every, np.random.default_rng(seed), 0

    def _on_step(self) -> bool:
        if self.random.random() < self.env.num_envs / self.every:
            pids = [pid for pid in self.env.pids if pid > 0]
            os.kill(int(self.random.choice(pids)), signal.SIGKILL)
            self.kills += 1
        return True


def make_env() -> gym.Env:
    """:return: one monitored environment"""
    return Monitor(gym.make(ENV))


def run(seed: int, every: int, total_timesteps: int) -> dict[str, Any]:
    """
    :param seed: of the training
    :param every: steps between kills on average, 0 for none
    :param total_timesteps: length of the training
    :return: one record
    """
    # This is what is tried here, so nobody gives up.
    env = ProcessVecEnv([make_env] * N_ENVS, restarts=-1, restarts_per_interval=-1)
    env.seed(seed)
    model = PPOPlus("MlpPolicy", env, seed=seed, device="cpu", **ARGUMENTS)
    killer = Killer(env, every, seed) if every else None
    model.learn(total_timesteps, callback=killer)
    restarts, lost = sum(env.n_restarts), env.num_lost_episodes
    env.close()
    evaluation = DummyVecEnv([partial(make_env)] * 10)
    evaluation.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, evaluation, n_eval_episodes=100, return_episode_rewards=True)
    return {
        "seed": seed,
        "every": every,
        "timesteps": model.num_timesteps,
        "kills": killer.kills if killer else 0,
        "restarts": restarts,
        "lost_episodes": lost,
        "mean_return": float(np.mean(returns)),
    }


def table(records: list[dict[str, Any]]) -> str:
    """
    :param records: finished runs
    :return: Markdown table
    """
    names = ("seed", "timesteps", "kills", "restarts", "lost_episodes", "mean_return")
    rows = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * len(names) + "|"]
    for record in sorted(records, key=lambda record: (record["seed"], -record["every"])):
        rows.append(f"| {' | '.join(f'{record[name]:,}' for name in names)} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=1000, help="environment steps between kills on average")
    parser.add_argument("--quick", action="store_true", help="2,000 steps, to see that it works; writes nothing")
    parser.add_argument("--results", type=Path, default=None)
    args = parser.parse_args()
    th.set_num_threads(1)
    steps = 2_000 if args.quick else args.steps
    with results_file(args.results, "process_env_chaos.jsonl", args.quick) as path:
        for seed in args.seeds:
            for every in (args.every, 0):
                key = {"seed": seed, "every": every}
                if not any(key.items() <= record.items() for record in load(path)):
                    append(path, run(seed, every, steps))
        report = table(load(path))
        command = (
            f"`python benchmarks/process_env_chaos.py`: a worker killed every {args.every:,} steps on average, or never"
        )
        atomic_write(path.with_suffix(".md"), f"{command}\n\n{report}\n\nCommit {commit()}; {machine()}.\n")
    print(report)


if __name__ == "__main__":
    main()
