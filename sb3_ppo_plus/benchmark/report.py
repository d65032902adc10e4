"""The report of a benchmark: tables, pictures and the command line of every row, from whatever is there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.benchmark import plots
from sb3_ppo_plus.benchmark.results import BenchmarkFolder
from sb3_ppo_plus.benchmark.suite import TRAINING
from sb3_ppo_plus.benchmark.tables import Findings, Row, make_table, read_findings
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

_NONE = "-"


def write_report(folder: BenchmarkFolder, into: Path | None = None) -> Path:
    """
    Write ``report.md`` with its pictures, and ``table.json`` with every number in it.

    :param folder: folder of a benchmark, finished or not
    :param into: folder of the report, None for ``report/`` in the folder itself; an earlier report is replaced
    :return: the page
    :raises InvalidArgument: when it is no folder of a benchmark
    """
    findings, into = read_findings(folder), into or folder.report
    table = make_table(findings)
    sections = report_sections(findings, table)
    for picture in pictures(sections):
        atomic_write(into / "images" / f"{picture.name}.png", picture.png)
    atomic_write(into / "table.json", json.dumps(table, indent=1) + "\n")
    atomic_write(into / "report.md", markdown(f"Benchmark {findings.suite.name}", sections, "images"))
    return into / "report.md"


def report_sections(findings: Findings, table: Row) -> list[Section]:
    """
    :param findings: what a benchmark has come to
    :param table: its numbers
    :return: the whole report
    """
    sections = [
        Section("Summary", _summary(findings, table)),
        Section("Scores", (_scores(findings, table), Paragraph(_how_measured(findings)))),
    ]
    if table["published"]:
        sections.append(Section("Beside published results", _published(findings, table)))
    if table["comparisons"]:
        sections.append(Section(f"Compared with {findings.suite.baseline}", _comparisons(table)))
    if table["pooled"]:
        sections.append(Section("All tasks together", _pooled(findings, table)))
    caption = "Interquartile mean over seeds of the training return, with its 95% bootstrap interval"
    learning = _drawn(plots.curves_in_steps, findings, "curves_steps", f"{caption}, over environment steps.")
    learning += _drawn(
        plots.curves_in_seconds, findings, "curves_seconds", f"{caption}, over seconds of training without evaluations."
    )
    sections.append(Section("Learning curves", learning or (Paragraph("No run has ended yet."),)))
    sections.append(Section("Repeat it", _commands(table)))
    if findings.failed or findings.missing:
        sections.append(Section("What is missing", _missing(findings)))
    return sections


def number(value: float | None, digits: int = 1) -> str:
    """
    :param value: a number, or None
    :param digits: decimals of small ones
    :return: the text of a cell
    """
    if value is None:
        return _NONE
    text = f"{value:,.{0 if abs(value) >= 10_000 else digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def _summary(findings: Findings, table: Row) -> tuple[Block, ...]:
    suite, results = findings.suite, findings.results
    blocks: list[Block] = []
    planned = len(suite.tasks) * len(suite.variants) * len(suite.seeds)
    done = f"{planned - len(findings.missing)} of the {planned} runs of the suite are done"
    extra = len(results) - (planned - len(findings.missing))
    done += f", and {extra} on further seeds" if extra > 0 else ""
    kind = "bad" if findings.failed else "open" if findings.missing else "good"
    failed = f"; {len(findings.failed)} failed" if findings.failed else ""
    blocks.append(Paragraph(f"{done}{failed}.", kind))
    if suite.description:
        blocks.append(Paragraph(suite.description))
    if results:
        versions = ", ".join(f"{package} {' or '.join(found)}" for package, found in table["versions"].items())
        blocks.append(Paragraph(f"Run on {'; '.join(table['machines'])}, with {versions}."))
        jobs = sorted({result.jobs for result in results})
        if jobs != [1]:
            blocks.append(
                Paragraph(f"Up to {jobs[-1]} runs shared the machine; times are longer than those of a run alone.")
            )
        mixed = [package for package, found in table["versions"].items() if len(found) > 1]
        if mixed or len(table["machines"]) > 1:
            what = ", ".join([*(["machines"] if len(table["machines"]) > 1 else []), *mixed])
            blocks.append(Paragraph(f"Not all runs are alike: they differ in {what}.", "open"))
    if findings.others:
        text = "were made with other settings than those of the suite now; they are kept, and not shown"
        blocks.append(Paragraph(f"{findings.others} runs in this folder {text}."))
    return tuple(blocks)


def _scores(findings: Findings, table: Row) -> Block:
    if not table["rows"]:
        return Paragraph("No run has ended yet.")
    measured = ("training return", "95% interval", "mean ± deviation", "final evaluation", "95% interval")
    header = ("task", "variant", "seeds", "steps", *measured, "seconds", "steps/s")
    return Table(header, tuple(_score_cells(row) for row in table["rows"]))


def _score_cells(row: Row) -> tuple[str, ...]:
    training, evaluation = row["training"] or {}, row["evaluation"] or {}
    spread = _NONE
    if training:
        deviation = "" if training["std"] is None else f" ± {number(training['std'])}"
        spread = f"{number(training['mean'])}{deviation}"
    return (
        row["task"],
        row["variant"],
        str(len(row["seeds"])),
        f"{row['steps']:,}",
        number(training.get("iqm")),
        _interval(training.get("interval")),
        spread,
        number(evaluation.get("iqm")),
        _interval(evaluation.get("interval")),
        number(row["seconds"]),
        number(row["steps_per_second"], 0),
    )


def _how_measured(findings: Findings) -> str:
    protocol = findings.suite.protocol
    return (
        "Training return and final evaluation are interquartile means over seeds. The training return of a run is the "
        f"mean return of its last {protocol.last_episodes} training episodes, with sampled actions, as CleanRL reports "
        f"it; the final evaluation is the mean of {protocol.eval_episodes} episodes after the last update, with the "
        "policy's mode. The number of seeds is small, so intervals are too narrow rather than too wide. Seconds are "
        "wall time of the training with compilation and without evaluations."
    )


def _published(findings: Findings, table: Row) -> tuple[Block, ...]:
    header = ("task", "published by", "published mean", "variant", "mean", "difference", "95% interval", "runs above")
    rows = tuple(
        (
            row["task"],
            row["label"],
            number(row["published_mean"]) + _plus_minus(row["published_std"]),
            row["variant"],
            number(row["mean"]),
            f"{row['difference']:+,.1f}",
            _interval(row["difference_interval"]),
            f"{row['above']:.0%}",
        )
        for row in table["published"]
    )
    sources = dict.fromkeys((entry.label, entry.source, entry.protocol) for entry in findings.suite.published)
    notes = [
        Paragraph(
            f"{label}: published, not rerun here; beside it stands our "
            f"{'training return' if protocol == TRAINING else 'final evaluation'}. Source: {source}"
        )
        for label, source, protocol in sources
    ]
    text = "The interval is that of our mean over seeds; the published mean is taken as it is, though it is noisy too."
    return (Table(header, rows), *notes, Paragraph(text))


def _comparisons(table: Row) -> tuple[Block, ...]:
    header = ("task", "variant", "measured by", "probability of improvement", "95% interval")
    rows = tuple(
        (
            row["task"],
            row["variant"],
            row["protocol"],
            f"{row['probability']:.2f}",
            _interval(row["interval"], 2),
        )
        for row in table["comparisons"]
    )
    text = "The probability that a run of the variant is better than a run of the other; 0.5 is no difference."
    return Table(header, rows), Paragraph(text)


def _pooled(findings: Findings, table: Row) -> tuple[Block, ...]:
    header = (
        "variant",
        "measured by",
        "tasks",
        "seeds",
        "interquartile mean",
        "95% interval",
        "mean",
        "optimality gap",
    )
    rows = tuple(
        (
            row["variant"],
            row["protocol"],
            str(len(row["tasks"])),
            str(row["n_seeds"]),
            number(row["iqm"], 3),
            _interval(row["iqm_interval"], 3),
            number(row["mean"], 3),
            number(row["optimality_gap"], 3),
        )
        for row in table["pooled"]
    )
    scales = ", ".join(
        f"{task.env} {task.low:g} to {task.high:g}" for task in findings.suite.tasks if task.low is not None
    )
    text = (
        f"Scores are scaled so that these count as 0 and 1: {scales}. Pooled are the seeds that all of the tasks have; "
        "intervals draw seeds again within each task (Agarwal et al. 2021)."
    )
    drawn = _drawn(plots.pooled_scores, findings, "pooled", "Normalized training return over all tasks, 95% intervals.")
    caption = "Performance profile: share of runs with a normalized training return above each value."
    return (Table(header, rows), Paragraph(text), *drawn, *_drawn(plots.profiles, findings, "profile", caption))


def _commands(table: Row) -> tuple[Block, ...]:
    lines = "\n".join(row["command"] for row in table["rows"])
    text = (
        "Each line repeats a row of the table of scores. A single run of PPOPlus is repeated by ppo-plus train "
        "--config with the config.yml of its folder in runs/, and its model there is played by ppo-plus eval."
    )
    return (Paragraph(text), Code(lines, "sh")) if lines else (Paragraph("No run has ended yet."),)


def _missing(findings: Findings) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if findings.failed:
        rows = tuple((r.task, r.variant, str(r.seed), r.reason) for r in findings.failed)
        blocks.append(Table(("task", "variant", "seed", "why it failed"), rows))
    failed = {result.key for result in findings.failed}
    counts: dict[tuple[str, str], list[str]] = {}
    for planned in findings.missing:
        if planned.key not in failed:
            counts.setdefault((planned.task, planned.variant), []).append(str(planned.seed))
    if counts:
        waiting = tuple((task, variant, ", ".join(seeds)) for (task, variant), seeds in counts.items())
        blocks.append(Table(("task", "variant", "seeds that were not run"), waiting))
    return tuple(blocks)


def _plus_minus(std: float | None) -> str:
    return "" if std is None else f" ± {number(std)}"


def _interval(ends: list[float] | None, digits: int = 1) -> str:
    return _NONE if ends is None else f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def _drawn(draw: Callable[[Findings], Figure | None], findings: Findings, name: str, caption: str) -> tuple[Block, ...]:
    figure = draw(findings)
    if figure is None:
        return ()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return (Picture(name, buffer.getvalue(), caption),)
