"""The report of a study: what was found, whether it holds, and everything that it rests on."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.statistics import bootstrap_interval, interquartile_mean
from sb3_ppo_plus.tuning import plots
from sb3_ppo_plus.tuning.records import Candidate, Comparison, StudyRecord, TrialRecord
from sb3_ppo_plus.tuning.report_html import page
from sb3_ppo_plus.tuning.report_markdown import (
    Block,
    Code,
    Paragraph,
    Picture,
    Section,
    Table,
    markdown,
    pictures,
)

FORMATS = ("html", "md")
# What the candidates are called that were not found by the search.
BASELINES = {"current": "the configuration that the study started from", "sb3": "Stable-Baselines3's defaults"}
_NONE = "-"


def write_report(study: StudyRecord, folder: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """
    Write the report of a study, finished or not.

    :param study: what is reported
    :param folder: where it is written; an earlier report there is replaced
    :param formats: ``html`` for one self-contained page, ``md`` for Markdown with pictures beside it
    :return: the page of each format, in the order of ``formats``
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong or not formats:
        raise InvalidArgument(f"formats is {list(formats)}; choose of {', '.join(FORMATS)}")
    sections = report_sections(study)
    title = f"{study.name}: tuning PPO on {study.env}"
    written = []
    for name in dict.fromkeys(formats):
        path = folder / f"report.{name}"
        if name == "md":
            # The pictures first: a page never shows one that is not there.
            for picture in pictures(sections):
                atomic_write(folder / "images" / f"{picture.name}.png", picture.png)
        atomic_write(path, page(title, sections) if name == "html" else markdown(title, sections, "images"))
        written.append(path)
    return written


def report_sections(study: StudyRecord) -> list[Section]:
    """
    :param study: what is reported
    :return: the whole report, the verdict first
    """
    return [
        Section("Verdict", (_verdict(study), _facts(study))),
        Section("Settings of the winner" if study.candidates else "Settings of the best trial", _settings(study)),
        Section("Comparison on held-out seeds", _comparison(study)),
        Section("Race", _race(study)),
        Section("Search", _search(study)),
        Section("Parameters", _parameters(study)),
        Section(
            "Workers", _drawn(plots.timeline, study, "timeline", "What each worker did; the number is the trial's.")
        ),
        Section("Trials", (_trials(study),) if study.trials else (Paragraph("There is no trial yet."),)),
        Section("How it was made", _origin(study)),
    ]


# ------------------------------------------------ the verdict


def _verdict(study: StudyRecord) -> Paragraph:
    best = plots.best_trial(study)
    if study.candidates and study.candidates[0].scores:
        return _confirmed(study, study.candidates[0])
    if study.candidates:
        text = f"{_called(study.candidates[0].name)} leads the race, but was not compared on held-out seeds"
        return Paragraph(f"Not confirmed: {text}. Whether it is better than the baselines is not known.", "open")
    if best is None or best.values is None:
        states = Counter(trial.state for trial in study.trials)
        there = ", ".join(f"{count} {state}" for state, count in states.items()) or "none was begun"
        return Paragraph(
            f"Nothing was found yet: no trial has finished ({there}).", "bad" if states["failed"] else "open"
        )
    if len(study.objectives) > 1:
        front = plots.pareto_front(study)
        names = " and ".join(study.objectives)
        text = f"{len(front)} of {len(plots.finished_trials(study))} finished trials are not beaten in both {names}"
        return Paragraph(
            f"{text}: {', '.join(str(t.number) for t in front)}. None was confirmed on other seeds.", "open"
        )
    value = f"{study.objectives[0]} {number(best.values[0])}"
    return Paragraph(
        f"Not confirmed: trial {best.number} has the best value of the search, {value}, on a single seed. The best of "
        "many noisy values looks better than it is; only a comparison on held-out seeds tells whether it is.",
        "open",
    )


def _confirmed(study: StudyRecord, winner: Candidate) -> Paragraph:
    seeds = f"{len(winner.scores)} held-out seed{'s' if len(winner.scores) > 1 else ''}"
    if winner.name in BASELINES:
        kind, start = "bad", f"The search found nothing better: {_called(winner.name)} won on {study.env}"
    else:
        kind, start = "good", f"{_called(winner.name)} won on {study.env}"
    if not study.comparisons:
        return Paragraph(f"{start} ({seeds}), with no baseline to compare it with.", "open")
    if kind == "good" and not all(comparison.beats for comparison in study.comparisons):
        kind = "open"
    sentences = " ".join(_compared(study, comparison) for comparison in study.comparisons)
    return Paragraph(f"{start}, by {study.objectives[0]} over {seeds}. {sentences}", kind)


def _compared(study: StudyRecord, comparison: Comparison) -> str:
    """Say in one sentence whether the winner is better than a baseline."""
    baseline, (low, high) = _called(comparison.baseline, inside=True), comparison.interval
    where = f"95% interval {number(low)} to {number(high)}"
    chance = f"a run of it is better with probability {comparison.probability:.2f}"
    if comparison.beats:
        return f"It beats {baseline} by {number(comparison.difference)} ({where}); {chance}."
    if high < 0:
        return f"It is worse than {baseline} by {number(-comparison.difference)} (difference {where}); {chance}."
    difference = f"the difference is {number(comparison.difference)} and its {where} includes zero"
    return f"It is not shown to beat {baseline}: {difference}; {chance}."


def _called(name: str, inside: bool = False) -> str:
    """Name a candidate within a sentence or at the start of one."""
    text = f"{BASELINES[name]} ({name})" if name in BASELINES else name
    return text if inside else text[:1].upper() + text[1:]


def _facts(study: StudyRecord) -> Table:
    states = Counter(trial.state for trial in study.trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    aims = [
        f"{name} ({'more' if more else 'less'} is better)"
        for name, more in zip(study.objectives, study.maximize, strict=True)
    ]
    rows = (
        ("Environment", study.env),
        ("Objective", f"{study.objective}: {' and '.join(aims)}"),
        ("Steps of a trial", f"{study.n_timesteps:,}"),
        ("Trials", f"{len(study.trials)} ({counts})" if counts else "0"),
        ("Search", f"{len(study.dimensions)} parameters, sampler {study.sampler}, pruner {study.pruner}"),
    )
    return Table(("Study", study.name), rows)


def _settings(study: StudyRecord) -> tuple[Block, ...]:
    best = plots.best_trial(study)
    if study.candidates:
        settings = study.candidates[0].settings
    elif best is not None:
        settings = best.settings
    else:
        return (Paragraph("No trial has finished, so there is nothing to recommend."),)
    if not settings:
        return (Paragraph("It differs in nothing from the defaults."),)
    text = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True, default_flow_style=False)
    return (Code(text, "yaml"),)


def _plain(value: Any) -> Any:
    """Give what YAML can write: NumPy's numbers as Python's, tuples as lists, anything unknown as its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# ------------------------------------------------ the confirmation


def _comparison(study: StudyRecord) -> tuple[Block, ...]:
    compared = [candidate for candidate in study.candidates if candidate.scores]
    if not compared:
        return (Paragraph("Nothing was compared on held-out seeds."),)
    against = {comparison.baseline: comparison for comparison in study.comparisons}
    rows = []
    for candidate in compared:
        scores = np.array(list(candidate.scores.values()), dtype=float)
        found = against.get(candidate.name)
        # One seed says nothing about the spread, so no interval is better than one of width zero.
        own = bootstrap_interval(interquartile_mean, scores) if len(scores) > 1 else None
        rows.append(
            (
                candidate.name,
                number(interquartile_mean(scores)),
                interval(own),
                number(found.difference) if found else _NONE,
                interval(found.interval if found else None),
                f"{found.probability:.2f}" if found else _NONE,
                interval(found.probability_interval if found else None),
                ", ".join(map(str, candidate.scores)),
            )
        )
    header = (
        "Candidate",
        "IQM",
        "95% interval",
        "Winner is better by",
        "95% interval",
        "P(winner better)",
        "95% interval",
    )
    note = (
        f"IQM: interquartile mean of {study.objectives[0]} over the seeds, which nobody trained on before. Intervals "
        "are percentile bootstrap; P is the probability that a run of the winner beats one of this candidate, 0.5 is "
        "no difference (Agarwal et al. 2021)."
    )
    caption = "Learning curves on held-out seeds: interquartile mean with its 95% bootstrap interval."
    drawn = _drawn(plots.confirmation_curves, study, "confirmation", caption, missing="Their curves were not kept.")
    return (Table((*header, "Seeds"), tuple(rows), _winner_row(study, compared)), Paragraph(note), *drawn)


def _race(study: StudyRecord) -> tuple[Block, ...]:
    racers = [candidate for candidate in study.candidates if candidate.race]
    if not racers:
        return (Paragraph("No race was run."),)
    seeds = sorted({seed for candidate in racers for seed in candidate.race})
    rows = tuple(
        (
            candidate.name,
            number(interquartile_mean(list(candidate.race.values()))),
            candidate.dropped or "stayed",
            *(number(candidate.race.get(seed)) for seed in seeds),
        )
        for candidate in racers
    )
    note = f"The best trials again, each on the same further seeds, by {study.objectives[0]}; who falls behind leaves."
    header = ("Candidate", "IQM", "Why it left", *(f"Seed {seed}" for seed in seeds))
    return Paragraph(note), Table(header, rows, _winner_row(study, racers))


def _winner_row(study: StudyRecord, shown: Sequence[Candidate]) -> int | None:
    return shown.index(study.candidates[0]) if study.candidates[0] in shown else None


# ------------------------------------------------ the search


def _search(study: StudyRecord) -> tuple[Block, ...]:
    return (
        *_drawn(plots.history, study, "history", "Value of each trial, and the best so far."),
        *_drawn(plots.pareto, study, "pareto", "Both objectives; the front is labelled with the trials.", missing=None),
        *_drawn(plots.trial_curves, study, "curves", "Learning curves of all trials, one seed each.", missing=None),
    )


def _parameters(study: StudyRecord) -> tuple[Block, ...]:
    share = "Importance: share of the variance among the better trials (PED-ANOVA)."
    few = "Too few trials to say which parameters matter."
    lines = "Every finished trial as a line through its parameters; darker is better, orange is the best."
    return (
        *_drawn(plots.importances, study, "importances", share, missing=few),
        *_drawn(plots.parallel, study, "parallel", lines),
        *_drawn(
            plots.slices, study, "slices", "Value over each parameter; later trials are darker, the star is the best."
        ),
    )


def _drawn(
    draw: Callable[[StudyRecord], Figure | None],
    study: StudyRecord,
    name: str,
    caption: str,
    missing: str | None = "There is nothing to draw yet.",
) -> tuple[Block, ...]:
    """Draw a figure; where there is nothing to draw, say so with ``missing``, or leave it out when that is None."""
    figure = draw(study)
    if figure is None:
        return (Paragraph(missing),) if missing else ()
    return (Picture(name, _png(figure), caption),)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib in it, the same study gives the same file.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _trials(study: StudyRecord) -> Table:
    names = [dimension.name for dimension in study.dimensions]
    header = ("Trial", "State", *study.objectives, "Last return", "Seed", "Attempts", "From", *names, "Reason")
    best = plots.best_trial(study)
    ordered = sorted(study.trials, key=lambda trial: trial.number)
    marked = next((i for i, t in enumerate(ordered) if best is not None and t.number == best.number), None)
    return Table(header, tuple(_trial_row(study, trial, names) for trial in ordered), marked)


def _trial_row(study: StudyRecord, trial: TrialRecord, names: Sequence[str]) -> tuple[str, ...]:
    values = trial.values or (None,) * len(study.objectives)
    return (
        str(trial.number),
        trial.state,
        *(number(value) for value in values),
        number(trial.returns[-1] if trial.returns else None),
        _NONE if trial.seed is None else str(trial.seed),
        str(trial.attempts),
        trial.origin or "drawn",
        *(_parameter(trial.params.get(name)) for name in names),
        trial.reason,
    )


def _parameter(value: Any) -> str:
    """Whole numbers go without commas here, as they are written into a configuration."""
    return str(value) if isinstance(value, int) else number(value)


def _origin(study: StudyRecord) -> tuple[Block, ...]:
    command = (Code(study.command, "sh"),) if study.command else (Paragraph("How it was started is not known."),)
    versions = (Table(("Package", "Version"), tuple(study.versions.items())),) if study.versions else ()
    return (*command, *versions)


# ------------------------------------------------ numbers as text


def number(value: Any) -> str:
    """
    :param value: a number, a label, or None
    :return: four digits that count, thousands with commas; labels as they are
    """
    if value is None:
        return _NONE
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        return str(value)
    if isinstance(value, (int, np.integer)) or 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def interval(ends: tuple[float, float] | None) -> str:
    """
    :param ends: lower and upper end
    :return: both as text
    """
    return _NONE if ends is None else f"{number(ends[0])} to {number(ends[1])}"
