"""From a measured value to a finding, by the limits of the table."""

from __future__ import annotations

from collections.abc import Callable

from sb3_ppo_plus.doctor.catalogue import CATALOGUE
from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.thresholds import LIMITS

#: a rule: findings from what was logged so far, and from nothing else
Rule = Callable[[History], list[Finding]]


def graded(history: History, code: str, value: float | None, remedy: str = "", detail: str = "") -> list[Finding]:
    """
    Compare a value with the limits of its code.

    :param history: history up to now, which gives the window of the evidence
    :param code: code of the finding
    :param value: what was measured, None when it could not be
    :param remedy: what to change, empty for what the catalogue says
    :param detail: what else was seen
    :return: one finding of the highest severity whose limit the value passed, or none
    """
    limits = LIMITS[code]
    if value is None or value != value or len(history) < limits.warmup:
        return []
    levels = ((Severity.ALARM, limits.alarm), (Severity.WARNING, limits.warning), (Severity.INFO, limits.info))
    for severity, limit in levels:
        if limit is not None and (value <= limit if limits.below else value > limit):
            window = history.window(limits.window)
            return [Finding(code, severity, value, limit, window, remedy or CATALOGUE[code].remedy, detail)]
    return []


def at_most(findings: list[Finding], severity: Severity) -> list[Finding]:
    """
    :param findings: of a rule
    :param severity: the highest that the circumstances allow
    :return: the findings, none of them worse than that
    """
    return [
        found if found.severity <= severity else Finding(**{**vars(found), "severity": severity}) for found in findings
    ]


def number(value: float) -> str:
    """
    :param value: a setting
    :return: how it is written in a remedy
    """
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def is_annealed(history: History, part: float) -> bool:
    """
    :param history: history up to now
    :param part: share of the largest learning rate
    :return: whether the learning rate has fallen below it, as it does towards the end of a schedule
    """
    rates = history.every("train/learning_rate")
    return bool(rates) and rates[-1] < part * max(rates)


def mean_return(history: History, count: int) -> float | None:
    """
    :param history: history up to now
    :param count: number of updates
    :return: mean of the running mean of episode returns over the latest ones, None without episodes
    """
    values = history.last("rollout/ep_rew_mean", count)
    return sum(values) / len(values) if values else None


def has_learned(history: History) -> bool:
    """
    Say whether the return has risen since the start and stands near its best: a policy that is certain of what it
    does is then no accident.

    :param history: history up to now
    :return: whether it has
    """
    values = history.every("rollout/ep_rew_mean")
    if len(values) < 10:
        return False
    first, best, now = sum(values[:3]) / 3, max(values), sum(values[-3:]) / 3
    scale = max(abs(first), abs(best), 1e-8)
    return best - first > 0.1 * scale and now > first + 0.5 * (best - first)
