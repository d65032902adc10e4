"""What the benchmarks share: records that are written at once, the machine and the commit in words, intervals."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.logger import Logger

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.machine import processors

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "stable-baselines3", "gymnasium", "mujoco", "sbx-rl", "jax")
SBX_MISSING = "SBX is not installed (`pip install -r benchmarks/requirements.txt`): its rows are left out"


class Noise(gym.Env):
    """Observations, rewards and episodes without meaning, of a HalfCheetah's shape: for where only time counts."""

    observation_space = spaces.Box(-np.inf, np.inf, (17,))
    action_space = spaces.Box(-1, 1, (6,))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.np_random.normal(size=17).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        random = self.np_random
        return random.normal(size=17).astype(np.float32), float(random.normal()), random.random() < 0.01, False, {}


def images(**kwargs: Any) -> gym.Env:
    """Images without meaning, of an Atari game's shape."""
    return FakeImageEnv(n_channels=4, **kwargs)


def set_warnings() -> None:
    """Silence a hint about odd sizes; let no eager update pass for a compiled one, which PPOPlus only warns of."""
    warnings.filterwarnings("ignore", "You have specified a mini-batch size")
    warnings.filterwarnings("error", "compile_update")


def silenced(model: BaseAlgorithm) -> BaseAlgorithm:
    """
    :param model: a model
    :return: the same, whose log is computed and goes nowhere
    """
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


# ------------------------------------------------ records


def load(path: Path) -> list[dict[str, Any]]:
    """
    :param path: results file
    :return: its records; none when it does not exist
    """
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def dump(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """
    :param path: results file, replaced whole
    :param records: what it will hold
    """
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))


def append(path: Path, record: dict[str, Any]) -> None:
    """
    :param path: results file
    :param record: what is added to it
    """
    dump(path, [*load(path), record])


@contextmanager
def results_file(chosen: Path | None, name: str, quick: bool) -> Iterator[Path]:
    """
    Say where results go. Those of a quick run, which measures nothing, go nowhere unless a path was given.

    :param chosen: path that was given, None for the usual one
    :param name: usual name of the file
    :param quick: whether sizes are tiny
    :return: context manager yielding the path
    """
    if chosen is not None or not quick:
        yield chosen or RESULTS / name
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


# ------------------------------------------------ conditions


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """
    :param packages: packages whose versions matter
    :return: the machine and the versions, in words
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    parts = [platform.machine(), model or platform.processor(), f"{processors()} processors"]
    parts.append(f"Python {platform.python_version()}")
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(part for part in parts if part)


def commit() -> str:
    """
    :return: commit of this checkout, with ``-dirty`` when what is measured differs from it, ``unknown`` outside of git
    """
    folder = Path(__file__).parents[1]
    # Results are written while a benchmark runs, and do not change what the rest of it measures.
    measured = ["sb3_ppo_plus", "benchmarks", ":(exclude)benchmarks/results"]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", *measured) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


# ------------------------------------------------ statistics


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """
    :param values: measurements
    :return: their median, and half of their range in percent of it
    """
    median = float(np.median(values))
    return median, 50 * (max(values) - min(values)) / median


def bootstrap_interval(values: Sequence[float], level: float = 0.95, draws: int = 10_000) -> tuple[float, float]:
    """
    Percentile bootstrap of the mean (Efron and Tibshirani 1993, chapter 13). With five values it is rather narrow.

    :param values: one score per seed
    :param level: share of intervals that should hold the true mean, typically 0.95; larger is wider
    :param draws: resamples; more are less noisy
    :return: lower and upper bound, the same at every call
    """
    scores = np.asarray(values, np.float64)
    rows = np.random.default_rng(0).integers(len(scores), size=(draws, len(scores)))
    low, high = np.quantile(scores[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
