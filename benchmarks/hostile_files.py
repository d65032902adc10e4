"""
Files that try to run something when they are opened: models, checkpoints, normalizers, configurations.

    python benchmarks/hostile_files.py          # prints the table and writes results/hostile_files.md

Each file is opened in a process of its own, with this package and, where SB3 or the zoo opens such files, with theirs.
A file has run something when the folder that it tries to make is there, or when Python's audit hooks tell of a class
that was looked up for a pickle, a function made from a code object, or a program that was started. Outcomes are kept
beside the table, and a second call does what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import make_hostile
from common import append, commit, load, machine, results_file

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.files.normalizer import read_normalizer
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.prepare import prepare_run
from sb3_ppo_plus.zoo import launch

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
TELLING = ("pickle.find_class", "code.__new__", "function.__new__", "os.system", "os.exec", "os.posix_spawn")
SECONDS = 60
MEMORY = 8 * 2**30
Opener = Callable[[Path], Any]


def train_with_the_zoo(path: Path, trust: bool) -> None:
    """Train for an instant with the zoo's own script, on a configuration."""
    os.chdir(path.parent)
    words = ["--env", "CartPole-v1", "-conf", str(path), "-f", str(path.parent / "logs"), "-n", "32"]
    if trust:  # the zoo as it is: its own algorithm, and nothing between it and the file
        words += ["--algo", "ppo", "--trust"]
    launch("train", words)


def prepare(path: Path) -> None:
    """What ``ppo-plus train --config`` does before it trains."""
    run = prepare_run(assemble("CartPole-v1", path))
    run.model.learn(32)


OPENERS: dict[str, dict[str, Opener]] = {
    "models": {"PPOPlus.load": lambda path: PPOPlus.load(path, device="cpu"), "SB3": lambda path: PPO.load(path)},
    "checkpoints": {
        "resume": lambda path: resume(path, gym.make("CartPole-v1"), "cpu"),
        "SB3": lambda path: PPO.load(path, env=gym.make("CartPole-v1")),
    },
    "normalizers": {
        "read_normalizer": read_normalizer,
        "SB3": lambda path: VecNormalize.load(str(path), make_vec_env("Pendulum-v1", 2)),
    },
    "configurations": {
        "ppo-plus train": prepare,
        "ppo-plus zoo train": lambda path: train_with_the_zoo(path, trust=False),
        "RL Zoo": lambda path: train_with_the_zoo(path, trust=True),
    },
}


def files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """
    :param folder: scratch folder; the canary is in it
    :return: kind, name and content of each file
    """
    canary = folder / "canary"
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **SMALL).learn(16).save(folder / "model.zip")
    model = PPOPlus("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **SMALL).learn(16)
    save_checkpoint(model, folder / "checkpoint.zip")
    env = VecNormalize(make_vec_env("Pendulum-v1", 2))
    env.reset()
    env.step(np.zeros((2, 1), np.float32))
    env.save(str(folder / "normalizer.pkl"))
    for name, content in make_hostile.checkpoints((folder / "model.zip").read_bytes(), canary):
        yield "models", name, content
    for name, content in make_hostile.resumable(folder / "checkpoint.zip", canary):
        yield "checkpoints", name, content
    for name, content in make_hostile.normalizers((folder / "normalizer.pkl").read_bytes(), canary):
        yield "normalizers", name, content
    for name, text in make_hostile.yaml_files(canary).items():
        yield "configurations", name, text.encode()


def opened(open_: Opener, path: Path) -> tuple[str, list[str]]:
    """
    Open a file in a copy of this process.

    :param open_: how
    :param path: the file
    :return: outcome in a word or two, and what the audit hooks told
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.write(writing, json.dumps(_open_here(open_, path)).encode())
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.002)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return tuple(json.loads(text)) if text else ("killed", [])  # type: ignore[return-value]


def _open_here(open_: Opener, path: Path) -> tuple[str, list[str]]:
    told: list[str] = []
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TELLING or (event == "subprocess.Popen" and "mkdir" in str(arguments)):
            told.append(event)

    sys.addaudithook(hook)
    try:
        open_(path)
        return "opened", told
    except InvalidArgument as error:
        return f"refused as {type(error).__name__}", told
    except BaseException as error:
        return f"{type(error).__name__}", told


def table(records: list[dict[str, Any]]) -> str:
    """
    :param records: outcomes
    :return: Markdown
    """
    lines = [
        "| files | opened by | files | ran something | opened, nothing ran | refused by this package's error "
        "| other errors | killed (time, memory) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, openers in OPENERS.items():
        for opener in openers:
            rows = [row for row in records if (row["kind"], row["opener"]) == (kind, opener)]
            outcomes = Counter(
                "ran"
                if row["ran"]
                else row["outcome"].partition(" ")[0]
                if row["outcome"].startswith(("refused", "opened", "killed"))
                else "error"
                for row in rows
            )
            cells = [outcomes[name] for name in ("ran", "opened", "refused", "error", "killed")]
            lines.append(f"| {kind} | {opener} | {len(rows)} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every twentieth file, kept nowhere")
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    with results_file(None, "hostile_files.jsonl", args.quick) as file, tempfile.TemporaryDirectory() as folder:
        done = {(row["kind"], row["name"], row["opener"]) for row in load(file)}
        canary, path = Path(folder) / "canary", Path(folder) / "hostile"
        for number, (kind, name, content) in enumerate(files(Path(folder))):
            if args.quick and number % 20:
                continue
            target = path.with_suffix(".yml") if kind == "configurations" else path
            for opener, open_ in OPENERS[kind].items():
                if (kind, name, opener) in done:
                    continue
                target.write_bytes(content)
                outcome, told = opened(open_, target)
                ran = canary.exists()
                if ran:
                    canary.rmdir()
                # SB3 looks up classes for every pickle: there only the canary counts.
                ran = ran or bool(told and opener not in ("SB3", "RL Zoo"))
                record = {
                    "kind": kind,
                    "name": name,
                    "opener": opener,
                    "outcome": outcome,
                    "ran": ran,
                    "told": told[:5],
                }
                append(file, record)
        text = f"`python benchmarks/hostile_files.py`\n\n{table(load(file))}\n\nCommit {commit()}; {machine()}.\n"
        atomic_write(file.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
