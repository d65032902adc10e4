"""
Time before training begins: imports, the command line's help, and the compilation of the update.

    python benchmarks/start_speed.py        # prints the tables and writes benchmarks/results/start_speed.md

Each number is a median over fresh processes. A compilation is the time of the first compiled update less that of the
second; cold means that the compiler's cache is empty, warm that a process before filled it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from common import Noise, commit, images, machine, median_and_spread, results_file, set_warnings, silenced
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write

PPO_PLUS = str(Path(sysconfig.get_path("scripts")) / ("ppo-plus.exe" if os.name == "nt" else "ppo-plus"))
COMMANDS: dict[str, list[str]] = {
    "`python -c pass`": [sys.executable, "-c", "pass"],
    "`import torch`": [sys.executable, "-c", "import torch"],
    "`import stable_baselines3`": [sys.executable, "-c", "import stable_baselines3"],
    "`import sb3_ppo_plus`": [sys.executable, "-c", "import sb3_ppo_plus"],
    "`from sb3_ppo_plus import PPOPlus`": [sys.executable, "-c", "from sb3_ppo_plus import PPOPlus"],
    "`ppo-plus --help`": [PPO_PLUS, "--help"],
    "`ppo-plus train --help`": [PPO_PLUS, "train", "--help"],
}


# By policy: environment, steps of a rollout, rows of a minibatch.
COMPILED: dict[str, tuple[Callable[..., gym.Env], int, int]] = {
    "MlpPolicy": (Noise, 256, 64),
    "CnnPolicy": (images, 256, 128),
}


def seconds_of(command: Sequence[str]) -> float:
    """
    :param command: program and arguments
    :return: wall time until it ended
    """
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def compilation(policy: str) -> float:
    """
    :param policy: key of ``COMPILED``
    :return: seconds by which the first compiled update of this process is longer than the second
    """
    th.set_num_threads(1)
    set_warnings()
    env, n_steps, batch_size = COMPILED[policy]
    sizes: dict[str, Any] = {"n_steps": n_steps, "batch_size": batch_size, "n_epochs": 1}
    model = silenced(PPOPlus(policy, make_vec_env(env, seed=0), **sizes, compile_update=False, device="cpu", seed=0))
    # A rollout to learn from, and every import of an update done, but for the compiler's own.
    model.learn(n_steps)
    assert isinstance(model, PPOPlus)
    model.compile_update = True
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        model.train()
        seconds.append(time.perf_counter() - started)
    return seconds[0] - seconds[1]


def compilation_elsewhere(policy: str, cache: str) -> float:
    """
    :param policy: key of ``COMPILED``
    :param cache: folder of the compiler's cache
    :return: what :func:`compilation` says in a fresh process
    """
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--compile", policy]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(answer.stdout.split()[-1])


def table(results: dict[str, list[float]], heading: str) -> str:
    """
    :param results: seconds by what was done
    :param heading: title of the first column
    :return: Markdown table
    """
    rows = [f"| {heading} | seconds |", "|---|---|"]
    for name, values in results.items():
        median, spread = median_and_spread(values)
        rows.append(f"| {name} | {median:.2f} ±{spread:.0f}% |")
    return "\n".join(rows)


def starts(repeats: int) -> dict[str, list[float]]:
    """
    :param repeats: processes of each kind, in turns
    :return: seconds of each command, the first round left out, which reads files from the disk
    """
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(repeats + 1):
        for name, command in COMMANDS.items():
            elapsed = seconds_of(command)
            if number > 0:
                seconds[name].append(elapsed)
    return seconds


def compilations(policies: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """
    :param policies: keys of ``COMPILED``
    :param repeats: cold and warm processes of each
    :return: seconds of each compilation
    """
    seconds: dict[str, list[float]] = {f"{policy}, {how}": [] for policy in policies for how in ("cold", "warm")}
    for _ in range(repeats):
        for policy in policies:
            with tempfile.TemporaryDirectory() as cache:
                for how in ("cold", "warm"):
                    seconds[f"{policy}, {how}"].append(compilation_elsewhere(policy, cache))
    return seconds


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind (3)")
    parser.add_argument("--policies", nargs="+", default=list(COMPILED), choices=list(COMPILED), help="(all)")
    parser.add_argument("--results", type=Path, help="where the tables go (results/start_speed.md)")
    parser.add_argument("--quick", action="store_true", help="one process of each kind; writes to --results only")
    parser.add_argument("--compile", choices=list(COMPILED), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.compile:
        print(compilation(args.compile))
        return
    repeats = 1 if args.quick else args.repeats
    with results_file(args.results, "start_speed.md", args.quick) as path:
        texts = [
            f"`python benchmarks/start_speed.py --repeats {repeats}` at commit {commit()} on {machine()}",
            "Seconds in fresh processes: median, and half of the range in percent of it.",
            table(starts(repeats), "process"),
            "Seconds of compilation of the update, one thread of torch.",
            table(compilations(args.policies, repeats), "policy and cache"),
        ]
        print("\n\n".join(texts))
        atomic_write(path, "\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
