"""Rules about what comes from the environments: numbers, copies, ends of episodes, observations."""

from __future__ import annotations

from sb3_ppo_plus.doctor.findings import Finding
from sb3_ppo_plus.doctor.history import NONFINITE, History
from sb3_ppo_plus.doctor.rules.grading import graded
from sb3_ppo_plus.doctor.thresholds import LIMITS


def nonfinite(history: History) -> list[Finding]:
    """NaN or infinity in a rollout or a loss."""
    values = history.last(NONFINITE, 1)
    return graded(history, "nonfinite", values[-1] if values else None, detail="numbers of the latest update")


def envs_duplicate(history: History) -> list[Finding]:
    """Environments that begin like another one, although starts are drawn."""
    return graded(
        history, "envs-duplicate", history.latest("doctor/duplicate_envs"), detail="environments that are copies"
    )


def envs_synchronized(history: History) -> list[Finding]:
    """Episodes that all end in the same step."""
    return graded(
        history, "envs-synchronized", history.median("doctor/ends_together", LIMITS["envs-synchronized"].window)
    )


def truncation_missing(history: History) -> list[Finding]:
    """Equal lengths, and no end that was a truncation."""
    limits = LIMITS["truncation-missing"]
    ends, length = history.latest("doctor/ends"), history.latest("doctor/end_length")
    if ends is None or ends < limits.more["ends"] or length is None or length < limits.more["length"]:
        return []
    detail = f"{ends:.0f} episodes of {length:.0f} steps"
    return graded(history, "truncation-missing", history.latest("doctor/truncated_share"), detail=detail)


def observation_scale(history: History) -> list[Finding]:
    """Dimensions of very different size, and no normalizer."""
    limits = LIMITS["observation-scale"]
    if history.settings.normalizes_obs is not False:
        return []
    largest = history.median("doctor/obs_std_max", limits.window)
    spread = history.median("doctor/obs_std_spread", limits.window)
    if largest is None or spread is None or spread < limits.more["spread"]:
        return []
    return graded(history, "observation-scale", largest, detail=f"largest deviation is {spread:.0f} times the smallest")


def observation_constant(history: History) -> list[Finding]:
    """Dimensions that were the same in a whole rollout."""
    share = history.median("doctor/obs_constant", LIMITS["observation-constant"].window)
    limits = LIMITS["observation-constant"]
    if history.median("doctor/obs_frozen", limits.window) == 1.0:
        share = 1.0
    if share is None or share == 0.0:
        return []
    # All of them: passes the limit of the alarm, which is a share of one.
    return graded(history, "observation-constant", share if share < 1.0 else (limits.alarm or 1.0) + 1e-9)


RULES = (
    nonfinite,
    envs_duplicate,
    envs_synchronized,
    truncation_missing,
    observation_scale,
    observation_constant,
)
