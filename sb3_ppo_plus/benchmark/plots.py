"""The pictures of a benchmark, each a function from the findings to a figure, or to None where there is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_ppo_plus.benchmark.results import Curve
from sb3_ppo_plus.benchmark.suite import TRAINING
from sb3_ppo_plus.benchmark.tables import Cell, Findings, normalized, pooled
from sb3_ppo_plus.statistics import interquartile_mean, performance_profile

_LINES = ("#1f6feb", "#f0883e", "#57606a", "#8250df", "#1a7f37", "#cf222e")
_GRAY = "#57606a"
_POINTS, _RESAMPLES = 80, 1000


def curves_in_steps(findings: Findings) -> Figure | None:
    """Training return over environment steps, a panel for each task."""
    return _curves(findings, "steps", "environment steps", EngFormatter(sep=""))


def curves_in_seconds(findings: Findings) -> Figure | None:
    """Training return over the time of the training, a panel for each task."""
    return _curves(findings, "seconds", "seconds of training", None)


def profiles(findings: Findings) -> Figure | None:
    """Share of runs above each normalized score, all tasks together, with a band over seeds."""
    lines = [(name, normalized(findings, name, TRAINING)[0]) for name in _names(findings)]
    lines = [(name, scores) for name, scores in lines if scores.size]
    if not lines:
        return None
    figure, axes = _figure(8, 4.4)
    everything = np.concatenate([scores.reshape(-1) for _, scores in lines])
    levels = np.linspace(min(0.0, float(everything.min())), max(1.0, float(everything.max())) * 1.02, 120)
    for name, scores in lines:
        color = _color(findings, name)
        shares = performance_profile(scores.reshape(-1), levels)
        axes.step(levels, shares, _style(findings, name), where="post", color=color, label=_text(name))
        if len(scores) > 1:
            low, high = _profile_band(scores, levels)
            axes.fill_between(levels, low, high, step="post", color=color, alpha=0.16, linewidth=0)
    axes.axvline(1.0, color=_GRAY, linewidth=1, linestyle=":")
    _label(axes, "normalized score", "share of runs above it")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, loc="best")
    return figure


def pooled_scores(findings: Findings) -> Figure | None:
    """Interquartile mean, mean and optimality gap of the normalized scores, with 95% intervals."""
    rows = [row for row in pooled(findings) if row["protocol"] == TRAINING]
    if not rows:
        return None
    figure, _ = _figure(10, 0.5 * len(rows) + 1.2, axes=False)
    titles = {"iqm": "interquartile mean", "mean": "mean", "optimality_gap": "optimality gap (less is better)"}
    for axes, (key, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        for index, row in enumerate(rows):
            color, interval = _color(findings, row["variant"]), row[f"{key}_interval"]
            if interval is not None:
                axes.plot(interval, [index, index], color=color, linewidth=9, alpha=0.35, solid_capstyle="butt")
            axes.plot([row[key]], [index], "|", color=color, markersize=18, markeredgewidth=2.5)
        _label(axes, "", "")
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(rows)), [_text(row["variant"]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.15)
    return figure


def band(curves: Sequence[Curve], axis: str) -> tuple[np.ndarray, ...] | None:
    """
    Lay the curves of several seeds over each other.

    :param curves: one for each seed
    :param axis: ``steps`` or ``seconds``
    :return: positions on the axis, interquartile mean over seeds, lower and upper end of its 95% bootstrap interval,
        each [P]; None when there is no span that all curves have in common
    """
    known = [
        (getattr(curve, axis)[kept], curve.returns[kept]) for curve in curves if (kept := curve.episodes > 0).any()
    ]
    if not known:
        return None
    # Beyond the shortest curve the mean would jump with the seeds that it is over.
    first, last = max(x[0] for x, _ in known), min(x[-1] for x, _ in known)
    if first >= last:
        return None
    positions = np.linspace(first, last, _POINTS)
    returns = np.array([np.interp(positions, x, y) for x, y in known]).T
    drawn = np.random.default_rng(0).integers(len(known), size=(_RESAMPLES, len(known)))
    resampled = interquartile_mean(returns[:, drawn])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    return positions, interquartile_mean(returns), low, high


def _curves(findings: Findings, axis: str, label: str, formatter: Any) -> Figure | None:
    tasks = list(dict.fromkeys(cell.task.env for cell in findings.cells))
    if not tasks:
        return None
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, _ = _figure(4.4 * columns, 3.1 * rows + 0.4, axes=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, env in zip(grid.flat, tasks, strict=False):
        for cell in findings.cells:
            if cell.task.env == env:
                _draw_curve(axes, findings, cell, axis)
        _draw_published(axes, findings, env)
        _label(axes, label if axes in grid[-1] else "", "training return" if axes in grid[:, 0] else "")
        axes.set_title(_text(env, 40), fontsize=10, loc="left", fontweight="bold")
        if formatter is not None:
            axes.xaxis.set_major_formatter(formatter)
        axes.margins(x=0.02)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    found: dict[str, Any] = {}
    for axes in grid.flat[: len(tasks)]:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw_curve(axes: Any, findings: Findings, cell: Cell, axis: str) -> None:
    found = band(findings.curves(cell), axis)
    if found is None:
        return
    positions, middle, low, high = found
    color, style = _color(findings, cell.variant), _style(findings, cell.variant)
    axes.plot(positions, middle, style, color=color, linewidth=1.8, label=_text(cell.variant))
    if len(cell.runs) > 1:
        axes.fill_between(positions, low, high, color=color, alpha=0.16, linewidth=0)


def _draw_published(axes: Any, findings: Findings, env: str) -> None:
    styles: tuple[Any, ...] = ("--", ":", "-.", (0, (8, 2)), (0, (1, 4)))
    measured_alike = [entry for entry in findings.suite.published if entry.protocol == TRAINING]
    for index, entry in enumerate(measured_alike):
        if env in entry.scores:
            style = styles[index % len(styles)]
            axes.axhline(
                entry.scores[env].mean, color=_GRAY, linewidth=1.1, linestyle=style, label=_text(entry.label, 40)
            )


def _profile_band(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Band [2, T] where seeds are drawn again within each task."""
    n_seeds, n_tasks = scores.shape
    picked = np.random.default_rng(0).integers(n_seeds, size=(_RESAMPLES, n_tasks, n_seeds))
    drawn = scores.T[np.arange(n_tasks)[:, None], picked].reshape(_RESAMPLES, -1)
    shares = np.array([performance_profile(drawn, levels[start : start + 10]) for start in range(0, len(levels), 10)])
    ends: np.ndarray = np.quantile(np.moveaxis(shares, 1, 0).reshape(_RESAMPLES, -1), [0.025, 0.975], axis=0)
    return ends


def _names(findings: Findings) -> list[str]:
    return [variant.name for variant in findings.suite.variants]


def _color(findings: Findings, variant: str) -> str:
    return _LINES[_names(findings).index(variant) % len(_LINES)]


def _style(findings: Findings, variant: str) -> str:
    """Every second line dashed: where two are the same, both are seen."""
    return "--" if _names(findings).index(variant) % 2 else "-"


def _figure(width: float, height: float, axes: bool = True) -> tuple[Figure, Any]:
    # Without pyplot, which would want a display and keep global state.
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot() if axes else None


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_GRAY, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _text(text: str, longest: int = 28) -> str:
    """Shorten a name, and keep a dollar in it from being read as mathematics."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")
