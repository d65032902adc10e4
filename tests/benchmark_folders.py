"""Folders of benchmarks with made-up results, for tests of what is read from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_ppo_plus.benchmark.plan import PlannedRun, plan_runs
from sb3_ppo_plus.benchmark.results import DONE, BenchmarkFolder, Curve, Result
from sb3_ppo_plus.benchmark.suite import Suite, suite_from_mapping
from sb3_ppo_plus.benchmark.training import write_curve


def suite(**changes: Any) -> Suite:
    """Two tasks, two variants, four seeds, and a published number for one of the tasks."""
    content = {
        "name": "small",
        "description": "made up",
        "tasks": {
            "CartPole-v1": {"n_timesteps": 100, "low": 0, "high": 10},
            "Pendulum-v1": {"n_timesteps": 100, "low": -10, "high": 10},
        },
        "variants": {"plus": {"set": {"n_steps": 8}}, "base": {"kind": "sb3", "set": {"n_steps": 8}}},
        "seeds": "0-3",
        "baseline": "base",
        "published": [
            {
                "label": "others, v0, published",
                "source": "https://example.org/table",
                "protocol": "training",
                "scores": {"CartPole-v1": {"mean": 3.0, "std": 1.0, "seeds": 5}},
            }
        ],
    }
    return suite_from_mapping({**content, **changes})


def result(planned: PlannedRun, score: float | None, **changes: Any) -> Result:
    """What a run came to: the evaluation is ten times the training return."""
    values = {
        "variant": planned.variant,
        "task": planned.task,
        "seed": planned.seed,
        "key": planned.key,
        "state": DONE,
        "training_return": score,
        "training_episodes": 100,
        "final_returns": () if score is None else (10 * score - 1, 10 * score + 1),
        "steps": 100,
        "seconds": 2.0,
        "total_seconds": 5.0,
        "versions": {"torch": "2"},
        "machine": "a machine",
    }
    return Result(**{**values, **changes})


def fill(path: Path, scores: dict[tuple[str, str], Sequence[float]], made: Suite | None = None) -> BenchmarkFolder:
    """Write results, and curves that rise from 0 to the score, for (variant, task)."""
    folder, made = BenchmarkFolder(path), made or suite()
    path.mkdir(parents=True, exist_ok=True)
    made.write(folder.suite)
    for (variant, env), values in scores.items():
        for planned, score in zip(plan_runs(made, range(len(values)), [env], [variant]), values, strict=True):
            folder.append(result(planned, score))
            folder.run(planned).path.mkdir(parents=True, exist_ok=True)
            write_curve(rising(score), folder.run(planned).curve)
    return folder


def rising(score: float, n: int = 10) -> Curve:
    """A straight line from 0 at the start to the score at step 100 and second 2; the first bin saw no episode."""
    part = np.arange(1, n + 1) / n
    returns = np.where(part > 1 / n, score * part, np.nan)
    episodes = np.where(part > 1 / n, 1, 0)
    evaluations = np.array([0, 100]), np.array([0.0, 2.0]), np.array([[0.0, 0.0], [score, score]])
    return Curve(100 * part, 2 * part, returns, episodes, *evaluations)
