"""What labelled traffic lets the service promise, as values."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Of the labelled traffic. `left_out` are prompts that stand among the exemplars word for word.

    conversations: labels of a later turn, judged with the turns before it
    """

    total: int
    in_scope: int
    out_of_scope: int
    left_out: int
    conversations: int = 0


@dataclass(frozen=True, slots=True)
class Basis:
    """The settings that a promise depends on.

    rejection, out_of_scope: what thresholds and confidences were fitted with (`routing`)
    mid: who answers intents that point to the mid tier; empty where none does
    scoring: number of the rule that thresholds and confidences come from
    """

    rejection: float
    out_of_scope: float
    mid: str = ""
    scoring: int = 1


@dataclass(frozen=True, slots=True)
class Promise:
    """With this `confidence`, at most `risk` of the next `prompts` go to a wrong specialist; None: of all to come.

    encoder_hash, exemplar_hash: what it holds for; with any other it is stale
    basis: the settings that it holds for; None in a file of a version that did not note them
    slope, intercept: confidence is σ(slope · logit + intercept) of the logit that exemplars alone give
    required_confidence: from which a local intent is accepted; 1 when the labels support no promise
    wrong: labelled prompts that went to a wrong specialist at that confidence
    bound: upper bound of their share among those prompts; local_share: share of prompts answered locally
    labels_missing: how many labels more would support a promise; None when more would not help
    ece, brier: of the calibrated confidence, on the labelled traffic
    """

    encoder_hash: str
    exemplar_hash: str
    made_at: datetime
    labels: LabelCounts
    risk: float
    confidence: float
    slope: float
    intercept: float
    required_confidence: float
    wrong: int
    bound: float
    local_share: float
    labels_missing: int | None
    ece: float
    brier: float
    basis: Basis | None = None
    prompts: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the labels supported it."""
        return self.required_confidence < 1

    def stale(self, encoder_hash: str, exemplar_hash: str, basis: Basis) -> str:
        """Return why it does not hold for this encoder, these exemplars and settings; empty when it does."""
        if self.encoder_hash != encoder_hash:
            return f"made with another encoder ({self.encoder_hash[:12]}, now {encoder_hash[:12]})"
        if self.exemplar_hash != exemplar_hash:
            return "made with other exemplars, targets or thresholds than the catalog has"
        if self.basis is None:
            return "it does not say which routing.rejection and routing.out_of_scope it was made with"
        if self.basis.scoring != basis.scoring:
            return "made by a version of pointsman that sets thresholds in another way"
        for name in ("rejection", "out_of_scope", "mid"):
            made, now = getattr(self.basis, name), getattr(basis, name)
            if made != now:
                return f"made with routing.{name} = {made!r}, now {now!r}"
        return ""
