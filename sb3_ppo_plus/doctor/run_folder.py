"""The doctor after the fact: the logs of a run, finished or not, of this package or of SB3."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import STEP, History, history_of_rows
from sb3_ppo_plus.doctor.journal import Action, Journal, examine
from sb3_ppo_plus.doctor.report import JSON_NAME
from sb3_ppo_plus.doctor.settings import Settings, settings_of_config
from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.safe_yaml import load_yaml

_EVENTS = "events.out.tfevents.*"
_CONFIGS = ("config.yml", "*/config.yml")


@dataclass(frozen=True)
class Examination:
    """
    A run that was looked at.

    :param source: file that its metrics came from
    :param history: what it logged
    :param journal: what was found in it
    :param ended_by: error that ended it, as far as it is known; empty for none
    """

    source: Path
    history: History
    journal: Journal
    ended_by: str = ""


def examine_run(path: str | Path) -> Examination:
    """
    Look at the logs of a run: ``progress.csv``, else the event files of TensorBoard.

    :param path: folder of the run, or one of these files
    :return: what was found
    :raises InvalidArgument: when there is nothing to read
    """
    path = Path(path)
    if not path.exists():
        raise InvalidArgument(f"{path} does not exist; give the folder of a run")
    folder = path if path.is_dir() else path.parent
    source, rows = _read_log(path)
    noted = _noted(folder)
    settings = Settings.from_mapping(noted["settings"]) if "settings" in noted else _settings(folder)
    history = history_of_rows(rows, settings)
    if not history.steps:
        raise InvalidArgument(f"{source} has no update in it; the run ended before its first one")
    for step, mean in _evaluations(folder):
        if step not in {known for known, _ in history.evaluations}:
            history.add_evaluation(step, mean)
    journal = examine(history)
    journal.actions = [Action(**action) for action in noted.get("actions", [])]
    ended_by = str(noted.get("ended_by", ""))
    _note_live_findings(journal, noted)
    return Examination(source, history, journal, ended_by)


def read_csv(path: Path) -> list[dict[str, float]]:
    """
    Read SB3's ``progress.csv``; a last row that is not whole is left out.

    :param path: the file
    :return: one mapping a line, with the cells that are numbers
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text if text.endswith("\n") else text[: text.rfind("\n") + 1]
    lines = [line for line in csv.reader(io.StringIO(whole)) if line]
    if not lines:
        return []
    names = lines[0]
    return [_numbers(dict(zip(names, line, strict=True))) for line in lines[1:] if len(line) == len(names)]


def read_events(folder: Path) -> list[dict[str, float]]:
    """
    Read the event files of TensorBoard that lie in a folder.

    :param folder: the folder
    :return: one mapping for each timestep, in order
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    log.Reload()
    rows: dict[int, dict[str, float]] = {}
    for tag in log.Tags()["scalars"]:
        for event in log.Scalars(tag):
            rows.setdefault(int(event.step), {STEP: float(event.step)})[tag] = float(event.value)
    return [rows[step] for step in sorted(rows)]


def _read_log(path: Path) -> tuple[Path, list[dict[str, float]]]:
    if path.is_file():
        if path.suffix == ".csv":
            return path, read_csv(path)
        if ".tfevents." in path.name:
            return path, read_events(path.parent)
        raise InvalidArgument(f"{path} is neither a progress.csv nor an event file of TensorBoard")
    table = path / "progress.csv"
    if table.is_file():
        return table, read_csv(table)
    folders = sorted({events.parent for events in path.rglob(_EVENTS)})
    if len(folders) > 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders[:4])
        raise InvalidArgument(f"{path} holds the logs of {len(folders)} runs ({names}); give the folder of one")
    if folders:
        return folders[0], read_events(folders[0])
    raise InvalidArgument(
        f"{path} has neither progress.csv nor event files of TensorBoard; SB3 writes them with "
        'model.set_logger(configure(folder, ["csv"])) or tensorboard_log=folder'
    )


def _numbers(cells: Mapping[str, str]) -> dict[str, float]:
    found = {}
    for name, cell in cells.items():
        try:
            found[name] = float(cell)
        except ValueError:
            continue
    return found


def _settings(folder: Path) -> Settings:
    """Of the run's configuration: this package's, or RL Zoo's, whose file is a list of pairs with a tag of Python's."""
    for pattern in _CONFIGS:
        for path in sorted(folder.glob(pattern)):
            try:
                values = load_yaml(path.read_text(encoding="utf-8").replace("!!python/object/apply:", "# "))
            except (yaml.YAMLError, OSError, ValueError):
                continue
            if isinstance(values, dict):
                return settings_of_config(values)
            pairs = values[0] if isinstance(values, list) and values and isinstance(values[0], list) else values
            if isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                return settings_of_config({str(key): value for key, value in pairs})
    return Settings()


def _evaluations(folder: Path) -> list[tuple[int, float]]:
    path = folder / "evaluations.npz"
    if not path.is_file():
        return []
    try:
        with np.load(path) as arrays:
            means = arrays["results"].mean(axis=1)
            return [(int(step), float(mean)) for step, mean in zip(arrays["timesteps"], means, strict=True)]
    except (OSError, ValueError, KeyError):
        return []


def _noted(folder: Path) -> dict[str, Any]:
    """What the doctor wrote while the run was under way."""
    try:
        data = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _note_live_findings(journal: Journal, noted: Mapping[str, Any]) -> None:
    """Keep what only the training itself could see."""
    for values in noted.get("findings", []):
        finding = Finding.from_mapping(values)
        if finding.code not in journal.entries and finding.severity > Severity.INFO:
            journal.keep(finding, int(values["first_step"]), int(values["last_step"]), int(values["updates"]))
