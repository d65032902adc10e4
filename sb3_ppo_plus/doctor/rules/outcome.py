"""Rules about what comes of a training, in return, speed and memory."""

from __future__ import annotations

from itertools import pairwise

from sb3_ppo_plus.doctor.findings import Finding
from sb3_ppo_plus.doctor.history import History, median
from sb3_ppo_plus.doctor.rules.grading import graded, mean_return
from sb3_ppo_plus.doctor.thresholds import LIMITS

_RETURN = "rollout/ep_rew_mean"


def evaluation_falls(history: History) -> list[Finding]:
    """The evaluations fall one after the other while the training return rises."""
    limits = LIMITS["evaluation-falls"]
    results = [mean for _, mean in history.evaluations]
    recent = results[-(limits.window + 1) :]
    if len(recent) <= limits.window or any(b >= a for a, b in pairwise(recent)):
        return []
    spread = max(results) - min(results)
    values = history.every(_RETURN)
    since = history.evaluations[-(limits.window + 1)][0]
    before = [value for step, value in _with_steps(history) if step <= since]
    if len(values) < 4 or not before or values[-1] <= before[-1]:
        return []
    if recent[0] - recent[-1] < limits.more["fall"] * max(spread, 1e-8):
        return []
    detail = f"evaluations {recent[0]:.4g} to {recent[-1]:.4g}, training {before[-1]:.4g} to {values[-1]:.4g}"
    return graded(history, "evaluation-falls", limits.window + 0.5, detail=detail)


def return_collapse(history: History) -> list[Finding]:
    """Most of what had been gained is gone."""
    limits = LIMITS["return-collapse"]
    values = history.every(_RETURN)
    if len(values) < limits.warmup:
        return []
    first, best = sum(values[:5]) / 5, max(values)
    gain = best - first
    now = max(values[-limits.window :])
    if gain <= 0.2 * max(abs(first), abs(best), 1e-8):
        return []
    return graded(history, "return-collapse", (best - now) / gain, detail=f"best {best:.4g}, now {now:.4g}")


def return_flat(history: History) -> list[Finding]:
    """After a part of the training the return is where it began."""
    limits, total = LIMITS["return-flat"], history.settings.total_timesteps
    values = history.every(_RETURN)
    if total is None or history.step < limits.more["part"] * total or len(values) < limits.warmup:
        return []
    first, now = sum(values[: limits.window]) / limits.window, mean_return(history, limits.window) or 0.0
    scale = max(abs(first), abs(now), 1e-8)
    return graded(history, "return-flat", (now - first) / scale, detail=f"from {first:.4g} to {now:.4g}")


def horizon_short(history: History) -> list[Finding]:
    """Episodes are many times as long as the discount looks ahead."""
    gamma, length = history.settings.gamma, history.median("rollout/ep_len_mean", 5)
    if gamma is None or not length or not 0.0 <= gamma < 1.0:
        return []
    horizon = 1.0 / (1.0 - gamma)
    return graded(history, "horizon-short", horizon / length, detail=f"{horizon:.0f} of {length:.0f} steps")


def throughput_decay(history: History) -> list[Finding]:
    """Updates take longer than they did."""
    limits = LIMITS["throughput-decay"]
    speeds = history.every("doctor/steps_per_second")
    elapsed = history.latest("time/time_elapsed") or 0.0
    if len(speeds) < limits.warmup or elapsed < limits.more["seconds"]:
        return []
    # The first updates compile, warm up and fill caches.
    early, late = median(speeds[5 : 5 + limits.window]), median(speeds[-limits.window :])
    return graded(history, "throughput-decay", late / early if early > 0 else None, detail=f"{late:,.0f} steps/s")


def memory_growth(history: History) -> list[Finding]:
    """The process holds more and more memory."""
    limits = LIMITS["memory-growth"]
    sizes = history.every("time/memory_mib")
    if len(sizes) < limits.warmup:
        return []
    quarter = sizes[len(sizes) // 4 : len(sizes) // 4 + limits.window]
    late = sizes[-limits.window :]
    if median(late) - median(quarter) < limits.more["mib"]:
        return []
    return graded(history, "memory-growth", median(late) / median(quarter), detail=f"{median(late):,.0f} MiB")


def _with_steps(history: History) -> list[tuple[int, float]]:
    """Training returns with their timesteps."""
    pairs = zip(history.steps, history.columns.get(_RETURN, []), strict=False)
    return [(step, value) for step, value in pairs if value == value]


RULES = (
    evaluation_falls,
    return_collapse,
    return_flat,
    horizon_short,
    throughput_decay,
    memory_growth,
)
