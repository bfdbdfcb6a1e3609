"""One past decision on its way to what a proposed configuration makes of it."""

from dataclasses import dataclass

from pointsman.policy.rules import Ruling
from pointsman.values.decision import Evidence
from pointsman.values.ledger import Past

REFUSED = "refused"
"""Where those go that would get an error."""


@dataclass(slots=True)
class Case:
    """One decision on its way; `evidence` is None until it is known, `after` until it is decided."""

    past: Past
    ruling: Ruling | None = None
    evidence: Evidence | None = None
    by: str = "known"
    after: str | None = None
    moves: bool = False

    @property
    def before(self) -> str:
        """Where it went."""
        return went_to(self.past)


def went_to(past: Past) -> str:
    """Return where a request was sent first: a specialist's name, or a model's."""
    return str(past.asked.get("to") or past.routed_to or past.model)
