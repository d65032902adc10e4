"""
Whether what is fast learns the same: PPOPlus compiled and eager on MujocoVecEnv, and SB3's PPO on DummyVecEnv.

    python benchmarks/same_learning.py              # runs what is missing in results/same_learning.jsonl
    python benchmarks/same_learning.py --env Hopper-v5 --seeds 0 1 --variants sb3 --jobs 1

Eight environments, rollouts of 2,048 rows, SB3's other defaults, nothing normalized. Two scores of each run: the mean
return of ten deterministic episodes after training, in Gymnasium's own environments on seeds that training never saw,
and the mean return of the last 100 episodes of training. Each run has one thread of torch and one of physics.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from common import append, bootstrap_interval, commit, load, machine, results_file, set_warnings, silenced
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.runs.envs import EnvMaker

ENVS = ("HalfCheetah-v5", "Hopper-v5")
N_ENVS = 8
N_STEPS = 256
EPISODES = 10
SCORES = {"evaluation": "ten deterministic episodes after training", "training": "last 100 episodes of training"}


class Variant(NamedTuple):
    """
    A way to train.

    :param label: what it is called in tables
    :param native: whether MujocoVecEnv steps the task, else DummyVecEnv
    :param compile_update: argument of PPOPlus, None for SB3's PPO
    """

    label: str
    native: bool
    compile_update: bool | None


VARIANTS = {
    "sb3": Variant("SB3, DummyVecEnv", False, None),
    "plus_native": Variant("PPOPlus, MujocoVecEnv", True, False),
    "plus_compiled": Variant("PPOPlus, compiled, MujocoVecEnv", True, True),
}


class Run(NamedTuple):
    """
    One training.

    :param env: Gymnasium's id
    :param variant: key of ``VARIANTS``
    :param seed: seed of the model and its environments
    :param timesteps: environment steps to train for
    """

    env: str
    variant: str
    seed: int
    timesteps: int


def training_env(run: Run) -> VecEnv:
    """
    :param run: a training
    :return: its environments, which the model seeds
    """
    if VARIANTS[run.variant].native:
        return MujocoVecEnv(run.env, n_envs=N_ENVS, n_threads=1)
    return make_vec_env(EnvMaker(run.env), N_ENVS)


def train(run: Run) -> dict[str, Any]:
    """
    Train and score one agent, in a process of its own.

    :param run: a training
    :return: one line of the results
    """
    th.set_num_threads(1)
    set_warnings()
    arguments: dict[str, Any] = {"n_steps": N_STEPS, "seed": run.seed, "device": "cpu"}
    compile_update = VARIANTS[run.variant].compile_update
    algorithm = PPO if compile_update is None else PPOPlus
    if compile_update is not None:
        arguments["compile_update"] = compile_update
    model = silenced(algorithm("MlpPolicy", training_env(run), **arguments))
    started = time.perf_counter()
    model.learn(run.timesteps)
    seconds = time.perf_counter() - started
    env = make_vec_env(EnvMaker(run.env), EPISODES, seed=1_000_000 + 1_000 * run.seed)
    evaluation, _ = evaluate_policy(model, env, EPISODES, deterministic=True)
    last = [episode["r"] for episode in model.ep_info_buffer or ()]
    return {
        **run._asdict(),
        "num_timesteps": model.num_timesteps,
        "evaluation": float(np.mean(evaluation)),
        "training": float(np.mean(last)),
        "episodes": len(last),
        "seconds": round(seconds, 1),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """
    :param lines: results
    :return: Markdown table of means over seeds with intervals, and whether those of the variants overlap
    """
    rows = ["| environment | score | variant | seeds | mean | 95% interval | overlaps with |", "|---" * 7 + "|"]
    for env in dict.fromkeys(line["env"] for line in lines):
        for score, words in SCORES.items():
            values = {
                name: [line[score] for line in lines if (line["env"], line["variant"]) == (env, name)]
                for name in VARIANTS
            }
            values = {name: each for name, each in values.items() if each}
            bounds = {name: bootstrap_interval(each) for name, each in values.items()}
            meet: dict[str, list[str]] = {name: [] for name in values}
            for a, b in combinations(values, 2):
                if bounds[a][0] <= bounds[b][1] and bounds[b][0] <= bounds[a][1]:
                    meet[a].append(b)
                    meet[b].append(a)
            for name, each in values.items():
                interval = " to ".join(f"{bound:,.0f}" for bound in bounds[name])
                others = ", ".join(meet[name]) or "none"
                rows.append(
                    f"| {env} | {words} | {VARIANTS[name].label} (`{name}`) | {len(each)} | {np.mean(each):,.0f} "
                    f"| {interval} | {others} |"
                )
    return "\n".join(rows)


def report(lines: list[dict[str, Any]]) -> str:
    """
    :param lines: results of one commit, machine and length
    :return: Markdown
    """
    one = lines[0]
    return (
        f"`python benchmarks/same_learning.py --timesteps {one['timesteps']}` at commit {one['commit']} on "
        f"{one['machine']}\n\n{N_ENVS} environments, n_steps {N_STEPS}, SB3's other defaults; mean over seeds of each "
        f"run's mean return, with the 95% interval of a bootstrap over seeds.\n\n{table(lines)}\n"
    )


def arguments() -> argparse.Namespace:
    """
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--env", nargs="+", default=list(ENVS), metavar="ID", help=f"tasks of MujocoVecEnv ({', '.join(ENVS)})")
    add("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="ways to train (all)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds (0 1 2 3 4)")
    add("--timesteps", type=int, default=300_000, help="environment steps of each run (300000)")
    add("--jobs", type=int, default=2, help="runs at a time, each in a process of its own (2)")
    add("--results", type=Path, help="records; the table goes beside them as .md (results/same_learning.jsonl)")
    add("--quick", action="store_true", help="two short runs of each, to see that it works; writes to --results only")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.timesteps = args.seeds[:2], 2 * N_ENVS * N_STEPS
    return args


def main() -> None:
    """Run what is missing, print the table."""
    args = arguments()
    head = {"machine": machine(), "commit": commit()}
    runs = [Run(env, name, seed, args.timesteps) for env in args.env for seed in args.seeds for name in args.variants]
    with results_file(args.results, "same_learning.jsonl", args.quick) as path:
        known = [record for record in load(path) if head.items() <= record.items()]
        missing = [run for run in runs if not any(run._asdict().items() <= record.items() for record in known)]
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            for line in pool.imap_unordered(train, missing):
                print(line, flush=True)
                append(path, {**head, **line})
        chosen = {**head, "timesteps": args.timesteps}
        lines = [record for record in load(path) if chosen.items() <= record.items()]
        if lines:
            atomic_write(path.with_suffix(".md"), report(lines))
            print(table(lines))


if __name__ == "__main__":
    main()
