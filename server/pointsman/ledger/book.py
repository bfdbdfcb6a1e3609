"""What the cloud said beside local answers, to ledger and metrics."""

from dataclasses import replace

from pointsman.ledger.metrics import Metrics
from pointsman.ledger.writer import LedgerWriter
from pointsman.values.ledger import Comparison


class Book:
    """Keeps comparisons, and says what they have cost; `generation.shadows` asks it."""

    def __init__(self, ledger: LedgerWriter, metrics: Metrics, *, text: bool) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._text = text

    def keep(self, row: Comparison) -> None:
        """Take one; returns at once. What was answered is kept only where texts are."""
        self._metrics.compared(row)
        self._ledger.note(row if self._text else replace(row, answer=None))

    def spent(self, since: float) -> float:
        """Return what comparisons since a moment, in Unix seconds, cost; see `LedgerWriter.spent`."""
        return self._ledger.spent(since)
