"""
The confirmation of a study: a race among its best trials, then the winner beside the baselines on other seeds.

The best trial of a search is the best of many noisy numbers, so its own number is too good. The race repeats the best
few on seeds the search has not used and drops those that lag behind; its winner is then trained on yet other seeds,
which neither the search nor the race has seen, as are the baselines. What is reported comes from these last seeds
alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sb3_ppo_plus.errors import InvalidArgument
from sb3_ppo_plus.runs.config import complete_hyperparameters
from sb3_ppo_plus.statistics import (
    bootstrap_interval,
    interquartile_mean,
    iqm_difference,
    probability_of_improvement,
    wilcoxon_less,
)
from sb3_ppo_plus.tuning.lease import REASON
from sb3_ppo_plus.tuning.records import Candidate, Comparison
from sb3_ppo_plus.tuning.settings import SB3_DEFAULTS, apply_settings
from sb3_ppo_plus.tuning.spec import StudySpec
from sb3_ppo_plus.tuning.study import EVALUATIONS, JOB, SETTINGS, Opened, add_jobs, open_confirmation

BASELINES = ("current", "sb3")
RACE, FINAL = "race", "final"
DECISION = "decision"
# The smallest p-value of the signed-rank test is 2 to the power of minus the pairs: with fewer it stays above 0.1.
_FIRST_ROUNDS = 4
# Keys of a configuration that a baseline shares with the study, since they are the task and not its solution.
_TASK = ("env", "n_timesteps", "vec_env", "env_kwargs", "env_wrapper", "frame_stack", "eval_freq", "eval_episodes")
_MACHINE = ("device", "threads")


@dataclass(frozen=True)
class Plan:
    """
    How a study is confirmed.

    :param top_k: trials that enter the race; more finds a better one and costs a run on each race seed
    :param race_seeds: training seeds of the race; at least 4 before anybody can be dropped
    :param seeds: training seeds of the comparison; 10 is usual, more gives a narrower interval
    :param baselines: ``current`` (what the study started from), ``sb3`` (SB3's defaults), or both
    :param alpha: p-value at which a candidate is dropped; larger drops sooner, 0.1 is usual
    """

    top_k: int = 5
    race_seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    seeds: tuple[int, ...] = tuple(range(200, 210))
    baselines: tuple[str, ...] = BASELINES
    alpha: float = 0.1

    def check(self, spec: StudySpec) -> None:
        """
        :param spec: the study
        :raises InvalidArgument: for seeds that were used before, or baselines that are unknown
        """
        if self.top_k < 1:
            raise InvalidArgument(f"top_k is {self.top_k}; give at least 1")
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown or not self.baselines:
            raise InvalidArgument(
                f"baselines is {', '.join(self.baselines) or 'empty'}; choose of {', '.join(BASELINES)}"
            )
        if len(self.seeds) < 3 or not self.race_seeds:
            raise InvalidArgument("give at least 3 confirm seeds and 1 race seed; fewer cannot show a difference")
        known = {"the search": spec.seeds, "the race": self.race_seeds, "the comparison": self.seeds}
        for (one, first), (other, second) in combinations(known.items(), 2):
            both = sorted(set(first) & set(second))
            if both:
                raise InvalidArgument(f"seeds {both} are used by {one} and by {other}; held-out seeds must be others")


@dataclass
class Entrant:
    """
    A candidate with what it has scored.

    :param name: name
    :param settings: what makes it differ from the base
    :param config: whole configuration of its runs
    :param scores: stage to seed to score, larger is better
    :param reason: why one of its runs failed, empty when none did
    :param curves: of the comparison
    """

    name: str
    settings: dict[str, Any]
    config: dict[str, Any]
    scores: dict[str, dict[int, float]] = field(default_factory=lambda: {RACE: {}, FINAL: {}})
    curves: dict[int, tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=dict)
    reason: str = ""
    dropped: str = ""


class Confirmation:
    """
    A confirmation as far as it has come; everything it knows is in the storage, so it can go on anywhere.

    :param opened: the study that is confirmed
    :param plan: how
    :raises InvalidArgument: when there is nothing to confirm
    """

    def __init__(self, opened: Opened, plan: Plan) -> None:
        plan.check(opened.spec)
        self.search, self.plan, self.spec = opened, plan, opened.spec
        self.entrants = {entrant.name: entrant for entrant in self._candidates()}
        if not self.entrants:
            raise InvalidArgument(f"study {opened.name} has no finished trial; nothing can be confirmed")
        self.baselines = {name: Entrant(name, {}, baseline_config(self.spec, name)) for name in plan.baselines}
        confirmation = open_confirmation(opened, create=True)
        assert confirmation is not None
        self.opened = confirmation

    def advance(self) -> bool:
        """
        Look at what has been run, and add what has to be run next.

        :return: whether anything is left to run
        """
        unfinished = self._read()
        wanted = self._wanted()
        missing = [job for job in wanted if (job["candidate"], job["stage"], job["seed"]) not in unfinished]
        add_jobs(self.opened, missing)
        if wanted:
            return True
        self._decide()
        return False

    def total(self) -> int:
        """
        :return: runs that the confirmation takes at most
        """
        finals = len(self.plan.seeds) * (1 + len(self.baselines))
        return len(self.entrants) * len(self.plan.race_seeds) + finals

    def _candidates(self) -> Iterable[Entrant]:
        """The best trials, each configuration once, without that of the study itself."""
        spec, seen = self.spec, {json.dumps(baseline_config(self.spec, "current"), sort_keys=True)}
        found = []
        for trial in best_trials(self.search):
            settings = trial.user_attrs[SETTINGS]
            config = _whole(apply_settings(spec.base, settings).to_mapping())
            key = json.dumps(config, sort_keys=True)
            if key not in seen:
                seen.add(key)
                found.append(Entrant(f"trial {trial.number}", settings, config))
            if len(found) == self.plan.top_k:
                break
        if not found and best_trials(self.search):
            raise InvalidArgument(
                f"no trial of study {self.search.name} differs from what it started from; search further"
            )
        return found

    def _read(self) -> set[tuple[str, str, int]]:
        """Fill in the scores; give the jobs that are still to be run."""
        everybody = {**self.entrants, **self.baselines}
        sign = 1 if self.spec.goal.maximize[0] else -1
        unfinished = set()
        for trial in self.opened.study.get_trials(deepcopy=False):
            job = trial.user_attrs[JOB]
            entrant, key = everybody.get(job["candidate"]), (job["candidate"], job["stage"], job["seed"])
            if entrant is None or job["config"] != entrant.config:
                continue
            if not trial.state.is_finished():
                unfinished.add(key)
            elif trial.state == TrialState.COMPLETE:
                entrant.scores[job["stage"]][job["seed"]] = sign * trial.values[0]
                curve = trial.user_attrs[EVALUATIONS]
                if job["stage"] == FINAL:
                    entrant.curves[job["seed"]] = (tuple(curve["steps"]), tuple(curve["returns"]))
            else:
                entrant.reason = trial.user_attrs.get(REASON, "a run failed")
        return unfinished

    def _wanted(self) -> list[dict[str, Any]]:
        """Jobs without a score: the round of the race that is on, then the comparison."""
        racing = self._race()
        jobs = [
            self._job(entrant, RACE, seed) for entrant, seeds in racing for seed in seeds if seed not in _race(entrant)
        ]
        compared = [] if jobs else [self.winner()]
        for entrant in [*self.baselines.values(), *compared]:
            if not entrant.reason:
                missing = [seed for seed in self.plan.seeds if seed not in entrant.scores[FINAL]]
                jobs += [self._job(entrant, FINAL, seed) for seed in missing]
        return jobs

    def _race(self) -> list[tuple[Entrant, tuple[int, ...]]]:
        """Who races on which seeds, as far as the results allow to say."""
        racing = list(self.entrants.values())
        for entrant in racing:
            entrant.dropped = f"a run failed: {entrant.reason}" if entrant.reason else ""
        racing = [entrant for entrant in racing if not entrant.dropped]
        if not racing:
            raise InvalidArgument("every candidate failed in the race; see the files of the confirmation")
        if len(racing) == 1:
            return []
        first = min(_FIRST_ROUNDS, len(self.plan.race_seeds))
        for count in range(first, len(self.plan.race_seeds) + 1):
            seeds = self.plan.race_seeds[:count]
            if any(seed not in _race(entrant) for entrant in racing for seed in seeds):
                return [(entrant, seeds) for entrant in racing]
            leader = max(racing, key=lambda entrant: _mean(entrant, seeds))
            for entrant in racing:
                differences = [_race(entrant)[seed] - _race(leader)[seed] for seed in seeds]
                if entrant is not leader and any(differences):
                    p = wilcoxon_less(np.array(differences))
                    if p <= self.plan.alpha:
                        entrant.dropped = f"behind {leader.name} after {count} seeds (p = {p:.3f})"
            racing = [entrant for entrant in racing if not entrant.dropped]
            if len(racing) == 1:
                break
        return []

    def winner(self) -> Entrant:
        """
        :return: the best of the race so far, by interquartile mean
        """
        racing = [entrant for entrant in self.entrants.values() if not entrant.dropped]
        if len(racing) == 1:
            return racing[0]
        return max(racing, key=lambda entrant: _mean(entrant, tuple(_race(entrant))))

    def _job(self, entrant: Entrant, stage: str, seed: int) -> dict[str, Any]:
        return {"candidate": entrant.name, "stage": stage, "seed": seed, "config": entrant.config}

    def _decide(self) -> None:
        winner = self.winner()
        if winner.reason:
            raise InvalidArgument(f"{winner.name} won the race and failed in the comparison: {winner.reason}")
        failed = [f"{entrant.name} ({entrant.reason})" for entrant in self.baselines.values() if entrant.reason]
        if failed:
            raise InvalidArgument(f"a baseline cannot be run: {'; '.join(failed)}; leave it out with --baselines")
        comparisons = [self._compare(winner, baseline) for baseline in self.baselines.values()]
        ordered = [winner, *self.baselines.values(), *(e for e in self.entrants.values() if e is not winner)]
        sign = 1 if self.spec.goal.maximize[0] else -1
        decision = {
            "plan": asdict(self.plan),
            "candidates": [_record(entrant, sign) for entrant in ordered],
            "comparisons": [asdict(comparison) for comparison in comparisons],
        }
        self.opened.study.set_user_attr(DECISION, json.dumps(decision))

    def _compare(self, winner: Entrant, baseline: Entrant) -> Comparison:
        a, b = (np.array([entrant.scores[FINAL][seed] for seed in self.plan.seeds]) for entrant in (winner, baseline))
        return Comparison(
            winner=winner.name,
            baseline=baseline.name,
            difference=float(iqm_difference(a, b)),
            interval=bootstrap_interval(iqm_difference, a, b),
            probability=float(probability_of_improvement(a, b)),
            probability_interval=bootstrap_interval(probability_of_improvement, a, b),
        )


def best_trials(opened: Opened) -> list[FrozenTrial]:
    """
    :param opened: a study
    :return: finished trials, the best first; with two objectives those of the Pareto front, by the first objective
    """
    two = len(opened.spec.goal.maximize) > 1
    trials = opened.study.best_trials if two else opened.study.get_trials(states=(TrialState.COMPLETE,))
    sign = -1 if opened.spec.goal.maximize[0] else 1
    return sorted(trials, key=lambda trial: (sign * trial.values[0], trial.number))


def baseline_config(spec: StudySpec, name: str) -> dict[str, Any]:
    """
    :param spec: the study
    :param name: ``current`` or ``sb3``
    :return: whole configuration of its runs
    """
    if name == "current":
        return _whole(spec.base)
    task = {key: spec.base[key] for key in (*_TASK, *_MACHINE) if key in spec.base}
    return _whole({**complete_hyperparameters({}), **task, **SB3_DEFAULTS, "normalize": False})


def read_decision(opened: Opened) -> tuple[tuple[Candidate, ...], tuple[Comparison, ...]]:
    """
    :param opened: a study
    :return: candidates, the winner first, and its comparisons; both empty before the confirmation is complete
    """
    confirmation = open_confirmation(opened)
    text = confirmation.study.user_attrs.get(DECISION) if confirmation else None
    if text is None:
        return (), ()
    content = json.loads(text)
    comparisons = [
        Comparison(**{**entry, **{key: tuple(entry[key]) for key in ("interval", "probability_interval")}})
        for entry in content["comparisons"]
    ]
    return tuple(_candidate(entry) for entry in content["candidates"]), tuple(comparisons)


def _record(entrant: Entrant, sign: int) -> dict[str, Any]:
    race, final = (
        {str(seed): sign * score for seed, score in entrant.scores[stage].items()} for stage in (RACE, FINAL)
    )
    curves = {str(seed): curve for seed, curve in entrant.curves.items()}
    return {
        "name": entrant.name,
        "settings": entrant.settings,
        "race": race,
        "scores": final,
        "curves": curves,
        "dropped": entrant.dropped,
    }


def _candidate(entry: dict[str, Any]) -> Candidate:
    numbered = {key: {int(seed): value for seed, value in entry[key].items()} for key in ("race", "scores", "curves")}
    curves = {seed: (tuple(steps), tuple(returns)) for seed, (steps, returns) in numbered["curves"].items()}
    return Candidate(**{**entry, **numbered, "curves": curves})


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    """Without the seed, which each run gets, and in the form that the storage gives back."""
    return json.loads(json.dumps({key: value for key, value in config.items() if key != "seed"}))  # type: ignore[no-any-return]


def _race(entrant: Entrant) -> dict[int, float]:
    return entrant.scores[RACE]


def _mean(entrant: Entrant, seeds: tuple[int, ...]) -> float:
    return float(interquartile_mean(np.array([_race(entrant)[seed] for seed in seeds])))
