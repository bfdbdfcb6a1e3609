"""The user turns of a conversation to the evidence for its last one. Pure.

The first turn opens a topic. Each later one stays with the topic, or opens another, by weighing

    lean + 10 · (here − elsewhere) + hysteresis ≥ 0

lean: log-odds that the turn leans on the one before it (`leaning`), in [-3, 3]
here: how far the turn, blended with half of the topic, is over the threshold of an intent with the topic's
    target; for the cloud, also how far it is from every other intent
elsewhere: how far the turn alone is over the threshold of an intent with another target; at least 0, what
    'no intent fits' is worth, when the topic's target is not the cloud

So a turn that clearly matches something else leaves, one that fits nothing stays only if it leans, and one that
leans stays unless something else fits it much better. A turn that stays is routed as the turn that opened the
topic was. Ten is what a logistic regression on benchmarks/conversations/dev.yaml finds the odds to grow by with
a score (8.4 to 9.5); embedding the joined text instead of blending the rows gained nothing there (area under the
curve 0.996 against 0.995) and costs an embedding.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.router.leaning import Leaning
from pointsman.router.snapshot import Matcher
from pointsman.values.catalog import CLOUD
from pointsman.values.decision import Evidence

HYSTERESIS = 0.5
"""In log-odds: a turn leaves when the odds for leaving are better than 1.6 to 1."""
_ODDS_PER_SCORE = 10.0
_SHARE_OF_TOPIC = 0.5
_NOWHERE = -1.0
"""How far a turn is over the threshold of an intent that the catalog does not have: the least of all scores."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """Why a turn stays with its topic or leaves it; the terms of the rule."""

    lean: float
    here: float
    elsewhere: float
    hysteresis: float

    @property
    def balance(self) -> float:
        """Log-odds for staying."""
        return self.lean + _ODDS_PER_SCORE * (self.here - self.elsewhere) + self.hysteresis

    @property
    def stays(self) -> bool:
        """Whether the turn stays with the topic."""
        return self.balance >= 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What is found of the last turn.

    evidence: what it is routed by; `follow_up` is set where that is the evidence of the topic
    topic: (d,), the row of the turn that opened the topic it belongs to
    weighed: None for a turn with nothing before it
    """

    evidence: Evidence
    topic: Rows
    weighed: Weighed | None

    @property
    def explanation(self) -> str:
        """A sentence on why the turn stays or leaves; empty for a turn with nothing before it."""
        if self.weighed is None:
            return ""
        w = self.weighed
        verdict = "continues the topic of the turn before it" if w.stays else "opens a new topic"
        sound = "a follow-up" if w.lean >= 0 else "a turn of its own"
        return (
            f"It {verdict}, {_odds(w.balance)}: it reads as {sound}, {_odds(w.lean)}, and is {w.here:+.3f} from "
            f"the threshold of that topic, {w.elsewhere:+.3f} from that of another."
        )


class Conversation:
    """The rule over one matcher. None of it changes, so threads may share it."""

    def __init__(
        self,
        matcher: Matcher,
        leaning: Leaning,
        hysteresis: float = HYSTERESIS,
        required_confidence: float | None = None,
    ) -> None:
        """`required_confidence` stands in for the matcher's own."""
        self._matcher = matcher
        self._required_confidence = required_confidence
        self._leaning = leaning
        self._hysteresis = hysteresis
        intents = matcher.catalog.intents
        self._targets = np.array([intent.target for intent in intents])  # (C,)
        self._thresholds = np.array(
            [
                matcher.calibration.threshold(i) if intent.threshold is None else intent.threshold
                for i, intent in enumerate(intents)
            ]
        )  # (C,)

    def read(self, rows: Rows, topic: Rows | None = None) -> Turn:
        """Return what is found of the last of the user turns (k, d), which are in order, k ≥ 1.

        `topic` (d,) is what a session remembers from before them.
        """
        found = self._matcher.index.score(rows)
        margins = found.scores - self._thresholds  # (k, C)
        opened = Evidence() if topic is None else self._match(topic)
        weighed = None
        for i, row in enumerate(rows):
            if topic is not None:
                nearest = float((self._matcher.index.rows[found.hits[i]] @ row).max())
                weighed = self._weigh(topic, _target(opened), row, margins[i], nearest)
            if weighed is None or not weighed.stays:
                topic, opened = row, self._match(row)
        assert topic is not None  # noqa: S101 - there is a turn, and the first one opens a topic
        if weighed is None or not weighed.stays:
            return Turn(opened, topic, weighed)
        alone = self._match(rows[-1])
        # What the turn says itself is better evidence than the topic, where both point to the same target.
        agrees = alone.accepted and alone.target == opened.target
        return Turn(alone if agrees else replace(opened, follow_up=True), topic, weighed)

    def _match(self, row: Rows) -> Evidence:
        evidence = self._matcher.match(row)
        if self._required_confidence is None:
            return evidence
        return replace(evidence, required_confidence=self._required_confidence)

    def _weigh(
        self, topic: Rows, target: str, row: Rows, margins: NDArray[np.float64], nearest: float
    ) -> Weighed:
        blend = _SHARE_OF_TOPIC * topic + row
        blend /= np.linalg.norm(blend)
        blended = self._matcher.index.score(blend[None, :]).scores[0] - self._thresholds  # (C,)
        same = self._targets == target
        here = float(blended[same].max(initial=_NOWHERE))
        elsewhere = float(margins[~same].max(initial=_NOWHERE))
        if target == CLOUD:
            here = max(here, -float(blended[~same].max(initial=_NOWHERE)))
        else:
            elsewhere = max(elsewhere, 0.0)
        return Weighed(self._leaning.log_odds(row, nearest), here, elsewhere, self._hysteresis)


def _target(evidence: Evidence) -> str:
    """Return where evidence sends a turn: no accepted intent means the cloud."""
    return evidence.target if evidence.accepted and evidence.target is not None else CLOUD


def _odds(log_odds: float) -> str:
    return f"{np.exp(abs(log_odds)):.1f} to 1"
