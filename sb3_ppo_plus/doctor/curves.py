"""The curves of a run as drawings inside of a page (SVG), with the findings marked where they held."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sb3_ppo_plus.doctor.findings import Severity
from sb3_ppo_plus.doctor.history import History, median
from sb3_ppo_plus.doctor.journal import Entry

_WIDTH, _HEIGHT = 520, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 28
_POINTS = 400
_COLORS = {Severity.INFO: "var(--soft)", Severity.WARNING: "var(--orange)", Severity.ALARM: "var(--bad)"}
_LINES = ("var(--blue)", "var(--orange)")

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """
    One drawing.

    :param title: what it shows
    :param metrics: metrics in it, with their names in the legend
    :param codes: findings that are marked in it
    :param log: whether the values lie on a logarithmic scale
    """

    title: str
    metrics: tuple[tuple[str, str], ...]
    codes: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel(
        "Return of an episode",
        (("rollout/ep_rew_mean", "training"), ("evaluations", "evaluation")),
        ("return-collapse", "return-flat", "evaluation-falls", "reward-sparse", "reward-constant"),
    ),
    Panel(
        "KL of an update",
        (("train/approx_kl", "last epoch"),),
        ("kl-high", "kl-spike", "kl-drift", "learning-rate-high", "learning-rate-low", "policy-frozen", "epochs-many"),
        log=True,
    ),
    Panel(
        "Share of clipped rows",
        (("train/clip_fraction", "clip fraction"),),
        ("clip-fraction-high", "clip-fraction-low"),
    ),
    Panel("Learning rate", (("train/learning_rate", "learning rate"),), ("learning-rate-stuck",)),
    Panel(
        "Explained variance of the critic",
        (("train/explained_variance", "explained variance"),),
        ("critic-lagging", "critic-blowup", "advantage-bias", "reward-scale", "reward-small"),
    ),
    Panel("Value loss", (("train/value_loss", "value loss"),), ("critic-blowup", "nonfinite"), log=True),
    Panel(
        "Entropy loss",
        (("train/entropy_loss", "entropy loss"),),
        ("entropy-collapse", "entropy-stuck", "entropy-runaway"),
    ),
    Panel("Standard deviation of the actions", (("train/std", "std"),), ("entropy-runaway", "entropy-collapse")),
    Panel("Share of actions outside of their bounds", (("doctor/saturation", "saturation"),), ("action-saturation",)),
    Panel(
        "Norm of the gradient",
        (("train/grad_norm", "mean"), ("train/grad_norm_max", "largest")),
        ("gradient-spike", "gradient-clipped"),
        log=True,
    ),
    Panel("Share of dead units", (("doctor/dead_units", "dead units"),), ("dead-units", "rank-collapse")),
    Panel("Steps per second", (("doctor/steps_per_second", "steps per second"),), ("throughput-decay",)),
    Panel("Memory in MiB", (("time/memory_mib", "memory"),), ("memory-growth",)),
)


def draw_panel(panel: Panel, history: History, entries: Sequence[Entry]) -> str:
    """
    :param panel: what to draw
    :param history: the run
    :param entries: what was found
    :return: a figure; empty when there is nothing to draw
    """
    lines = [(label, _points(history, name, panel.log)) for name, label in panel.metrics]
    lines = [(label, points) for label, points in lines if len(points) > 1]
    if not lines:
        return ""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    frame = _Frame(min(xs), max(xs), *_range(ys), panel.log)
    marks = [entry for entry in entries if entry.finding.code in panel.codes]
    parts = [_mark(entry, frame) for entry in marks]
    parts += _axes(frame)
    for index, (label, points) in enumerate(lines):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        title = f"<title>{escape(label)}</title>"
        color = _LINES[index % len(_LINES)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6">{title}</polyline>')
    legend = ", ".join(
        f'<span style="color:{_LINES[index % len(_LINES)]}">{escape(label)}</span>'
        for index, (label, _) in enumerate(lines)
    )
    found = "".join(
        f' · <a href="#{entry.finding.code}" style="color:{_COLORS[entry.finding.severity]}">{entry.finding.code}</a>'
        for entry in marks
    )
    drawing = (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(panel.title)}" '
        f'style="width:100%;height:auto">{"".join(parts)}</svg>'
    )
    return (
        f'<figure style="margin:0"><figcaption><b>{escape(panel.title)}</b> ({legend}){found}</figcaption>'
        f"{drawing}</figure>"
    )


@dataclass(frozen=True)
class _Frame:
    """Where values lie in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, value: float) -> float:
        share = (value - self.x_low) / max(self.x_high - self.x_low, 1e-12)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / max(self.y_high - self.y_low, 1e-300)
        return _TOP + (1.0 - min(1.0, max(0.0, share))) * (_HEIGHT - _TOP - _BOTTOM)


def _points(history: History, name: str, log: bool) -> Points:
    """Values with their timesteps, at most as many as can be seen: the median of each stretch."""
    if name == "evaluations":
        pairs: Points = [(float(step), mean) for step, mean in history.evaluations]
    else:
        column = history.columns.get(name)
        pairs = [] if column is None else [(float(s), v) for s, v in zip(history.steps, column, strict=True)]
    pairs = [(step, value) for step, value in pairs if math.isfinite(value)]
    if log:
        pairs = [(step, math.log10(value)) for step, value in pairs if value > 0.0]
    size = -(-len(pairs) // _POINTS) or 1
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [(chunk[len(chunk) // 2][0], median([value for _, value in chunk])) for chunk in chunks]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Most of the values; what lies far outside is cut off at the edge."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


def _axes(frame: _Frame) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    text = 'font-size="11" fill="var(--soft)"'
    parts = []
    for share in (0.0, 0.5, 1.0):
        value = frame.y_low + share * (frame.y_high - frame.y_low)
        y = frame.y(value)
        shown = _short(10.0**value if frame.log else value)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {text}>{shown}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        value = frame.x_low + share * (frame.x_high - frame.x_low)
        parts.append(
            f'<text x="{frame.x(value):.1f}" y="{bottom + 18}" text-anchor="{anchor}" {text}>{_short(value)}</text>'
        )
    return parts


def _mark(entry: Entry, frame: _Frame) -> str:
    """A band from the first to the last update at which a finding held."""
    first, last = frame.x(entry.first), frame.x(entry.last)
    color = _COLORS[entry.finding.severity]
    title = f"<title>{escape(entry.finding.code)}: steps {entry.first:,} to {entry.last:,}</title>"
    return (
        f'<rect x="{first:.1f}" y="{_TOP}" width="{max(2.0, last - first):.1f}" height="{_HEIGHT - _TOP - _BOTTOM}" '
        f'fill="{color}" opacity="0.16">{title}</rect>'
        f'<line x1="{first:.1f}" x2="{first:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="{color}"/>'
    )


def _short(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-2):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
