"""
Environment steps per second of MujocoVecEnv on MuJoCo-Warp and on MuJoCo itself, by number of robots.

    python benchmarks/gpu_warp.py                                # on a GPU; writes benchmarks/results/gpu_warp.md
    python benchmarks/gpu_warp.py --device cpu --quick           # tries it on Warp's CPU device, and measures nothing

Random actions, episodes that end and begin again. "tensors" steps on the tensor face and lets the host run ahead of the
device, whose end is waited for once a round; "arrays" is the NumPy face, which waits in every step. Rounds take turns,
in the opposite order every other time. Making an environment, with the compilation of its kernels, is timed apart.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from common import commit, machine, median_and_spread, results_file

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import MujocoVecEnv, TensorVecEnv

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5")
PACKAGES = ("torch", "numpy", "mujoco", "mujoco-warp", "warp-lang")
# Different actions that are taken again and again.
BANK = 16
SEED = 0


class Way(NamedTuple):
    """
    One way to step.

    :param title: its name in the table
    :param engine: arguments of MujocoVecEnv
    :param step: takes one step with the actions of this number
    """

    title: str
    engine: dict[str, Any]
    step: Callable[[TensorVecEnv, Any], Any]


def ways(device: str) -> list[Way]:
    """
    :param device: of the Warp engine
    :return: what is compared
    """
    warp = {"engine": "warp", "device": device}

    def tensors(env: TensorVecEnv, actions: tuple[th.Tensor, np.ndarray]) -> None:
        env.step_tensors(actions[0])

    def arrays(env: TensorVecEnv, actions: tuple[th.Tensor, np.ndarray]) -> None:
        env.step_arrays(actions[1])

    return [Way("warp, tensors", warp, tensors), Way("warp, arrays", warp, arrays), Way("cpu engine", {}, arrays)]


class Runner:
    """
    An environment that is stepped in one way.

    :param way: how
    :param task: Gymnasium's id
    :param n_envs: N
    """

    def __init__(self, way: Way, task: str, n_envs: int) -> None:
        started = time.perf_counter()
        self.way, self.env = way, MujocoVecEnv(task, n_envs, SEED, **way.engine)
        self.env.reset_tensors()
        self._wait()
        #: seconds until the first observations
        self.made_in = time.perf_counter() - started
        space = self.env.action_space
        drawn = np.random.default_rng(SEED).uniform(space.low, space.high, (BANK, n_envs, *space.shape))
        arrays = drawn.astype(np.float32)
        self.bank = [(th.from_numpy(row).to(self.env.device), row) for row in arrays]

    def _wait(self) -> None:
        if self.env.device.type == "cuda":
            th.cuda.synchronize(self.env.device)

    def seconds(self, steps: int) -> float:
        """
        :param steps: how many to take
        :return: the time of them
        """
        gc.collect()
        self._wait()
        started = time.perf_counter()
        for index in range(steps):
            self.way.step(self.env, self.bank[index % BANK])
        self._wait()
        return time.perf_counter() - started


def measure(task: str, n_envs: int, args: argparse.Namespace) -> list[str]:
    """
    Time all ways in turns.

    :param task: Gymnasium's id
    :param n_envs: N
    :param args: options
    :return: a row of the table
    """
    runners = [Runner(way, task, n_envs) for way in ways(args.device)]
    counts = []
    for runner in runners:
        runner.seconds(args.warmup)
        counts.append(max(1, round(args.seconds * args.warmup / runner.seconds(args.warmup))))
    rates: list[list[float]] = [[] for _ in runners]
    for number in range(args.rounds):
        order = range(len(runners)) if number % 2 == 0 else reversed(range(len(runners)))
        for index in order:
            rates[index].append(counts[index] * n_envs / runners[index].seconds(counts[index]))
    overflows = sum(runners[0].env.overflows.values())
    cells = [f"{median:,.0f} ±{spread:.0f}%" for median, spread in map(median_and_spread, rates)]
    ratio = float(np.median([ours / theirs for ours, theirs in zip(rates[0], rates[-1], strict=True)]))
    for runner in runners:
        runner.env.close()
    return [task, f"{n_envs:,}", *cells, f"{ratio:.2f}", f"{runners[0].made_in:.1f} s", str(overflows)]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """
    :param given: words of the command line, None for this program's own
    :return: options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="of the Warp engine (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--envs", nargs="+", type=int, default=[256, 1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in a round (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=20, help="steps before time is taken (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which measure nothing")
    parser.add_argument("--output", type=Path, help="where the table goes")
    parser.add_argument("--note", default="", help="words below the table")
    args = parser.parse_args(given)
    if args.quick:
        args.tasks, args.envs, args.rounds, args.seconds, args.warmup = args.tasks[:1], [8], 2, 0.05, 2
    return args


def main(given: Sequence[str] | None = None) -> None:
    """Measure everything, write the table."""
    args = arguments(given)
    name = th.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "Warp's CPU device"
    print(name, flush=True)
    columns = ["task", "N", *(way.title for way in ways(args.device)), "warp / cpu engine", "made in", "overflows"]
    lines = [
        "Environment steps per second: medians over rounds, half of their range in percent. The ratio is the median",
        "over rounds of the tensor face's rate to that of the CPU engine.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for task in args.tasks:
        for n_envs in args.envs:
            lines.append(f"| {' | '.join(measure(task, n_envs, args))} |")
            print(lines[-1], flush=True)
    words = f"`python benchmarks/gpu_warp.py`, {name}, commit {commit()}; {machine(PACKAGES)}; {args.rounds} rounds."
    text = "\n".join([*lines, "", f"{words} {args.note}".strip(), ""])
    print(text)
    with results_file(args.output, "gpu_warp.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    main()
