"""
Environment steps per second of MuJoCo tasks: MujocoVecEnv, SB3, Gymnasium, EnvPool, and MuJoCo alone.

    python benchmarks/env_speed.py      # measures what results/env_speed.jsonl lacks, then writes the tables beside it
    python benchmarks/env_speed.py --tasks Hopper-v5 --envs 8 16 --variants ours_numpy dummy

All variants of one task and one number of environments are timed in turns, in one run. Each takes the same random
actions, and keeps the return and length of episodes, except for EnvPool, which counts the length only. Episodes end and
begin again as they do, so the states are those of a random policy.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from common import RESULTS, dump, load, machine
from env_speed_variants import ACTIONS, VARIANTS, Case, Variant

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs.mujoco.bindings import log_warnings
from sb3_ppo_plus.machine import processors

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
ENVS = (8, 16, 64, 256)
PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "stable-baselines3", "envpool")
HEADINGS = {
    "ours_numpy": "ours, NumPy",
    "ours_tensors": "ours, tensors",
    "dummy": "SB3 Dummy",
    "subproc": "SB3 Subproc",
    "sync": "Gymnasium Sync",
    "async": "Gymnasium Async",
    "envpool": "EnvPool",
    "physics": "physics only",
}
RATIOS = {
    "NumPy / Dummy": ("ours_numpy", "dummy"),
    "tensors / Dummy": ("ours_tensors", "dummy"),
    "NumPy / EnvPool": ("ours_numpy", "envpool"),
    "tensors / EnvPool": ("ours_tensors", "envpool"),
}
SHARES = {"physics in NumPy": "ours_numpy", "physics in tensors": "ours_tensors"}
LEGEND = """Environment steps per second: median over rounds, and half of their range in percent of it. Below, ratios of
these medians, and the share of our time that MuJoCo alone takes for the same simulations."""


class Turn(NamedTuple):
    """
    One turn of a variant.

    :param seconds: time taken
    :param steps: environment steps
    :param episodes: episodes that ended, None where the variant does not say
    """

    seconds: float
    steps: int
    episodes: int | None


def turn(variant: Variant, count: int) -> Turn:
    """
    Take steps, and the time of them.

    :param variant: what is stepped
    :param count: steps of each environment
    :return: what came of it
    """
    variant.prepare(count)
    gc.collect()
    first = variant.index
    flags: list[Any] = []
    started = time.perf_counter()
    for index in range(first, first + count):
        flags.append(variant.step(index))
    seconds = time.perf_counter() - started
    variant.index += count
    steps = count * len(variant.ended)
    if flags[-1] is None:
        return Turn(seconds, steps, None)
    if variant.resets_in_next_step:
        steps -= int(np.sum([variant.ended, *flags[:-1]]))
        variant.ended = np.array(flags[-1])
    return Turn(seconds, steps, int(np.sum(flags)))


def left_out(names: Sequence[str], n_envs: int, max_processes: int) -> dict[str, str]:
    """
    :param names: variants asked for
    :param n_envs: number of environments
    :param max_processes: most environments that get a process each
    :return: which of them are not measured, and why
    """
    reasons = {}
    if find_spec("envpool") is None:
        reasons["envpool"] = "EnvPool is not installed"
    if n_envs > max_processes:
        why = f"{n_envs} processes on {processors()} processors measure the scheduler; --max-processes raises the bound"
        reasons |= {"subproc": why, "async": why}
    return {name: why for name, why in reasons.items() if name in names}


def measure(task: str, n_envs: int, names: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """
    Time the variants in turns.

    :param task: Gymnasium's id
    :param n_envs: number of environments
    :param names: variants
    :param args: options
    :return: by variant: environment steps per second of each round and their median, steps per round, episodes
    """
    probe = gym.make(task)
    space = probe.action_space
    probe.close()
    assert isinstance(space, gym.spaces.Box)
    random = np.random.default_rng(args.seed).random((ACTIONS, n_envs, *space.shape), np.float32)
    actions = space.low + (space.high - space.low) * random
    case = Case(task, n_envs, args.threads, args.seed, actions)
    made: dict[str, Variant] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    try:
        for name in (name for name in VARIANTS if name in names):
            made[name] = VARIANTS[name](case)
        counts = {}
        for name, variant in made.items():
            half = max(1, args.warmup // 2)
            turn(variant, half)
            counts[name] = max(1, round(args.seconds * half / turn(variant, half).seconds))
        for number in range(args.rounds):
            for name in list(made) if number % 2 == 0 else reversed(made):
                turns[name].append(turn(made[name], counts[name]))
    finally:
        for variant in made.values():
            variant.close()
    return {name: summary(turns[name], counts[name]) for name in names}


def summary(turns: Sequence[Turn], count: int) -> dict[str, Any]:
    """
    :param turns: one per round
    :param count: steps of each environment per round
    :return: what is written of a variant
    """
    rates = [each.steps / each.seconds for each in turns]
    ended = [each.episodes for each in turns if each.episodes is not None]
    steps = sum(each.steps for each in turns)
    return {
        "steps_per_second": round(float(np.median(rates)), 1),
        "rounds": [round(rate, 1) for rate in rates],
        "steps_per_round": count,
        "episodes_per_1000_steps": round(1e3 * sum(ended) / steps, 2) if ended else None,
    }


def report(records: list[dict[str, Any]]) -> str:
    """
    :param records: all that was measured
    :return: Markdown, one part per machine and settings
    """
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        parts.setdefault((record["command"], record["machine"]), []).append(record)
    texts = []
    for (command, where), chosen in parts.items():
        order = {task: position for position, task in enumerate(TASKS)}
        chosen = sorted(chosen, key=lambda record: (order.get(record["task"], len(order)), record["n_envs"]))
        reasons = {f"- {HEADINGS[name]}: {why}" for record in chosen for name, why in record["left_out"].items()}
        missing = "\n".join(["", "Left out:", *sorted(reasons), ""]) if reasons else ""
        texts.append(f"`{command}` on {where}\n\n{LEGEND}\n\n{speeds(chosen)}\n\n{comparison(chosen)}\n{missing}")
    return "\n".join(texts)


def speeds(records: list[dict[str, Any]]) -> str:
    """
    :param records: what was measured under the same conditions
    :return: Markdown table of medians, with half of the range over rounds in percent
    """
    rows = [f"| task | environments | {' | '.join(HEADINGS.values())} |", "|---" * (len(HEADINGS) + 2) + "|"]
    for record in records:
        cells = []
        for name in HEADINGS:
            result = record["variants"].get(name)
            if result is None:
                cells.append("-")
                continue
            median, rates = result["steps_per_second"], result["rounds"]
            cells.append(f"{median:,.0f} ±{50 * (max(rates) - min(rates)) / median:.0f}%")
        rows.append(f"| {record['task']} | {record['n_envs']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def comparison(records: list[dict[str, Any]]) -> str:
    """
    :param records: what was measured under the same conditions
    :return: Markdown table of ratios of medians, and of the share of our time that MuJoCo alone would take
    """
    rows = [
        f"| task | environments | {' | '.join([*RATIOS, *SHARES])} |",
        "|---" * (len(RATIOS) + len(SHARES) + 2) + "|",
    ]
    for record in records:
        speed = {name: result["steps_per_second"] for name, result in record["variants"].items()}
        cells = [f"{speed[a] / speed[b]:.2f}" if {a, b} <= speed.keys() else "-" for a, b in RATIOS.values()]
        for name in SHARES.values():
            both = {name, "physics"} <= speed.keys()
            cells.append(f"{100 * speed[name] / speed['physics']:.0f}%" if both else "-")
        rows.append(f"| {record['task']} | {record['n_envs']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), metavar="ID", help="Gymnasium ids of tasks that MujocoVecEnv has")
    add("--envs", nargs="+", type=int, default=list(ENVS), metavar="N", help="numbers of environments")
    add("--variants", nargs="+", default=list(HEADINGS), choices=list(HEADINGS), help="what to measure (all)")
    add("--rounds", type=int, default=7, help="times that each variant has its turn (7)")
    add("--seconds", type=float, default=0.5, help="length of a turn, about (0.5)")
    add("--warmup", type=int, default=100, help="steps of each environment before the first turn (100)")
    add("--threads", type=int, default=2, help="threads of ours, of EnvPool and of MuJoCo alone (2)")
    add("--torch-threads", type=int, default=1, help="threads of torch (1)")
    add("--max-processes", type=int, default=16, help="most environments that get a process each (16)")
    add("--seed", type=int, default=0, help="seed of environments and actions (0)")
    add("--fresh", action="store_true", help="measure again what is there already")
    add("--output", type=Path, default=RESULTS / "env_speed.jsonl", help="records; the tables go beside it, as .md")
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, write it at once, make the tables."""
    args = arguments()
    th.set_num_threads(args.torch_threads)
    log_warnings()  # to the log, not to the screen; before workers are forked
    settings = ("rounds", "seconds", "warmup", "threads", "torch_threads", "seed")
    words = [f"--{name.replace('_', '-')} {getattr(args, name)}" for name in settings]
    head = {"command": " ".join(["python benchmarks/env_speed.py", *words]), "machine": machine(PACKAGES)}
    print(head["machine"], flush=True)
    fresh = args.fresh
    for task in args.tasks:
        for n_envs in args.envs:
            missing = left_out(args.variants, n_envs, args.max_processes)
            names = [name for name in args.variants if name not in missing]
            key = {**head, "task": task, "n_envs": n_envs}
            others = [record for record in load(args.output) if not key.items() <= record.items()]
            same = [record for record in load(args.output) if key.items() <= record.items()]
            if not fresh and any(set(names) <= record["variants"].keys() for record in same):
                continue
            for name, why in missing.items():
                print(f"{task}, {n_envs}: {HEADINGS[name]} is left out: {why}", flush=True)
            record = {**key, "left_out": missing, "variants": measure(task, n_envs, names, args)}
            print(f"{speeds([record])}\n{comparison([record])}", flush=True)
            dump(args.output, [*others, record])
    records = load(args.output)
    if records:
        atomic_write(args.output.with_suffix(".md"), report(records))
        print(report(records))


if __name__ == "__main__":
    main()
