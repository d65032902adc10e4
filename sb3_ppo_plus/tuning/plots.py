"""
The pictures of a study's report, each a function from the study to a figure.

A function gives None where there is nothing to draw. Figures are made without pyplot, which needs no display and keeps
no global state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from sb3_ppo_plus.statistics import bootstrap_interval, interquartile_mean
from sb3_ppo_plus.tuning.records import FAILED, FINISHED, PRUNED, RUNNING, Dimension, StudyRecord, TrialRecord

BLUE, ORANGE, GRAY, RED, PALE = "#1f6feb", "#f0883e", "#57606a", "#cf222e", "#d0d7de"
_LINES = (BLUE, ORANGE, GRAY, "#8250df", "#1a7f37")
_STATES = {FINISHED: BLUE, PRUNED: ORANGE, FAILED: RED, RUNNING: PALE}
_VALUES = LinearSegmentedColormap.from_list("values", ["#dbe4ee", "#7fb0f0", "#1f6feb", "#0a2f6b"])
_RESAMPLES = 2000
_MAX_CHARACTERS = 28


def finished_trials(study: StudyRecord) -> list[TrialRecord]:
    """
    :param study: any study
    :return: trials that have values, in the order of their numbers
    """
    return sorted((t for t in study.trials if t.state == FINISHED and t.values), key=lambda trial: trial.number)


def best_trial(study: StudyRecord) -> TrialRecord | None:
    """
    :param study: any study
    :return: the trial with the best first value, the earlier one of equals; None when none is finished
    """
    return max(finished_trials(study), key=lambda t: (_signed(study, t), -t.number), default=None)


def pareto_front(study: StudyRecord) -> list[TrialRecord]:
    """
    :param study: any study
    :return: finished trials that no other beats in one objective without losing in another, best first value first
    """
    trials = finished_trials(study)
    scores = {t.number: tuple(_signed(study, t, index) for index in range(len(study.objectives))) for t in trials}

    def dominated(trial: TrialRecord) -> bool:
        own = scores[trial.number]
        return any(s != own and all(a >= b for a, b in zip(s, own, strict=True)) for s in scores.values())

    return sorted((t for t in trials if not dominated(t)), key=lambda t: scores[t.number], reverse=True)


def history(study: StudyRecord) -> Figure | None:
    """Value by trial number with the best so far; pruned trials at their last return, failed ones at the bottom."""
    if not study.trials:
        return None
    trials = finished_trials(study)
    figure, axes = _figure(9, 4.2)
    bottom = {"markersize": 6, "markeredgewidth": 2, "transform": axes.get_xaxis_transform(), "clip_on": False}
    if trials:
        numbers, values = [t.number for t in trials], np.array([_value(t) for t in trials])
        best = (np.maximum if study.maximize[0] else np.minimum).accumulate(values)
        axes.plot(numbers, values, "o", color=BLUE, alpha=0.65, markersize=5, markeredgewidth=0, label="finished")
        axes.step(numbers, best, where="post", color=GRAY, linewidth=1.6, label="best so far")
        top = best_trial(study)
        assert top is not None
        axes.plot([top.number], [_value(top)], "*", color=ORANGE, markersize=15, label=f"best: trial {top.number}")
    # Returns are values of the same kind only where returns are ranked, not where steps are counted.
    shown = [t for t in study.trials if t.state == PRUNED and t.returns and study.maximize[0]]
    if shown:
        last = [t.returns[-1] for t in shown]
        label = "pruned, last return"
        axes.plot([t.number for t in shown], last, "x", color=ORANGE, markersize=6, alpha=0.8, label=label)
    for state in (PRUNED, FAILED):
        group = [t.number for t in study.trials if t.state == state and t not in shown]
        if group:
            axes.plot(group, [0.02] * len(group), "|", color=_STATES[state], label=state, **bottom)
    _limit(axes, [*(_value(t) for t in trials), *(t.returns[-1] for t in shown)])
    _label(axes, "trial", study.objectives[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _legend_above(axes)
    return figure


def parallel(study: StudyRecord) -> Figure | None:
    """One line per finished trial through all of its parameters, darker is better; a missing one interrupts it."""
    trials = [t for t in finished_trials(study) if t.params]
    if not trials or not study.dimensions:
        return None
    norm = _norm(study, trials)
    count = len(study.dimensions)
    figure, axes = _figure(max(7.0, min(13.0, 1.1 * count + 2)), 5.2)
    best = best_trial(study)
    for trial in sorted(trials, key=lambda t: _signed(study, t)):
        heights = [_height(dimension, trial.params.get(dimension.name)) for dimension in study.dimensions]
        is_best = best is not None and trial.number == best.number
        color = ORANGE if is_best else _VALUES(norm(_signed(study, trial)))
        width, alpha = (2.6, 1.0) if is_best else (1.2, 0.75)
        axes.plot(range(count), heights, ".-", color=color, linewidth=width, alpha=alpha, markersize=6)
    for x, dimension in enumerate(study.dimensions):
        axes.axvline(x, color=GRAY, linewidth=0.8, alpha=0.5, zorder=0)
        for height, text in _marks(dimension):
            label = axes.annotate(text, (x, height), (5, 0), textcoords="offset points", va="center", fontsize=7)
            label.set(zorder=5, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})
    axes.set_xticks(range(count), [_text(d.name) for d in study.dimensions], rotation=30, ha="right", fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.2, count - 0.4)
    axes.spines[["left", "bottom", "top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    _value_bar(figure, axes, study, norm)
    return figure


def slices(study: StudyRecord) -> Figure | None:
    """Value over each parameter, the best trial marked; the color is the number of the trial, later is darker."""
    trials = [t for t in finished_trials(study) if t.params]
    if not trials or not study.dimensions:
        return None
    columns = min(3, len(study.dimensions))
    rows = -(-len(study.dimensions) // columns)
    figure, _ = _figure(3.9 * columns, 2.7 * rows + 0.3, axes=False)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    best = best_trial(study)
    order = Normalize(0, max(t.number for t in trials) or 1)
    for axes, dimension in zip(grid.flat, study.dimensions, strict=False):
        those = [t for t in trials if t.params.get(dimension.name) is not None]
        values = [_value(t) for t in those]
        xs = [_place(dimension, t.params[dimension.name]) for t in those]
        axes.scatter(xs, values, c=[_VALUES(0.25 + 0.75 * order(t.number)) for t in those], s=22, linewidth=0)
        if best in those:
            axes.plot([xs[those.index(best)]], [_value(best)], "*", color=ORANGE, markersize=14)
        if dimension.choices:
            axes.set_xticks(range(len(dimension.choices)), [_text(c, 12) for c in dimension.choices], fontsize=8)
            axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
        elif _is_log(dimension):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            if (dimension.high or 0) < 200 * (dimension.low or 0):  # there may be a single power of ten in it
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _label(axes, dimension.name, study.objectives[0] if axes in grid[:, 0] else "")
        _limit(axes, [_value(t) for t in trials], note=axes is grid[0, 0])
    for axes in grid.flat[len(study.dimensions) :]:
        axes.set_visible(False)
    return figure


def importances(study: StudyRecord) -> Figure | None:
    """Share of each parameter in the variance among the better trials, as horizontal bars."""
    if not study.importances:
        return None
    pairs = sorted(study.importances.items(), key=lambda pair: pair[1])
    figure, axes = _figure(8, 0.34 * len(pairs) + 1.1)
    bars = axes.barh([_text(name) for name, _ in pairs], [share for _, share in pairs], color=BLUE, height=0.62)
    axes.bar_label(bars, [f"{share:.0%}" for _, share in pairs], padding=4, fontsize=9, color=GRAY)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.margins(x=0.12)
    _label(axes, "share of the variance", "")
    axes.grid(visible=False, axis="y")
    return figure


def confirmation_curves(study: StudyRecord) -> Figure | None:
    """Interquartile mean over held-out seeds with its 95% bootstrap band, the winner beside each baseline."""
    candidates = [c for c in study.candidates if any(len(steps) for steps, _ in c.curves.values())]
    if not candidates:
        return None
    figure, axes = _figure(9, 4.6)
    for index, candidate in enumerate(candidates):
        steps, middle, low, high = curve_band(candidate.curves.values())
        color = _LINES[index % len(_LINES)]
        label = f"{_text(candidate.name)}, {_count(len(candidate.curves), 'seed')}"
        axes.plot(steps, middle, color=color, linewidth=2.2, label=label, zorder=3 + len(candidates) - index)
        if len(candidate.curves) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0)
    _label(axes, "environment steps", "return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)
    axes.legend(frameon=False, loc="best")
    return figure


def curve_band(seeds: Iterable[tuple[Sequence[int], Sequence[float]]]) -> tuple[np.ndarray, ...]:
    """
    :param seeds: steps [E] and returns [E] of each seed; at least one has an evaluation
    :return: steps, interquartile mean over the seeds, lower and upper end of its interval, each [E]
    """
    curves = [(np.asarray(x, float), np.asarray(y, float)) for x, y in seeds if len(x)]
    # Seeds may stop at different steps; beyond the shortest curve the mean would jump with the seeds it is over.
    end = min(x[-1] for x, _ in curves)
    steps = np.unique(np.concatenate([x for x, _ in curves]))
    steps = steps[steps <= end]
    returns = np.array([np.interp(steps, x, y) for x, y in curves])
    interval = partial(bootstrap_interval, interquartile_mean, n_resamples=_RESAMPLES)
    bands = np.array([interval(column) for column in returns.T])
    return steps, interquartile_mean(returns.T), bands[:, 0], bands[:, 1]


def trial_curves(study: StudyRecord) -> Figure | None:
    """Learning curve of every trial as a thin line, the best one thick."""
    trials = [t for t in study.trials if len(t.steps)]
    if not trials:
        return None
    figure, axes = _figure(9, 4.4)
    best = best_trial(study)
    seen: set[str] = set()
    for trial in trials:
        if best is not None and trial.number == best.number:
            continue
        style = "--" if trial.state == PRUNED else "-"
        label = f"_{trial.state}" if trial.state in seen else trial.state
        seen.add(trial.state)
        color = GRAY if trial.state == RUNNING else _STATES.get(trial.state, GRAY)
        axes.plot(trial.steps, trial.returns, style, color=color, linewidth=0.9, alpha=0.45, label=label)
    if best in trials:
        axes.plot(best.steps, best.returns, color="#0a2f6b", linewidth=2.4, label=f"best: trial {best.number}")
    _limit(axes, [value for t in trials for value in t.returns])
    _label(axes, "environment steps", "return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.02)
    _legend_above(axes)
    return figure


def pareto(study: StudyRecord) -> Figure | None:
    """Both objectives of every finished trial, and the front that no other trial beats in both."""
    trials = finished_trials(study)
    if len(study.objectives) < 2 or not trials:
        return None
    figure, axes = _figure(7.5, 4.8)
    front = pareto_front(study)
    points = np.array([t.values for t in trials], float)
    axes.plot(points[:, 1], points[:, 0], "o", color=BLUE, alpha=0.5, markeredgewidth=0, label="finished")
    edge = np.array([t.values for t in front], float)
    edge = edge[np.argsort(edge[:, 1])]
    # What lies between two points of the front is not known to be reachable: steps, towards the worse side.
    axes.step(edge[:, 1], edge[:, 0], where="pre" if study.maximize[1] else "post", color=ORANGE, linewidth=1.6)
    axes.plot(edge[:, 1], edge[:, 0], "o", color=ORANGE, markersize=8, label="not beaten in both")
    for trial in front[:12]:
        assert trial.values is not None
        axes.annotate(str(trial.number), trial.values[1::-1], (6, 5), textcoords="offset points", fontsize=8)
    axes.margins(0.06)
    _label(axes, *(f"{name} ({_direction(study, i)})" for i, name in reversed(list(enumerate(study.objectives)))))
    _legend_above(axes)
    return figure


def timeline(study: StudyRecord) -> Figure | None:
    """What each worker did over time, one bar per trial with its number."""
    trials = [t for t in study.trials if t.started is not None]
    if not trials:
        return None
    times = [moment for t in trials for moment in (t.started, t.ended) if moment is not None]
    first, last = min(times), max(times)
    unit, name = next(
        (u for u in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")) if last - first > u[0]), (1, "s")
    )
    workers = sorted({t.worker for t in trials})
    figure, axes = _figure(9, min(14.0, 0.36 * len(workers) + 1.3))
    for trial in trials:
        assert trial.started is not None
        ended = last if trial.ended is None else trial.ended
        start, length = (trial.started - first) / unit, (ended - trial.started) / unit
        color = _STATES.get(trial.state, PALE)
        row = workers.index(trial.worker)
        axes.barh(row, length, left=start, color=color, height=0.7, edgecolor="white", linewidth=0.8)
        if length * unit > 0.03 * (last - first):
            ink = GRAY if color == PALE else "white"
            axes.text(start + length / 2, row, str(trial.number), ha="center", va="center", fontsize=7, color=ink)
    axes.set_yticks(range(len(workers)), [_text(worker or "unknown") for worker in workers], fontsize=8)
    axes.invert_yaxis()
    for state, color in _STATES.items():
        if any(t.state == state for t in trials):
            axes.barh(0, 0, color=color, label=state)
    _label(axes, f"{name} since the first trial began", "")
    axes.grid(visible=False, axis="y")
    _legend_above(axes)
    return figure


# ------------------------------------------------ values and places


def _value(trial: TrialRecord) -> float:
    assert trial.values is not None
    return float(trial.values[0])


def _signed(study: StudyRecord, trial: TrialRecord, index: int = 0) -> float:
    """Give a value such that more is better."""
    assert trial.values is not None
    return float(trial.values[index]) * (1 if study.maximize[index] else -1)


def _direction(study: StudyRecord, index: int) -> str:
    return "more is better" if study.maximize[index] else "less is better"


def _is_log(dimension: Dimension) -> bool:
    return dimension.log and dimension.low is not None and dimension.low > 0


def _place(dimension: Dimension, value: Any) -> float:
    """Give where a drawn value stands on its axis: itself, or the index of the choice; NaN for what does not fit."""
    if dimension.choices:
        return float(dimension.choices.index(str(value))) if str(value) in dimension.choices else np.nan
    return float(value) if isinstance(value, (int, float)) else np.nan


def _height(dimension: Dimension, value: Any) -> float:
    """Give the place between the ends of the dimension, 0 to 1, on its own scale; NaN interrupts a line."""
    if value is None:
        return np.nan
    low, high = (
        (0.0, len(dimension.choices) - 1.0) if dimension.choices else (dimension.low or 0.0, dimension.high or 0.0)
    )
    place = _place(dimension, value)
    if not dimension.choices and _is_log(dimension):
        low, high, place = np.log(low), np.log(high), np.log(max(place, 1e-300))
    return (place - low) / (high - low) if high > low else 0.5


def _marks(dimension: Dimension) -> Iterable[tuple[float, str]]:
    """Give height and text of what stands beside the axis of a dimension: its ends, or its choices."""
    if dimension.choices:
        return [(_height(dimension, choice), _text(choice, 14)) for choice in dimension.choices]
    ends = [end for end in (dimension.low, dimension.high) if end is not None]
    return [(height, f"{end:.3g}") for height, end in zip((-0.035, 1.035), ends, strict=False)]


def _norm(study: StudyRecord, trials: Sequence[TrialRecord]) -> Normalize:
    """Spread the colors over the better nine tenths, so that a run that diverged does not take the whole range."""
    scores = [_signed(study, t) for t in trials]
    return Normalize(float(np.quantile(scores, 0.1)), max(scores), clip=True)


def _limit(axes: Any, values: Sequence[float], note: bool = True) -> None:
    """Leave diverged values outside of the picture, with a note: they would press all others into a line."""
    if len(values) < 4:
        return
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach]
    outside = len(values) - len(inside)
    if reach > 0 and outside and max(values) - min(values) > 4 * (max(inside) - min(inside)):
        margin = 0.08 * (max(inside) - min(inside))
        axes.set_ylim(min(inside) - margin, max(inside) + margin)
        text = f"{_count(outside, 'value')} outside of the picture" if note else ""
        axes.set_title(text, loc="right", fontsize=8, color=GRAY, style="italic")


# ------------------------------------------------ the looks


def _figure(width: float, height: float, axes: bool = True) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot() if axes else None


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(_text(x, 60))
    axes.set_ylabel(_text(y, 60))
    axes.grid(color=GRAY, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_above(axes: Any) -> None:
    """Put the legend above the picture, where it hides no point."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=9, borderaxespad=0.2)


def _value_bar(figure: Figure, axes: Any, study: StudyRecord, norm: Normalize) -> None:
    sign = 1 if study.maximize[0] else -1
    bar = figure.colorbar(ScalarMappable(norm, _VALUES), ax=axes, pad=0.02, aspect=30)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{sign * value:,.4g}")
    bar.set_label(_text(f"{study.objectives[0]} (orange: best)", 60))
    bar.outline.set_visible(False)  # type: ignore[operator]


def _text(text: str, longest: int = _MAX_CHARACTERS) -> str:
    """Shorten a name, and keep a dollar in it from being read as mathematics."""
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    return short.replace("$", r"\$")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
