"""The report of a study: what it says, that it stands alone, and that no state of a study breaks it."""

from __future__ import annotations

import base64
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import slow_but
from matplotlib.figure import Figure

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.statistics import bootstrap_interval, interquartile_mean
from sb3_ppo_plus.tuning import plots, report
from sb3_ppo_plus.tuning.records import Candidate, Comparison, Dimension, StudyRecord, TrialRecord
from sb3_ppo_plus.tuning.report import number, report_sections, write_report
from sb3_ppo_plus.tuning.report_markdown import Paragraph, Section, Table, is_number, markdown

DIMENSIONS = (
    Dimension("learning_rate", 1e-5, 3e-3, log=True),
    Dimension("clip_range", 0.05, 0.4),
    Dimension("schedule", choices=("const", "lin")),
    Dimension("target_kl", 0.003, 0.1, log=True),
)


def make_trial(number: int, value: float | None = 1.0, **overrides: Any) -> TrialRecord:
    """A trial of 5 evaluations that end at its value; of every second the conditional ``target_kl`` is missing."""
    generator = np.random.default_rng(number)
    params: dict[str, Any] = {
        "learning_rate": float(10 ** generator.uniform(-5, -2.6)),
        "clip_range": float(generator.uniform(0.05, 0.4)),
        "schedule": ("const", "lin")[number % 2],
    }
    if number % 2:
        params["target_kl"] = 0.02
    values: dict[str, Any] = {
        "number": number,
        "state": "finished" if value is not None else "failed",
        "params": params,
        "settings": {**params, "n_steps": 2048},
        "values": None if value is None else (float(value),),
        "seed": number % 5,
        "steps": (0, 2500, 5000, 7500, 10_000),
        "returns": () if value is None else tuple(float(value) * part for part in (0, 0.3, 0.6, 0.9, 1)),
        "started": 1e9 + 60 * number,
        "ended": 1e9 + 60 * number + 100,
        "worker": f"worker-{number % 3}",
        "attempts": 1,
    }
    if value is None:
        values.update(steps=(), reason="ValueError: it broke")
    return TrialRecord(**{**values, **overrides})


def make_study(**overrides: Any) -> StudyRecord:
    """A study on Hopper with six finished trials; the best is number 3."""
    values: dict[str, Any] = {
        "name": "hopper",
        "env": "Hopper-v5",
        "objective": "auc",
        "objectives": ("mean return over the training",),
        "maximize": (True,),
        "n_timesteps": 10_000,
        "sampler": "tpe",
        "pruner": "percentile",
        "dimensions": DIMENSIONS,
        "trials": tuple(make_trial(i, v) for i, v in enumerate([100.0, 300.0, 200.0, 900.0, 400.0, 850.0])),
        "importances": {"learning_rate": 0.7, "clip_range": 0.2, "schedule": 0.1},
        "versions": {"sb3-ppo-plus": "0.3.0", "optuna": "5.0.0"},
        "command": "ppo-plus tune Hopper-v5 --trials 6",
    }
    return StudyRecord(**{**values, **overrides})


def make_candidate(name: str, mean: float, seeds: range = range(100, 110), **overrides: Any) -> Candidate:
    """A candidate whose scores spread evenly by 90 around the mean."""
    scores = {seed: mean + 20 * (i - (len(seeds) - 1) / 2) for i, seed in enumerate(seeds)}
    steps = (0, 5000, 10_000)
    values: dict[str, Any] = {
        "settings": {"learning_rate": 0.001, "policy_kwargs": {"net_arch": (64, 64)}},
        "race": {10: mean, 11: mean + 10},
        "scores": scores,
        "curves": {seed: (steps, (0.0, score / 2, score)) for seed, score in scores.items()},
    }
    return Candidate(name, **{**values, **overrides})


def make_comparison(**overrides: Any) -> Comparison:
    values: dict[str, Any] = {
        "winner": "trial 3",
        "baseline": "current",
        "difference": 321.5,
        "interval": (210.25, 432.75),
        "probability": 0.93,
        "probability_interval": (0.8, 1.0),
    }
    return Comparison(**{**values, **overrides})


def make_confirmed(comparison: Comparison | None = None, **overrides: Any) -> StudyRecord:
    """A study whose trial 3 won the race against trial 5 and was compared with the start of the study."""
    candidates = (
        make_candidate("trial 3", 900),
        make_candidate("current", 580),
        make_candidate("trial 5", 700, scores={}, curves={}, dropped="worse on 5 of 5 seeds, p 0.031"),
    )
    return make_study(**{"candidates": candidates, "comparisons": (comparison or make_comparison(),), **overrides})


def pruned(number: int, last: float = 50.0, **overrides: Any) -> TrialRecord:
    returns = (0.0, last)
    return make_trial(number, state="pruned", values=None, steps=(0, 2500), returns=returns, **overrides)


PARETO = make_study(
    objective="return,wallclock",
    objectives=("return at the end", "seconds of training"),
    maximize=(True, False),
    trials=tuple(
        make_trial(i, values=v) for i, v in enumerate([(100.0, 10.0), (200.0, 30.0), (150.0, 40.0), (50.0, 5.0)])
    ),
)

EDGES: dict[str, StudyRecord] = {
    "confirmed": make_confirmed(),
    "unconfirmed": make_study(),
    "no trials": make_study(trials=(), importances={}),
    "nothing known": make_study(trials=(), importances={}, dimensions=(), versions={}, command=""),
    "one trial": make_study(trials=(make_trial(0, 12.0),), importances={}),
    "only failed": make_study(trials=(make_trial(0, None), make_trial(1, None)), importances={}),
    "only pruned": make_study(trials=(pruned(0), pruned(1)), importances={}),
    "only waiting": make_study(
        trials=(TrialRecord(0, "waiting", params={"clip_range": 0.2}), TrialRecord(1, "waiting")), importances={}
    ),
    "running": make_study(trials=(make_trial(0, 5.0), make_trial(1, 1.0, state="running", values=None, ended=None))),
    "without params": make_study(trials=(make_trial(0, 5.0, params={}, settings={}),), importances={}),
    "two objectives": PARETO,
    "minimized": make_study(
        objective="time-to-threshold",
        objectives=("steps to the threshold",),
        maximize=(False,),
        trials=(make_trial(0, 9000.0), make_trial(1, 4000.0), pruned(2), make_trial(3, None)),
    ),
    "huge": make_study(trials=tuple(make_trial(i, 1e9 * (i + 1)) for i in range(6))),
    "diverged": make_study(trials=(*make_study().trials, make_trial(6, -1e12))),
    "equal values": make_study(trials=tuple(make_trial(i, 7.0) for i in range(5))),
    "unknown choice": make_study(trials=(make_trial(0, params={"schedule": "cosine", "clip_range": None}),)),
    "race only": make_confirmed(candidates=(make_candidate("trial 3", 900, scores={}, curves={}),), comparisons=()),
    "one seed": make_confirmed(candidates=tuple(make_candidate(n, 900, range(1)) for n in ("trial 3", "current"))),
    "no baseline": make_confirmed(comparisons=()),
    "curves not kept": make_confirmed(candidates=(make_candidate("trial 3", 900, curves={}),)),
    "point dimension": make_study(
        dimensions=(Dimension("clip_range", 0.2, 0.2), Dimension("schedule", choices=("a",)))
    ),
}


class Page(HTMLParser):
    """What a browser would load from a page, its tags in order, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.loads: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset", "action")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def read_page(study: StudyRecord, folder: Path) -> Page:
    (path,) = write_report(study, folder)
    return Page(path.read_text(encoding="utf-8"))


def verdict(study: StudyRecord) -> Paragraph:
    block = report_sections(study)[0].blocks[0]
    assert isinstance(block, Paragraph)
    return block


def tables(study: StudyRecord, title: str) -> list[Table]:
    blocks = next(section.blocks for section in report_sections(study) if section.title == title)
    return [block for block in blocks if isinstance(block, Table)]


# Drawing takes most of the time of a report. Tests of words go without, tests of whole reports draw every figure
# coarsely and without layout, and those that look at the pictures get the real ones.


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How pictures are made: parametrize it with ``coarse`` or ``real``."""
    kind = getattr(request, "param", "none")
    if kind == "none":
        monkeypatch.setattr(report, "_drawn", lambda *args, **kwargs: ())
    elif kind == "coarse":
        monkeypatch.setattr(report, "_png", coarse_png)
    return str(kind)


def coarse_png(figure: Figure) -> bytes:
    figure.set_layout_engine("none")
    figure.set_dpi(20)
    figure.canvas.draw()
    return b"\x89PNG coarse"


coarsely = pytest.mark.parametrize("pictures", ["coarse"], indirect=True)
really = pytest.mark.parametrize("pictures", ["real"], indirect=True)


# ------------------------------------------------ whole reports


@pytest.mark.parametrize(
    "case", slow_but(["confirmed", "no trials", "only failed", "running", "two objectives"], EDGES)
)
@coarsely
def test_every_state_of_a_study_gives_a_whole_report(case: str, tmp_path: Path) -> None:
    study = EDGES[case]
    html, md = write_report(study, tmp_path, ("html", "md"))
    page = Page(html.read_text(encoding="utf-8"))
    assert page.open == []  # every tag is closed, in the right order
    for load in page.loads:
        assert load.startswith(("data:image/png;base64,", "#")), load[:60]
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "nan" not in re.findall(r"\w+", page.text.lower())
    text = md.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == page.tags.count("img")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")} == set(links)
    # Rows of the table of trials: one each, in both formats.
    for trial in study.trials:
        assert (
            f"\n| {trial.number} | {trial.state} |" in text or f"\n| **{trial.number}** | **{trial.state}** |" in text
        )
        assert f"{trial.number}\n{trial.state}" in page.text


@really
def test_pictures_are_embedded_whole(tmp_path: Path) -> None:
    page = read_page(make_confirmed(), tmp_path)
    images = [base64.b64decode(load.split(",", 1)[1]) for load in page.loads if load.startswith("data:")]
    assert len(images) == 7  # confirmation, history, curves, importances, parallel, slices, timeline
    assert all(image.startswith(b"\x89PNG") and image.endswith(b"IEND\xaeB`\x82") for image in images)


def test_links_of_the_page_lead_somewhere(tmp_path: Path) -> None:
    (path,) = write_report(make_confirmed(), tmp_path)
    source = path.read_text(encoding="utf-8")
    anchors = re.findall(r'href="#([^"]+)"', source)
    assert len(anchors) == 8
    assert anchors == re.findall(r'id="([^"]+)"', source)


@coarsely
def test_nothing_but_the_report_is_left_and_an_earlier_one_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    write_report(make_study(name="earlier"), folder)
    assert write_report(make_study(name="later"), folder, ("html", "md", "html")) == [
        folder / "report.html",
        folder / "report.md",
    ]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pictures = {f"images/{name}.png" for name in "history curves importances parallel slices timeline".split()}
    assert names == {"report.html", "report.md", *pictures}
    assert "earlier" not in (folder / "report.html").read_text(encoding="utf-8")


@coarsely
def test_an_error_while_drawing_leaves_the_earlier_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_report(make_study(), tmp_path)
    before = path.read_bytes()

    def broken(study: StudyRecord) -> None:
        raise RuntimeError("no picture")

    monkeypatch.setattr(plots, "timeline", broken)
    with pytest.raises(RuntimeError, match="no picture"):
        write_report(make_study(name="other"), tmp_path, ("html", "md"))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_bytes() == before


def test_the_same_study_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (write_report(make_confirmed(), tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_the_same_figure_gives_the_same_picture() -> None:
    figures = (plots.importances(make_study()) for _ in range(2))
    first, second = (report._png(figure) for figure in figures if figure is not None)
    assert first == second
    assert b"matplotlib" not in first.lower()


@pytest.mark.parametrize("formats", [("pdf",), ("html", "tex"), ()])
def test_unknown_formats_are_refused_before_anything_is_written(formats: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="choose of html, md"):
        write_report(make_study(), tmp_path, formats)
    assert list(tmp_path.iterdir()) == []


@coarsely
def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&amp; | $x_1$ [a](http://b) ` * \n end'
    dimensions = (Dimension(evil, 0.1, 1.0), Dimension("kind", choices=(evil, "b")))
    params = {evil: 0.5, "kind": evil}
    study = make_confirmed(
        make_comparison(baseline=evil),
        name=evil,
        env=evil,
        objectives=(evil,),
        dimensions=dimensions,
        command=evil + "```",
        versions={evil: evil},
        importances={evil: 1.0},
        trials=(
            make_trial(0, params=params, settings={evil: evil}, worker=evil, origin=evil),
            make_trial(1, None, reason=evil, worker="b"),
        ),
        candidates=(make_candidate(evil, 1, settings={evil: evil}), make_candidate("b", 2, dropped=evil)),
    )
    html, md = write_report(study, tmp_path, ("html", "md"))
    source = html.read_text(encoding="utf-8")
    page = Page(source)
    assert "script" not in page.tags and page.open == []
    assert page.text.count(evil) >= 8  # name, environment, objective, dimension, choice, reason, candidate, ...
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;" in source
    text = md.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    # A bar inside of a cell is escaped, so each row has as many cells as its header.
    cells = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert cells == [2] * 6 + [8] * 3 + [5] * 3 + [10] * 3 + [2] * 2
    outside = re.sub(r"(`{3,})\w*\n.*?\n\1\n", "", text, flags=re.DOTALL)
    assert "<script" not in outside.replace(r"\<", "")
    assert not re.search(r"(?<!\\)\[a", outside)


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@really
def test_a_browser_renders_the_page(tmp_path: Path) -> None:
    (path,) = write_report(make_confirmed(), tmp_path)
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,3000", f"--screenshot={picture}"]
    subprocess.run(["chromium", *flags, path.as_uri()], check=True, timeout=60, capture_output=True)
    assert picture.stat().st_size > 20_000


# ------------------------------------------------ the verdict


def test_a_winner_that_beats_the_baseline_is_said_to_with_difference_and_interval(tmp_path: Path) -> None:
    found = verdict(make_confirmed())
    assert found.kind == "good"
    assert found.text == (
        "Trial 3 won on Hopper-v5, by mean return over the training over 10 held-out seeds. It beats the configuration "
        "that the study started from (current) by 321.5 (95% interval 210.2 to 432.8); a run of it is better with "
        "probability 0.93."
    )
    assert found.text in read_page(make_confirmed(), tmp_path).text


def test_an_interval_with_zero_is_not_called_better() -> None:
    found = verdict(make_confirmed(make_comparison(difference=40.0, interval=(-10.0, 90.0))))
    assert found.kind == "open"
    assert "not shown to beat" in found.text
    assert "95% interval -10 to 90 includes zero" in found.text


def test_a_winner_that_loses_is_called_worse() -> None:
    found = verdict(make_confirmed(make_comparison(difference=-40.0, interval=(-90.0, -10.0))))
    assert found.kind == "open"
    assert "It is worse than the configuration that the study started from (current) by 40" in found.text


def test_each_baseline_gets_its_sentence_and_one_in_doubt_is_enough_for_doubt() -> None:
    both = (make_comparison(), make_comparison(baseline="sb3", interval=(-1.0, 5.0)))
    found = verdict(make_confirmed(comparisons=both))
    assert found.kind == "open"
    assert "It beats the configuration" in found.text
    assert "not shown to beat Stable-Baselines3's defaults (sb3)" in found.text


def test_a_baseline_that_wins_means_that_nothing_was_found() -> None:
    candidates = (make_candidate("current", 900), make_candidate("sb3", 500))
    comparison = make_comparison(winner="current", baseline="sb3")
    found = verdict(make_confirmed(comparison, candidates=candidates))
    assert found.kind == "bad"
    assert found.text.startswith("The search found nothing better")


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("unconfirmed", "open", "Not confirmed: trial 3 has the best value of the search"),
        ("race only", "open", "leads the race"),
        ("no baseline", "open", "no baseline to compare it with"),
        ("no trials", "open", "no trial has finished (none was begun)"),
        ("only failed", "bad", "no trial has finished (2 failed)"),
        ("only pruned", "open", "no trial has finished (2 pruned)"),
        ("two objectives", "open", "3 of 4 finished trials are not beaten in both"),
        ("minimized", "open", "trial 1 has the best value of the search, steps to the threshold 4,000"),
    ],
)
def test_verdict_without_a_comparison_is_honest(case: str, kind: str, words: str) -> None:
    found = verdict(EDGES[case])
    assert found.kind == kind
    assert words in found.text


# ------------------------------------------------ contents


def test_settings_of_the_winner_can_be_copied(tmp_path: Path) -> None:
    (path,) = write_report(make_confirmed(), tmp_path)
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert yaml.safe_load(unescape(blocks[0])) == {"learning_rate": 0.001, "policy_kwargs": {"net_arch": [64, 64]}}
    assert unescape(blocks[1]) == "ppo-plus tune Hopper-v5 --trials 6"


def test_settings_of_the_best_trial_stand_in_before_the_confirmation(tmp_path: Path) -> None:
    odd = {"learning_rate": np.float64(0.5), "n_steps": np.int64(8), "shape": (1, 2), "kind": Path("x"), "none": None}
    study = make_study(trials=(make_trial(0, 1.0), make_trial(1, 2.0, settings=odd)))
    path = write_report(study, tmp_path, ("md",))[0]
    block = re.findall(r"```yaml\n(.*?)\n```", path.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    expected = {"learning_rate": 0.5, "n_steps": 8, "shape": [1, 2], "kind": "x", "none": None}
    assert yaml.safe_load(block) == expected


def test_comparison_has_means_intervals_and_seeds() -> None:
    (table,) = tables(make_confirmed(), "Comparison on held-out seeds")
    winner, baseline = table.rows
    # Ten scores in steps of 20 around 900: the middle six are 850 ... 950 with the mean 900.
    low, high = bootstrap_interval(interquartile_mean, [900 + 20 * (i - 4.5) for i in range(10)])
    assert winner == (
        "trial 3", "900", f"{low:.4g} to {high:.4g}", "-", "-", "-", "-",
        "100, 101, 102, 103, 104, 105, 106, 107, 108, 109",
    )  # fmt: skip
    assert baseline[1] == "580"
    assert baseline[3:7] == ("321.5", "210.2 to 432.8", "0.93", "0.8 to 1")
    assert table.marked == 0


def test_one_seed_has_no_interval() -> None:
    (table,) = tables(EDGES["one seed"], "Comparison on held-out seeds")
    assert table.rows[0][2] == "-"


def test_race_shows_scores_by_seed_and_why_one_left() -> None:
    (table,) = tables(make_confirmed(), "Race")
    assert table.header == ("Candidate", "IQM", "Why it left", "Seed 10", "Seed 11")
    assert table.rows[0] == ("trial 3", "905", "stayed", "900", "910")
    assert table.rows[2] == ("trial 5", "705", "worse on 5 of 5 seeds, p 0.031", "700", "710")


def test_the_row_of_the_winner_is_marked_where_it_has_one() -> None:
    candidates = (make_candidate("trial 3", 900, race={}), make_candidate("trial 5", 700))
    (table,) = tables(make_confirmed(candidates=candidates), "Race")
    assert table.marked is None


def test_table_of_trials_has_every_column() -> None:
    trials = (
        make_trial(1, 1234.5, origin="zoo", attempts=2, seed=12345),
        pruned(0, last=55.5),
        make_trial(2, None),
    )
    (table,) = tables(make_study(trials=trials), "Trials")
    assert table.header[:7] == (
        "Trial",
        "State",
        "mean return over the training",
        "Last return",
        "Seed",
        "Attempts",
        "From",
    )
    assert table.header[7:] == ("learning_rate", "clip_range", "schedule", "target_kl", "Reason")
    assert [row[0] for row in table.rows] == ["0", "1", "2"]
    assert table.rows[0][1:7] == ("pruned", "-", "55.5", "0", "1", "drawn")
    assert table.rows[0][9:] == ("const", "-", "")
    assert table.rows[1][1:7] == ("finished", number(1234.5), number(1234.5), "12345", "2", "zoo")
    assert table.rows[1][9:11] == ("lin", "0.02")
    assert table.rows[2][1:4] == ("failed", "-", "-") and table.rows[2][-1] == "ValueError: it broke"
    assert table.marked == 1


def test_versions_command_and_facts_are_there(tmp_path: Path) -> None:
    text = read_page(make_study(), tmp_path).text
    for words in ("Hopper-v5", "sb3-ppo-plus\n0.3.0", "ppo-plus tune Hopper-v5 --trials 6", "6 (6 finished)", "10,000"):
        assert words in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (3, "3"), (20_000, "20,000"), (0.00031234, "0.0003123"), (1234.6, "1,235"), (1e9, "1e+09"),
        (-2.5, "-2.5"), ("lin", "lin"), (True, "True"), (np.float64(0.5), "0.5"), (np.int64(7), "7"),
    ],
)  # fmt: skip
def test_numbers_as_text(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("cell", ["-", "1", "-2.5", "1,234", "1e+09", "3e-05", ".5"])
def test_numbers_are_set_to_the_right(cell: str) -> None:
    assert is_number(cell)


@pytest.mark.parametrize("cell", ["", "trial 3", "1 to 2", "lin", "--", "e5"])
def test_words_are_not(cell: str) -> None:
    assert not is_number(cell)


def test_markdown_of_an_empty_table_and_of_a_fence_inside() -> None:
    text = markdown("t", [Section("s", (Table(("a", "b"), ()),))], "images")
    assert text == "# t\n\n| a | b |\n|---|---|\n"


# ------------------------------------------------ figures


def lines(figure: Figure | None, label: str, axes: int = 0) -> tuple[list[float], list[float]]:
    assert figure is not None
    (line,) = [line for line in figure.axes[axes].get_lines() if line.get_label() == label]
    x, y = line.get_data()
    return list(x), list(y)


def test_history_shows_values_best_so_far_pruned_and_failed() -> None:
    trials = (*make_study().trials, pruned(6, last=70.0), make_trial(7, None), make_trial(8, 950.0))
    figure = plots.history(make_study(trials=trials))
    assert lines(figure, "finished") == ([0, 1, 2, 3, 4, 5, 8], [100, 300, 200, 900, 400, 850, 950])
    # The running maximum of 100 300 200 900 400 850 950.
    assert lines(figure, "best so far")[1] == [100, 300, 300, 900, 900, 900, 950]
    assert lines(figure, "pruned, last return") == ([6], [70])
    assert lines(figure, "failed")[0] == [7]
    assert lines(figure, "best: trial 8") == ([8], [950])


def test_history_of_a_minimized_value_falls_and_draws_no_returns() -> None:
    figure = plots.history(EDGES["minimized"])
    assert lines(figure, "best so far")[1] == [9000, 4000]
    assert lines(figure, "best: trial 1") == ([1], [4000])
    assert lines(figure, "pruned")[0] == [2]
    assert figure is not None
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert "pruned, last return" not in labels


def test_the_earlier_of_equal_trials_is_the_best() -> None:
    best = plots.best_trial(EDGES["equal values"])
    assert best is not None and best.number == 0


def test_diverged_values_are_left_outside_with_a_note() -> None:
    figure = plots.history(EDGES["diverged"])
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert -1000 < low < 100 and 900 < high < 2000
    assert figure.axes[0].get_title(loc="right") == "1 value outside of the picture"
    calm = plots.history(make_study())
    assert calm is not None and not calm.axes[0].get_title(loc="right")


def test_parallel_lines_follow_the_scale_and_break_where_a_parameter_is_missing() -> None:
    trials = (
        make_trial(0, 1.0, params={"learning_rate": 1e-5, "clip_range": 0.4, "schedule": "lin"}),
        make_trial(1, 2.0, params={"learning_rate": 3e-3, "clip_range": 0.225, "schedule": "const", "target_kl": 0.1}),
    )
    figure = plots.parallel(make_study(trials=trials))
    assert figure is not None
    drawn = [list(line.get_ydata()) for line in figure.axes[0].get_lines()[:2]]
    # Worst first. Ends of the ranges are 0 and 1, (0.225 - 0.05) / 0.35 = 0.5, the second of two choices is 1.
    assert drawn[0][:3] == pytest.approx([0, 1, 1]) and math.isnan(drawn[0][3])
    assert drawn[1] == pytest.approx([1, 0.5, 0, 1])
    assert figure.axes[0].get_lines()[1].get_color() == plots.ORANGE
    middle = Dimension("x", 1e-4, 1e-2, log=True)
    assert plots._height(middle, 1e-3) == pytest.approx(0.5)


def test_better_is_darker_also_where_less_is_better() -> None:
    figure = plots.parallel(make_study(maximize=(False,)))
    assert figure is not None
    *others, best = figure.axes[0].get_lines()[:6]
    assert best.get_color() == plots.ORANGE
    brightness = [sum(line.get_color()[:3]) for line in others]
    assert brightness == sorted(brightness, reverse=True)
    bar = figure.axes[1]
    formatter = bar.yaxis.get_major_formatter()
    assert formatter(-300.0, 0) == "300"


def test_slices_have_one_panel_per_parameter_on_its_scale() -> None:
    figure = plots.slices(make_study())
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == ["learning_rate", "clip_range", "schedule", "target_kl"]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "log"]
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["const", "lin"]
    points = panels[0].collections[0].get_offsets()
    assert points[:, 1].tolist() == [100, 300, 200, 900, 400, 850]
    assert points[3, 0] == make_trial(3).params["learning_rate"]
    assert list(panels[0].get_lines()[0].get_ydata()) == [900]  # the star
    # Only the odd trials have the conditional parameter.
    assert panels[3].collections[0].get_offsets()[:, 1].tolist() == [300, 900, 850]


def test_importances_are_sorted_with_the_largest_on_top() -> None:
    figure = plots.importances(make_study(importances={"a": 0.2, "b": 0.7, "c": 0.1}))
    assert figure is not None
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.1, 0.2, 0.7]
    assert [text.get_text() for text in figure.axes[0].texts] == ["10%", "20%", "70%"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["c", "a", "b"]


def test_confirmation_curves_are_interquartile_means_with_bands() -> None:
    figure = plots.confirmation_curves(make_confirmed())
    # Scores around 900 and 580: half of it in the middle of the training, zero at its start.
    assert lines(figure, "trial 3, 10 seeds") == ([0, 5000, 10_000], pytest.approx([0, 450, 900]))
    assert lines(figure, "current, 10 seeds")[1] == pytest.approx([0, 290, 580])
    assert figure is not None and len(figure.axes[0].collections) == 2  # trial 5 has no curves


def test_curves_of_unequal_length_are_cut_to_the_shortest() -> None:
    short, long = ((0, 10), (0.0, 10.0)), ((0, 5, 10, 20), (0.0, 9.0, 20.0, 100.0))
    steps, middle, low, high = plots.curve_band([short, long, ((), ())])
    # At step 5 the first one is interpolated: (5 + 9) / 2.
    assert steps.tolist() == [0, 5, 10]
    assert middle.tolist() == [0, 7, 15]
    assert low.tolist() == [0, 5, 10] and high.tolist() == [0, 9, 20]


def test_one_seed_has_no_band() -> None:
    figure = plots.confirmation_curves(EDGES["one seed"])
    assert lines(figure, "trial 3, 1 seed")[1][-1] == 900
    assert figure is not None and not figure.axes[0].collections


def test_trial_curves_show_every_trial_that_was_evaluated() -> None:
    trials = (*make_study().trials, pruned(6), make_trial(7, None))
    figure = plots.trial_curves(make_study(trials=trials))
    assert figure is not None
    drawn = figure.axes[0].get_lines()
    assert len(drawn) == 7
    assert lines(figure, "best: trial 3") == ([0, 2500, 5000, 7500, 10_000], [0, 270, 540, 810, 900])
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["finished", "pruned", "best: trial 3"]


def test_pareto_front_by_hand() -> None:
    # (150, 40) loses against (200, 30) in both; the other three trade return for time.
    assert [trial.number for trial in plots.pareto_front(PARETO)] == [1, 0, 3]
    figure = plots.pareto(PARETO)
    assert lines(figure, "not beaten in both") == ([5, 10, 30], [50, 100, 200])
    assert lines(figure, "finished") == ([10, 30, 40, 5], [100, 200, 150, 50])
    assert plots.pareto(make_study()) is None


def test_equal_trials_are_both_on_the_front() -> None:
    twice = replace(PARETO, trials=(make_trial(0, values=(1.0, 2.0)), make_trial(1, values=(1.0, 2.0))))
    assert sorted(trial.number for trial in plots.pareto_front(twice)) == [0, 1]


def test_timeline_has_a_bar_per_trial_in_the_row_of_its_worker() -> None:
    trials = (
        make_trial(0, started=1e9, ended=1e9 + 120, worker="b"),
        make_trial(1, started=1e9 + 60, ended=None, worker="a", state="running", values=None),
        TrialRecord(2, "waiting"),
    )
    figure = plots.timeline(make_study(trials=trials))
    assert figure is not None
    axes = figure.axes[0]
    first, second = axes.patches[:2]
    # In minutes: 0 to 2 in the second row, and 1 to the end of all that is known in the first.
    assert (first.get_x(), first.get_width(), first.get_y() + first.get_height() / 2) == (0, 2, 1)
    assert (second.get_x(), second.get_width(), second.get_y() + second.get_height() / 2) == (1, 1, 0)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel().startswith("minutes")


FIGURES: tuple[Callable[[StudyRecord], Figure | None], ...] = (
    plots.history,
    plots.parallel,
    plots.slices,
    plots.importances,
    plots.confirmation_curves,
    plots.trial_curves,
    plots.pareto,
    plots.timeline,
)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_nothing_is_drawn_of_nothing(draw: Callable[[StudyRecord], Figure | None]) -> None:
    assert draw(EDGES["nothing known"]) is None
