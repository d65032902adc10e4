"""What is said of learning, in the README and above the blocks of the zoo, is what was measured."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from publish_learning import (  # noqa: E402
    ABLATIONS,
    ALGORITHM,
    COMMON,
    LONG,
    OF_BLOCKS,
    README,
    RESULTS,
    TUNED,
    ZOO,
    ablation_table,
    in_algorithm,
    in_readme,
    in_zoo,
    learning_table,
    other_table,
    read,
)


def test_what_the_readme_shows_was_measured() -> None:
    shown, tables = README.read_text(encoding="utf-8"), [read(COMMON), read(TUNED), read(LONG)]
    assert in_readme(shown, *tables) == shown
    for table in tables:
        table["rows"][0]["training"]["mean"] += 100
        assert in_readme(shown, *tables) != shown
        table["rows"][0]["training"]["mean"] -= 100


@pytest.mark.parametrize("suite", OF_BLOCKS)
def test_what_stands_above_the_blocks_was_measured(suite: str) -> None:
    shown, table = ZOO.read_text(encoding="utf-8"), read(RESULTS / suite / "report" / "table.json")
    assert in_zoo(shown, suite, table) == shown
    changed = 0
    for row in table["rows"]:
        row["training"]["mean"] += 100
        changed += in_zoo(shown, suite, table) != shown
        row["training"]["mean"] -= 100
    assert changed == shown.count(f"  # Suite {suite}, ") > 0


def test_every_block_of_a_robot_has_its_measured_line() -> None:
    blocks = re.findall(r"(?m)^(\w+-v5):\n((?:  #.*\n)*)", ZOO.read_text(encoding="utf-8"))
    assert len(blocks) == 11
    assert [task for task, comments in blocks if "  # Suite mujoco_" not in comments] == []


def test_what_the_docs_say_of_the_extras_was_measured() -> None:
    shown, table = ALGORITHM.read_text(encoding="utf-8"), read(ABLATIONS)
    assert in_algorithm(shown, table) == shown
    table["rows"][0]["training"]["mean"] += 100
    assert in_algorithm(shown, table) != shown


def test_an_extra_stands_out_only_where_the_interval_says_so() -> None:
    intervals = {"good": [0.51, 0.9], "bad": [0.1, 0.49], "even": [0.4, 0.7]}
    protocols = ("training", "evaluation")
    table = {
        "rows": [{"variant": name, "task": "Hopper-v5", "training": {"mean": 1234.5}} for name in ("off", *intervals)],
        "pooled": [
            {"variant": name, "protocol": protocol, "iqm": 0.5, "iqm_interval": [0.4, 0.6]}
            for name in ("off", *intervals)
            for protocol in protocols
        ],
        "comparisons": [
            {"variant": name, "protocol": protocol, "task": task, "probability": 0.6, "interval": interval}
            for name, interval in intervals.items()
            for protocol in protocols
            for task in ("Hopper-v5", "all 1 tasks")
        ],
    }
    table["comparisons"][-1]["probability"] = 0.55
    lines = ablation_table(table).splitlines()[2:]
    assert lines[0] == "| `off` | 1,234 | 0.50 [0.40, 0.60] |  |  |"
    assert lines[1] == "| `good` | 1,234 | 0.50 [0.40, 0.60] | **0.60** [0.51, 0.90] | **0.60** [0.51, 0.90] |"
    assert lines[2].endswith("| **0.60** [0.10, 0.49] | **0.60** [0.10, 0.49] |")
    assert lines[3].endswith("| 0.60 [0.40, 0.70] | 0.55 [0.40, 0.70] |")


def test_the_table_has_our_interval_beside_what_was_published() -> None:
    several = {"mean": 2500.4, "mean_interval": [2300.0, 2700.0]}
    table = {
        "rows": [
            {"task": "Hopper-v5", "seeds": [0, 1], "training": several, "evaluation": {"mean": 2600.0}},
            {
                "task": "Pusher-v5",
                "seeds": [0],
                "training": {"mean": -31.24, "mean_interval": None},
                "evaluation": {"mean": -30.0},
            },
        ],
        "published": [{"task": "Hopper-v5", "label": "CleanRL, v4, published", "published_mean": 2382.9}],
    }
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in learning_table(table).splitlines()[2:]]
    assert rows[0] == ["Hopper-v5", "2", "**2,500** [2,300, 2,700]", "2,600", "2,383", "", "", ""]
    assert rows[1] == ["Pusher-v5", "1", "**-31.2**", "-30.0", "", "", "", ""]


def test_the_second_table_has_settings_and_steps() -> None:
    row = {
        "task": "Swimmer-v5",
        "steps": 1_003_520,
        "seeds": [10, 11],
        "training": {"mean": 330.0, "mean_interval": [300.0, 360.0]},
        "evaluation": {"mean": 340.2},
    }
    published = [{"task": "Swimmer-v5", "label": "SLM-Lab, v5, 4 or 10M steps", "published_mean": 282.4}]
    long = {**row, "steps": 3_000_320, "seeds": [10]}
    lines = other_table({"rows": [row], "published": published}, {"rows": [long], "published": []}).splitlines()
    assert lines[2] == "| Swimmer-v5 | own block | 1,003,520 | 2 | **330** [300, 360] | 340 | 282 |"
    assert lines[3] == "| Swimmer-v5 | larger rollouts | 3,000,320 | 1 | **330** [300, 360] | 340 |  |"


@pytest.mark.parametrize("suite", ["mujoco_1m", "mujoco_tuned", "mujoco_long"])
def test_committed_results_are_complete(suite: str) -> None:
    folder = ROOT / "benchmarks" / "results" / suite
    table = json.loads((folder / "report" / "table.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    scores = {(line["variant"], line["task"], line["seed"], line["training_return"]) for line in lines}
    for row in table["rows"]:
        for seed, score in zip(row["seeds"], row["training"]["scores"], strict=True):
            assert (row["variant"], row["task"], seed, score) in scores
