"""Rules about the critic and what it learns from: explained variance, value loss, rewards, advantages."""

from __future__ import annotations

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import LOOK_EVERY, History, median
from sb3_ppo_plus.doctor.rules.grading import at_most, graded, has_learned
from sb3_ppo_plus.doctor.thresholds import LIMITS

_EXPLAINED, _VALUE_LOSS = "train/explained_variance", "train/value_loss"


def critic_lagging(history: History) -> list[Finding]:
    """Its predictions are no better than the mean of the returns."""
    limits = LIMITS["critic-lagging"]
    if _returns_are_alike(history):
        return []
    found = graded(history, "critic-lagging", history.median(_EXPLAINED, limits.window))
    # A critic that has followed before is one that has nothing to explain for a while.
    return (
        at_most(found, Severity.INFO) if found and max(history.every(_EXPLAINED)) > limits.more["followed"] else found
    )


def critic_blowup(history: History) -> list[Finding]:
    """Its errors are larger than the spread of the returns, or its loss is a hundred times the usual one."""
    limits = LIMITS["critic-blowup"]
    if _returns_are_alike(history):
        return []
    explained = history.median(_EXPLAINED, limits.window)
    found = graded(history, "critic-blowup", explained, detail="explained variance")
    losses = history.last(_VALUE_LOSS, 50)
    if found or explained is None or explained > 0.0 or len(losses) < limits.warmup:
        return found
    usual = median(losses[: -limits.window])
    now = median(losses[-limits.window :])
    if usual > 0.0 and now > limits.more["times"] * usual:
        return graded(history, "critic-blowup", -now / usual, detail="value loss, as a multiple of the usual one")
    return []


def value_loss_spike(history: History) -> list[Finding]:
    """The value loss of one update is a thousand times the usual one, as after a single huge reward."""
    limits = LIMITS["critic-blowup"]
    losses = history.last(_VALUE_LOSS, 50)
    if len(losses) < limits.warmup + LOOK_EVERY:
        return []
    usual, largest = median(losses[:-LOOK_EVERY]), max(losses[-LOOK_EVERY:])
    # In a solved task the usual loss is next to nothing, so it also has to be larger than any before.
    before = max(history.every(_VALUE_LOSS)[:-LOOK_EVERY])
    if usual <= 0.0 or largest <= max(limits.more["times_once"] * usual, limits.more["times_largest"] * before):
        return []
    explained = history.last(_EXPLAINED, LOOK_EVERY)
    if explained and min(explained) > LIMITS["critic-lagging"].more["followed"]:  # returns grew, and it follows
        return []
    detail = "value loss of one update, as a multiple of the usual one"
    return at_most(graded(history, "critic-blowup", -largest / usual, detail=detail), Severity.WARNING)


def reward_scale(history: History) -> list[Finding]:
    """The targets of the critic are far from what a network gives at first."""
    found = graded(history, "reward-scale", history.median("doctor/return_p99", LIMITS["reward-scale"].window))
    return [] if found and found[0].severity == Severity.INFO and history.settings.normalizes_reward else found


def reward_small(history: History) -> list[Finding]:
    """There are rewards, but they hardly make a difference."""
    limits = LIMITS["reward-small"]
    nonzero = history.median("doctor/reward_nonzero", limits.window)
    spread, size = (history.median(f"doctor/return_{name}", limits.window) for name in ("std", "p99"))
    if not nonzero or not spread or size is None or size > limits.more["size"]:
        return []
    return graded(history, "reward-small", spread, detail="standard deviation of the returns")


def reward_sparse(history: History) -> list[Finding]:
    """Nothing, or almost nothing, was rewarded."""
    limits = LIMITS["reward-sparse"]
    shares = history.last("doctor/reward_nonzero", limits.window)
    if len(shares) < limits.window:
        return []
    return graded(history, "reward-sparse", sum(shares) / len(shares), detail="share of rewarded steps")


def reward_constant(history: History) -> list[Finding]:
    """All steps bring the same and all episodes end alike."""
    limits = LIMITS["reward-constant"]
    spread = history.last("doctor/reward_range", limits.window)
    lengths, nonzero = history.last("rollout/ep_len_mean", limits.window), history.last("doctor/reward_nonzero", 1)
    if len(spread) < limits.window or not nonzero or nonzero[-1] == 0.0:
        return []
    if len(lengths) < limits.window or max(lengths) - min(lengths) > 0.0 or _has_moved(history):
        return []
    return graded(history, "reward-constant", max(spread))


def advantage_outlier(history: History) -> list[Finding]:
    """Some advantages are many standard deviations from their mean."""
    return graded(
        history, "advantage-outlier", history.median("doctor/advantage_max", LIMITS["advantage-outlier"].window)
    )


def return_outlier(history: History) -> list[Finding]:
    """Once in a while a return is a hundred times as large as the others."""
    more = LIMITS["advantage-outlier"].more
    peaks, usual = history.last("doctor/return_max", 10), history.median("doctor/return_p99", 10)
    if not peaks or not usual or max(peaks) < max(more["peak"], more["times"] * usual):
        return []
    detail = f"a return of {max(peaks):.3g}, usually {usual:.3g}, as a multiple"
    return graded(history, "advantage-outlier", max(peaks) / usual, detail=detail)


def advantage_bias(history: History) -> list[Finding]:
    """The mean of the advantages is a large part of their spread."""
    if _returns_are_alike(history):
        return []
    value = history.median("doctor/advantage_bias", LIMITS["advantage-bias"].window)
    explained = history.median(_EXPLAINED, LIMITS["advantage-bias"].window)
    found = graded(history, "advantage-bias", value)
    return found if explained is None or explained < 0.5 else at_most(found, Severity.INFO)


def _returns_are_alike(history: History) -> bool:
    """
    Whether all states were lately worth about the same, as when a task is solved: there is nothing left to explain
    then, and what is relative to the spread of the returns says nothing. Where only SB3's log is known, a task whose
    return has risen and stays up counts as solved.
    """
    if not history.every("doctor/return_std"):
        return has_learned(history)
    spreads, sizes = history.last("doctor/return_std", 5), history.last("doctor/return_p99", 5)
    share = LIMITS["critic-lagging"].more["spread"]
    return any(spread < share * size for spread, size in zip(spreads, sizes, strict=False))


def _has_moved(history: History) -> bool:
    """Whether episodes had different lengths or returns at some time."""
    lengths = history.every("rollout/ep_len_mean")
    return max(lengths) - min(lengths) > 1e-9 * max(1.0, abs(lengths[0]))


RULES = (
    critic_lagging,
    critic_blowup,
    value_loss_spike,
    reward_scale,
    reward_small,
    reward_sparse,
    reward_constant,
    advantage_outlier,
    return_outlier,
    advantage_bias,
)
