"""Rules about exploration: entropy, standard deviation, bounds of the actions."""

from __future__ import annotations

import math

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import History, median
from sb3_ppo_plus.doctor.rules.grading import at_most, graded, has_learned
from sb3_ppo_plus.doctor.thresholds import LIMITS

_ENTROPY = "train/entropy_loss"  # its negative


def entropy_collapse(history: History) -> list[Finding]:
    """The policy has become deterministic without having learned anything that would justify it."""
    limits = LIMITS["entropy-collapse"]
    if has_learned(history):
        return []
    share = _relative_entropy(history, limits.window)
    if share is not None:
        return graded(history, "entropy-collapse", share, detail="share of the largest entropy")
    deviation = history.median("train/std", limits.window)
    if deviation is not None and deviation > 0.0 and math.log(deviation) < limits.more["log_std"]:
        # On the scale of the other form of the rule, where 1 is a standard deviation of 1.
        return graded(history, "entropy-collapse", deviation, detail="standard deviation of the actions")
    return []


def entropy_fall(history: History) -> list[Finding]:
    """The entropy of an action fell by more than a nat within a few updates."""
    limits = LIMITS["entropy-collapse"]
    values = history.last("train/std", int(limits.more["fall_window"]))
    if len(values) < limits.more["fall_window"] or min(values) <= 0.0 or has_learned(history):
        return []
    fall = math.log(values[0] / values[-1])
    if fall < limits.more["fall"]:
        return []
    return graded(history, "entropy-collapse", math.exp(-fall) * 0.05, detail=f"{fall:.2g} nats an action dimension")


def entropy_runaway(history: History) -> list[Finding]:
    """The standard deviation is a multiple of the one at the start, and rises."""
    limits = LIMITS["entropy-runaway"]
    values, start = history.last("train/std", limits.window), history.every("train/std")[:1]
    if len(values) < limits.window or not start or start[0] <= 0.0:
        return []
    half = len(values) // 2
    rising = median(values[half:]) > 1.02 * median(values[:half])
    small = start[0] < 0.5  # from a small start the way up to 1 is no runaway
    return graded(history, "entropy-runaway", values[-1] / (1.0 if small else start[0])) if rising else []


def entropy_stuck(history: History) -> list[Finding]:
    """The choices are as random as at the start."""
    limits = LIMITS["entropy-stuck"]
    found = graded(history, "entropy-stuck", _relative_entropy(history, limits.window))
    pays = (history.settings.ent_coef or 0.0) > limits.more["ent_coef"]
    return found if pays else at_most(found, Severity.INFO)


def action_saturation(history: History) -> list[Finding]:
    """Most of the sampled actions are clipped before the environment sees them."""
    return graded(history, "action-saturation", history.median("doctor/saturation", LIMITS["action-saturation"].window))


def _relative_entropy(history: History, window: int) -> float | None:
    """Share of the largest entropy; None where actions are numbers."""
    largest, loss = history.settings.max_entropy, history.median(_ENTROPY, window)
    if largest is None and history.every(_ENTROPY) and not history.every("train/std"):
        largest = -history.every(_ENTROPY)[0]  # a new policy of choices is nearly uniform
    return -loss / largest if largest and largest > 0.0 and loss is not None else None


RULES = (entropy_collapse, entropy_fall, entropy_runaway, entropy_stuck, action_saturation)
