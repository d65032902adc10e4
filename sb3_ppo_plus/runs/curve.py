"""The learning curve of a run as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sb3_ppo_plus.atomic import atomic_path
from sb3_ppo_plus.runs.folder import RunFolder

_EVALUATION, _TRAINING, _GRAY = "#1f6feb", "#f0883e", "#57606a"


def draw_learning_curve(folder: RunFolder, title: str, path: Path | None = None) -> Path:
    """
    Draw evaluation (mean, and the range from the worst to the best episode) and training return over environment steps.

    :param folder: run whose ``evaluations.npz`` and ``progress.csv`` are drawn
    :param title: heading
    :param path: picture to write, None for the run's own
    :return: path of the picture
    """
    # A figure without pyplot needs no display and leaves no global state behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    timesteps, returns = read_evaluations(folder.evaluations)
    train_steps, train_returns = read_training_returns(folder.progress)
    if len(train_steps):
        axes.plot(
            train_steps,
            train_returns,
            color=_TRAINING,
            linewidth=1.2,
            alpha=0.9,
            label="training, running mean",
        )
    mean = returns.mean(axis=1)
    axes.fill_between(
        timesteps,
        returns.min(axis=1),
        returns.max(axis=1),
        color=_EVALUATION,
        alpha=0.18,
        linewidth=0,
        label="worst to best",
    )
    axes.plot(
        timesteps,
        mean,
        "o-",
        color=_EVALUATION,
        linewidth=2,
        markersize=4,
        label=f"evaluation, mean of {returns.shape[1]}",
    )
    axes.annotate(
        f"{mean[-1]:,.0f}",
        (timesteps[-1], mean[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=_EVALUATION,
        fontweight="bold",
    )
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color=_GRAY, alpha=0.2, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.03)
    axes.legend(frameon=False, loc="best")
    path = path or folder.curve
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def read_evaluations(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    :param path: ``evaluations.npz`` as SB3's EvalCallback writes it
    :return: timesteps [E] and returns [E, episodes]
    """
    with np.load(path) as arrays:
        return arrays["timesteps"], arrays["results"]


def read_training_returns(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """
    :param path: ``progress.csv`` as SB3's logger writes it; may be missing
    :return: timesteps [K] and mean returns [K] of the rows that have both
    """
    columns = ("time/total_timesteps", "rollout/ep_rew_mean")
    rows: list[tuple[float, float]] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if all(row.get(column) for column in columns):
                    rows.append((float(row[columns[0]]), float(row[columns[1]])))
    array = np.array(rows, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]
