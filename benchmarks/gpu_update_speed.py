"""
What a GPU brings: updates on one, beside SB3's, and whole trainings whose learner is on one or on the processor.

    python benchmarks/gpu_update_speed.py    # measures what results/gpu_update_speed.jsonl lacks, writes the tables
    python benchmarks/gpu_update_speed.py --kinds updates --cases "MLP, batch 256"
    python benchmarks/gpu_update_speed.py --device cpu --quick    # tries it where there is no GPU

Everything of one case is timed in one process, in turns, forwards in even rounds and backwards in odd ones; each round
gives one ratio to SB3. Whoever takes part has done the same twice before, so compilation does not count; what it took
stands beside the ratios. Torch's settings are its defaults: convolutions on a GPU are TF32, matrix products are not.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from common import Noise, append, commit, images, load, machine, results_file, set_warnings, silenced
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.envs import MujocoVecEnv

UPDATES, TRAININGS = "updates", "trainings"
GPU, HOST = "gpu", "host"
PACKAGES = ("torch", "triton", "numpy", "stable-baselines3", "gymnasium", "mujoco")
SHARES = """Where the time of PPOPlus goes in these iterations, in percent of the sections of its profile. What a GPU
computes is counted where the program next waits for it."""
EXPLAINED = {
    UPDATES: """An update on a full rollout: milliseconds per gradient step (median), and how many times as fast as
SB3's on the GPU: median over rounds, smallest and largest in brackets. The networks of "MLP" are SB3's default,
17-64-64-6 for the actor and as much for the critic; those of "CNN" are SB3's NatureCNN on images of 84 x 84 x 4.""",
    TRAININGS: """Whole iterations of HalfCheetah-v5 in MujocoVecEnv, whose physics runs on the processor always:
environment steps per second (median), and how many times as fast as SB3's PPO with its policy on the GPU: median over
rounds, smallest and largest in brackets. SB3 has the same environments, by their NumPy face. On the processor torch
gets the number of threads that was fastest in a trial.""",
}


class Case(NamedTuple):
    """
    What is timed.

    :param kind: updates alone, or whole iterations
    :param n_envs: number of environments
    :param n_steps: steps of each in a rollout
    :param batch_size: rows of a minibatch
    :param n_epochs: passes over the rollout
    :param policy: SB3's name of the policy
    """

    kind: str
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int = 10
    policy: str = "MlpPolicy"

    @property
    def n_rows(self) -> int:
        """:return: rows of a rollout"""
        return self.n_envs * self.n_steps

    @property
    def gradient_steps(self) -> int:
        """:return: gradient steps of one update"""
        return self.n_epochs * -(-self.n_rows // self.batch_size)


class Variant(NamedTuple):
    """
    A way to learn.

    :param label: what it is called in tables
    :param algorithm: PPO or PPOPlus
    :param place: where the learner is, ``gpu`` or ``host``
    :param kinds: what it takes part in
    :param extras: arguments beside the sizes of the case
    :param images: whether it takes part where observations are images
    """

    label: str
    algorithm: Any
    place: str
    kinds: tuple[str, ...]
    extras: dict[str, Any]
    images: bool


CASES = {
    "MLP, batch 64": Case(UPDATES, 32, 64, 64),
    "MLP, batch 256": Case(UPDATES, 64, 64, 256),
    "MLP, batch 4096": Case(UPDATES, 256, 128, 4096),
    "MLP, batch 32768": Case(UPDATES, 256, 256, 32768),
    "CNN, batch 256": Case(UPDATES, 32, 64, 256, 4, "CnnPolicy"),
    "CNN, batch 1024": Case(UPDATES, 32, 128, 1024, 4, "CnnPolicy"),
    "HalfCheetah-v5, 16 environments": Case(TRAININGS, 16, 256, 64),
    "HalfCheetah-v5, 256 environments": Case(TRAININGS, 256, 64, 4096),
}
BOTH = (UPDATES, TRAININGS)
# SB3's on the GPU comes first: the others are told as multiples of it.
VARIANTS = {
    "sb3": Variant("SB3, GPU", PPO, GPU, BOTH, {}, True),
    "eager": Variant("PPOPlus eager, GPU", PPOPlus, GPU, BOTH, {"compile_update": False}, True),
    "compiled": Variant("PPOPlus compiled, GPU", PPOPlus, GPU, BOTH, {"compile_update": True}, True),
    "sb3_host": Variant("SB3, processor", PPO, HOST, (TRAININGS,), {}, False),
    "compiled_host": Variant("PPOPlus compiled, processor", PPOPlus, HOST, BOTH, {"compile_update": True}, False),
}


def envs(case: Case) -> VecEnv:
    """
    :param case: what is timed
    :return: its environments
    """
    if case.kind == TRAININGS:
        return MujocoVecEnv("HalfCheetah-v5", n_envs=case.n_envs, seed=0)
    env = make_vec_env(images if case.policy == "CnnPolicy" else Noise, case.n_envs, seed=0)
    return VecTransposeImage(env) if case.policy == "CnnPolicy" else env


class Contender:
    """
    One variant in one case, ready to be timed.

    :param case: what is timed
    :param variant: the way to learn
    :param device: what stands for the GPU
    :param threads: numbers of torch's threads to choose from, for a learner on the processor
    """

    def __init__(self, case: Case, variant: Variant, device: str, threads: Sequence[int]) -> None:
        self.case = case
        self.device = th.device(device if variant.place == GPU else "cpu")
        self.threads = max(threads)
        sizes = {"n_steps": case.n_steps, "batch_size": case.batch_size, "n_epochs": case.n_epochs}
        env, policy = envs(case), case.policy
        self.model: Any = silenced(
            variant.algorithm(policy=policy, env=env, seed=0, device=self.device, **sizes, **variant.extras)
        )
        th.set_num_threads(self.threads)
        self.model.learn(case.n_rows)
        #: seconds of compilation, 0 where nothing is compiled
        self.compile_seconds = self.model.profile.totals.get("compile", 0.0) if variant.algorithm is PPOPlus else 0.0
        if variant.place == HOST and len(threads) > 1:
            trials = {number: self._with(number).time() for number in threads for _ in range(2)}
            self._with(min(trials, key=lambda number: trials[number]))
        self.time()
        self._before = self.sections()

    def sections(self) -> dict[str, float]:
        """
        :return: seconds of each section of the profile since the contender was ready, none for SB3
        """
        if not isinstance(self.model, PPOPlus):
            return {}
        self.model.profile.take()
        before = getattr(self, "_before", {})
        return {name: seconds - before.get(name, 0.0) for name, seconds in self.model.profile.totals.items()}

    def _with(self, threads: int) -> Contender:
        self.threads = threads
        return self

    def time(self) -> float:
        """
        :return: seconds of one update, or of one iteration
        """
        th.set_num_threads(self.threads)
        gc.collect()
        self._wait()
        started = time.perf_counter()
        if self.case.kind == UPDATES:
            self.model.train()
        else:
            self.model.learn(self.case.n_rows, reset_num_timesteps=False)
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            th.cuda.synchronize()


def measure(case: Case, names: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """
    Time the variants of a case in turns.

    :param case: what is timed
    :param names: variants
    :param args: options
    :return: of each variant: seconds of each round, seconds of compilation, threads
    """
    contenders: dict[str, Contender] = {}
    for name in names:
        try:
            contenders[name] = Contender(case, VARIANTS[name], args.device, args.threads)
        except UserWarning as refusal:  # that the compiler gave up, see set_warnings()
            print(f"{name} is left out: {refusal}", flush=True)
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.repeats):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(round(contenders[name].time(), 6))
    for contender in contenders.values():
        contender.model.env.close()
    return {
        "seconds": seconds,
        "compile_seconds": {name: round(contender.compile_seconds, 2) for name, contender in contenders.items()},
        "threads": {name: contender.threads for name, contender in contenders.items()},
        "sections": {
            name: {section: round(value, 4) for section, value in contender.sections().items()}
            for name, contender in contenders.items()
        },
    }


def variants_of(case: Case) -> list[str]:
    """
    :param case: what is timed
    :return: variants that take part
    """
    has_images = case.policy == "CnnPolicy"
    return [name for name, each in VARIANTS.items() if case.kind in each.kinds and (each.images or not has_images)]


def smaller(case: Case) -> Case:
    """
    :param case: what is timed
    :return: the same with two minibatches, to see that it runs
    """
    batch_size = min(case.batch_size, 64)
    return case._replace(n_envs=8, n_steps=batch_size // 4, batch_size=batch_size, n_epochs=1)


# ------------------------------------------------ tables


def cell(case: Case, values: Sequence[float], reference: Sequence[float]) -> str:
    """
    :param case: what was timed
    :param values: seconds of each round
    :param reference: seconds of SB3 in the same rounds
    :return: speed, and the ratios
    """
    ratios = np.divide(reference, values)
    times = f"{np.median(ratios):.2f} [{ratios.min():.2f}, {ratios.max():.2f}]"
    median = float(np.median(values))
    speed = f"{1e3 * median / case.gradient_steps:.3g} ms" if case.kind == UPDATES else f"{case.n_rows / median:,.0f}/s"
    return f"{speed}, {times}"


def table(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: cases of one kind
    :return: Markdown
    """
    names = [name for name in VARIANTS if any(name in record["seconds"] for record in records)]
    labels = [VARIANTS[name].label for name in names]
    lines = [f"| case | {' | '.join(labels)} |", "|---" * (len(names) + 1) + "|"]
    for record in records:
        case, seconds = Case(**record["sizes"]), record["seconds"]
        sizes = f"rollout {case.n_envs} x {case.n_steps}, batch {case.batch_size}, {case.n_epochs} epochs"
        cells = [cell(case, seconds[name], seconds["sb3"]) if name in seconds else "-" for name in names]
        lines.append(f"| {record['case']} ({sizes}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def compilations(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: cases whose updates were timed
    :return: what compilation took
    """
    found = [(record["case"], record["compile_seconds"].get("compiled", 0.0)) for record in records]
    return f"Compilation on the GPU: {', '.join(f'{seconds:.0f} s ({case})' for case, seconds in found)}."


def shares(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: whole trainings
    :return: Markdown table of where the time of PPOPlus goes
    """
    rows = [(record["case"], VARIANTS[name].label, found) for record in records for name, found in _sections(record)]
    weight = {section: sum(row[2].get(section, 0.0) for row in rows) for row in rows for section in row[2]}
    shown = sorted(weight, key=lambda name: -weight[name])[:7]
    lines = [f"| case | variant | {' | '.join(shown)} |", "|---" * (len(shown) + 2) + "|"]
    for case, label, found in rows:
        total = sum(found.values())
        lines.append(
            f"| {case} | {label} | {' | '.join(f'{100 * found.get(name, 0.0) / total:.0f}' for name in shown)} |"
        )
    return "\n".join(lines)


def _sections(record: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    # Others had their turn in "other".
    kept = {
        name: {section: seconds for section, seconds in found.items() if section not in ("other", "compile")}
        for name, found in record["sections"].items()
    }
    return [(name, found) for name, found in kept.items() if found]


def report(records: Sequence[dict[str, Any]]) -> str:
    """
    :param records: all that was measured
    :return: Markdown, one part per command, card, machine and commit
    """
    parts: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        parts.setdefault(tuple(record[name] for name in ("command", "card", "machine", "commit")), []).append(record)
    texts = []
    for (command, card, where, of), chosen in parts.items():
        blocks = [f"`{command}` at commit {of} on {card}; {where}"]
        for kind in BOTH:
            if found := [record for record in chosen if record["sizes"]["kind"] == kind]:
                blocks += [EXPLAINED[kind], table(found)]
                blocks += [compilations(found)] if kind == UPDATES else [SHARES, shares(found)]
        texts.append("\n\n".join(blocks) + "\n")
    return "\n".join(texts)


def arguments() -> argparse.Namespace:
    """
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", nargs="+", choices=list(CASES), help=f"what to time, of {', '.join(CASES)} (all)", metavar="CASE")
    add("--kinds", nargs="+", default=list(BOTH), choices=BOTH, help="updates alone, whole trainings (both)")
    add("--repeats", type=int, default=9, help="rounds (9)")
    add("--threads", nargs="+", type=int, default=[1, 8], help="threads of torch to choose from by trial (1 8)")
    add("--device", default="cuda", help="what stands for the GPU (cuda)")
    add("--commit", help="commit of the sources, where they are no git checkout")
    add("--results", type=Path, help="records, as .jsonl; tables go beside it as .md (results/gpu_update_speed.jsonl)")
    add("--quick", action="store_true", help="tiny sizes, to see that it runs; writes to --results only")
    args = parser.parse_args()
    args.cases = [name for name in args.cases or CASES if CASES[name].kind in args.kinds]
    if args.quick:
        args.repeats, args.threads = 2, args.threads[:1]
    if min(args.repeats, *args.threads) < 1:
        parser.error("--repeats and --threads take numbers from 1")
    return args


def main() -> None:
    """Measure what is missing, write it at once, make the tables."""
    args = arguments()
    set_warnings()
    threads = " ".join(map(str, args.threads))
    head = {
        "command": f"python benchmarks/gpu_update_speed.py --repeats {args.repeats} --threads {threads}"
        + (" --quick" if args.quick else ""),
        "card": th.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device,
        "machine": machine(PACKAGES),
        "commit": args.commit or commit(),
    }
    print(", ".join(head.values()), flush=True)
    with results_file(args.results, "gpu_update_speed.jsonl", args.quick) as path:
        for name in args.cases:
            case = smaller(CASES[name]) if args.quick else CASES[name]
            key = {**head, "case": name, "sizes": case._asdict()}
            if not any(key.items() <= record.items() for record in load(path)):
                append(path, key | measure(case, variants_of(case), args))
            records = load(path)
            atomic_write(path.with_suffix(".md"), report(records))
            print(table([record for record in records if key.items() <= record.items()]), flush=True)


if __name__ == "__main__":
    main()
