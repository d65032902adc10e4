"""The findings of a run as data."""

from __future__ import annotations

import json
import math
from typing import Any

from sb3_ppo_plus import __version__
from sb3_ppo_plus.doctor.findings import worst
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.journal import Journal

FORMAT = 1


def report_data(history: History, journal: Journal, ended_by: str = "") -> dict[str, Any]:
    """
    :param history: what the run logged
    :param journal: what was found, and done
    :param ended_by: error that ended the run, empty for none
    :return: plain data
    """
    severity = worst(journal.findings())
    return {
        "format": FORMAT,
        "version": __version__,
        "timesteps": history.step,
        "updates": len(history),
        "worst": None if severity is None else severity.word,
        "ended_by": ended_by,
        "settings": history.settings.to_mapping(),
        "findings": [
            {
                **finding.to_mapping(),
                "first_step": journal.entries[finding.code].first,
                "last_step": journal.entries[finding.code].last,
                "updates": journal.entries[finding.code].updates,
            }
            for finding in journal.findings()
        ],
        "actions": [vars(action) for action in journal.actions],
    }


def report_text(data: dict[str, Any]) -> str:
    """
    :param data: of :func:`report_data`
    :return: JSON that every reader takes: numbers that are none are null
    """
    return json.dumps(_strict(data), indent=2, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, (list, tuple)) else value
