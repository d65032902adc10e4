"""
Trainings that are killed (SIGKILL) and go on: half of them at a random moment, half in the middle of a save.

    python benchmarks/kill_resume.py            # 1,000 kills; prints the table and writes results/kill_resume.md

Every training saves after each of its updates. After a kill each file in the folder is opened, and the training goes on
from the newest; at its end it is compared with a training that was never stopped, bit for bit: parameters, optimizer,
generators, environments, normalizer. Trials are kept beside the table, and a second call does what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch as th

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from common import append, commit, load, machine, results_file
from resumed_runs import RUNS, SHORT, digest

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.checkpoint import SaveCheckpoints, checkpoints_in, resume
from sb3_ppo_plus.checkpoint.container import read_container

NAMES = ("extras", "native-gsde")
UPDATES = 8


class Reporting(SaveCheckpoints):
    """Tells through a pipe when a save begins and when it has ended."""

    def __init__(self, folder: Path, pipe: int) -> None:
        super().__init__(folder, keep=2, cost=0.0)
        self.pipe = pipe

    def _write(self, state: Any) -> None:
        number = state.tree["counters"]["num_timesteps"]
        os.write(self.pipe, f"begin {number}\n".encode())
        super()._write(state)
        os.write(self.pipe, f"end {number}\n".encode())


def train(name: str, folder: Path, pipe: int) -> str:
    """
    Train from the newest checkpoint, or from the start when there is none.

    :param name: name of a run of tests/resumed_runs.py
    :param folder: folder of the checkpoints
    :param pipe: where saves are told
    :return: digest at the end
    """
    make, options = RUNS[name]
    options = {"policy": "MlpPolicy", **SHORT, **options}
    env, found = make(), checkpoints_in(folder)
    model = resume(found[0][1], env, device="cpu") if found else PPOPlus(env=env, **options)
    model.learn(UPDATES * model.n_steps * model.n_envs, Reporting(folder, pipe))
    return digest(model)


def forked(work: Callable[[int], Any]) -> tuple[int, int]:
    """
    Do something in a copy of this process.

    :param work: takes a pipe to write to; what it gives is written as the last line
    :return: process, and the other end of the pipe
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        th.set_num_threads(1)
        os.write(writing, f"result {json.dumps(work(writing))}\n".encode())
        os._exit(0)
    except BaseException as error:
        os.write(writing, f"error {type(error).__name__}: {error}\n".encode())
        os._exit(1)


def told_by(pid: int, reading: int) -> list[str]:
    """
    :param pid: process
    :param reading: its pipe
    :return: the lines that it wrote until its end
    """
    content = b""
    while part := os.read(reading, 65536):
        content += part
    os.close(reading)
    os.waitpid(pid, 0)
    return content.decode().splitlines()


def result_of(work: Callable[[int], Any]) -> Any:
    """
    :param work: takes a pipe
    :return: what it gave in a process of its own
    """
    last = told_by(*forked(work))[-1]
    if not last.startswith("result "):
        raise RuntimeError(last)
    return json.loads(last.removeprefix("result "))


def kill_in_a_save(pid: int, reading: int, number: int, delay: float) -> list[str]:
    """Kill a process a moment after it began to save for the n-th time."""
    lines: list[str] = []
    pending = b""
    while part := os.read(reading, 1):
        pending += part
        if part == b"\n":
            lines.append(pending.decode().strip())
            pending = b""
            if sum(line.startswith("begin") for line in lines) == number:
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
                break
    return lines + told_by(pid, reading)


def trial(name: str, where: str, seed: int, whole: str, seconds: float) -> dict[str, Any]:
    """
    One kill.

    :param name: name of a run
    :param where: "save" or "anywhere"
    :param seed: of the moment
    :param whole: digest of the training that was not stopped
    :param seconds: that it took
    :return: what came of it
    """
    chance = random.Random(f"{name} {where} {seed}")
    folder = Path(tempfile.mkdtemp(prefix="kill-"))
    try:
        pid, reading = forked(partial(train, name, folder))
        if where == "save":
            lines = kill_in_a_save(pid, reading, chance.randint(1, UPDATES), chance.uniform(0.0, 0.010))
        else:
            time.sleep(chance.uniform(0.0, seconds))
            os.kill(pid, signal.SIGKILL)
            lines = told_by(pid, reading)
        ended = max((int(line.split()[1]) for line in lines if line.startswith("end")), default=-1)
        unreadable = 0
        for _, path in checkpoints_in(folder):
            try:
                read_container(path)
            except ValueError:
                unreadable += 1
        newest = max((steps for steps, _ in checkpoints_in(folder)), default=-1)
        strays = len(list(folder.glob(".*")))
        again = result_of(partial(train, name, folder))
        return {
            "name": name,
            "where": where,
            "seed": seed,
            "in_save": sum(line.startswith("begin") for line in lines) > sum(line.startswith("end") for line in lines),
            "unreadable": unreadable,
            "lost": int(newest < ended),
            "exact": int(again == whole),
            "strays": strays,
            "strays_after": len(list(folder.glob(".*"))),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(records: list[dict[str, Any]]) -> str:
    """
    :param records: trials
    :return: Markdown
    """
    lines = [
        "| training | killed | kills | of them within a save | unreadable files | finished saves lost "
        "| went on bit for bit | strays after the kill | after the next save |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        for where in ("save", "anywhere"):
            rows = [row for row in records if (row["name"], row["where"]) == (name, where)]
            keys = ("in_save", "unreadable", "lost", "exact", "strays", "strays_after")
            sums = [sum(row[key] for row in rows) for key in keys]
            within, unreadable, lost, exact, strays, after = sums
            place = "in a save" if where == "save" else "anywhere"
            cells = [name, place, len(rows), within, unreadable, lost, f"{exact} of {len(rows)}", strays, after]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="in total")
    parser.add_argument("--quick", action="store_true", help="a few kills, kept nowhere")
    args = parser.parse_args()
    th.set_num_threads(1)
    with results_file(None, "kill_resume.jsonl", args.quick) as file:
        done = {(row["name"], row["where"], row["seed"]) for row in load(file)}
        for name in NAMES:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                whole = result_of(partial(train, name, Path(folder)))
            seconds = time.perf_counter() - started
            for where in ("save", "anywhere"):
                for seed in range(2 if args.quick else args.kills // 4):
                    if (name, where, seed) not in done:
                        append(file, trial(name, where, seed, whole, seconds))
        text = f"`python benchmarks/kill_resume.py`\n\n{table(load(file))}\n\nCommit {commit()}; {machine()}.\n"
        atomic_write(file.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
