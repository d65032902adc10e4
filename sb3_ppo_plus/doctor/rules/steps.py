"""Rules about how far an update moves the policy: KL, clip fraction, ratios, learning rate, epochs."""

from __future__ import annotations

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import LOOK_EVERY, History, median
from sb3_ppo_plus.doctor.rules.grading import at_most, graded, is_annealed, number
from sb3_ppo_plus.doctor.thresholds import LIMITS

_KL, _CLIPPED, _RATE = "train/approx_kl", "train/clip_fraction", "train/learning_rate"


def kl_high(history: History) -> list[Finding]:
    """The KL of the latest updates lies above what PPO's estimate bears."""
    value = history.median(_KL, LIMITS["kl-high"].window)
    target = history.settings.target_kl
    if value is not None and target is not None and value <= 2.0 * target:
        return []
    return graded(history, "kl-high", value, _lower_rate(history, 3.0))


def kl_spike(history: History) -> list[Finding]:
    """One of the latest updates moved the policy many times as far as those before."""
    limits = LIMITS["kl-spike"]
    values = history.last(_KL, limits.window + LOOK_EVERY)
    if not values:
        return []
    # At the start there is nothing to compare with yet, but what is large is known.
    known = len(values) >= limits.more["compared"] + LOOK_EVERY
    usual, largest = median(values[:-LOOK_EVERY]) if known else limits.more["usual"], max(values[-LOOK_EVERY:])
    if largest <= limits.more["times"] * usual:
        return []
    return graded(history, "kl-spike", largest, detail=f"usually {usual:.2g}")


def kl_drift(history: History) -> list[Finding]:
    """The KL of an update has become a multiple of what it was."""
    limits = LIMITS["kl-drift"]
    early, late = history.every(_KL)[: 2 * limits.window], history.last(_KL, limits.window)
    if len(history) < limits.warmup or len(late) < limits.window:
        return []
    before, now = median(early), median(late)
    if now < limits.more["kl"] or before <= 0.0:
        return []
    return graded(history, "kl-drift", now / before, detail=f"from {before:.2g} to {now:.2g}")


def learning_rate_high(history: History) -> list[Finding]:
    """The first passes alone move the policy too far, or, where epochs are not logged, nearly everything is clipped."""
    limits = LIMITS["learning-rate-high"]
    early = _early_kl(history, limits.window)
    if early is None:
        clipped = history.median(_CLIPPED, limits.window)
        early = history.median(_KL, limits.window) if clipped and clipped > limits.more["clip_fraction"] else None
    return graded(history, "learning-rate-high", early, _lower_rate(history, 10.0), "KL of the first passes")


def epochs_many(history: History) -> list[Finding]:
    """The KL is small after the first passes and too large after the last."""
    limits = LIMITS["epochs-many"]
    early, late = _early_kl(history, limits.window), history.median(_KL, limits.window)
    epochs = history.settings.n_epochs
    if early is None or late is None or (epochs is not None and epochs < 4) or late < limits.more["growth"] * early:
        return []
    if early > (LIMITS["learning-rate-high"].warning or 0.0):  # then the epochs are not what is wrong
        return []
    remedy = f"n_epochs={max(1, epochs // 2)}, or target_kl=0.02" if epochs else ""
    return graded(history, "epochs-many", late, remedy, f"KL {early:.2g} after the first passes")


def learning_rate_low(history: History) -> list[Finding]:
    """The policy hardly moves although the learning rate is not at the end of a schedule."""
    limits = LIMITS["learning-rate-low"]
    value, clipped = history.median(_KL, limits.window), history.median(_CLIPPED, limits.window)
    if (
        value is None
        or (clipped or 0.0) > limits.more["clip_fraction"]
        or is_annealed(history, limits.more["annealed"])
    ):
        return []
    if value <= (LIMITS["policy-frozen"].alarm or 0.0):
        return []
    rate = history.latest(_RATE) or history.settings.learning_rate
    return graded(history, "learning-rate-low", value, f"learning_rate={number(10 * rate)}" if rate else "")


def learning_rate_stuck(history: History) -> list[Finding]:
    """A learning rate that follows the KL has reached its bound."""
    limits, bounds = LIMITS["learning-rate-stuck"], history.settings.rate_bounds
    rates = history.last(_RATE, limits.window)
    if bounds is None or len(rates) < limits.window:
        return []
    stuck = sum(rate <= bounds[0] * 1.001 or rate >= bounds[1] * 0.999 for rate in rates) / len(rates)
    return graded(history, "learning-rate-stuck", stuck)


def policy_frozen(history: History) -> list[Finding]:
    """No update has changed a probability since the start."""
    limits = LIMITS["policy-frozen"]
    values, clipped = history.last(_KL, limits.window), history.last(_CLIPPED, limits.window)
    rate = history.latest(_RATE)
    if len(values) < limits.window or any(clipped) or is_annealed(history, 0.01) or rate == 0.0:
        return []
    still = history.every("doctor/actor_still")
    if still:
        # The weights themselves say it; the KL is rounded.
        return graded(history, "policy-frozen", 1.0 - min(still)) if len(still) >= limits.window else []
    return graded(history, "policy-frozen", max(abs(value) for value in history.every(_KL)))


def clip_fraction_high(history: History) -> list[Finding]:
    """A large part of the rows gives no gradient."""
    limits = LIMITS["clip-fraction-high"]
    if _clip_range(history) < limits.more["clip_range"]:
        return []
    return graded(history, "clip-fraction-high", history.median(_CLIPPED, limits.window))


def clip_fraction_low(history: History) -> list[Finding]:
    """Nothing reaches the clip range."""
    limits = LIMITS["clip-fraction-low"]
    if _clip_range(history) < limits.more["clip_range"] or is_annealed(history, limits.more["annealed"]):
        return []
    return graded(history, "clip-fraction-low", history.median(_CLIPPED, limits.window))


def ratio_extreme(history: History) -> list[Finding]:
    """Single rows have ratios far outside of the clip range."""
    return graded(history, "ratio-extreme", history.median("train/ratio_max", LIMITS["ratio-extreme"].window))


def ratio_start(history: History) -> list[Finding]:
    """Before the update the policy gives other probabilities than while it collected."""
    values = history.last("doctor/ratio_error", 1)
    return graded(history, "ratio-start", values[-1] if values else None)


def clip_range_moves(history: History) -> list[Finding]:
    """A schedule has carried the clip range out of its usual range."""
    ranges = history.last("train/clip_range", 1)
    return at_most(graded(history, "clip-range-wide", ranges[-1] if ranges else None), Severity.WARNING)


def _early_kl(history: History, window: int) -> float | None:
    """KL of the second pass, or of the only one. That of the first is measured mostly before its steps."""
    name = "train/approx_kl_epoch_1"
    return history.median(name if history.every(name) else "train/approx_kl_epoch_0", window)


def _clip_range(history: History) -> float:
    values = history.last("train/clip_range", 1)
    return values[-1] if values else history.settings.clip_range or 0.2


def _lower_rate(history: History, times: float) -> str:
    rate = history.latest(_RATE) or history.settings.learning_rate
    return f"learning_rate={number(rate / times)}, or target_kl=0.02" if rate else ""


RULES = (
    kl_high,
    kl_spike,
    kl_drift,
    learning_rate_high,
    learning_rate_low,
    learning_rate_stuck,
    policy_frozen,
    clip_fraction_high,
    clip_fraction_low,
    clip_range_moves,
    ratio_extreme,
    ratio_start,
    epochs_many,
)
