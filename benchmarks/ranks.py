"""
Two ranks (gloo, one machine) beside one process with the rows of both: how near they come, and how fast they are.

    python benchmarks/ranks.py          # prints the tables and writes benchmarks/results/ranks.md
    python benchmarks/ranks.py --quick  # tiny sizes, measures nothing

Parameters: one update of 20 gradient steps on rollouts that are drawn beforehand, and how far each parameter is from
where one process brings it, over seeds; once with advantages standardized over the rows of both ranks, as PPOPlus does
it, and once by each rank alone. Speed: whole iterations of HalfCheetah-v5 with the same number of environments and rows
in total; two ranks have half of them each. One process takes one thread of torch and as many threads of MuJoCo as there
are processors, two ranks take one each. The runs take turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from common import commit, machine, median_and_spread, results_file, silenced
from rank_trainings import N_ENVS, SIZE, be_a_rank, outcome, run_ranks, update
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.distributed import Ranks, moments, passes
from sb3_ppo_plus.envs import MujocoVecEnv, TensorVecNormalize
from sb3_ppo_plus.machine import processors

#: by how much the advantages of the second rank are larger than those of the first
LIFTS = (1.0, 1.5, 3.0)
SEEDS = range(5)
EPOCHS = 20
#: environments, steps and minibatch rows in total
SHAPES = ((64, 64, 256), (64, 64, 2048))
PACKAGES = ("torch", "numpy", "stable-baselines3", "gymnasium", "mujoco")


def parameters(lift: float, seed: int, share: slice) -> list[float]:
    """
    :param lift: one of LIFTS
    :param seed: seed of the rollout and of the policy
    :param share: which environments
    :return: parameters after the update
    """
    model = update("plain", share, draw_seed=seed, lift=lift, seed=seed, n_epochs=EPOCHS)
    found: list[float] = outcome(model)["parameters"]
    return found


def differences(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """What each rank has after the update, by lift and seed, with common moments and with its own."""
    share = slice(ranks.rank * N_ENVS, (ranks.rank + 1) * N_ENVS)
    cases = [(lift, seed) for lift in LIFTS for seed in SEEDS]
    together = [parameters(*case, share) for case in cases]
    passes.over_all = lambda _, own: own  # type: ignore[assignment]
    alone = [parameters(*case, share) for case in cases]
    passes.over_all = moments.over_all
    return {"together": together, "alone": alone}


class Clock(BaseCallback):
    """Takes the time of iterations, and the share of their updates."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[float] = []

    def _on_rollout_start(self) -> None:
        self.starts.append(time.perf_counter())

    def _on_step(self) -> bool:
        return True


def speed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Seconds of iterations after the first, for each shape, and of their gradient steps."""
    rounds = int((folder / "rounds").read_text())
    found: dict[str, Any] = {}
    for n_envs, n_steps, batch_size in SHAPES:
        env = MujocoVecEnv(
            "HalfCheetah-v5", n_envs // ranks.size, seed=ranks.rank, n_threads=processors() // ranks.size
        )
        model = PPOPlus(
            "MlpPolicy",
            TensorVecNormalize(env),
            n_steps=n_steps,
            batch_size=batch_size // ranks.size,
            seed=0,
            device="cpu",
        )
        clock = Clock()
        silenced(model).learn((rounds + 2) * n_steps * n_envs, clock)
        steps = model.num_gradient_steps
        found[str(batch_size)] = {
            "iterations": np.diff(clock.starts)[1:].tolist(),
            "gradient": 1e3 * model.profile.totals["gradient"] / steps,
        }
        env.close()
    return found


def table_of_differences(folder: Path) -> list[str]:
    """
    :param folder: where the ranks write
    :return: lines of a table
    """
    first, second = checked(run_ranks("differences", folder, script=__file__))
    assert first["together"] == second["together"], "the ranks differ"
    lines = [
        "| advantages of rank 1, times those of rank 0 | both ranks' moments: largest | mean | own: largest | mean |",
        "|---|---|---|---|---|",
    ]
    cases = iter(range(len(LIFTS) * len(SEEDS)))
    for lift in LIFTS:
        apart: dict[str, list[np.ndarray]] = {"together": [], "alone": []}
        for seed in SEEDS:
            index, one = next(cases), parameters(lift, seed, slice(None))
            for how, each in apart.items():
                each.append(np.abs(np.subtract(first[how][index], one)))
        cells = [f"{np.max(each):.1e} | {np.mean(each):.1e}" for each in apart.values()]
        lines.append(f"| {lift:g} | {' | '.join(cells)} |")
    return lines


def table_of_speeds(folder: Path, rounds: int) -> list[str]:
    """
    :param folder: where the ranks write
    :param rounds: how often the two take turns
    :return: lines of a table
    """
    (folder / "rounds").write_text(str(8 if rounds > 1 else 1))
    times: dict[tuple[str, int], list[float]] = {}
    gradients: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds):
        for size in (1, SIZE) if turn % 2 == 0 else (SIZE, 1):
            for batch, found in checked(run_ranks("speed", folder, size=size, wait=300, script=__file__))[0].items():
                times.setdefault((batch, size), []).append(float(np.median(found["iterations"])))
                gradients.setdefault((batch, size), []).append(found["gradient"])
    lines = [
        "| rows of a minibatch in total | ranks | environment steps/s | ms of a gradient step |",
        "|---|---|---|---|",
    ]
    for n_envs, n_steps, batch_size in SHAPES:
        for size in (1, SIZE):
            key = str(batch_size), size
            rate, spread = median_and_spread([n_envs * n_steps / seconds for seconds in times[key]])
            lines.append(f"| {batch_size} | {size} | {rate:,.0f} ±{spread:.0f}% | {np.median(gradients[key]):.2f} |")
    return lines


def checked(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    :param found: what ranks gave
    :return: the same
    """
    for each in found:
        if "error" in each:
            raise SystemExit(each["error"])
    return found


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=None, help="where the table goes")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="one short turn, which measures nothing")
    args = parser.parse_args()
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        differ = table_of_differences(Path(folder))
        fast = table_of_speeds(Path(folder), 1 if args.quick else args.rounds)
    text = "\n".join(
        [
            f"How far parameters are from those of one process with the rows of both, over {len(SEEDS)} seeds, after",
            f"an update of {EPOCHS} gradient steps:",
            "",
            *differ,
            "",
            "HalfCheetah-v5, 64 environments in total, rollouts of 64 steps, 10 epochs, eager; a gradient step of two",
            "ranks has the exchange in it. Median of the turns, half of their range in percent:",
            "",
            *fast,
            "",
            f"`python benchmarks/ranks.py`, commit {commit()}; {machine(PACKAGES)}, gloo, {args.rounds} turns.",
            "",
        ]
    )
    print(text)
    with results_file(args.results, "ranks.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("differences", "speed"):
        be_a_rank({"differences": differences, "speed": speed})
    else:
        main()
