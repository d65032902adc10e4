"""
Time of one update, PPOPlus against SB3's PPO, alternating in one process on the same rollout.

    python benchmarks/update_speed.py                   # prints the table and writes benchmarks/results/update_speed.md

Ratios of medians; the actor and critic are 17-64-64-6, SB3's default networks for a HalfCheetah.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write

RESULTS = Path(__file__).parent / "results"


class Noise(gym.Env):
    """Observations, rewards and episodes without meaning: the update is what is timed."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,))
    action_space = spaces.Box(-1, 1, (6,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.normal(size=17).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        random = self.np_random
        return random.normal(size=17).astype(np.float32), float(random.normal()), random.random() < 0.01, False, {}


MLP: dict[str, Any] = {"policy": "MlpPolicy", "env": Noise, "n_steps": 2048}
CNN: dict[str, Any] = {
    "policy": "CnnPolicy",
    "env": lambda: FakeImageEnv(n_channels=4),
    "n_steps": 512,
    "n_epochs": 4,
}
LEASH = {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01}}}
RATE = {"controllers": {"learning_rate": {"type": "kl_band", "target": 0.01, "every": "minibatch"}}}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("MLP, batch 64", {**MLP, "batch_size": 64}, {}),
    ("MLP, batch 64, log_diagnostics=False", {**MLP, "batch_size": 64}, {"log_diagnostics": False}),
    ("MLP, batch 256", {**MLP, "batch_size": 256}, {}),
    ("MLP, batch 1024", {**MLP, "batch_size": 1024}, {}),
    ("MLP, batch 64, adaptive KL penalty", {**MLP, "batch_size": 64}, LEASH),
    ("MLP, batch 64, learning rate by KL", {**MLP, "batch_size": 64}, RATE),
    ("CNN, batch 128", {**CNN, "batch_size": 128}, {}),
    ("CNN, batch 128, log_diagnostics=False", {**CNN, "batch_size": 128}, {"log_diagnostics": False}),
]


def prepared(algorithm: type[BaseAlgorithm], arguments: dict[str, Any]) -> BaseAlgorithm:
    """
    :param algorithm: PPO or PPOPlus
    :param arguments: constructor arguments; ``env`` is a function that makes it
    :return: a model with a full rollout, after a first update
    """
    model = algorithm(**{**arguments, "env": arguments["env"]()}, seed=0, device="cpu")
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model.learn(arguments["n_steps"])


def seconds_of_update(model: BaseAlgorithm) -> float:
    """
    :param model: model with a full rollout
    :return: wall time of one update on it
    """
    started = time.perf_counter()
    model.train()
    return time.perf_counter() - started


def compare(first: BaseAlgorithm, second: BaseAlgorithm, repeats: int) -> tuple[float, float]:
    """
    :param first: a model
    :param second: another one
    :param repeats: updates of each, taken in turns
    :return: median seconds of each
    """
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for index in (0, 1) if repeat % 2 == 0 else (1, 0):
            times[index].append(seconds_of_update((first, second)[index]))
    return float(np.median(times[0])), float(np.median(times[1]))


def table(repeats: int) -> str:
    """
    :param repeats: updates of each algorithm in each case
    :return: Markdown table
    """
    rows = ["| case | SB3 (ms) | PPOPlus (ms) | PPOPlus / SB3 |", "|---|---|---|---|"]
    for name, arguments, extras in CASES:
        models = prepared(PPO, arguments), prepared(PPOPlus, {**arguments, **extras})
        theirs, ours = compare(*models, repeats)
        rows.append(f"| {name} | {1e3 * theirs:.1f} | {1e3 * ours:.1f} | {ours / theirs:.2f} |")
        print(rows[-1], flush=True)
    return "\n".join(rows)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="updates of each algorithm in each case (15)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (1)")
    parser.add_argument("--results", type=Path, default=RESULTS / "update_speed.md")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", "You have specified a mini-batch size")
    machine = (
        f"{platform.machine()}, Python {platform.python_version()}, torch {th.__version__}, {args.threads} thread(s)"
    )
    command = f"python benchmarks/update_speed.py --repeats {args.repeats} --threads {args.threads}"
    atomic_write(
        args.results, f"`{command}` on {machine}; medians of updates taken in turns\n\n{table(args.repeats)}\n"
    )


if __name__ == "__main__":
    main()
