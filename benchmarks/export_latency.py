"""
Latency of one action, batch 1: the model's ``predict()`` beside the exported file.

    python benchmarks/export_latency.py        # prints the table and writes benchmarks/results/export_latency.md

Policies are SB3's with its default networks unless the name says otherwise, untrained: weights do not matter here.
``predict()`` gets what the environment gives, normalized where the policy is, as a loop on a robot would have to.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from common import PACKAGES, commit, machine, results_file, set_warnings
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.export import OnnxPolicy, export_onnx
from sb3_ppo_plus.export.reference import Reference, sample_observations
from sb3_ppo_plus.export.stages import read_wrappers, wrappers_of

# Calls of each kind in a row, before it is the turn of the next.
BLOCK = 200
Wrap = Callable[[VecEnv], VecEnv]
LARGE = {"net_arch": [256, 256]}
#: name -> (class, policy, length of the observation or "image", actions, wrappers, policy_kwargs)
CASES: dict[str, tuple[Any, str, Any, spaces.Space, Wrap | None, dict[str, Any]]] = {
    "CartPole: 4-64-64-2": (PPOPlus, "MlpPolicy", 4, spaces.Discrete(2), None, {}),
    "HalfCheetah: 17-64-64-6, normalized": (PPOPlus, "MlpPolicy", 17, spaces.Box(-1, 1, (6,)), VecNormalize, {}),
    "quadruped: 48-256-256-12, normalized": (PPOPlus, "MlpPolicy", 48, spaces.Box(-1, 1, (12,)), VecNormalize, LARGE),
    "masks: 10-64-64, MultiDiscrete": (MaskablePPO, "MlpPolicy", 10, spaces.MultiDiscrete([4, 3]), None, {}),
    "LSTM of 256": (RecurrentPPO, "MlpLstmPolicy", 17, spaces.Box(-1, 1, (6,)), None, {}),
    "NatureCNN, 84x84, 4 frames": (
        PPOPlus,
        "CnnPolicy",
        "image",
        spaces.Discrete(6),
        lambda env: VecFrameStack(env, 4),
        {},
    ),
}


class Shape(gym.Env):
    """Has spaces, and observations without meaning."""

    def __init__(self, observations: Any, actions: spaces.Space) -> None:
        image = spaces.Box(0, 255, (84, 84, 1), np.uint8)
        self.observation_space = image if observations == "image" else spaces.Box(-np.inf, np.inf, (observations,))
        self.action_space = actions

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        return self.observation_space.sample(), 0.0, False, False, {}


def callers(case: str, folder: Path) -> tuple[dict[str, Callable[[int], Any]], int]:
    """
    :param case: key of ``CASES``
    :param folder: where the file goes
    :return: from the number of a call to an action, by kind, and the bytes of the file
    """
    algorithm, policy, observations, actions, wrap, policy_kwargs = CASES[case]
    env: VecEnv = DummyVecEnv([lambda: Shape(observations, actions)])
    model = algorithm(policy, env if wrap is None else wrap(env), policy_kwargs=policy_kwargs, device="cpu", seed=0)
    path = folder / "policy.onnx"
    export_onnx(model, path, n_random=100)
    file, env = OnnxPolicy(path), model.get_env()
    space, stages = read_wrappers(env)
    many = sample_observations(space, BLOCK, np.random.default_rng(0), stages)
    rows = [many[index : index + 1] for index in range(BLOCK)]
    reference, begins = Reference(model, wrappers_of(env)), np.zeros(1, bool)
    masks = np.ones((1, 7), bool) if reference.masked else None
    feeds = [file._batch(row)[0] | file._state_rows(None, None, 1) for row in rows]
    if file.masks is not None:
        feeds = [feed | {file.masks.name: file._mask_rows(None, 1)} for feed in feeds]
    kinds = {
        "`model.predict`": lambda index: reference.predict(rows[index], begins, masks),
        "`OnnxPolicy.act`": lambda index: file.act(rows[index], action_masks=masks),
        "onnxruntime alone": lambda index: file.session.run(None, feeds[index]),
    }
    return kinds, path.stat().st_size


def measure(case: str, folder: Path, rounds: int) -> tuple[dict[str, np.ndarray], int]:
    """
    :param case: key of ``CASES``
    :param folder: where the file goes
    :param rounds: turns of each kind, of ``BLOCK`` calls
    :return: microseconds of each call by kind, the first two rounds left out, and the bytes of the file
    """
    kinds, size = callers(case, folder)
    taken: dict[str, list[int]] = {kind: [] for kind in kinds}
    for number in range(rounds + 2):
        for kind in list(kinds)[:: 1 if number % 2 == 0 else -1]:
            call = kinds[kind]
            for index in range(BLOCK):
                started = time.perf_counter_ns()
                call(index)
                elapsed = time.perf_counter_ns() - started
                if number >= 2:
                    taken[kind].append(elapsed)
    return {kind: np.array(values) / 1000 for kind, values in taken.items()}, size


def table(results: dict[str, tuple[dict[str, np.ndarray], int]]) -> str:
    """
    :param results: what :func:`measure` gave, by case
    :return: Markdown table
    """
    kinds = list(next(iter(results.values()))[0])
    head = " | ".join(f"{kind} p50, p99" for kind in kinds)
    rows = [f"| policy | KiB | {head} | `act` of `predict`, p50 |", "|---|---|" + "---|" * (len(kinds) + 1)]
    for case, (taken, size) in results.items():
        middle = {kind: np.percentile(values, [50, 99]) for kind, values in taken.items()}
        cells = " | ".join(f"{p50:.1f}, {p99:.1f}" for p50, p99 in middle.values())
        share = middle[kinds[1]][0] / middle[kinds[0]][0]
        rows.append(f"| {case} | {size / 1024:,.0f} | {cells} | {share:.2f} |")
    return "\n".join(rows)


def main() -> None:
    """Measure every case in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help=f"turns of {BLOCK} calls of each kind (25)")
    parser.add_argument("--results", type=Path, default=None, help="file to write (results/export_latency.md)")
    parser.add_argument("--quick", action="store_true", help="try it out: one turn")
    args = parser.parse_args()
    set_warnings()
    th.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            results[case] = measure(case, Path(folder), 1 if args.quick else args.rounds)
    calls = len(next(iter(next(iter(results.values()))[0].values())))
    text = (
        f"`python benchmarks/export_latency.py --rounds {args.rounds}` at commit {commit()} on "
        f"{machine((*PACKAGES, 'sb3-contrib', 'onnxruntime'))}\n\n"
        f"Microseconds of one action, batch 1, one thread each: median and 99th percentile over {calls:,} calls.\n\n"
        f"{table(results)}\n"
    )
    print(text)
    with results_file(args.results, "export_latency.md", args.quick) as path:
        atomic_write(path, text)


if __name__ == "__main__":
    main()
