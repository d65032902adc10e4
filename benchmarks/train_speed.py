"""
Training end to end, environment steps per second: SB3, SBX, a CleanRL-style loop, PPOPlus eager and compiled.

    python benchmarks/train_speed.py    # measures what results/train_speed.jsonl lacks, writes the tables beside it
    python benchmarks/train_speed.py --cases Hopper-v5 --variants sb3 plus_compiled

A repetition is one iteration, a rollout and its update, after warm-up iterations in which everything is compiled. Each
variant has a process of its own, which does an iteration when it is its turn: one works, the others wait. Torch gets
the number of threads that was faster in two iterations of a trial, for each variant apart; JAX chooses for itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import SBX_MISSING, append, commit, load, machine, median_and_spread, results_file
from train_speed_variants import OWN_CHOICE, VARIANTS, Case, Turn, Worker, small_images

from sb3_ppo_plus.atomic import atomic_write

CASES = {
    "HalfCheetah-v5": Case("HalfCheetah-v5", native=True),
    "Hopper-v5": Case("Hopper-v5", native=True),
    "Ant-v5": Case("Ant-v5", native=True),
    "CartPole-v1": Case("CartPole-v1", n_steps=512),
    "Pendulum-v1": Case("Pendulum-v1", n_steps=512),
    "images": Case(small_images, n_steps=128, batch_size=256, n_epochs=4, policy="CnnPolicy"),
    "HalfCheetah-v5, throughput": Case("HalfCheetah-v5", n_envs=64, n_steps=256, batch_size=1024, native=True),
}
# What is measured unless it is asked for; the others answer questions of their own.
USUAL = ("sb3", "sbx", "cleanrl", "plus", "plus_native", "plus_compiled")
TRIAL_ITERATIONS = 2
LEGEND = """Environment steps per second over whole iterations (rollout and update): median over repetitions taken in
turns, and half of their range in percent of it. Each environment is in SB3's Monitor; MujocoVecEnv counts episodes
itself. Where a case has no MujocoVecEnv, "compiled, MujocoVecEnv" is on DummyVecEnv. What is not said of the
hyperparameters is SB3's default; the rollouts of CartPole and Pendulum are shorter than that, to save time."""
START_LEGEND = """Seconds from the start of the process until the second iteration began: imports, compilation from an
empty cache or JIT, and the first iteration. In brackets the threads of torch, chosen by trial; auto: left to JAX."""
SECTIONS_LEGEND = "Where the time of PPOPlus goes, in percent: sections of its profile, summed over repetitions."


def names_for(case: Case, asked: Sequence[str]) -> list[str]:
    """
    :param case: what is trained
    :param asked: variants asked for
    :return: those of them that are not the same as another one here, and that are installed
    """
    names = [name for name in asked if name != "sbx" or find_spec("sbx")]
    if not case.native:
        same = {"plus_native": "plus", "plus_compiled": "plus_compiled_dummy"}
        names = [name for name in names if same.get(name) not in names]
        names = [name for name in names if name != "plus_native"]
    return names


def smaller(case: Case) -> Case:
    """
    :param case: what is trained
    :return: the same with two minibatches per iteration, to see that it runs
    """
    batch_size = min(case.batch_size, 64)
    return case._replace(n_steps=max(2, 2 * batch_size // case.n_envs), batch_size=batch_size, n_epochs=1)


def start(case: Case, name: str, candidates: Iterable[int], warmup: int) -> tuple[Worker, float]:
    """
    Start a variant with each number of threads, and keep the faster.

    :param case: what is trained
    :param name: variant
    :param candidates: numbers of threads
    :param warmup: iterations that do not count, at least 1
    :return: its worker, and seconds until its second iteration began
    """
    kept: tuple[float, Worker, float] | None = None
    numbers = [OWN_CHOICE] if name == "sbx" else list(candidates)
    for threads in numbers:
        worker = Worker(case, name, threads)
        try:
            until_second = worker.seconds_to_start + worker.iterate().seconds
            for _ in range(warmup - 1):
                worker.iterate()
            trial = min(worker.iterate().seconds for _ in range(TRIAL_ITERATIONS)) if len(numbers) > 1 else 0.0
        except BaseException:
            worker.close()
            if kept is not None:
                kept[1].close()
            raise
        if kept is None or trial < kept[0]:
            kept, worker = (trial, worker, until_second), kept[1] if kept is not None else None
        if worker is not None:
            worker.close()
    assert kept is not None
    return kept[1], kept[2]


def measure(key: dict[str, Any], case: Case, names: Sequence[str], args: argparse.Namespace, path: Path) -> None:
    """
    Time the variants of a case in turns, and write each repetition.

    :param key: what all records of the case share
    :param case: what is trained
    :param names: variants
    :param args: options
    :param path: records
    """
    there = [record for record in load(path) if key.items() <= record.items()]
    done = {(record["variant"], record["repetition"]) for record in there}
    threads = {record["variant"]: record["threads"] for record in there}
    missing = [name for name in names if any((name, number) not in done for number in range(args.repeats))]
    with ExitStack() as stack:
        workers: dict[str, tuple[Worker, float]] = {}
        for name in missing:
            candidates = [threads[name]] if name in threads else args.threads
            workers[name] = start(case, name, candidates, args.warmup)
            stack.callback(workers[name][0].close)
        for number in range(args.repeats):
            for name in missing if number % 2 == 0 else reversed(missing):
                if (name, number) in done:
                    continue
                worker, until_second = workers[name]
                record = {**key, "variant": name, "repetition": number, "threads": worker.threads}
                record["seconds_until_second_iteration"] = round(until_second, 2)
                append(path, record | measured(case, worker.iterate()))


def measured(case: Case, turn: Turn) -> dict[str, Any]:
    """
    :param case: what is trained
    :param turn: one iteration
    :return: what is written of it
    """
    steps = case.n_envs * case.n_steps
    sections = {section: round(seconds, 5) for section, seconds in turn.sections.items()}
    speed = round(steps / turn.seconds, 1)
    return {"steps": steps, "seconds": round(turn.seconds, 5), "steps_per_second": speed, "sections": sections}


# ------------------------------------------------ tables


def settings_of(record: dict[str, Any]) -> str:
    """
    :param record: a record
    :return: sizes of its case, in words
    """
    sizes = {name: record[name] for name in ("n_envs", "n_steps", "batch_size", "n_epochs")}
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def grouped(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """
    :param records: what was measured under the same conditions
    :return: them by case and variant, both in the order of this file
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for case in CASES:
        for name in VARIANTS:
            chosen = [record for record in records if (record["case"], record["variant"]) == (case, name)]
            if chosen:
                found.setdefault(case, {})[name] = chosen
    return found


def speeds(records: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """
    :param records: what was measured under the same conditions
    :return: Markdown tables: speeds, ratios to SB3, and seconds until the second iteration
    """
    groups = grouped(records)
    names = [name for name in VARIANTS if any(name in group for group in groups.values())]
    head = [f"| case | {' | '.join(VARIANTS[name].label for name in names)} |", "|---" * (len(names) + 1) + "|"]
    rates, ratios, starts = list(head), list(head), list(head)
    for case, group in groups.items():
        speed = {
            name: median_and_spread([each["steps_per_second"] for each in chosen]) for name, chosen in group.items()
        }
        rate = {name: f"{median:,.0f} ±{spread:.0f}%" for name, (median, spread) in speed.items()}
        ratio = {name: f"{median / speed['sb3'][0]:.2f}" for name, (median, _) in speed.items() if "sb3" in speed}
        begun = {name: start_of(chosen) for name, chosen in group.items()}
        sizes = settings_of(next(iter(group.values()))[0])
        rows = ((rates, f"{case}: {sizes}", rate), (ratios, case, ratio), (starts, case, begun))
        for table, title, cells in rows:
            table.append(f"| {title} | {' | '.join(cells.get(name, '-') for name in names)} |")
    return "\n".join(rates), "\n".join(ratios), "\n".join(starts)


def start_of(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: repetitions of one variant in one case
    :return: seconds until its second iteration, and its threads
    """
    seconds = float(np.median([record["seconds_until_second_iteration"] for record in records]))
    threads = sorted({record["threads"] for record in records})
    words = ["auto" if number == OWN_CHOICE else str(number) for number in threads]
    return f"{seconds:.1f} ({', '.join(words)})"


def shares(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: what was measured under the same conditions
    :return: Markdown table of where the time of PPOPlus goes, empty when nothing says so
    """
    rows: list[tuple[str, str, dict[str, float]]] = []
    for case, group in grouped(records).items():
        for name, chosen in group.items():
            sums: dict[str, float] = {}
            for record in chosen:
                for section, seconds in record["sections"].items():
                    sums[section] = sums.get(section, 0.0) + seconds
            if sums:
                total = sum(sums.values())
                rows.append((case, name, {section: seconds / total for section, seconds in sums.items()}))
    if not rows:
        return ""
    weight = {section: sum(row[2].get(section, 0.0) for row in rows) for row in rows for section in row[2]}
    sections = sorted(weight, key=lambda section: -weight[section])
    lines = [f"| case | variant | {' | '.join(sections)} |", "|---" * (len(sections) + 2) + "|"]
    for case, name, share in rows:
        cells = [f"{100 * share[section]:.1f}" if section in share else "-" for section in sections]
        lines.append(f"| {case} | {VARIANTS[name].label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def report(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: all that was measured
    :return: Markdown, one part per command, machine and commit
    """
    parts: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        parts.setdefault((record["command"], record["machine"], record["commit"]), []).append(record)
    texts = []
    for (command, where, of), chosen in parts.items():
        there = any(record["variant"] == "sbx" for record in chosen)
        missing = "" if there else f"{SBX_MISSING}, or not asked for."
        rates, ratios, starts = speeds(chosen)
        where_time_goes = shares(chosen)
        blocks = [
            f"`{command}` at commit {of} on {where}",
            missing,
            LEGEND,
            rates,
            "The same, as multiples of SB3:",
            ratios,
        ]
        blocks += [START_LEGEND, starts, SECTIONS_LEGEND if where_time_goes else "", where_time_goes]
        texts.append("\n\n".join(block for block in blocks if block) + "\n")
    return "\n".join(texts)


def arguments() -> argparse.Namespace:
    """
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), help=f"what to train, of {', '.join(CASES)} (all)", metavar="CASE")
    add(
        "--variants", nargs="+", default=list(USUAL), choices=list(VARIANTS), help=f"ways to train ({', '.join(USUAL)})"
    )
    add("--repeats", type=int, default=5, help="iterations of each variant that count (5)")
    add("--warmup", type=int, default=2, help="iterations before, in which everything is compiled (2)")
    add("--threads", nargs="+", type=int, default=[1, 2], help="threads of torch to choose from by trial (1 2)")
    add("--results", type=Path, help="records, as .jsonl; the tables go beside it as .md (results/train_speed.jsonl)")
    add("--quick", action="store_true", help="one tiny case, to see that it runs; writes to --results only")
    args = parser.parse_args()
    if args.quick:
        args.cases, args.repeats, args.warmup, args.threads = args.cases or ["Hopper-v5"], 2, 1, args.threads[:1]
    args.cases = args.cases or list(CASES)
    if min(args.repeats, args.warmup, *args.threads) < 1:
        parser.error("--repeats, --warmup and --threads take numbers from 1")
    return args


def main() -> None:
    """Measure what is missing, write it at once, make the tables."""
    args = arguments()
    threads = " ".join(map(str, args.threads))
    command = f"python benchmarks/train_speed.py --warmup {args.warmup} --threads {threads}"
    head = {"command": command + " --quick" * args.quick, "machine": machine(), "commit": commit()}
    print(f"{head['machine']}, commit {head['commit']}", flush=True)
    if "sbx" in args.variants and not find_spec("sbx"):
        print(SBX_MISSING, flush=True)
    with results_file(args.results, "train_speed.jsonl", args.quick) as path:
        for name in args.cases:
            case = smaller(CASES[name]) if args.quick else CASES[name]
            key = {**head, "case": name, "n_envs": case.n_envs, **case.sizes}
            measure(key, case, names_for(case, args.variants), args, path)
            records = load(path)
            atomic_write(path.with_suffix(".md"), report(records))
            print(speeds([record for record in records if key.items() <= record.items()])[0], flush=True)


if __name__ == "__main__":
    main()
