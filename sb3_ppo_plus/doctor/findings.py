"""What the doctor finds: a code, how bad it is, what was measured, and what to change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sb3_ppo_plus.doctor.catalogue import CATALOGUE, Meaning


class Severity(IntEnum):
    """How bad a finding is: worth knowing, worth a change, or a run that is lost unless something changes."""

    INFO = 1
    WARNING = 2
    ALARM = 3

    @property
    def word(self) -> str:
        """:return: the name in lower case, as files have it"""
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """
    One thing that is wrong with a run.

    :param code: name of the finding, a key of the catalogue
    :param severity: how bad it is
    :param value: what was measured
    :param threshold: the limit that it passed
    :param window: first and last timestep of the evidence; (0, 0) for what was known before training
    :param remedy: which argument to change, and to what
    :param detail: what else was seen, empty for nothing
    """

    code: str
    severity: Severity
    value: float
    threshold: float
    window: tuple[int, int]
    remedy: str
    detail: str = ""

    @property
    def meaning(self) -> Meaning:
        """:return: title, explanation and argument of the code"""
        return CATALOGUE[self.code]

    @property
    def page(self) -> str:
        """:return: where the documentation explains the code"""
        return f"docs/doctor.md#{self.code}"

    def sentence(self) -> str:
        """:return: the finding in one line, for a log"""
        detail = f" ({self.detail})" if self.detail else ""
        measured = f"{self.value:.3g} where the limit is {self.threshold:.3g}"
        when = f" at step {self.window[1]:,}" if self.window[1] else ""
        return f"{self.code}{when}: {self.meaning.title}: {measured}{detail}. Try: {self.remedy}. See {self.page}"

    def to_mapping(self) -> dict[str, Any]:
        """:return: plain data, with the texts of the catalogue"""
        return {
            "code": self.code,
            "severity": self.severity.word,
            "value": float(self.value),
            "threshold": float(self.threshold),
            "window": [int(step) for step in self.window],
            "title": self.meaning.title,
            "explanation": self.meaning.why,
            "argument": self.meaning.argument,
            "remedy": self.remedy,
            "detail": self.detail,
            "page": self.page,
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Finding:
        """
        :param values: what :meth:`to_mapping` gave
        :return: the finding
        """
        first, last = values["window"]
        return cls(
            code=str(values["code"]),
            severity=Severity[str(values["severity"]).upper()],
            value=_number(values["value"]),
            threshold=_number(values["threshold"]),
            window=(int(first), int(last)),
            remedy=str(values["remedy"]),
            detail=str(values["detail"]),
        )


def _number(value: Any) -> float:
    """JSON has no NaN: it stands as null there."""
    return math.nan if value is None else float(value)


def worst(findings: list[Finding]) -> Severity | None:
    """
    :param findings: any findings
    :return: the highest severity among them, None when there are none
    """
    return max((finding.severity for finding in findings), default=None)
