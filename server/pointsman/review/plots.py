"""Figures of an evaluation to inline SVG, drawn without a display. Needs matplotlib (extra `review`)."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pointsman.review.metrics import Reliability, RiskPoint

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#767676"  # told apart by the colour-blind, too
_SIZE = (6.0, 3.6)  # inches
_BINS = 40
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
}


def draw_risk_coverage(points: Sequence[RiskPoint], served: tuple[float, float] | None) -> str:
    """Draw both risks over coverage, and where the catalog as served stands: (coverage, risk)."""
    figure, axes = _start()
    coverage = [100 * point.coverage for point in points]
    axes.plot(coverage, [100 * p.risk for p in points], color=_BLUE, label="wrong intent, of those accepted")
    axes.plot(
        coverage,
        [100 * p.wrong_specialist for p in points],
        color=_ORANGE,
        linestyle="--",
        label="wrong specialist, of all prompts",
    )
    if served is not None:
        x, y = (100 * value for value in served)
        axes.plot([x], [y], "o", color="black", label="as served")
    axes.set(xlabel="accepted, % of all prompts", ylabel="%", xlim=(0, 102), ylim=(0, None))
    axes.legend(frameon=False)
    return _finish(figure, "risk-coverage", "Risk over coverage")


def draw_reliability(reliability: Reliability) -> str:
    """Draw how often each confidence was right; the diagonal is perfect."""
    figure, axes = _start()
    bins = reliability.bins
    axes.plot([0, 100], [0, 100], color=_GREY, linewidth=1, linestyle=":", label="perfect")
    axes.bar(
        [50 * (b.low + b.high) for b in bins], [100 * b.right for b in bins], width=9, color=_BLUE, alpha=0.35
    )
    x, y = [100 * b.confidence for b in bins], [100 * b.right for b in bins]
    axes.plot(x, y, "o-", color=_BLUE, label="measured")
    for b in bins:
        axes.annotate(
            str(b.count),
            (100 * b.confidence, 100 * b.right),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set(xlabel="confidence, %", ylabel="right intent, %", xlim=(0, 101), ylim=(0, 110))
    axes.legend(frameon=False)
    return _finish(figure, "reliability", "Right intents over confidence; numbers are prompts")


def draw_margins(inside: Sequence[float], outside: Sequence[float]) -> str:
    """Draw histograms of score less threshold, each of its own prompts."""
    figure, axes = _start()
    values = [*inside, *outside]
    low, high = min(0.0, *values), max(0.0, *values)
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(-1, 1, _BINS + 1)
    for group, color, label in ((inside, _BLUE, "in scope"), (outside, _ORANGE, "out of scope")):
        if group:
            weights = np.full(len(group), 100 / len(group))
            axes.hist(
                group, bins=edges, weights=weights, color=color, alpha=0.5, label=f"{label} ({len(group)})"
            )
    axes.axvline(0, color="black", linewidth=1)
    axes.annotate("threshold", (0, 1), xycoords=("data", "axes fraction"), xytext=(3, -8),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set(xlabel="score less threshold", ylabel="% of its prompts")
    axes.legend(frameon=False)
    return _finish(figure, "margins", "Score less threshold, in scope and out of scope")


def draw_shares(
    labels: Sequence[str], shares: Sequence[float], title: str, limit: float | None = None
) -> str:
    """Draw a bar for each share, in per cent; `limit` is a share that they should not pass."""
    figure, axes = _start()
    positions = range(len(labels))
    colors = [_BLUE if limit is None or share <= limit else _ORANGE for share in shares]
    axes.bar(positions, [100 * share for share in shares], color=colors)
    if limit is not None:
        axes.axhline(100 * limit, color="black", linewidth=1, linestyle=":")
    axes.set_xticks(
        positions, labels, rotation=30 if len(labels) > 4 else 0, ha="right" if len(labels) > 4 else "center"
    )
    axes.set(ylabel="%", ylim=(0, None))
    return _finish(figure, title.split(maxsplit=1)[0].lower(), title)


def draw_groups(
    labels: Sequence[str], groups: Sequence[tuple[str, Sequence[float]]], unit: str, title: str
) -> str:
    """Draw bars side by side: of each label one bar a group; the axis is logarithmic."""
    figure, axes = _start()
    width = 0.8 / max(1, len(groups))
    for number, (name, values) in enumerate(groups):
        places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(labels))]
        axes.bar(places, values, width=width, label=name, color=(_BLUE, _ORANGE, _GREY)[number % 3])
    axes.set_xticks(range(len(labels)), labels)
    if any(value > 0 for _, values in groups for value in values):
        axes.set_yscale("log")
    axes.set(ylabel=unit)
    axes.legend(frameon=False)
    return _finish(figure, title.split(maxsplit=1)[0].lower(), title)


def _start() -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # knows no display, unlike pyplot

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        return figure, figure.add_subplot()


def _finish(figure: Any, name: str, title: str) -> str:
    """Return an <svg> that can stand in a page beside others: its ids begin with `name`."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):  # equal figures make equal bytes
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
