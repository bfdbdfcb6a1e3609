"""Intents to findings: what in the exemplars makes routes worse, or should not be there. Knows no traffic.

Scores are cross-fitted: an exemplar is judged by an index that was fitted without it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.catalog.files import shown
from pointsman.catalog.schema import normalise
from pointsman.decision.cross_fit import CrossFitted, cross_fit
from pointsman.embedding.encoder import Rows
from pointsman.review.effects import removal_effects
from pointsman.review.findings import Finding, Severity
from pointsman.review.revisions import Revision
from pointsman.review.sensitive import Found
from pointsman.values.catalog import Intent, Problem

_BLOCK_CELLS = 1 << 23
"""Similarities held at a time, 32 MiB."""
_LEAST_INTENTS = 5
"""Under this many intents nothing is known of how broad intents are."""
_LEAST_SHORTFALL = 0.1
_LOWEST = 0.05
_MAD_TO_SD = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is a finding.

    near: cosine of two exemplars of different intents
    margin: by how much another intent's held-out score is ahead of the own one
    thin: exemplars that an intent should have
    broad: standard deviations by which an intent's mean held-out score is below the other intents'
    harmful: most exemplars to name as harmful
    """

    near: float = 0.95
    margin: float = 0.1
    thin: int = 5
    broad: float = 3.0
    harmful: int = 5


@dataclass(frozen=True, slots=True)
class Text:
    """A text of an intent, and which it is: `("exemplars", 3)`, `("negatives", 0)` or `("description",)`."""

    intent: Intent
    path: tuple[str | int, ...]
    text: str


def texts_of(revision: Revision) -> tuple[Text, ...]:
    """Return every text that people wrote, exemplars first, in the order of intents."""
    exemplars = [
        Text(intent, ("exemplars", i), text)
        for intent in revision.intents
        for i, text in enumerate(intent.exemplars)
    ]
    others = [
        Text(intent, path, text)
        for intent in revision.intents
        for path, text in (
            *((("negatives", i), text) for i, text in enumerate(intent.negatives)),
            (("description",), intent.description),
        )
        if text
    ]
    return (*exemplars, *others)


def lint(
    revision: Revision,
    rows: Rows,
    limits: Limits,
    sensitive: Sequence[Found] | None = (),
    problems: Sequence[Problem] = (),
) -> tuple[Finding, ...]:
    """Return what is to be said of a revision, gravest first, then by place.

    rows: (n, d), the exemplars of all intents in their order
    sensitive: found in `texts_of(revision)`, by their numbers; None when nobody could look
    problems: of files that were refused; none of their texts take part
    """
    findings = [Finding("refused", p.file, p.line, "", _without_place(p)) for p in problems]
    if sensitive is None:
        message = "nobody looked for credentials and personal data"
        findings.append(Finding("unchecked", revision.name, 0, "", message))
    if revision.intents:
        findings += _Linter(revision, rows, limits, sensitive or ()).findings()
    else:
        findings.append(Finding("empty", revision.name, 0, "", "there are no intents"))
    order = list(Severity)
    return tuple(sorted(findings, key=lambda f: (order.index(f.severity), f.file, f.line, f.code)))


def _without_place(problem: Problem) -> str:
    place = f"{problem.file}:{problem.line}:" if problem.line else f"{problem.file}:"
    return str(problem).removeprefix(place).strip()


class _Linter:
    """The checks, over one revision."""

    def __init__(self, revision: Revision, rows: Rows, limits: Limits, sensitive: Sequence[Found]) -> None:
        self._revision = revision
        self._intents = revision.intents
        self._rows = rows
        self._limits = limits
        self._sensitive = sensitive
        self._texts = texts_of(revision)
        self._withheld = {found.text for found in sensitive}
        counts = [len(intent.exemplars) for intent in self._intents]
        self._counts = np.array(counts, np.int64)
        self._labels: Labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def findings(self) -> Iterator[Finding]:
        """Yield all findings, in no order."""
        for found in self._sensitive:
            kind = str(self._texts[found.text].path[0]).removesuffix("s")
            yield self._at(found.text, found.code, f"the {kind} holds {found.what}")
        yield from self._duplicates()
        yield from self._near_duplicates()
        yield from self._thin()
        if len(self._intents) > 1:
            held_out = cross_fit(self._rows, self._labels, len(self._intents))
            yield from self._misplaced(held_out)
            yield from self._broad(held_out)
            yield from self._harmful()

    def _duplicates(self) -> Iterator[Finding]:
        """Yield exemplars whose normalised text stands in an earlier intent too."""
        first: dict[str, int] = {}
        for i in range(len(self._labels)):
            other = first.setdefault(normalise(self._texts[i].text), i)
            if other != i:
                message = f"{self._quoted(i)} also stands in {self._named(other)}"
                yield self._at(i, "duplicate", message, self._texts[other].intent)

    def _near_duplicates(self) -> Iterator[Finding]:
        """Yield each pair of exemplars of two intents where one is the other's nearest, and near enough."""
        pairs: dict[tuple[int, int], float] = {}
        n = len(self._labels)
        block = max(1, _BLOCK_CELLS // n)
        for start in range(0, n, block):
            similarities = self._rows[start : start + block] @ self._rows.T  # (b, n)
            similarities[self._labels[start : start + block, None] == self._labels[None, :]] = -1.0
            nearest = similarities.argmax(axis=1)
            for row in np.flatnonzero(similarities.max(axis=1) >= self._limits.near).tolist():
                i, j = sorted((start + row, int(nearest[row])))
                pairs[i, j] = float(similarities[row, nearest[row]])
        for (i, j), cosine in pairs.items():
            if normalise(self._texts[i].text) != normalise(self._texts[j].text):
                yield self._at(
                    j,
                    "near_duplicate",
                    f"{self._quoted(j)} is nearly {self._quoted(i)} of {self._named(i)} (cosine {cosine:.3f})",
                    self._texts[i].intent,
                )

    def _thin(self) -> Iterator[Finding]:
        for intent in self._intents:
            count = len(intent.exemplars)
            if count < self._limits.thin:
                plural = "" if count == 1 else "s"
                message = f"{intent.name} has {count} exemplar{plural}, under {self._limits.thin}"
                yield self._of(intent, "exemplars", "thin", message)

    def _misplaced(self, held_out: CrossFitted) -> Iterator[Finding]:
        """Yield exemplars that another intent would get, by a margin; thin intents are not judged.

        One whose best held-out score is among the lowest of all, 5 %, is near to nothing: an outlier.
        """
        own = held_out.scores[np.arange(len(self._labels)), self._labels]
        ahead = held_out.best - own
        judged = held_out.known & (self._counts[self._labels] >= self._limits.thin)
        wrong = judged & (held_out.predicted != self._labels) & (ahead >= self._limits.margin)
        far = np.quantile(held_out.best[judged], _LOWEST) if judged.any() else 0.0
        for i in np.flatnonzero(wrong).tolist():
            intent, other = self._intents[self._labels[i]], self._intents[held_out.predicted[i]]
            scores = f"its held-out scores are {held_out.best[i]:.2f} and {own[i]:.2f}"
            if held_out.best[i] < far:
                message = f"is near to no intent, not even to {other.name} or {intent.name}: {scores}"
                yield self._at(i, "outlier", f"{self._quoted(i)} {message}", other)
                continue
            code = "unclear" if other.target == intent.target else "misplaced"
            message = f"is nearer to {other.name} than to {intent.name}: {scores}"
            yield self._at(i, code, f"{self._quoted(i)} {message}", other)

    def _broad(self, held_out: CrossFitted) -> Iterator[Finding]:
        """Yield intents whose exemplars lie far apart.

        The mean held-out own score of an intent is compared with those of all intents that are not thin: more
        than `broad` robust standard deviations (median absolute deviation) below their median, and 0.1 at
        least.
        """
        own = held_out.scores[np.arange(len(self._labels)), self._labels]
        judged = [c for c in range(len(self._intents)) if self._counts[c] >= self._limits.thin]
        if len(judged) < _LEAST_INTENTS:
            return
        means = np.array([own[(self._labels == c) & held_out.known].mean() for c in judged])
        median = float(np.median(means))
        spread = _MAD_TO_SD * float(np.median(np.abs(means - median)))
        limit = median - max(self._limits.broad * spread, _LEAST_SHORTFALL)
        for c, mean in zip(judged, means.tolist(), strict=True):
            if mean < limit:
                intent = self._intents[c]
                yield self._of(
                    intent,
                    "name",
                    "broad",
                    f"{intent.name} is broad: its exemplars score {mean:.2f} for it when held out, half of "
                    f"all intents reach {median:.2f}",
                )

    def _harmful(self) -> Iterator[Finding]:
        effects = removal_effects(self._rows, self._labels)
        worst = np.argsort(-effects.balance, kind="stable")[: self._limits.harmful].tolist()
        for i in worst:
            if effects.balance[i] > 0:
                yield self._at(
                    i,
                    "harmful",
                    f"{self._quoted(i)} costs {effects.balance[i]}: of the held-out exemplars, taking it out "
                    f"makes {effects.mended[i]} of other intents right and {effects.broken[i]} of its own wrong",
                )

    def _at(self, number: int, code: str, message: str, other: Intent | None = None) -> Finding:
        text = self._texts[number]
        file, line = self._revision.place(text.intent.name, *text.path)
        return Finding(code, file, line, text.intent.name, message, other.name if other else "")

    def _of(self, intent: Intent, field: str, code: str, message: str) -> Finding:
        file, line = self._revision.place(intent.name, field)
        return Finding(code, file, line, intent.name, message)

    def _quoted(self, number: int) -> str:
        if number in self._withheld:
            return "a text that is withheld here"
        return f"'{shown(' '.join(self._texts[number].text.split()))}'"

    def _named(self, number: int) -> str:
        text = self._texts[number]
        file, line = self._revision.place(text.intent.name, *text.path)
        return f"{text.intent.name} ({file}:{line})"
