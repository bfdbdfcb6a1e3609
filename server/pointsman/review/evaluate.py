"""Labelled traffic and a matcher to an `Evaluation`: how good the catalog is, and what it saves.

Prompts are judged by the matcher as it serves, one by one and without the rules of callers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from pointsman.catalog.schema import normalise
from pointsman.catalog.targets import specialist_of
from pointsman.embedding.encoder import Rows
from pointsman.review import metrics
from pointsman.review.metrics import (
    NONE,
    IntentFigures,
    Outcomes,
    Quality,
    Reliability,
    RiskPoint,
    Routing,
    Share,
)
from pointsman.review.price import Price, Prices, price
from pointsman.review.traffic import Labelled
from pointsman.router.snapshot import Matcher
from pointsman.values.catalog import CLOUD, MID, Catalog, Mid

_NOT_LOCAL = {CLOUD, MID}
_EXAMPLES = 3
_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled prompt and what the matcher says of it.

    expected: the intent asked for; None is out of scope
    best: the best intent, accepted or not
    score, margin: class score, and what it has over the threshold
    hard: whether the difficulty model holds it too hard for the specialist
    """

    text: str
    expected: str | None
    best: str
    score: float
    margin: float
    confidence: float
    accepted: bool
    hard: bool

    @property
    def chosen(self) -> str | None:
        """The intent that was decided for; None where the best one was refused."""
        return self.best if self.accepted else None


@dataclass(frozen=True, slots=True)
class Confusion:
    """Prompts that ask for one intent and were decided for another; None is no intent.

    expected_target, chosen_target: who should answer, and who does
    wrong_specialist: whether a specialist answers that should not (where the prompt is not too hard for it)
    examples: texts, those with most confidence first
    """

    expected: str | None
    chosen: str | None
    expected_target: str
    chosen_target: str
    wrong_specialist: bool
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one catalog on one file. `notes` say which do not exist, and why.

    price is None where no prices are configured
    """

    catalog_version: str
    intents: int
    exemplars: int
    prompts: int
    out_of_scope: int
    quality: Quality
    routing: Routing
    price: Price | None
    per_intent: tuple[IntentFigures, ...]
    confusions: tuple[Confusion, ...]
    risk_coverage: tuple[RiskPoint, ...]
    reliability: Reliability
    notes: tuple[str, ...]
    judged: tuple[Judged, ...]  # stays last: `plain` leaves it out


def evaluate(
    traffic: Sequence[Labelled],
    rows: Rows,
    matcher: Matcher,
    catalog_version: str,
    prices: Prices | None = None,
    progress: Callable[[int, int], None] | None = None,
    mid: Mid | None = None,
) -> Evaluation:
    """Judge labelled prompts with their unit rows (n, d); n is at least one, and every label is known.

    `progress` is told prompts done and prompts in all; `mid` is who answers on the middle tier.
    """
    catalog = matcher.catalog
    judged = tuple(_judge(traffic, rows, matcher, progress))
    target_of = _targets(catalog, mid)
    outcomes = _outcomes(judged, catalog, target_of)
    return Evaluation(
        catalog_version=catalog_version,
        intents=len(catalog.intents),
        exemplars=matcher.size,
        prompts=len(judged),
        out_of_scope=int((~outcomes.in_scope).sum()),
        quality=metrics.quality(outcomes),
        routing=metrics.routing(outcomes),
        price=price([item.text for item in judged], outcomes.local, prices) if prices else None,
        per_intent=metrics.per_intent(outcomes, [intent.name for intent in catalog.intents]),
        confusions=_confusions(judged, target_of),
        risk_coverage=metrics.risk_coverage(outcomes),
        reliability=metrics.reliability(outcomes),
        notes=(
            *_note_exemplars(judged, catalog),
            *_notes(judged, catalog, priced=prices is not None),
            *_note_mid(catalog, mid),
        ),
        judged=judged,
    )


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures as plain data for JSON; the prompts one by one are left out."""
    return {field.name: _plain(getattr(evaluation, field.name)) for field in fields(evaluation)[:-1]}


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        low, high = value.interval
        return {"value": value.value, "count": value.count, "of": value.of, "low": low, "high": high}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        data = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return data | {"saved": value.saved} if isinstance(value, Price) else data
    return value


def _judge(
    traffic: Sequence[Labelled],
    rows: Rows,
    matcher: Matcher,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Judged]:
    for done, (item, row) in enumerate(zip(traffic, rows, strict=True), 1):
        evidence = matcher.judge(row, item.text)
        assert evidence.intent is not None  # noqa: S101 - a matcher has intents
        yield Judged(
            text=item.text,
            expected=item.intent,
            best=evidence.intent,
            score=evidence.score,
            margin=evidence.score - evidence.threshold,
            confidence=evidence.confidence,
            accepted=evidence.accepted,
            hard=evidence.hardness is not None and not evidence.hardness.local,
        )
        if progress:
            progress(done, len(traffic))


def _outcomes(judged: Sequence[Judged], catalog: Catalog, target_of: Mapping[str | None, str]) -> Outcomes:
    number: dict[str | None, int] = {intent.name: i for i, intent in enumerate(catalog.intents)}
    number[None] = NONE
    names = sorted(set(target_of.values()) - _NOT_LOCAL)
    targets = {name: i for i, name in enumerate(names)} | dict.fromkeys(_NOT_LOCAL, NONE)
    return Outcomes(
        expected=np.array([number[item.expected] for item in judged], np.int64),
        best=np.array([number[item.best] for item in judged], np.int64),
        accepted=np.array([item.accepted for item in judged], np.bool_),
        hard=np.array([item.hard for item in judged], np.bool_),
        margin=np.array([item.margin for item in judged], np.float64),
        confidence=np.array([item.confidence for item in judged], np.float64),
        expected_target=np.array([targets[target_of[item.expected]] for item in judged], np.int64),
        best_target=np.array([targets[target_of[item.best]] for item in judged], np.int64),
    )


def _targets(catalog: Catalog, mid: Mid | None) -> dict[str | None, str]:
    """Return who answers each intent, a specialist on the middle tier by its name; no intent is the cloud's."""
    targets: dict[str | None, str] = {None: CLOUD}
    return targets | {i.name: specialist_of(i.target, mid) or i.target for i in catalog.intents}


def _confusions(judged: Sequence[Judged], target_of: Mapping[str | None, str]) -> tuple[Confusion, ...]:
    """Return the confused pairs, the most frequent first."""
    pairs: dict[tuple[str | None, str | None], list[Judged]] = defaultdict(list)
    for item in judged:
        if item.chosen != item.expected:
            pairs[item.expected, item.chosen].append(item)
    found = [
        Confusion(
            expected=expected,
            chosen=chosen,
            expected_target=target_of[expected],
            chosen_target=target_of[chosen],
            wrong_specialist=target_of[chosen] not in _NOT_LOCAL | {target_of[expected]},
            count=len(items),
            examples=tuple(
                item.text for item in sorted(items, key=lambda item: -item.confidence)[:_EXAMPLES]
            ),
        )
        for (expected, chosen), items in pairs.items()
    ]
    return tuple(sorted(found, key=lambda c: (-c.count, c.expected or "", c.chosen or "")))


def _notes(judged: Sequence[Judged], catalog: Catalog, *, priced: bool) -> Iterator[str]:
    """Say which figures do not exist, and why."""
    asked = Counter(item.expected for item in judged)
    outside = asked.pop(None, 0)
    if not outside:
        yield (
            "No line is out of scope (intent null): OOS recall, OOS AUROC and the share of out-of-scope prompts "
            "that no specialist answers do not exist."
        )
    if not asked:
        yield (
            "Every line is out of scope (intent null): accuracy, AUROC, the share of refused in-scope prompts "
            "and every intent's recall do not exist."
        )
    elif len(asked) == 1 and not outside:
        only = next(iter(asked))
        yield (
            f"Every line asks for one intent, {only!r}: accuracy is that intent's recall before refusals, and "
            "its precision says nothing, because no other prompt could be taken for it."
        )
    silent = [intent.name for intent in catalog.intents if intent.name not in asked]
    if asked and silent:
        listed = ", ".join(silent[:_NAMES_SHOWN]) + (", …" if len(silent) > _NAMES_SHOWN else "")
        yield (
            f"{len(silent)} of {len(catalog.intents)} intents have no line here, so their recall does not "
            f"exist: {listed}."
        )
    if hard := sum(item.hard for item in judged):
        yield f"Prompts that leave their specialist because the difficulty model holds them too hard for it: {hard}."
    if not priced:
        yield "No price of the cloud's model is known (prices.yaml): cost is left out."


def _note_exemplars(judged: Sequence[Judged], catalog: Catalog) -> Iterator[str]:
    """Say that figures on exemplars are in-sample ones."""
    exemplars = {normalise(text) for intent in catalog.intents for text in intent.exemplars}
    if seen := sum(normalise(item.text) in exemplars for item in judged):
        yield (
            f"WARNING: {seen} of {len(judged)} lines are exemplars themselves, each its own nearest neighbour: these "
            "figures are better than new prompts will fare. Take held-out traffic."
        )


def _note_mid(catalog: Catalog, mid: Mid | None) -> Iterator[str]:
    if specialist_of(MID, mid) is None and any(intent.target == MID for intent in catalog.intents):
        yield "What the middle tier answers is counted, and priced, as if the cloud did."
