"""
Memory of long trainings: what a process holds while it trains with a compiled update, and how much that grows.

    python benchmarks/memory.py         # prints the tables and writes benchmarks/results/memory.md

One long training, and one of many short iterations, which shows what grows by iteration; each in a process of its own.
Growth is counted from a tenth of the run on: before that, buffers, caches and the compiler take what they need.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
from common import commit, machine, results_file, set_warnings, silenced
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import MujocoVecEnv
from sb3_ppo_plus.machine import resident_memory

N_ENVS = 8
#: parts of a run after each of which memory is read
PARTS = 20
#: part from which growth is counted
FIRST = 2


class Run(NamedTuple):
    """
    One training.

    :param name: what it is called
    :param env: Gymnasium's id
    :param native: whether MujocoVecEnv steps it
    :param timesteps: environment steps
    :param sizes: hyperparameters that are not SB3's defaults
    """

    name: str
    env: str
    native: bool
    timesteps: int
    sizes: dict[str, Any]


class Reading(NamedTuple):
    """
    Memory at one moment of a run.

    :param steps: environment steps so far
    :param mib: resident memory of the process, MiB
    """

    steps: int
    mib: float


class Readings(BaseCallback):
    """
    Reads the memory after each part of a run.

    :param timesteps: environment steps of the run
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.readings: list[Reading] = []

    def _on_step(self) -> bool:
        if self.num_timesteps * PARTS >= (len(self.readings) + 1) * self.timesteps:
            mib = resident_memory()
            if mib is None:
                raise RuntimeError("this system does not say how much memory a process holds; install psutil")
            self.readings.append(Reading(self.num_timesteps, mib))
        return True


def train(run: Run) -> tuple[list[Reading], float]:
    """
    Train in this process.

    :param run: what is trained
    :return: memory after each part, and seconds of the whole
    """
    th.set_num_threads(1)
    set_warnings()
    # Without SB3's Monitor, which keeps three numbers of every episode.
    env = MujocoVecEnv(run.env, n_envs=N_ENVS) if run.native else DummyVecEnv([partial(gym.make, run.env)] * N_ENVS)
    model = silenced(PPOPlus("MlpPolicy", env, compile_update=True, seed=0, device="cpu", **run.sizes))
    callback = Readings(run.timesteps)
    started = time.perf_counter()
    model.learn(run.timesteps, callback)
    return callback.readings, time.perf_counter() - started


def describe(run: Run, readings: list[Reading], seconds: float) -> str:
    """
    :param run: what was trained
    :param readings: memory after each part
    :param seconds: seconds of the whole
    :return: Markdown
    """
    first, last = readings[FIRST - 1], readings[-1]
    growth = last.mib - first.mib
    per_million = growth / (last.steps - first.steps) * 1e6
    highest = max(reading.mib for reading in readings)
    iterations = -(-run.timesteps // (N_ENVS * run.sizes.get("n_steps", 2048)))
    sizes = ", ".join(f"{name} {size}" for name, size in run.sizes.items()) or "SB3's defaults"
    rows = ["| environment steps | MiB |", "|---|---|"]
    rows += [f"| {reading.steps:,} | {reading.mib:,.1f} |" for reading in readings]
    return (
        f"## {run.name}\n{run.env}, {N_ENVS} environments, {sizes}; {iterations:,} iterations in {seconds:,.0f} s. "
        f"From {first.steps:,} steps on, memory grew by {growth:.1f} MiB, which is {per_million:.2f} MiB per million "
        f"steps; the highest reading is {highest:,.1f} MiB.\n\n" + "\n".join(rows)
    )


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--timesteps", type=int, default=2_000_000, help="environment steps of the long training (2000000)")
    add("--iterations", type=int, default=10_000, help="iterations of the other one, 256 steps each (10000)")
    add("--results", type=Path, help="where the tables go (results/memory.md)")
    add("--quick", action="store_true", help="tiny sizes, to see that it runs; writes to --results only")
    args = parser.parse_args()
    timesteps, iterations = (2_560, 20) if args.quick else (args.timesteps, args.iterations)
    short = {"n_steps": 32, "batch_size": 64, "n_epochs": 2}
    runs = [
        Run("One long training", "HalfCheetah-v5", True, timesteps, {"n_steps": 64} if args.quick else {}),
        Run("Many short iterations", "CartPole-v1", False, iterations * N_ENVS * short["n_steps"], short),
    ]
    command = f"python benchmarks/memory.py --timesteps {timesteps} --iterations {iterations}"
    texts = [
        f"`{command}` at commit {commit()} on {machine()}",
        "Resident memory of a process that trains with compile_update=True, one thread of torch.",
    ]
    with results_file(args.results, "memory.md", args.quick) as path:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for run in runs:
                texts.append(describe(run, *pool.apply(train, (run,))))
                print(texts[-1], flush=True)
                atomic_write(path, "\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
