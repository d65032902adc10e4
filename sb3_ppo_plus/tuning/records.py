"""What is read out of a study, as plain records: all that status and reports need to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# States of a trial, in the words of the command line.
WAITING, RUNNING, FINISHED, PRUNED, FAILED = "waiting", "running", "finished", "pruned", "failed"


@dataclass(frozen=True)
class Dimension:
    """
    One searched parameter as Optuna knows it.

    :param name: name in the storage (``learning_rate``, ``log2_n_steps``, ``one_minus_gamma``)
    :param low: smallest value; None for choices
    :param high: largest value; None for choices
    :param log: whether it is drawn on a logarithmic scale
    :param choices: labels of the choices, empty for numbers
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialRecord:
    """
    One trial.

    :param number: its number
    :param state: ``waiting``, ``running``, ``finished``, ``pruned`` or ``failed``
    :param params: searched parameters as they were drawn; those that a trial did not need are missing
    :param settings: the same as constructor arguments (``batch_size`` instead of the number of minibatches)
    :param values: one value per objective; None until it is finished
    :param seed: training seed
    :param steps: environment steps of each evaluation so far [E]
    :param returns: mean return of each evaluation so far [E]
    :param origin: where the first trials come from (``zoo``, ``sb3``, ``paper``); empty for drawn ones
    :param reason: why it failed; empty otherwise
    :param started: seconds since 1970, None before
    :param ended: seconds since 1970, None before
    :param worker: who ran it last
    :param attempts: how often it was begun; more than 1 after a worker was lost
    """

    number: int
    state: str
    params: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    seed: int | None = None
    steps: tuple[int, ...] = ()
    returns: tuple[float, ...] = ()
    origin: str = ""
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    worker: str = ""
    attempts: int = 0


@dataclass(frozen=True)
class Candidate:
    """
    One configuration in the confirmation.

    :param name: ``trial 12``, ``current`` (what the study started from) or ``sb3`` (SB3's defaults)
    :param settings: constructor arguments that make it differ
    :param race: score of each seed of the race that picked the winner
    :param scores: score of each held-out seed of the comparison; empty for candidates that lost the race
    :param curves: (steps [E], returns [E]) of each held-out seed
    :param dropped: why it left the race; empty for who stayed
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    race: dict[int, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    curves: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=dict)
    dropped: str = ""


@dataclass(frozen=True)
class Comparison:
    """
    The winner beside a baseline, over held-out seeds.

    :param winner: name of the candidate
    :param baseline: name of the other
    :param difference: interquartile mean of the winner minus that of the baseline, in units of the score; positive is
        better, also where the score is minimized
    :param interval: 95% bootstrap interval of the difference
    :param probability: probability of improvement: that a run of the winner beats one of the baseline
    :param probability_interval: 95% bootstrap interval of it
    """

    winner: str
    baseline: str
    difference: float
    interval: tuple[float, float]
    probability: float
    probability_interval: tuple[float, float]

    @property
    def beats(self) -> bool:
        """Whether the interval of the difference excludes zero on the good side."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class StudyRecord:
    """
    A study and what became of it.

    :param name: its name
    :param env: environment id
    :param objective: ``auc``, ``final``, ``time-to-threshold`` or ``return,wallclock``
    :param objectives: name of each value in words, one or two
    :param maximize: for each value whether more is better
    :param n_timesteps: environment steps of a trial
    :param sampler: name
    :param pruner: name
    :param dimensions: what is searched
    :param trials: every trial, by number
    :param candidates: the confirmation, winner first; empty before it
    :param comparisons: winner against each baseline; empty before it
    :param importances: parameter to its share of what makes trials better (PED-ANOVA); empty with too few
    :param versions: packages that ran it
    :param command: how it was started
    """

    name: str
    env: str
    objective: str
    objectives: tuple[str, ...]
    maximize: tuple[bool, ...]
    n_timesteps: int
    sampler: str
    pruner: str
    dimensions: tuple[Dimension, ...]
    trials: tuple[TrialRecord, ...]
    candidates: tuple[Candidate, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    importances: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
