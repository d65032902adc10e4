"""
Time of one gradient step: SB3's PPO, PPOPlus eager and compiled, a CleanRL-style loop, and SBX where it is installed.

    python benchmarks/update_speed.py                   # prints the table and writes benchmarks/results/update_speed.md
    python benchmarks/update_speed.py --threads 2

Whole updates on a full rollout are timed, in turns, in one process, and divided by their gradient steps. Every
algorithm has been through one update before: compilation does not count (start_speed.py measures it). The actor and
critic are 17-64-64-6, SB3's default networks for a HalfCheetah; images are 84 x 84 x 4 and go through SB3's NatureCNN.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cleanrl_style
import gymnasium as gym
import torch as th
from common import SBX_MISSING, Noise, commit, images, machine, median_and_spread, results_file, set_warnings, silenced
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write

N_ENVS = 8


class Case(NamedTuple):
    """
    One shape of an update.

    :param policy: SB3's name of the policy
    :param make_env: makes one environment
    :param n_steps: steps of each of the environments in the rollout
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over the rollout
    """

    policy: str
    make_env: Callable[..., gym.Env]
    n_steps: int
    batch_size: int
    n_epochs: int

    @property
    def gradient_steps(self) -> int:
        """:return: gradient steps of one update"""
        return self.n_epochs * -(-self.n_steps * N_ENVS // self.batch_size)


# Rollouts are as long as it takes for a hundred gradient steps and more; those of the CNN last long enough with fewer.
CASES = {
    "MLP, batch 64": Case("MlpPolicy", Noise, 256, 64, 10),
    "MLP, batch 256": Case("MlpPolicy", Noise, 512, 256, 10),
    "MLP, batch 1024": Case("MlpPolicy", Noise, 2048, 1024, 10),
    "CNN, batch 128": Case("CnnPolicy", images, 64, 128, 4),
}
EAGER: dict[str, Any] = {"compile_update": False}
COMPILED: dict[str, Any] = {"compile_update": True}
LEASH: dict[str, Any] = {"kl_coef": 1.0, "controllers": {"kl_coef": {"type": "kl_band", "target": 0.01}}}
RATE: dict[str, Any] = {"controllers": {"learning_rate": {"type": "kl_band", "target": 0.01, "every": "minibatch"}}}
PLUS: dict[str, dict[str, Any]] = {
    "PPOPlus eager": EAGER,
    "PPOPlus eager, log_diagnostics=False": {**EAGER, "log_diagnostics": False},
    "PPOPlus eager, adaptive KL penalty": {**EAGER, **LEASH},
    "PPOPlus eager, learning rate by KL": {**EAGER, **RATE},
    "PPOPlus compiled": COMPILED,
    "PPOPlus compiled, log_diagnostics=False": {**COMPILED, "log_diagnostics": False},
    "PPOPlus compiled, adaptive KL penalty": {**COMPILED, **LEASH},
    "PPOPlus compiled, learning rate by KL": {**COMPILED, **RATE},
}


def envs(case: Case) -> VecEnv:
    """
    :param case: shape of the update
    :return: its environments
    """
    env = make_vec_env(case.make_env, N_ENVS, seed=0)
    return VecTransposeImage(env) if case.policy == "CnnPolicy" else env


def trained(algorithm: Any, case: Case, extras: dict[str, Any]) -> Callable[[], object]:
    """
    :param algorithm: PPO of SB3 or SBX, or PPOPlus
    :param case: shape of the update
    :param extras: further arguments
    :return: does an update with the rollout of a model that did one with it before
    """
    sizes: dict[str, Any] = {"n_steps": case.n_steps, "batch_size": case.batch_size, "n_epochs": case.n_epochs}
    model: Any = silenced(algorithm(policy=case.policy, env=envs(case), seed=0, device="cpu", **sizes, **extras))
    model.learn(case.n_steps * N_ENVS)
    return model.train


def cleanrl(case: Case) -> Callable[[], object]:
    """
    :param case: shape of the update
    :return: does an update with a rollout, in CleanRL's style
    """
    env = envs(case)
    th.manual_seed(0)
    agent = cleanrl_style.Agent(env)
    optimizer = th.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    hyper = cleanrl_style.Hyperparameters(case.n_steps, case.batch_size, case.n_epochs)
    first = cleanrl_style.to_tensor(env.reset())
    rollout, _, _ = cleanrl_style.collect(env, agent, first, th.zeros(N_ENVS), hyper)
    cleanrl_style.update(agent, optimizer, rollout, hyper)
    return lambda: cleanrl_style.update(agent, optimizer, rollout, hyper)


def updates(case: Case) -> dict[str, Callable[[], object]]:
    """
    :param case: shape of the update
    :return: by name, what does one update; SB3's comes first
    """
    found = {"SB3": trained(PPO, case, {})}
    found |= {name: trained(PPOPlus, case, extras) for name, extras in PLUS.items()}
    found["CleanRL style"] = cleanrl(case)
    if find_spec("sbx"):
        import sbx

        found["SBX"] = trained(sbx.PPO, case, {})
    return found


def measure(case: Case, repeats: int) -> dict[str, list[float]]:
    """
    :param case: shape of the update
    :param repeats: updates of each algorithm, taken in turns
    :return: by name, seconds per gradient step of each update
    """
    found = updates(case)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for repeat in range(repeats):
        for name in found if repeat % 2 == 0 else reversed(found):
            gc.collect()
            started = time.perf_counter()
            found[name]()
            seconds[name].append((time.perf_counter() - started) / case.gradient_steps)
    return seconds


def rows(name: str, seconds: dict[str, list[float]]) -> list[str]:
    """
    :param name: name of a case
    :param seconds: what was measured
    :return: rows of the Markdown table
    """
    reference = median_and_spread(seconds["SB3"])[0]
    lines = []
    for label, values in seconds.items():
        median, spread = median_and_spread(values)
        lines.append(f"| {name} | {label} | {1e6 * median:,.0f} ±{spread:.0f}% | {median / reference:.2f} |")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="shapes (all)")
    parser.add_argument("--repeats", type=int, default=15, help="updates of each algorithm in each case (15)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, at most; JAX chooses its own (1)")
    parser.add_argument("--results", type=Path, help="where the table goes (results/update_speed.md)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that it runs; writes to --results only"
    )
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    set_warnings()
    settings = f"--repeats {args.repeats} --threads {args.threads}{' --quick' if args.quick else ''}"
    head = (
        f"`python benchmarks/update_speed.py {settings}` at commit {commit()} on {machine()}\n\n"
        "Microseconds per gradient step: median over updates taken in turns, half of their range in percent of it.\n"
    )
    if find_spec("sbx") is None:
        head += f"\n{SBX_MISSING}.\n"
    lines = ["| case | algorithm | microseconds | / SB3 |", "|---|---|---|---|"]
    print("\n".join([head, *lines]), flush=True)
    with results_file(args.results, "update_speed.md", args.quick) as path:
        for name in args.cases:
            case = CASES[name]
            if args.quick:
                case = case._replace(n_steps=max(8, case.batch_size // N_ENVS), n_epochs=1)
            lines += (new := rows(name, measure(case, args.repeats)))
            print("\n".join(new), flush=True)
            atomic_write(path, "\n".join([head, *lines, ""]))


if __name__ == "__main__":
    main()
