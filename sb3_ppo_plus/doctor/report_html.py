"""The report of a run as one page that needs nothing else."""

from __future__ import annotations

import re
from html import escape

from sb3_ppo_plus.doctor.curves import PANELS, draw_panel
from sb3_ppo_plus.doctor.findings import Severity, worst
from sb3_ppo_plus.doctor.history import History
from sb3_ppo_plus.doctor.journal import Action, Entry, Journal
from sb3_ppo_plus.tuning.report_html import document

_GRID = "display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px 28px"
_KINDS = {Severity.INFO: "open", Severity.WARNING: "open", Severity.ALARM: "bad"}


def report_page(title: str, history: History, journal: Journal, ended_by: str = "") -> str:
    """
    :param title: name of the run
    :param history: what it logged
    :param journal: what was found, and done
    :param ended_by: error that ended the run, empty for none
    :return: the source of the page
    """
    findings = journal.findings()
    entries = [journal.entries[finding.code] for finding in findings]
    drawings = [drawing for panel in PANELS if (drawing := draw_panel(panel, history, entries))]
    body = [f"<h1>{escape(title)}</h1>", _verdict(history, journal, ended_by)]
    if entries:
        body += ["<h2>What was found</h2>", *(_finding(entry) for entry in entries)]
    if journal.actions:
        rows = "".join(_row(action) for action in journal.actions)
        body.append(f'<h2>What was done</h2><div class="scroll"><table><tbody>{rows}</tbody></table></div>')
    if drawings:
        body.append(f'<h2>Curves</h2><div style="{_GRID}">{"".join(drawings)}</div>')
    return document(title, "\n".join(body))


def _verdict(history: History, journal: Journal, ended_by: str) -> str:
    findings = journal.findings()
    severity = worst(findings)
    seen = f"{len(history):,} updates, {history.step:,} steps"
    if severity is None:
        kind, text = "good", f"Nothing was found in {seen}."
    else:
        counts = [(level, sum(finding.severity == level for finding in findings)) for level in reversed(Severity)]
        said = ", ".join(f"{count} {_plural(level.word, count)}" for level, count in counts if count)
        kind, text = ("good" if severity == Severity.INFO else _KINDS[severity]), f"{said} in {seen}."
    if ended_by:
        kind, text = "bad", f"{text} The run was ended by {ended_by}"
    return f'<p class="verdict {kind}">{escape(text)}</p>'


def _finding(entry: Entry) -> str:
    finding = entry.finding
    when = f"steps {entry.first:,} to {entry.last:,}" if entry.last else "before the first step"
    measured = f"{finding.value:.4g} (limit {finding.threshold:.4g})"
    lines = [
        f"<b>{escape(finding.severity.word)}: {escape(finding.meaning.title)}</b> "
        f"<code>{escape(finding.code)}</code>, {escape(when)}",
        f"{escape(finding.meaning.why)}",
        f"Measured: {escape(measured)}{'; ' + escape(finding.detail) if finding.detail else ''}.",
        f"Change <code>{escape(finding.meaning.argument)}</code>: {_code(finding.remedy)}. "
        f"More: <code>{escape(finding.page)}</code>",
    ]
    kind = "" if finding.severity == Severity.INFO else f" {_KINDS[finding.severity]}"
    return f'<p id="{finding.code}" class="verdict{kind}" style="font-size:1rem">{"<br>".join(lines)}</p>'


def _code(text: str) -> str:
    """What stands between backticks, as the page shows code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _row(action: Action) -> str:
    cells = (f"{action.step:,}", action.code, action.what)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _plural(word: str, count: int) -> str:
    return word if count == 1 or word == "info" else f"{word}s"
