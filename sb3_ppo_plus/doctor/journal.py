"""What was found over a run: each code once, from when to when, and how bad at worst; and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sb3_ppo_plus.doctor.findings import Finding, Severity
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.rules import RULES, check_settings
from sb3_ppo_plus.doctor.thresholds import LIMITS


@dataclass
class Entry:
    """
    A code that was found.

    :param finding: at its worst
    :param first: timestep at which it was told
    :param last: timestep at which it held last
    :param updates: how many updates it held since it was told
    """

    finding: Finding
    first: int
    last: int
    updates: int = 1


@dataclass(frozen=True)
class Action:
    """
    Something that the doctor did.

    :param step: timestep
    :param code: code of the finding that it followed from
    :param what: what was done, in words, with the numbers before and after
    """

    step: int
    code: str
    what: str


class Journal:
    """
    Keeps findings, and tells each of them once for each severity, after it has held for a while.

    :param ignore: codes that are left out
    """

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self.ignore = frozenset(ignore)
        self.entries: dict[str, Entry] = {}
        self.actions: list[Action] = []
        self._streaks: Counter[tuple[str, int]] = Counter()

    def note(self, step: int, findings: Iterable[Finding], at_once: bool = False) -> list[Finding]:
        """
        Take the findings of an update.

        :param step: timestep
        :param findings: all that hold now
        :param at_once: tell them without waiting whether they hold for a while, as what follows from settings alone
        :return: those to be told: new ones, and those that became worse
        """
        worst: dict[str, Finding] = {}
        for finding in findings:
            known = worst.get(finding.code)
            if finding.code not in self.ignore and (known is None or finding.severity > known.severity):
                worst[finding.code] = finding
        held = {(code, level) for code, finding in worst.items() for level in range(1, finding.severity + 1)}
        self._streaks = Counter({key: self._streaks[key] + 1 for key in held})
        settled = (finding if at_once else self._settled(finding) for finding in worst.values())
        told = [finding for finding in settled if finding is not None]
        return [finding for finding in told if self._keep(step, finding)]

    def _settled(self, finding: Finding) -> Finding | None:
        """The finding with the highest severity that has held long enough."""
        patience = LIMITS[finding.code].patience
        held = (level for level in range(finding.severity, 0, -1) if self._streaks[finding.code, level] >= patience)
        level = next(held, None)
        return None if level is None else Finding(**{**vars(finding), "severity": Severity(level)})

    def _keep(self, step: int, finding: Finding) -> bool:
        """Whether it is new, or worse than before."""
        entry = self.entries.get(finding.code)
        if entry is None:
            self.entries[finding.code] = Entry(finding, step, step)
            return True
        entry.last, entry.updates = step, entry.updates + 1
        if finding.severity > entry.finding.severity:
            entry.finding = finding
            return True
        return False

    def keep(self, finding: Finding, first: int, last: int, updates: int) -> None:
        """
        Take over what was found elsewhere.

        :param finding: a finding
        :param first: timestep at which it was told
        :param last: timestep at which it held last
        :param updates: how many updates it held
        """
        self.entries[finding.code] = Entry(finding, first, last, updates)

    def forgive(self, codes: Iterable[str]) -> None:
        """
        Begin to count anew how long findings have held, after something was done about them.

        :param codes: their codes
        """
        for key in [key for key in self._streaks if key[0] in codes]:
            del self._streaks[key]

    def current(self, step: int) -> list[Finding]:
        """
        :param step: timestep
        :return: what holds at it
        """
        return [entry.finding for entry in self.entries.values() if entry.last == step]

    def findings(self, least: Severity = Severity.INFO) -> list[Finding]:
        """
        :param least: lowest severity
        :return: everything of it and above, the worst first, then the earliest
        """
        entries = [entry for entry in self.entries.values() if entry.finding.severity >= least]
        return [entry.finding for entry in sorted(entries, key=lambda entry: (-entry.finding.severity, entry.first))]

    def state_dict(self) -> dict[str, Any]:
        """:return: plain data"""
        return {
            "entries": [
                {**entry.finding.to_mapping(), "first": entry.first, "last": entry.last, "updates": entry.updates}
                for entry in self.entries.values()
            ],
            "actions": [vars(action) for action in self.actions],
            "streaks": [[code, level, count] for (code, level), count in self._streaks.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        :param state: what :meth:`state_dict` gave
        """
        self.entries = {
            str(values["code"]): Entry(
                Finding.from_mapping(values), int(values["first"]), int(values["last"]), int(values["updates"])
            )
            for values in state["entries"]
        }
        self.actions = [Action(**action) for action in state["actions"]]
        self._streaks = Counter({(str(code), int(level)): int(count) for code, level, count in state["streaks"]})


def find(history: History) -> list[Finding]:
    """
    :param history: a run so far
    :return: what all rules say about it now
    """
    return [finding for rule in RULES for finding in rule(history)]


def examine(history: History, ignore: Iterable[str] = ()) -> Journal:
    """
    Go through a run from its start, as if it were under way.

    :param history: the whole run
    :param ignore: codes that are left out
    :return: what was found, and when
    """
    journal, seen = Journal(ignore), History(history.settings)
    journal.note(0, check_settings(history.settings), at_once=True)
    evaluations = sorted(history.evaluations)
    for index, step in enumerate(history.steps):
        while evaluations and evaluations[0][0] <= step:
            seen.add_evaluation(*evaluations.pop(0))
        values = {name: column[index] for name, column in history.columns.items()}
        seen.append(step, {name: value for name, value in values.items() if value == value})
        journal.note(step, find(seen))
    if evaluations and history.steps:
        seen.evaluations += evaluations
        journal.note(history.step, find(seen))
    return journal
