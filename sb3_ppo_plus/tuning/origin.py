"""Where a configuration comes from, in the lines that stand above it in a zoo file."""

from __future__ import annotations

import numpy as np

from sb3_ppo_plus.statistics import bootstrap_interval, interquartile_mean
from sb3_ppo_plus.tuning.records import Candidate, Comparison
from sb3_ppo_plus.tuning.study import Opened

_BASELINES = {"current": "what the study started from", "sb3": "SB3's defaults"}


def origin_of(opened: Opened, name: str, candidate: Candidate | None, comparisons: tuple[Comparison, ...]) -> list[str]:
    """
    :param opened: the study
    :param name: name of the configuration
    :param candidate: what it scored, None when it was not confirmed
    :param comparisons: beside the baselines
    :return: lines: the study, the versions, then the confirmation
    """
    spec = opened.spec
    versions = ", ".join(f"{package} {version}" for package, version in (spec.versions or {}).items())
    lines = [f"Tuned: {name} of study {spec.name}, made by `{spec.command}`", f"with {versions}."]
    if candidate is None or not candidate.scores:
        return [*lines, f"Not confirmed: {spec.goal.names[0]} of one training."]
    scores = np.array(list(candidate.scores.values()))
    low, high = bootstrap_interval(interquartile_mean, scores)
    seeds = ", ".join(map(str, sorted(candidate.scores)))
    lines.append(
        f"Confirmed on training seeds {seeds}: {spec.goal.names[0]}, interquartile mean "
        f"{float(interquartile_mean(scores)):,.1f} [{low:,.1f}, {high:,.1f}]."
    )
    for comparison in comparisons:
        lines.append(
            f"Against {_BASELINES[comparison.baseline]}: {comparison.difference:+,.1f} "
            f"[{comparison.interval[0]:,.1f}, {comparison.interval[1]:,.1f}], probability of improvement "
            f"{comparison.probability:.2f} [{comparison.probability_interval[0]:.2f}, "
            f"{comparison.probability_interval[1]:.2f}]."
        )
    return lines
