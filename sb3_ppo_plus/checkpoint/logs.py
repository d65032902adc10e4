"""Logs that go on where a checkpoint lies, instead of being overwritten: what came after it is taken out."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from torch.utils.tensorboard import SummaryWriter

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.errors import InvalidArgument

logger = logging.getLogger(__name__)

_STEP = "time/total_timesteps"


class ProgressCSV(CSVOutputFormat):
    """
    SB3's ``progress.csv``, with a new column written whole or not at all, and going on where a checkpoint lies.

    :param path: file
    :param after: timestep of the checkpoint, rows beyond it are dropped; None starts a new file
    """

    def __init__(self, path: Path, after: int | None = None) -> None:
        self.path = path
        rows = _rows_until(path, after) if after is not None else []
        self.keys = rows[0] if rows else []
        self.separator, self.quotechar = ",", '"'
        self._write_whole(rows)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        :param key_values: figures by name
        :param key_excluded: outputs that do not want them
        :param step: timestep
        """
        wanted = filter_excluded_keys(key_values, key_excluded, "csv")
        extra = [key for key in sorted(wanted) if key not in self.keys]
        if extra:
            self.file.close()
            rows = _read_rows(self.path)
            self.keys.extend(extra)
            self._write_whole([self.keys, *(row + [""] * len(extra) for row in rows[1:])])
        super().write(key_values, key_excluded, step)

    def _write_whole(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        atomic_write(self.path, text.getvalue())
        self.file = open(self.path, "a+")


class TensorBoardLog(TensorBoardOutputFormat):
    """
    SB3's TensorBoard log, going on where a checkpoint lies: TensorBoard leaves out what an earlier file has beyond it.

    :param folder: folder of the event files
    :param after: timestep of the checkpoint, None starts anew
    """

    def __init__(self, folder: Path, after: int | None = None) -> None:
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=None if after is None else after + 1)
        self._is_closed = False


class ForgivingLog(KVWriter):
    """
    Lets the training go on when a log cannot be written, which is told once until it can be again.

    :param output: where the log goes
    :param name: what it is called in the message
    """

    def __init__(self, output: KVWriter, name: str) -> None:
        self.output, self.name = output, name
        self.told = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        :param key_values: figures by name
        :param key_excluded: outputs that do not want them
        :param step: timestep
        """
        try:
            self.output.write(key_values, key_excluded, step)
            self.told = False
        except (OSError, ValueError) as error:
            # A file that could not be opened again after an error raises ValueError.
            if not self.told:
                logger.warning("%s cannot be written at step %d (%s); training goes on", self.name, step, error)
            self.told = True

    def close(self) -> None:
        """Close it; what cannot be written any more is lost."""
        try:
            self.output.close()
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be closed: %s", self.name, error)


def open_log(folder: Path, formats: Sequence[str], after: int | None = None) -> Logger:
    """
    SB3's ``configure()`` for a run that may go on.

    :param folder: folder of the log
    :param formats: of "csv" (progress.csv), "json" (progress.json), "tensorboard" and "stdout"
    :param after: timestep of the checkpoint, ``model.num_timesteps`` after ``resume()``; what the files have beyond it
        is dropped. None starts them anew
    :return: logger for ``model.set_logger()``
    :raises InvalidArgument: for another format
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs: list[KVWriter] = []
    for name in formats:
        if name == "csv":
            outputs.append(ForgivingLog(ProgressCSV(folder / "progress.csv", after), str(folder / "progress.csv")))
        elif name == "json":
            outputs.append(ForgivingLog(_json(folder / "progress.json", after), str(folder / "progress.json")))
        elif name == "tensorboard":
            outputs.append(ForgivingLog(TensorBoardLog(folder, after), f"the TensorBoard log in {folder}"))
        elif name == "stdout":
            outputs.append(HumanOutputFormat(_CurrentStdout()))  # type: ignore[arg-type]
        else:
            raise InvalidArgument(f"log format {name!r} is not known; give csv, json, tensorboard or stdout")
    return Logger(str(folder), outputs)


def reopen_log(opened: Logger, folder: str, after: int) -> Logger:
    """
    Take the place of a logger that SB3 made for a new call of ``learn()``: its TensorBoard log goes on.

    :param opened: what SB3 made
    :param folder: folder of the log that is to go on
    :param after: timestep of the checkpoint
    :return: logger with the same outputs, in that folder; the one that SB3 made when there is none
    """
    place = Path(folder)
    if opened.dir is None or not place.is_dir():
        return opened
    outputs: list[KVWriter] = []
    for output in opened.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            output.close()
            output = TensorBoardLog(place, after)
        outputs.append(output)
    return Logger(str(place), outputs)


class _CurrentStdout:
    """Standard output as it is at the time of writing: a live progress bar puts its own in place while it runs."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _json(path: Path, after: int | None) -> JSONOutputFormat:
    kept: list[str] = []
    if after is not None and path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if isinstance(entry, dict) and _beyond(entry.get(_STEP), after):
                break
            kept.append(line)
    atomic_write(path, "".join(f"{line}\n" for line in kept))
    output = JSONOutputFormat(os.devnull)
    output.close()
    output.file = open(path, "a")
    return output


def _rows_until(path: Path, after: int) -> list[list[str]]:
    """Header and rows up to the first that lies beyond a timestep; a last row that is not whole is dropped."""
    rows = _read_rows(path)
    if not rows or _STEP not in rows[0]:
        return rows
    column = rows[0].index(_STEP)
    kept = rows[:1]
    for row in rows[1:]:
        if len(row) != len(rows[0]) or _beyond(row[column], after):
            break
        kept.append(row)
    return kept


def _read_rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [row for row in csv.reader(io.StringIO(whole)) if row]


def _beyond(step: Any, after: int) -> bool:
    try:
        return float(step) > after
    except (TypeError, ValueError):
        return False
