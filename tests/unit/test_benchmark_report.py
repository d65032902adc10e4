"""The numbers of a report against hand-computed ones, and its pages from whatever is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmark_folders import fill, result, rising, suite

from sb3_ppo_plus.benchmark import plots
from sb3_ppo_plus.benchmark.plan import plan_runs
from sb3_ppo_plus.benchmark.report import number, write_report
from sb3_ppo_plus.benchmark.results import FAILED
from sb3_ppo_plus.benchmark.tables import (
    comparisons,
    make_table,
    normalized,
    pooled,
    published,
    read_findings,
    summarize,
)

SCORES = {
    ("plus", "CartPole-v1"): [1.0, 2.0, 4.0, 9.0],
    ("base", "CartPole-v1"): [2.0, 2.0, 2.0, 2.0],
    ("plus", "Pendulum-v1"): [5.0, 5.0, 5.0, 5.0],
    ("base", "Pendulum-v1"): [-5.0, -5.0, 0.0, 0.0],
}


def test_scores_of_a_row() -> None:
    # c = floor(4 / 4) = 1: the middle two of 1, 2, 4, 9; deviation with n - 1: sqrt((9 + 4 + 0 + 25) / 3)
    found = summarize([9.0, 1.0, 4.0, 2.0])
    assert found is not None
    assert found["iqm"] == 3.0 and found["mean"] == 4.0 and found["std"] == pytest.approx(np.sqrt(38 / 3))
    low, high = found["interval"]
    assert 1.0 <= low < 3.0 < high <= 9.0
    low, high = found["mean_interval"]
    assert 1.0 <= low < 4.0 < high <= 9.0


def test_one_seed_has_no_interval() -> None:
    found = summarize([3.0])
    assert (
        found is not None
        and found["interval"] is found["mean_interval"] is found["std"] is None
        and found["iqm"] == 3.0
    )
    assert summarize([]) is None


def test_probability_of_improvement(tmp_path: Path) -> None:
    rows = {(r["protocol"], r["task"]): r for r in comparisons(read_findings(fill(tmp_path, SCORES)))}
    # plus 1, 2, 4, 9 against four times 2: one loses, one is equal, two win
    assert rows["training", "CartPole-v1"]["probability"] == (0 + 0.5 + 1 + 1) / 4
    assert rows["training", "Pendulum-v1"]["probability"] == 1.0
    assert rows["training", "Pendulum-v1"]["interval"] == [1.0, 1.0]
    assert rows["training", "all 2 tasks"]["probability"] == (0.625 + 1.0) / 2
    low, high = rows["training", "all 2 tasks"]["interval"]
    assert 0.5 < low < 0.8125 < high <= 1.0
    assert rows["evaluation", "CartPole-v1"]["probability"] == 0.625, "ten times the scores: the same order"


def test_pooled_scores_are_scaled_by_low_and_high(tmp_path: Path) -> None:
    findings = read_findings(fill(tmp_path, SCORES))
    scores, envs = normalized(findings, "plus", "training")
    assert envs == ["CartPole-v1", "Pendulum-v1"]
    np.testing.assert_allclose(scores, [[0.1, 0.75], [0.2, 0.75], [0.4, 0.75], [0.9, 0.75]])
    row = next(row for row in pooled(findings) if (row["variant"], row["protocol"]) == ("plus", "training"))
    # of eight scores the middle four: 0.4, 0.75, 0.75, 0.75
    assert row["iqm"] == pytest.approx(0.6625) and row["mean"] == pytest.approx(0.575)
    assert row["optimality_gap"] == pytest.approx(1 - 0.575) and row["n_seeds"] == 4
    # scores of an evaluation are ten times these, above 1, where more does not count for the gap
    row = next(row for row in pooled(findings) if (row["variant"], row["protocol"]) == ("plus", "evaluation"))
    assert row["optimality_gap"] == pytest.approx(0.0)


def test_pooled_are_the_seeds_that_all_tasks_have(tmp_path: Path) -> None:
    findings = read_findings(fill(tmp_path, {**SCORES, ("plus", "Pendulum-v1"): [5.0, 5.0]}))
    assert normalized(findings, "plus", "training")[0].shape == (2, 2)
    assert normalized(findings, "base", "training")[0].shape == (4, 2)


def test_beside_published_means(tmp_path: Path) -> None:
    rows = published(read_findings(fill(tmp_path, SCORES)))
    assert [(row["task"], row["variant"]) for row in rows] == [("CartPole-v1", "plus"), ("CartPole-v1", "base")]
    assert rows[0]["difference"] == 1.0 and rows[0]["above"] == 0.5 and rows[1]["above"] == 0.0
    assert rows[1]["difference_interval"] == [-1.0, -1.0]


def test_commands_repeat_the_rows(tmp_path: Path) -> None:
    folder = fill(tmp_path / "my runs", SCORES)
    commands = [row["command"] for row in make_table(read_findings(folder))["rows"]]
    assert len(commands) == 4
    assert commands[0].startswith(f"ppo-plus benchmark '{folder.suite}' --variants plus --tasks CartPole-v1")
    assert commands[0].endswith("--seeds 0,1,2,3 -o 'my runs_again'")


def test_a_full_report(tmp_path: Path) -> None:
    folder = fill(tmp_path, SCORES)
    page = write_report(folder)
    text = page.read_text(encoding="utf-8")
    for expected in (
        "**16 of the 16 runs of the suite are done.**",
        "| CartPole-v1 | plus | 4 | 100 | 3.0 |",
        "others, v0, published",
        "https://example.org/table",
        "## Compared with base",
        "0.81",
        "ppo-plus benchmark",
    ):
        assert expected in text, expected
    assert "What is missing" not in text
    shown = [line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert shown == [f"images/{name}.png" for name in ("pooled", "profile", "curves_steps", "curves_seconds")]
    assert all((page.parent / path).read_bytes().startswith(b"\x89PNG") for path in shown)
    table = json.loads((page.parent / "table.json").read_text(encoding="utf-8"))
    assert table["rows"][0]["training"]["scores"] == [1.0, 2.0, 4.0, 9.0]
    assert table["rows"][0]["steps_per_second"] == 50.0


def test_a_report_from_next_to_nothing(tmp_path: Path) -> None:
    folder = fill(tmp_path, {})
    text = write_report(folder).read_text(encoding="utf-8")
    assert "**0 of the 16 runs of the suite are done.**" in text and "No run has ended yet." in text
    assert "| CartPole-v1 | plus | 0, 1, 2, 3 |" in text


def test_a_report_from_one_run_and_a_failure(tmp_path: Path) -> None:
    folder = fill(tmp_path, {("plus", "CartPole-v1"): [1.0]})
    planned = plan_runs(suite(), [1], ["CartPole-v1"], ["plus"])[0]
    folder.append(result(planned, None, state=FAILED, reason="ValueError: a | b"))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "**1 of the 16 runs of the suite are done; 1 failed.**" in text
    assert "| CartPole-v1 | plus | 1 | ValueError: a \\| b |" in text
    assert "| CartPole-v1 | plus | 2, 3 |" in text
    assert "| CartPole-v1 | plus | 1 | 100 | 1.0 | - | 1.0 | 10.0 | - | 2.0 | 50 |" in text


def test_a_report_without_episodes_and_curves(tmp_path: Path) -> None:
    made = suite(published=[], baseline=None)
    folder = fill(tmp_path, {}, made)
    folder.append(result(plan_runs(made)[0], None, final_returns=(1.0,)))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "| CartPole-v1 | plus | 1 | 100 | - | - | - | 1.0 | - | 2.0 | 50 |" in text


def test_differing_machines_and_other_settings_are_told(tmp_path: Path) -> None:
    folder = fill(tmp_path, {("plus", "CartPole-v1"): [1.0]})
    planned = plan_runs(suite(), [1], ["CartPole-v1"], ["plus"])[0]
    folder.append(result(planned, 2.0, machine="another", versions={"torch": "3"}, jobs=2))
    folder.append(result(plan_runs(suite(protocol={"last_episodes": 3}))[0], 2.0))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "they differ in machines, torch" in text and "Up to 2 runs shared the machine" in text
    assert "1 runs in this folder were made with other settings" in text


def test_a_band_of_straight_lines() -> None:
    found = plots.band([rising(10.0), rising(20.0), rising(30.0), rising(40.0)], "steps")
    assert found is not None
    positions, middle, low, high = found
    assert positions[0] == 20.0 and positions[-1] == 100.0, "the first bin saw no episode"
    np.testing.assert_allclose(middle, 25.0 * positions / 100)
    assert (low < middle).all() and (middle < high).all()
    assert (low >= 10.0 * positions / 100 - 1e-9).all() and (high <= 40.0 * positions / 100 + 1e-9).all()


def test_a_band_ends_with_the_shortest_curve() -> None:
    short, long = rising(10.0), rising(10.0)
    long.seconds[...] *= 3
    found = plots.band([short, long], "seconds")
    assert found is not None and found[0][-1] == 2.0 and found[0][0] == pytest.approx(3 * 0.4)
    assert plots.band([], "steps") is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (-0.04, "0.0"), (1234.56, "1,234.6"), (123456.7, "123,457"), (-40.44, "-40.4")]
)
def test_numbers_in_cells(value: float | None, text: str) -> None:
    assert number(value) == text
