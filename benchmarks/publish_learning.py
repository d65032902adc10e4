"""
Write what the suites measured where users read it: the README's tables, the comments in zoo_configs, docs/algorithm.md.

    ppo-plus benchmark report benchmarks/results/mujoco_1m
    ppo-plus benchmark report benchmarks/results/mujoco_tuned
    ppo-plus benchmark report benchmarks/results/mujoco_long
    ppo-plus benchmark report benchmarks/results/ablations
    python benchmarks/publish_learning.py

A test fails where a number that is shown is not the measured one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sb3_ppo_plus.atomic import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
COMMON, TUNED, LONG, ABLATIONS = (
    RESULTS / suite / "report" / "table.json" for suite in ("mujoco_1m", "mujoco_tuned", "mujoco_long", "ablations")
)
#: suites whose returns stand above the blocks of the zoo, and the variant there that is the block
OF_BLOCKS = ("mujoco_1m", "mujoco_tuned")
OURS = "ppo_plus"
README = ROOT / "README.md"
ALGORITHM = ROOT / "docs" / "algorithm.md"
ZOO = ROOT / "zoo_configs" / "ppo_plus.yml"
#: beginning of a label in the suite: heading in the README
OTHERS = {
    "CleanRL, v4": "CleanRL, v4",
    "OpenAI Baselines": "OpenAI Baselines",
    "RL Baselines3 Zoo": "SB3's zoo, v3, tuned for each, evaluation of one run",
    "SLM-Lab, v5": "SLM-Lab, v5, 4 or 10 million steps",
}


def learning_table(table: dict[str, Any]) -> str:
    """
    :param table: content of the report of mujoco_1m, its table.json
    :return: the table of the common configuration in Markdown
    """
    heads = ["task", "seeds", "PPOPlus, training", "final evaluation", *OTHERS.values()]
    rows = [
        [row["task"], str(len(row["seeds"])), *ours(row), *(published(table, row["task"], label) for label in OTHERS)]
        for row in table["rows"]
    ]
    return markdown(heads, rows)


def other_table(tuned: dict[str, Any], longer: dict[str, Any]) -> str:
    """
    :param tuned: content of the report of mujoco_tuned, its table.json
    :param longer: that of mujoco_long
    :return: the table of the blocks of the zoo, and of longer trainings with larger rollouts, in Markdown
    """
    slm_lab = "SLM-Lab, v5"
    heads = ["task", "settings", "steps", "seeds", "PPOPlus, training", "final evaluation", OTHERS[slm_lab]]
    rows = [
        [
            row["task"],
            settings,
            f"{row['steps']:,}",
            str(len(row["seeds"])),
            *ours(row),
            published(table, row["task"], slm_lab),
        ]
        for settings, table in (("own block", tuned), ("larger rollouts", longer))
        for row in table["rows"]
    ]
    return markdown(heads, rows)


def ablation_table(table: dict[str, Any]) -> str:
    """
    :param table: content of the report of ablations, its table.json
    :return: one row for each variant in Markdown: mean training returns, and all tasks together by both protocols
    """
    tasks = list(dict.fromkeys(row["task"] for row in table["rows"]))
    returns = {(row["variant"], row["task"]): number(row["training"]["mean"]) for row in table["rows"]}
    pooled = {
        (row["variant"], row["protocol"]): probability(row) for row in table["comparisons"] if row["task"] not in tasks
    }
    rows = [
        [
            f"`{variant}`",
            *(returns[variant, task] for task in tasks),
            f"{row['iqm']:.2f} [{row['iqm_interval'][0]:.2f}, {row['iqm_interval'][1]:.2f}]",
            *(pooled.get((variant, protocol), "") for protocol in ("training", "evaluation")),
        ]
        for row in table["pooled"]
        if row["protocol"] == "training"
        for variant in [row["variant"]]
    ]
    return markdown(["variant", *tasks, "all, scaled", "better in training", "better at the end"], rows)


def probability(comparison: dict[str, Any]) -> str:
    """
    :param comparison: of a variant with the baseline
    :return: probability that a run of the variant is the better one with its interval; bold where that excludes a half
    """
    low, high = comparison["interval"]
    shown = f"{comparison['probability']:.2f}"
    return f"{shown if low <= 0.5 <= high else f'**{shown}**'} [{low:.2f}, {high:.2f}]"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """
    :param heads: of the columns
    :param rows: cells
    :return: a table, numbers on the right
    """
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ours(row: dict[str, Any]) -> list[str]:
    """
    :param row: what the table says of a task
    :return: our training return with its interval, and our final evaluation
    """
    training = f"**{number(row['training']['mean'])}** {interval(row['training'])}"
    return [training.strip(), number(row["evaluation"]["mean"])]


def published(table: dict[str, Any], task: str, label: str) -> str:
    """
    :param table: content of a report's table.json
    :param task: the environment
    :param label: beginning of a label in the suite
    :return: the mean that they have published, empty where there is none
    """
    found = (entry for entry in table["published"] if entry["task"] == task and entry["label"].startswith(label))
    return next((number(entry["published_mean"]) for entry in found), "")


def number(value: float) -> str:
    """
    :param value: a return
    :return: it with as many digits as tell something
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"


def interval(training: dict[str, Any]) -> str:
    """
    :param training: what the table says of a task's training returns
    :return: bootstrap interval of their mean; empty for one seed
    """
    ends = training["mean_interval"]
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else ""


def in_readme(text: str, common: dict[str, Any], tuned: dict[str, Any], longer: dict[str, Any]) -> str:
    """
    :param text: the README
    :param common: content of the table.json of mujoco_1m
    :param tuned: that of mujoco_tuned
    :param longer: that of mujoco_long
    :return: the README with the measured tables
    """
    for second, new in (("seeds", learning_table(common)), ("settings", other_table(tuned, longer))):
        shown = rf"(?m)^\| task \| {second} \|.*\n(?:\|.*\n)+"
        text = _replace(shown, new + "\n", text, f"a table of tasks and {second}")
    return text


def in_algorithm(text: str, table: dict[str, Any]) -> str:
    """
    :param text: docs/algorithm.md
    :param table: content of the table.json of ablations
    :return: it with the measured table
    """
    shown = r"(?m)^\| variant \|.*\n(?:\|.*\n)+"
    return _replace(shown, ablation_table(table) + "\n", text, "a table of variants")


def in_zoo(text: str, suite: str, table: dict[str, Any]) -> str:
    """
    :param text: zoo_configs/ppo_plus.yml
    :param suite: name of a suite, as the comments have it
    :param table: content of its report's table.json
    :return: it with the measured returns in the comments of the blocks that have a line for this suite
    """
    for row in table["rows"]:
        above = rf"(?m)(?<=^{re.escape(row['task'])}:\n)((?:  #.*\n)*?)  # Suite {suite}, .*$"
        if row["variant"] == OURS and (found := re.search(above, text)):
            text = text[: found.start()] + found[1] + measured(suite, row) + text[found.end() :]
    return text


def measured(suite: str, row: dict[str, Any]) -> str:
    """
    :param suite: name of a suite
    :param row: what its table says of a task
    :return: the comment of a block
    """
    seeds = ", ".join(map(str, row["seeds"]))
    training = f"{number(row['training']['mean'])} {interval(row['training'])}".strip()
    evaluation = number(row["evaluation"]["mean"])
    return f"  # Suite {suite}, {row['steps']:,} steps, seeds {seeds}: {training}, evaluation {evaluation}."


def _replace(pattern: str, new: str, text: str, what: str) -> str:
    """Replace what a pattern finds, which must be there once."""
    text, count = re.subn(pattern, lambda _: new, text)
    if count != 1:
        raise ValueError(f"{what} is there {count} times; expected once")
    return text


def read(path: Path) -> dict[str, Any]:
    """
    :param path: a report's table.json
    :return: its content
    """
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def main() -> None:
    """Write the numbers."""
    atomic_write(README, in_readme(README.read_text(encoding="utf-8"), read(COMMON), read(TUNED), read(LONG)))
    atomic_write(ALGORITHM, in_algorithm(ALGORITHM.read_text(encoding="utf-8"), read(ABLATIONS)))
    blocks = ZOO.read_text(encoding="utf-8")
    for suite in OF_BLOCKS:
        blocks = in_zoo(blocks, suite, read(RESULTS / suite / "report" / "table.json"))
    atomic_write(ZOO, blocks)


if __name__ == "__main__":
    main()
