"""Rules about the networks: gradients, dead units, rank of the features."""

from __future__ import annotations

from sb3_ppo_plus.doctor.findings import Finding
from sb3_ppo_plus.doctor.history import LOOK_EVERY, History, median
from sb3_ppo_plus.doctor.rules.grading import graded
from sb3_ppo_plus.doctor.thresholds import LIMITS


def gradient_spike(history: History) -> list[Finding]:
    """The largest gradient of an update is many times the usual one."""
    limits = LIMITS["gradient-spike"]
    recent = history.last("train/grad_norm_max", LOOK_EVERY)
    usual = history.last("train/grad_norm", limits.window + LOOK_EVERY)[:-LOOK_EVERY]
    if not recent or len(usual) < limits.warmup or median(usual) <= 0.0:
        return []
    # Where gradients have become tiny a hundred times the usual one is nothing: it has to be larger than any before.
    before = history.every("train/grad_norm_max")[:-LOOK_EVERY]
    if before and max(recent) < limits.more["times_largest"] * max(before):
        return []
    return graded(history, "gradient-spike", max(recent) / median(usual), detail=f"norm {max(recent):.2g}")


def gradient_clipped(history: History) -> list[Finding]:
    """Gradients are many times as long as allowed."""
    limits, allowed = LIMITS["gradient-clipped"], history.settings.max_grad_norm
    norm = history.median("train/grad_norm", limits.window)
    return graded(history, "gradient-clipped", norm / allowed) if norm is not None and allowed else []


def dead_units(history: History) -> list[Finding]:
    """Units that answer to nothing."""
    values = history.every("doctor/dead_units")[-LIMITS["dead-units"].window :]
    return graded(history, "dead-units", median(values) if values else None, detail="share of the units")


def rank_collapse(history: History) -> list[Finding]:
    """The rank of the features is a fraction of the one at the start."""
    limits = LIMITS["rank-collapse"]
    ranks = history.every("doctor/rank")
    if len(ranks) < limits.window + 1 or ranks[0] < 5.0:
        return []
    return graded(history, "rank-collapse", median(ranks[-limits.window :]) / ranks[0], detail=f"from {ranks[0]:.0f}")


RULES = (gradient_spike, gradient_clipped, dead_units, rank_collapse)
