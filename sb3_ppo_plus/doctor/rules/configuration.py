"""Rules about the settings alone, which are known before the first step."""

from __future__ import annotations

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.rules.grading import graded
from sb3_ppo_plus.doctor.settings import Settings
from sb3_ppo_plus.doctor.thresholds import LIMITS


def check_settings(settings: Settings) -> list[Finding]:
    """
    Look at the settings of a run.

    :param settings: what is known of them
    :return: what is odd about them
    """
    history = History(settings)
    parts = (_rates, _clipping, _entropy, _batches, _discount)
    return [finding for part in parts for finding in part(history, settings)]


def _rates(history: History, settings: Settings) -> list[Finding]:
    rate, found = settings.learning_rate, []
    if rate is not None and rate > LIMITS["learning-rate-high"].more["setting"]:
        found.append(_setting("learning-rate-high", Severity.WARNING, rate, "setting", "learning_rate=3e-4"))
    if rate is not None and 0.0 < rate < LIMITS["learning-rate-low"].more["setting"]:
        found.append(_setting("learning-rate-low", Severity.WARNING, rate, "setting", "learning_rate=3e-4"))
    if settings.vf_coef is not None:
        found += graded(history, "critic-unweighted", settings.vf_coef)
    return found


def _clipping(history: History, settings: Settings) -> list[Finding]:
    width = settings.clip_range
    if width is None or width == float("inf"):  # no clipping is a choice of its own, the penalty on the KL
        return []
    return graded(history, "clip-range-wide", width) + graded(history, "clip-range-narrow", width)


def _entropy(history: History, settings: Settings) -> list[Finding]:
    weight = settings.ent_coef
    if weight is None:
        return []
    negative = graded(history, "entropy-coef-negative", weight) if weight < 0.0 else []
    return graded(history, "entropy-coef-high", weight) + negative


def _batches(history: History, settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    rows, batch, epochs = settings.rows, settings.batch_size, settings.n_epochs
    if epochs is not None and epochs > LIMITS["epochs-many"].more["setting"]:
        warns = epochs > LIMITS["epochs-many"].more["setting_warning"]
        found.append(
            _setting("epochs-many", Severity.WARNING if warns else Severity.INFO, epochs, "setting", "n_epochs=10")
        )
    if batch is not None:
        found += graded(history, "batch-small", batch)
    if rows is not None:
        found += graded(history, "rollout-small", rows)
        if batch is not None and batch < rows and rows % batch:
            found += graded(
                history, "batch-uneven", float(rows % batch), detail=f"{rows} rows in minibatches of {batch}"
            )
    return found


def _discount(history: History, settings: Settings) -> list[Finding]:
    gamma, found = settings.gamma, []
    if gamma is None:
        return []
    if gamma >= LIMITS["gamma-odd"].more["high"]:
        found.append(_setting("gamma-odd", Severity.WARNING, gamma, "high", "gamma=0.99"))
    found += graded(history, "gamma-odd", gamma)
    if settings.n_steps and gamma < 1.0:
        ratio = 1.0 / (1.0 - gamma) / settings.n_steps
        found += graded(history, "horizon-long", ratio, detail=f"{1 / (1 - gamma):.0f} of {settings.n_steps} steps")
    return found


def _setting(code: str, severity: Severity, value: float, limit: str, remedy: str) -> Finding:
    return Finding(code, severity, float(value), LIMITS[code].more[limit], (0, 0), remedy, "as it is set")
