"""Figures to words, for terminals and pages. A figure that does not exist is a dash."""

from pointsman.review.metrics import Share

NOTHING = "–"
_LONGEST = 240


def percent(value: Share | float | None) -> str:
    """Return a share as a person reads it."""
    if value is None:
        return NOTHING
    return f"{100 * (value.value if isinstance(value, Share) else value):.1f}\N{NO-BREAK SPACE}%"


def interval(value: Share | None) -> str:
    """Return the 95 % interval of a share, in percent."""
    if value is None:
        return NOTHING
    low, high = value.interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def cut(text: str) -> str:
    """Return a text that fits a table."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
