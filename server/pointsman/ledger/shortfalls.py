"""How often the answers of each specialist fall short, over the last ones; says so when it becomes too often."""

from collections import Counter, deque
from dataclasses import dataclass, field

import structlog

from pointsman.sections import Cascade as CascadeSettings

_log = structlog.get_logger()
_CALM = 0.8
"""An alert ends under this part of the rate at which it began: no flutter around the limit."""
FINE = ""


@dataclass(slots=True)
class _Record:
    outcomes: deque[str]
    alert: bool = False
    counts: Counter[str] = field(default_factory=Counter)


class Shortfalls:
    """Outcomes by specialist, in a sliding window; an empty one is fine, others name the shortfall."""

    def __init__(self, settings: CascadeSettings) -> None:
        self._settings = settings
        self._records: dict[str, _Record] = {}

    def note(self, specialist: str, outcome: str) -> None:
        """Count an answer; logs once when the share becomes too great, and once when it is fine again."""
        record = self._records.setdefault(specialist, _Record(deque()))
        record.outcomes.append(outcome)
        record.counts[outcome] += 1
        if len(record.outcomes) > self._settings.alert_window:
            record.counts[record.outcomes.popleft()] -= 1
        if len(record.outcomes) < self._settings.alert_least:
            return
        share, limit = self.share(specialist), self._settings.alert_rate
        if not record.alert and share > limit:
            record.alert = True
            kinds = {kind: n for kind, n in record.counts.items() if kind and n}
            _log.warning(
                "specialist.falls_short",
                specialist=specialist,
                share=round(share, 4),
                limit=limit,
                answers=len(record.outcomes),
                **kinds,
                advice=_advice(kinds),
            )
        elif record.alert and share < _CALM * limit:
            record.alert = False
            _log.info("specialist.does_well_again", specialist=specialist, share=round(share, 4))

    def share(self, specialist: str) -> float:
        """Return the share of the last answers that fell short; 0 without any."""
        record = self._records.get(specialist)
        if record is None or not record.outcomes:
            return 0.0
        return 1.0 - record.counts[FINE] / len(record.outcomes)

    def alerts(self) -> dict[str, bool]:
        """Return the specialists that were seen, and whether they fall short too often."""
        return {name: record.alert for name, record in self._records.items()}


def _advice(kinds: dict[str, int]) -> str:
    """Return what helps most against the most frequent shortfall."""
    worst = max(kinds, key=lambda kind: kinds[kind])
    if worst == "failed":
        return "its engine fails: look at its log and its memory"
    if worst == "invalid":
        return "train it on more answers in its format, or set output.constrained: always in its manifest"
    if worst == "repetition":
        return "train it anew, or lower max_output_tokens and set stop strings"
    return (
        "train it on prompts like those that escalated (`pointsman train`), or move the threshold: "
        "`pointsman cascade fit` with fresh labels or a greater --risk"
    )
