"""
Damaged copies of the files that this package writes: cut, flipped, zeroed, swapped, members dropped and doubled.

    python benchmarks/damaged_files.py          # 10,000 copies; prints the table and writes results/damaged_files.md

Each copy is opened. It is well when it is refused with a ``DamagedFile`` that names the file and a reason, or when it
opens with the very content of the whole file (what was damaged did not matter, such as a date in a zip). A YAML file
is a text that people change by hand, with nothing to tell a change from damage: there any ``InvalidArgument`` is a
refusal, and other values that are legal are counted apart. Blocks of copies are kept beside the table, and a second
call does what is missing.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from common import append, commit, load, machine, results_file
from make_damaged import KINDS, ZIP_KINDS, damaged

from sb3_ppo_plus import PPOPlus
from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.checkpoint import resume, save_checkpoint
from sb3_ppo_plus.errors import DamagedFile, InvalidArgument
from sb3_ppo_plus.export import OnnxPolicy, export_onnx
from sb3_ppo_plus.export.metadata import load_onnx
from sb3_ppo_plus.export.sealing import DIGEST
from sb3_ppo_plus.files.normalizer import read_normalizer, write_normalizer
from sb3_ppo_plus.runs.config import config_from_mapping
from sb3_ppo_plus.runs.layers import assemble
from sb3_ppo_plus.runs.values import read_yaml

BLOCK = 50
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}
MADE = {"policy", "rollout_buffer", "env", "_logger", "_continuation", "profile", "lr_schedule", "observation_space"}
OBSERVATION = np.array([[0.1, -0.2, 0.3, -0.4]], np.float32)


def words(value: Any) -> Any:
    """All that there is to a value, in words."""
    if isinstance(value, dict):
        return {str(key): words(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [words(part) for part in value]
    if isinstance(value, (th.Tensor, np.ndarray)):
        return str(value.tolist())
    if isinstance(value, RunningMeanStd):
        return words(vars(value))
    return repr(value).partition(" object at 0x")[0]


def model_words(model: PPOPlus) -> str:
    """Parameters, optimizer and attributes of a model."""
    attributes = {name: vars(model)[name] for name in sorted(vars(model).keys() - MADE)}
    return str(words({**model.get_parameters(), **attributes, "space": model.observation_space}))


def onnx_words(path: Path) -> str:
    """What a file does, and what it says of itself."""
    model = load_onnx(path)
    kept = [entry for entry in model.metadata_props if entry.key != DIGEST]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return f"{OnnxPolicy(path).predict(OBSERVATION)}{model.SerializeToString()!r}"


OPENERS: dict[str, tuple[str, Callable[[Path], str], int]] = {
    "model": ("model.zip", lambda path: model_words(PPOPlus.load(path, device="cpu")), 6),
    "checkpoint": ("checkpoint.zip", lambda path: model_words(resume(path, gym.make("CartPole-v1"), "cpu")), 6),
    "VecNormalize": ("normalizer.pkl", lambda path: str(words(vars(read_normalizer(path)))), 6),
    "ONNX": ("policy.onnx", onnx_words, 4),
    "config.yml": ("config.yml", lambda path: repr(config_from_mapping(read_yaml(path))), 4),
}


def write_files(folder: Path) -> dict[str, bytes]:
    """
    :param folder: scratch folder
    :return: content of each kind of file
    """
    model = PPOPlus("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, **SMALL).learn(32)
    model.save(folder / "model.zip")
    save_checkpoint(model, folder / "checkpoint.zip")
    export_onnx(model, folder / "policy.onnx", n_random=10)
    env = VecNormalize(make_vec_env("CartPole-v1", 2))
    env.reset()
    env.step(np.zeros(2, np.int64))
    write_normalizer(folder / "normalizer.pkl", env)
    assemble("HalfCheetah-v5").write(folder / "config.yml", "")
    return {kind: (folder / name).read_bytes() for kind, (name, _, _) in OPENERS.items()}


def outcome(kind: str, content: bytes, expected: str, path: Path) -> str:
    """Open one damaged copy."""
    path.write_bytes(content)
    try:
        found = OPENERS[kind][1](path)
    except DamagedFile as error:
        named = str(error.path) == str(path) and error.reason and path.name in str(error)
        return "refused" if named else f"refused without naming it: {error}"
    except InvalidArgument as error:
        return "refused" if kind == "config.yml" else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if found == expected:
        return "same"
    return "other values" if kind == "config.yml" else "opened with other content"


def table(records: list[dict[str, Any]]) -> str:
    """
    :param records: blocks
    :return: Markdown
    """
    lines = [
        "| file | damaged copies | refused as DamagedFile with file and reason | opened with the very same content "
        "| other legal values (text without a digest) | opened with other content | any other error |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in OPENERS:
        counts: Counter[str] = Counter()
        for row in records:
            if row["kind"] == kind:
                counts.update(row["outcomes"])
        named = ("refused", "same", "other values", "opened with other content")
        other = sum(number for name, number in counts.items() if name not in named)
        cells = [counts.total(), *(counts[name] for name in named), other]
        lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Do what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few copies, kept nowhere")
    args = parser.parse_args()
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    with results_file(None, "damaged_files.jsonl", args.quick) as file, tempfile.TemporaryDirectory() as folder:
        done = {(row["kind"], row["damage"], row["block"]) for row in load(file)}
        contents = write_files(Path(folder))
        for kind, (name, open_, blocks) in OPENERS.items():
            path = Path(folder) / name
            path.write_bytes(contents[kind])
            expected = open_(path)
            for damage in (*KINDS, *(ZIP_KINDS if name.endswith(".zip") else ())):
                for block in range(1 if args.quick else blocks):
                    if (kind, damage, block) in done:
                        continue
                    chance = random.Random(f"{kind} {damage} {block}")
                    copies = [damaged(contents[kind], damage, chance) for _ in range(5 if args.quick else BLOCK)]
                    outcomes = Counter(outcome(kind, copy, expected, path) for copy in copies)
                    append(file, {"kind": kind, "damage": damage, "block": block, "outcomes": dict(outcomes)})
        text = f"`python benchmarks/damaged_files.py`\n\n{table(load(file))}\n\nCommit {commit()}; {machine()}.\n"
        atomic_write(file.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
