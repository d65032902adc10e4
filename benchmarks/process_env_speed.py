"""
Environments in worker processes: vector steps per second of ProcessVecEnv beside SB3's SubprocVecEnv and DummyVecEnv.

    python benchmarks/process_env_speed.py      # prints the table and writes benchmarks/results/process_env_speed.md

All are stepped in turns in one run, with the same actions; a round of each is one repeat. The ratio is the median over
repeats of the ratios of one round, so a machine that slows down in between does not favour anybody.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from common import commit, images, machine, results_file
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import ProcessVecEnv
from sb3_ppo_plus.runs.envs import EnvMaker

PACKAGES = ("numpy", "stable-baselines3", "gymnasium", "mujoco")
N_ENVS = 8


class Busy(gym.Wrapper):
    """Takes two milliseconds longer, as a simulator would."""

    def step(self, action: Any) -> Any:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass
        return self.env.step(action)


ENVS: dict[str, Callable[[], gym.Env]] = {
    "CartPole-v1": lambda: gym.make("CartPole-v1"),
    "Pendulum-v1": lambda: gym.make("Pendulum-v1"),
    "HalfCheetah-v5": EnvMaker("HalfCheetah-v5"),
    "CartPole-v1, 2 ms a step": lambda: Busy(gym.make("CartPole-v1")),
    "images, 4 x 84 x 84": images,
}
KINDS: dict[str, Callable[[list[Callable[[], gym.Env]]], VecEnv]] = {
    "ProcessVecEnv": ProcessVecEnv,
    "ProcessVecEnv, 2 workers": lambda makers: ProcessVecEnv(makers, n_workers=2),
    "SubprocVecEnv": lambda makers: SubprocVecEnv(makers),
    "DummyVecEnv": lambda makers: DummyVecEnv(makers),
}


def steps_per_second(env: VecEnv, actions: list[np.ndarray]) -> float:
    """
    :param env: environments that stand in an episode
    :param actions: one array per step [N, A]
    :return: steps of all environments, in a second
    """
    started = time.perf_counter()
    for action in actions:
        env.step(action)
    return len(actions) * env.num_envs / (time.perf_counter() - started)


def measure(make: Callable[[], gym.Env], n_steps: int, repeats: int) -> dict[str, list[float]]:
    """
    :param make: makes one environment
    :param n_steps: vector steps of one repeat
    :param repeats: how often each kind has its turn
    :return: steps per second of each kind, one number per repeat
    """
    envs = {name: kind([make] * N_ENVS) for name, kind in KINDS.items()}
    try:
        space = next(iter(envs.values())).action_space
        space.seed(0)
        actions = [np.stack([space.sample() for _ in range(N_ENVS)]) for _ in range(n_steps)]
        speeds: dict[str, list[float]] = {name: [] for name in envs}
        for env in envs.values():
            env.seed(0)
            env.reset()
            steps_per_second(env, actions[: max(1, n_steps // 10)])
        for _ in range(repeats):
            for name, env in envs.items():
                speeds[name].append(steps_per_second(env, actions))
        return speeds
    finally:
        for env in envs.values():
            env.close()


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """
    :param results: environment to kind to steps per second
    :return: Markdown table
    """
    rows = [
        f"| {N_ENVS} environments | {' | '.join(KINDS)} | times SubprocVecEnv | the same, 2 workers |",
        "|---" * (len(KINDS) + 3) + "|",
    ]
    for name, speeds in results.items():
        base = np.array(speeds["SubprocVecEnv"])
        ratios = [np.array(speeds[kind]) / base for kind in list(KINDS)[:2]]
        middle = " | ".join(f"{np.median(values):,.0f}" for values in speeds.values())
        times = " | ".join(f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]" for ratio in ratios)
        rows.append(f"| {name} | {middle} | {times} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=list(ENVS))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works; writes nothing")
    parser.add_argument("--results", type=Path, default=None)
    args = parser.parse_args()
    steps, repeats = (20, 3) if args.quick else (args.steps, args.repeats)
    results = {name: measure(ENVS[name], steps, repeats) for name in args.envs}
    report = table(results)
    with results_file(args.results, "process_env_speed.md", args.quick) as path:
        command = "`python benchmarks/process_env_speed.py`: steps per second, medians, and ratios [lowest, highest]"
        atomic_write(path, f"{command}\n\n{report}\n\nCommit {commit()}; {machine(PACKAGES)}; {repeats} repeats.\n")
    print(report)


if __name__ == "__main__":
    main()
