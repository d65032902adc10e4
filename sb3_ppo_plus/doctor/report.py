"""The files of the doctor in a run folder."""

from __future__ import annotations

from pathlib import Path

from sb3_ppo_plus.atomic import atomic_write
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.journal import Journal
from sb3_ppo_plus.doctor.report_html import report_page
from sb3_ppo_plus.doctor.report_json import report_data, report_text

JSON_NAME, HTML_NAME = "doctor.json", "doctor.html"


def write_reports(
    folder: Path, history: History, journal: Journal, ended_by: str = "", with_page: bool = True
) -> list[Path]:
    """
    :param folder: run folder
    :param history: what the run logged
    :param journal: what was found, and done
    :param ended_by: error that ended the run, empty for none
    :param with_page: whether the page is written as well
    :return: the files
    """
    files = [folder / JSON_NAME]
    atomic_write(files[0], report_text(report_data(history, journal, ended_by)))
    if with_page:
        files.append(folder / HTML_NAME)
        atomic_write(files[1], report_page(f"{folder.resolve().name}: the doctor's report", history, journal, ended_by))
    return files
