"""Labelled traffic to a `Promise`, on the routes that would be taken."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from pointsman.catalog.schema import normalise
from pointsman.decision.promise import (
    NOTHING_LOCAL,
    Verdicts,
    control_risk,
    expected_calibration_error,
    fit_line,
    sigmoid,
)
from pointsman.embedding.encoder import Rows
from pointsman.errors import PreconditionError
from pointsman.review.traffic import Labelled
from pointsman.router.snapshot import Matcher
from pointsman.values.catalog import CLOUD
from pointsman.values.promise import LabelCounts, Promise

_MOST_REPEATED = 0.1
"""A share of labelled prompts that are exemplars, above which the labels cannot be held-out traffic."""


def unseen(matcher: Matcher, traffic: Sequence[Labelled]) -> tuple[list[Labelled], int]:
    """Return the labelled prompts that are no exemplars, and how many are.

    Raises:
        PreconditionError: too many are: a promise from them would be false.

    """
    seen = {normalise(text) for text in matcher.texts}
    kept = [item for item in traffic if normalise(item.text) not in seen]
    left_out = len(traffic) - len(kept)
    if left_out > _MOST_REPEATED * len(traffic):
        raise PreconditionError(
            f"{left_out} of {len(traffic)} labelled prompts are exemplars themselves; a promise from them would "
            "be false: give held-out traffic"
        )
    return kept, left_out


def calibrate_on(
    matcher: Matcher,
    encoder_hash: str,
    traffic: Sequence[Labelled],
    rows: Rows,
    left_out: int,
    risk: float,
    confidence: float,
) -> Promise:
    """Make a promise from labelled prompts with unit rows (n, d); `matcher` must hold none itself."""
    verdicts = verdicts_of(matcher, traffic, rows)
    bound = control_risk(verdicts, risk, confidence)
    slope, intercept = fit_line(verdicts.logit, verdicts.right)
    calibrated = sigmoid(slope * verdicts.logit + intercept)
    required = NOTHING_LOCAL if bound.logit is None else float(sigmoid(slope * bound.logit + intercept))
    in_scope = sum(item.intent is not None for item in traffic)
    return Promise(
        encoder_hash=encoder_hash,
        exemplar_hash=matcher.catalog.exemplar_hash,
        made_at=datetime.now(UTC).replace(microsecond=0),
        labels=LabelCounts(len(traffic), in_scope, len(traffic) - in_scope, left_out),
        risk=risk,
        confidence=confidence,
        slope=slope,
        intercept=intercept,
        required_confidence=required,
        wrong=bound.wrong,
        bound=bound.upper,
        local_share=bound.local_share,
        labels_missing=bound.labels_missing,
        ece=expected_calibration_error(calibrated, verdicts.right),
        brier=float(((calibrated - verdicts.right) ** 2).mean()),
    )


def verdicts_of(matcher: Matcher, traffic: Sequence[Labelled], rows: Rows) -> Verdicts:
    """Return how labelled prompts with unit rows (n, d) would be routed if confidence did not matter."""
    targets = {intent.name: intent.target for intent in matcher.catalog.intents}
    specialists = {specialist.name for specialist in matcher.catalog.specialists}
    evidence = [matcher.match(row) for row in rows]
    confidences = np.clip([e.confidence for e in evidence], 1e-6, 1 - 1e-6)
    local = np.array([e.near and e.target in specialists for e in evidence])
    due = [CLOUD if item.intent is None else targets[item.intent] for item in traffic]
    return Verdicts(
        logit=np.log(confidences / (1 - confidences)),
        local=local,
        wrong=local & np.array([e.target != target for e, target in zip(evidence, due, strict=True)]),
        right=np.array([e.intent == item.intent for e, item in zip(evidence, traffic, strict=True)]),
    )
