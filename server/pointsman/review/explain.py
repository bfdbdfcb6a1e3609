"""One prompt to why it goes where it goes, and what would have to change. Asks the matcher that serves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor
from typing import Any
from unicodedata import category

import numpy as np

from pointsman.catalog.files import shown
from pointsman.catalog.schema import normalise
from pointsman.decision.sentences import describe_hardness
from pointsman.embedding.encoder import Rows
from pointsman.embedding.reading import UNKNOWN
from pointsman.errors import InvalidRequestError, UnknownNameError
from pointsman.router.snapshot import Matcher
from pointsman.values.catalog import CLOUD, Catalog, Intent
from pointsman.values.decision import Evidence, Neighbor

_FIRST_IDEOGRAPH = "\u2e80"
_HARDLY_READ = 0.5
"""From this share of unknown or single-letter tokens on, a text has lost its meaning to the encoder."""

_OWN_NEIGHBOUR = (
    "What it would be as an exemplar holds for this very prompt, which would be its own nearest neighbour; "
    "`pointsman diff` shows what becomes of other prompts."
)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one intent stands to the prompt.

    score, threshold: class score, and the score from which the intent is accepted
    behind: by how much the best intent is ahead in what chooses (score, and names and second head where there are
        any); None when a negative rules the intent out
    nearest: its exemplar with the greatest cosine
    ruled_out_by: its negative that is nearer than every exemplar; None without one
    """

    intent: str
    target: str
    score: float
    threshold: float
    behind: float | None
    nearest: Neighbor
    ruled_out_by: Neighbor | None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would become of the prompt, had it been one more exemplar of `intent`; all is fitted anew."""

    intent: str
    evidence: Evidence

    @property
    def works(self) -> bool:
        """Whether the prompt would then be accepted for that intent."""
        return self.evidence.accepted and self.evidence.intent == self.intent


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a prompt goes where it goes. Standings are all intents, the best first; advice is sentences."""

    text: str
    evidence: Evidence
    standings: tuple[Standing, ...]
    what_if: tuple[WhatIf, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]


def explain(
    text: str,
    matcher: Matcher,
    encode: Callable[[Sequence[str]], Rows],
    rebuild: Callable[[Catalog], Matcher],
    *,
    as_intent: str | None = None,
    tokens: Sequence[str] = (),
) -> Explanation:
    """Explain the route of a prompt, and what it would be with the prompt as an exemplar.

    `encode` turns texts into unit rows, `rebuild` a catalog into a matcher. The prompt is tried as an
    exemplar of `as_intent`, and of the best intent when that is refused. `tokens` are those that the
    encoder reads, where it can say.

    Raises:
        InvalidRequestError: a blank prompt.
        UnknownNameError: no such intent.

    """
    catalog = matcher.catalog
    names = [intent.name for intent in catalog.intents]
    if not text.strip():
        raise InvalidRequestError("text", "the prompt is blank")
    if as_intent is not None and as_intent not in names:
        raise UnknownNameError("intent", as_intent, names)
    row = encode([text])[0]
    evidence = matcher.judge(row, text)
    standings = tuple(_standings(row, matcher, encode))
    tried = {as_intent} if evidence.accepted else {as_intent, evidence.intent}
    what_if = tuple(_what_if(text, row, name, catalog, rebuild) for name in names if name in tried)
    return Explanation(
        text=text,
        evidence=evidence,
        standings=standings,
        what_if=what_if,
        advice=(*_advise(evidence, standings, catalog), *map(_report, what_if)),
        notes=(
            *([evidence.reading] if evidence.reading else []),
            *_note_tokens(tokens),
            *_note_exemplars(text, catalog),
            *_note_ruled_out(evidence, standings),
            *([_OWN_NEIGHBOUR] if what_if else []),
        ),
    )


def plain(explanation: Explanation) -> dict[str, Any]:
    """Return the explanation as plain data for JSON."""
    data = asdict(explanation)
    data["evidence"]["accepted"] = explanation.evidence.accepted
    for item, what_if in zip(data["what_if"], explanation.what_if, strict=True):
        item["evidence"]["accepted"] = what_if.evidence.accepted
        item["works"] = what_if.works
    return data


def _standings(row: Rows, matcher: Matcher, encode: Callable[[Sequence[str]], Rows]) -> Iterator[Standing]:
    """Yield every intent's standing to one unit row (d,), the best first."""
    found = matcher.index.score(row[None, :])
    scores, choice = found.scores[0], found.choice[0]  # (C,) each
    similarities = matcher.index.rows @ row  # (n,)
    best = float(choice.max())
    for label in np.argsort(-choice, kind="stable").tolist():
        intent = matcher.catalog.intents[label]
        own = np.flatnonzero(matcher.index.labels == label)
        i = int(own[similarities[own].argmax()])
        yield Standing(
            intent=intent.name,
            target=intent.target,
            score=float(scores[label]),
            threshold=matcher.calibration.threshold(label) if intent.threshold is None else intent.threshold,
            behind=best - float(choice[label]) if np.isfinite(choice[label]) else None,
            nearest=Neighbor(matcher.ids[i], intent.name, float(similarities[i]), matcher.texts[i]),
            ruled_out_by=None if np.isfinite(choice[label]) else _nearest_negative(row, intent, encode),
        )


def _nearest_negative(row: Rows, intent: Intent, encode: Callable[[Sequence[str]], Rows]) -> Neighbor:
    similarities = encode(intent.negatives) @ row
    i = int(similarities.argmax())
    return Neighbor(f"{intent.name}/negatives/{i}", intent.name, float(similarities[i]), intent.negatives[i])


def _what_if(
    text: str, row: Rows, name: str, catalog: Catalog, rebuild: Callable[[Catalog], Matcher]
) -> WhatIf:
    intents = tuple(
        replace(intent, exemplars=(*intent.exemplars, text)) if intent.name == name else intent
        for intent in catalog.intents
    )
    return WhatIf(name, rebuild(replace(catalog, intents=intents)).judge(row, text))


def _advise(evidence: Evidence, standings: Sequence[Standing], catalog: Catalog) -> Iterator[str]:
    """Say how far the decision is from another one, and what would move it there."""
    best = next(standing for standing in standings if standing.intent == evidence.intent)
    by_hand = next(intent.threshold for intent in catalog.intents if intent.name == best.intent) is not None
    source = "set in its file" if by_hand else "calibrated"
    if best.ruled_out_by is not None:
        yield "Every intent has a negative that is nearer to it than the exemplars: no score can accept it."
    elif evidence.accepted:
        yield from _advise_accepted(evidence, best, source)
        if evidence.hardness is not None and not evidence.hardness.local:
            yield f"{describe_hardness(evidence.hardness)} So it leaves {best.target!r} for a higher tier."
    elif not evidence.near:
        yield from _advise_far(evidence, best, source)
    else:
        yield from _advise_unsure(evidence, best)
    if best.target == CLOUD:
        yield f"Accepted or refused, it goes to the cloud: that is the target of {best.intent!r}."
    second = next((s for s in standings if s is not best and s.behind is not None), None)
    if second is not None:
        yield (
            f"The runner-up {second.intent!r} is {second.behind:.3f} behind; its nearest exemplar is "
            f"“{shown(second.nearest.text)}” (cosine {second.nearest.similarity:.3f})."
        )


def _advise_accepted(evidence: Evidence, best: Standing, source: str) -> Iterator[str]:
    yield (
        f"Its score has {evidence.score - evidence.threshold:.3f} to spare: a threshold of {best.intent!r} above "
        f"{evidence.score:.3f} would refuse it (now {evidence.threshold:.3f}, {source})."
    )
    yield (
        "If it belongs to another intent, add it to the exemplars of that one (--as INTENT shows what follows); "
        f"if it is not {best.intent!r} at all, add it to the negatives of {best.intent!r}."
    )


def _advise_far(evidence: Evidence, best: Standing, source: str) -> Iterator[str]:
    short = evidence.threshold - evidence.score
    yield (
        f"Its score must rise by {short:.3f} to reach the threshold {evidence.threshold:.3f} of {best.intent!r} "
        f"({source})."
    )
    # Half of the score is the similarity of the nearest exemplar, so that must rise by twice as much.
    yield (
        f"An exemplar of {best.intent!r} about {2 * short:.3f} nearer, as scores count, than "
        f"“{shown(best.nearest.text)}” would do: if the prompt belongs there, add it or one like it."
    )
    yield (
        f"A threshold of at most {floor(evidence.score * 1000) / 1000:.3f} in the file of {best.intent!r} would "
        "accept it too, and everything else as near."
    )


def _advise_unsure(evidence: Evidence, best: Standing) -> Iterator[str]:
    short = evidence.required_confidence - evidence.confidence
    yield (
        f"Its score reaches the threshold {evidence.threshold:.3f} of {best.intent!r}, but its confidence must "
        f"rise by {short:.3f} to the {evidence.required_confidence:.3f} that is demanded; more score, and a "
        "longer lead over the runner-up, raise it."
    )


def _report(what_if: WhatIf) -> str:
    evidence = what_if.evidence
    fate = "accepted" if evidence.accepted else "refused"
    return (
        f"As an exemplar of {what_if.intent!r} it would be {fate} for {evidence.intent!r}: score "
        f"{evidence.score:.3f}, threshold {evidence.threshold:.3f}, confidence {evidence.confidence:.3f}."
    )


def _note_tokens(tokens: Sequence[str]) -> Iterator[str]:
    """Say when the encoder reads little of the text: unknown tokens, or words spelled letter by letter."""
    unknown = sum(token in UNKNOWN for token in tokens)
    spelled = sum(_is_letter(token) for token in tokens)
    if unknown + spelled < _HARDLY_READ * len(tokens) or not tokens:
        return
    parts = [(unknown, "are unknown to the encoder"), (spelled, "are single letters")]
    found = " and ".join(f"{count} of its {len(tokens)} tokens {what}" for count, what in parts if count)
    yield f"{found}: the encoder hardly reads this language, so scores mean little. A multilingual one would."


def _is_letter(token: str) -> bool:
    """Say whether a token is one letter or mark of a script that writes words with several."""
    core = token.removeprefix("##").strip("▁Ġ")
    return len(core) == 1 and category(core)[0] in "LM" and core < _FIRST_IDEOGRAPH


def _note_exemplars(text: str, catalog: Catalog) -> Iterator[str]:
    for intent in catalog.intents:
        if normalise(text) in map(normalise, intent.exemplars):
            yield (
                f"It is an exemplar of {intent.name!r}, so its own nearest neighbour: its scores say nothing of "
                "prompts like it."
            )


def _note_ruled_out(evidence: Evidence, standings: Sequence[Standing]) -> Iterator[str]:
    """Name the intents among the neighbours that a negative rules out."""
    near = {neighbor.intent for neighbor in evidence.neighbors}
    for standing in standings:
        if standing.intent in near and standing.ruled_out_by is not None:
            yield (
                f"{standing.intent!r} is out of the question: its negative "
                f"“{shown(standing.ruled_out_by.text)}” is nearer than every exemplar of it."
            )
