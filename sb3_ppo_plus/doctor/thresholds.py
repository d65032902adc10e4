"""
Every limit of the doctor in one table, each with its source.

Sources: *37 details* is "The 37 implementation details of PPO" (Huang et al. 2022); *Jones* is Andy Jones's "Debugging
RL, without the agonizing pain" (2021); *Andrychowicz* is "What matters in on-policy RL" (2020); *zoo* is the search
range of RL Baselines3 Zoo; *Sokar* is "The dormant neuron phenomenon" (2023). *Calibrated* limits were moved until
healthy runs of `benchmarks/doctor_faults.py` stayed quiet, on seeds that its results do not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Limits:
    """
    Where a measured value becomes a finding.

    :param what: what is measured
    :param source: where the numbers come from
    :param info: limit of the severity, None where the rule has none
    :param warning: the same
    :param alarm: the same
    :param below: whether values below the limits are the bad ones
    :param window: updates that are looked at; their median counts unless the rule says otherwise
    :param warmup: updates before the rule says anything
    :param patience: consecutive updates that a finding must hold before it is told
    :param more: further numbers of the rule, by name
    """

    what: str
    source: str
    info: float | None = None
    warning: float | None = None
    alarm: float | None = None
    below: bool = False
    window: int = 5
    warmup: int = 0
    patience: int = 3
    more: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


_GUIDES = "practitioners' guides"

LIMITS: dict[str, Limits] = {
    # ------------------------------------------------ size of the updates
    "kl-high": Limits(
        "KL of an update in nats", "37 details: below 0.02 is usual; calibrated", warning=0.06, alarm=0.2, warmup=3
    ),
    "kl-spike": Limits(
        "KL of one update in nats, and ten times the usual one",
        f"{_GUIDES}: above 0.5 the data is stale; calibrated",
        warning=0.2,
        alarm=0.5,
        window=20,
        patience=1,
        more={"times": 10.0, "usual": 0.02, "compared": 5},
    ),
    "kl-drift": Limits(
        "KL now, as a multiple of the KL at the start", "calibrated", info=5.0, window=10, warmup=40, more={"kl": 0.02}
    ),
    "learning-rate-high": Limits(
        "KL after the first passes of an update; as a setting above 0.01",
        "Schulman et al. 2017: a KL target of 0.01 to 0.03; calibrated",
        warning=0.06,
        alarm=0.3,
        warmup=2,
        more={"clip_fraction": 0.45, "setting": 1e-2, "setting_alarm": 5e-2},
    ),
    "learning-rate-low": Limits(
        "KL of an update; as a setting below 3e-6",
        f"{_GUIDES}: below 1e-3 hardly anything is learned; calibrated",
        info=1e-3,
        warning=2e-5,
        below=True,
        window=10,
        warmup=10,
        more={"clip_fraction": 0.01, "annealed": 0.3, "setting": 3e-6},
    ),
    "learning-rate-stuck": Limits(
        "share of updates at a bound of the controller",
        "half of the updates at a bound",
        warning=0.5,
        window=20,
        warmup=20,
    ),
    "policy-frozen": Limits(
        "KL of every update so far, or weights of the actor that never change",
        "no change at all, to float32 rounding",
        alarm=1e-9,
        below=True,
        warmup=3,
    ),
    "clip-fraction-high": Limits(
        "share of clipped rows",
        f"{_GUIDES}: 0.05 to 0.3 is usual, above 0.5 too fast; calibrated",
        info=0.3,
        warning=0.45,
        alarm=0.7,
        warmup=3,
        more={"clip_range": 0.05},
    ),
    "clip-fraction-low": Limits(
        "share of clipped rows",
        f"{_GUIDES}: below 0.01 nothing moves",
        info=0.002,
        below=True,
        window=20,
        warmup=20,
        more={"clip_range": 0.05, "annealed": 0.3},
    ),
    "clip-range-wide": Limits("clip range", "zoo: 0.1 to 0.4", warning=0.5, alarm=2.0, patience=1),
    "clip-range-narrow": Limits("clip range", "zoo: 0.1 to 0.4", warning=0.05, below=True, patience=1),
    "ratio-extreme": Limits(
        "largest probability ratio of an update",
        "TRL stops at a ratio of 10; calibrated",
        info=10.0,
        warning=100.0,
        warmup=3,
    ),
    "ratio-start": Limits(
        "largest distance of the ratio from 1 before an update",
        "1 by construction, to float32 rounding",
        warning=1e-2,
        alarm=0.1,
        patience=1,
        window=1,
    ),
    "epochs-many": Limits(
        "KL after the last pass, and five times the KL after the first ones; as a setting above 20 (info) or 40",
        "Andrychowicz: 3 to 10 epochs; calibrated",
        warning=0.06,
        warmup=3,
        more={"growth": 5.0, "setting": 20.0, "setting_warning": 40.0},
    ),
    # ------------------------------------------------ exploration
    "entropy-collapse": Limits(
        "share of the largest entropy; of numbers, a log std below -4, or a fall of it by 1.5 in ten updates",
        f"{_GUIDES}: near 0 of a discrete policy's largest entropy, a log std below -4",
        warning=0.05,
        below=True,
        warmup=3,
        more={"log_std": -4.0, "fall": 1.5, "fall_window": 10},
    ),
    "entropy-runaway": Limits(
        "standard deviation, as a multiple of the one at the start",
        "rl_games: a growing sigma; calibrated",
        warning=2.0,
        window=20,
        warmup=20,
    ),
    "entropy-stuck": Limits(
        "share of the largest entropy; a warning only with an entropy bonus above 0.05",
        "Jones: near 1 means not learning; calibrated",
        info=0.98,
        warning=0.98,
        window=10,
        warmup=30,
        more={"ent_coef": 0.05},
    ),
    "entropy-coef-high": Limits(
        "entropy coefficient", "Andrychowicz: 0 to 0.1; zoo: up to 0.1", warning=0.1, patience=1
    ),
    "entropy-coef-negative": Limits("entropy coefficient", "by definition", warning=0.0, below=True, patience=1),
    "action-saturation": Limits(
        "share of the actions' numbers outside of the bounds",
        f"{_GUIDES}: half of the actions; calibrated",
        info=0.5,
        warning=0.9,
        warmup=2,
    ),
    # ------------------------------------------------ critic, rewards, advantages
    "critic-lagging": Limits(
        "explained variance",
        "Jones: 0 means no better than the mean; calibrated",
        warning=0.02,
        below=True,
        window=10,
        warmup=20,
        patience=1,
        more={"spread": 0.1, "followed": 0.5},
    ),
    "critic-blowup": Limits(
        "explained variance; or the value loss: a hundred times the usual one while that is negative, a thousand once",
        "Jones: residual variance starts at 1 and falls; calibrated",
        warning=-1.0,
        alarm=-10.0,
        below=True,
        warmup=10,
        more={"times": 100.0, "times_once": 1000.0, "times_largest": 10.0},
    ),
    "critic-unweighted": Limits("weight of the value loss", "by definition", alarm=0.0, below=True, patience=1),
    "reward-scale": Limits(
        "99th percentile of the returns' sizes",
        "Jones: targets within 10; calibrated",
        info=100.0,
        warning=1e3,
        alarm=1e5,
        patience=2,
    ),
    "reward-small": Limits(
        "standard deviation of the returns",
        "the error of a new critic; calibrated",
        warning=1e-3,
        below=True,
        more={"size": 0.1},
    ),
    "reward-sparse": Limits(
        "share of rewarded steps", "no reward at all", info=0.001, warning=0.0, below=True, window=5, warmup=10
    ),
    "reward-constant": Limits(
        "range of the rewards, while episodes are all of one length",
        "no difference at all",
        warning=0.0,
        below=True,
        window=5,
        warmup=10,
    ),
    "advantage-outlier": Limits(
        "largest advantage in standard deviations; or a return a hundred times the usual one, and above 1,000",
        "Jones: within 10; calibrated",
        info=10.0,
        warning=50.0,
        more={"peak": 1e3, "times": 100.0},
    ),
    "advantage-bias": Limits(
        "mean of the advantages in standard deviations",
        "half a standard deviation; calibrated",
        info=0.5,
        warning=3.0,
        warmup=10,
    ),
    # ------------------------------------------------ data
    "nonfinite": Limits("how many numbers", "by definition", alarm=0.0, window=1, patience=1),
    "envs-duplicate": Limits(
        "environments with the seed and the start of another", "by definition", alarm=0.0, window=1, patience=1
    ),
    "envs-synchronized": Limits(
        "share of the environments that end together", "Jones: identical starts", info=0.9, window=5, patience=2
    ),
    "truncation-missing": Limits(
        "share of truncations among episodes of one length",
        "by definition",
        warning=0.0,
        below=True,
        patience=1,
        more={"ends": 8, "length": 8},
    ),
    "observation-scale": Limits(
        "largest standard deviation of a dimension, 28 times the smallest or more",
        "Andrychowicz: normalize observations; calibrated",
        warning=1.5,
        more={"spread": 28.0},
    ),
    "observation-constant": Limits(
        "share of the dimensions; 1 as well when nothing moves within episodes",
        "no difference at all",
        info=0.0,
        alarm=1.0,
        patience=2,
    ),
    # ------------------------------------------------ networks
    "gradient-spike": Limits(
        "largest norm of an update, as a multiple of the usual one",
        "100 times the median, and three times any before; calibrated",
        warning=100.0,
        window=20,
        warmup=10,
        patience=1,
        more={"times_largest": 3.0},
    ),
    "gradient-clipped": Limits(
        "norm of the gradients, as a multiple of max_grad_norm",
        "ten times max_grad_norm",
        info=10.0,
        window=20,
        warmup=20,
    ),
    "dead-units": Limits(
        "share of the actor's units", "Sokar: dormant at tau = 0.025; calibrated", warning=0.5, window=2, patience=2
    ),
    "rank-collapse": Limits(
        "rank of the actor's features, as a share of the one at the start",
        "four fifths of the rank lost",
        warning=0.2,
        below=True,
        window=2,
        patience=2,
    ),
    # ------------------------------------------------ machine
    "throughput-decay": Limits(
        "speed now, as a share of the speed at the start, after a minute",
        "Jones: decay means a leak; calibrated",
        info=0.7,
        warning=0.3,
        below=True,
        window=20,
        warmup=60,
        patience=20,
        more={"seconds": 60.0},
    ),
    "memory-growth": Limits(
        "memory now, as a multiple of that after a quarter of the training",
        "half more than after the start, and 500 MiB; calibrated",
        warning=1.5,
        window=10,
        warmup=40,
        more={"mib": 500.0},
    ),
    # ------------------------------------------------ what comes of it
    "evaluation-falls": Limits(
        "evaluations in a row", "three evaluations in a row", warning=3.0, window=3, patience=1, more={"fall": 0.25}
    ),
    "return-collapse": Limits(
        "lost share of what had been gained", "calibrated", warning=0.6, window=10, warmup=30, patience=10
    ),
    "return-flat": Limits(
        "gain after a third of the training, relative",
        "a third of the training",
        info=0.05,
        below=True,
        window=10,
        warmup=30,
        more={"part": 0.33},
    ),
    "horizon-long": Limits("1 / (1 - gamma), as a multiple of n_steps", "ten rollouts", info=10.0, patience=1),
    "horizon-short": Limits(
        "1 / (1 - gamma), as a share of the episodes' length",
        "a tenth of an episode",
        info=0.1,
        below=True,
        patience=1,
        warmup=3,
    ),
    "gamma-odd": Limits(
        "gamma; a warning at 1 as well",
        "Andrychowicz: 0.95 to 0.999",
        warning=0.8,
        below=True,
        patience=1,
        more={"high": 1.0},
    ),
    "batch-small": Limits(
        "rows of a minibatch", "zoo: 8 to 512; calibrated", info=31, warning=15, below=True, patience=1
    ),
    "batch-uneven": Limits("rows of the last minibatch", "Stable-Baselines3 warns as well", info=0.0, patience=1),
    "rollout-small": Limits(
        "rows of a rollout", "zoo: 8 steps of 8 environments and more", warning=63, below=True, patience=1
    ),
    # ------------------------------------------------ before training
    "env-check": Limits(
        "whether it found something", "Stable-Baselines3's check_env", warning=0.0, alarm=0.0, patience=1
    ),
    "env-nondeterministic": Limits("whether they differ", "by definition", warning=0.0, patience=1),
    "env-seed-ignored": Limits("whether they are equal", "by definition", info=0.0, patience=1),
    "env-slow": Limits(
        "steps per second of one environment", "100 steps per second", info=100.0, below=True, patience=1
    ),
    "observation-bounds": Limits("steps of random play", "by definition", warning=0.0, patience=1),
    "action-bounds": Limits(
        "largest bound; a warning below 0.1 as well",
        "a new Gaussian policy has std 1",
        info=10.0,
        warning=100.0,
        patience=1,
        more={"tiny": 0.1},
    ),
    "episode-endless": Limits("steps of random play", "2,000 steps", info=2000, patience=1),
}
