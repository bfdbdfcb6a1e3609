"""Findings and diffs to Markdown, for a comment on a pull request. Knows no terminal and no file.

Texts come from files and traffic that anybody may have written, so each stands in a code span: nothing in it is
a heading, a link, an image or a mention.
"""

import re
from collections.abc import Iterator, Sequence

from pointsman.review.changes import Changes, IntentChange
from pointsman.review.diff import Diff, Flip, Route, TrafficDiff
from pointsman.review.findings import Finding, Severity
from pointsman.review.price import Price

_MAX_TEXT = 160
_MAX_ITEMS = 30
"""Findings, intents, exemplars and kinds of flips that are listed: a comment holds 65,536 characters."""


def lint_markdown(findings: Sequence[Finding], summary: str) -> str:
    """Return findings as a section with a list, gravest first."""
    return "\n".join(["### Lint", "", summary, *_findings(findings), ""])


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if findings:
        yield ""
    for finding in findings[:_MAX_ITEMS]:
        place = f"{finding.file}:{finding.line}" if finding.line else finding.file
        mark = "**error**, " if finding.severity is Severity.ERROR else ""
        yield f"- {code(place)} {mark}{finding.code}: {code(finding.message, 2 * _MAX_TEXT)}"
        yield f"  {finding.advice}"
    yield from _left_out(len(findings), "findings")


def diff_markdown(diff: Diff, worse: Sequence[str]) -> str:
    """Return a diff as a section. `worse` says in words what got worse."""
    lines = [f"### Intents: {code(diff.old)} → {code(diff.new)}", ""]
    lines += [*_changes(diff.changes), ""]
    if diff.traffic is None:
        lines += ["No traffic was given, so nothing is known of what the change does to prompts."]
    else:
        lines += _traffic(diff.traffic, worse)
    lines += [f"\nNote: {note}" for note in diff.notes]
    return "\n".join([*lines, ""])


def _changes(changes: Changes) -> Iterator[str]:
    if not changes:
        yield "No intent changed."
        return
    renamed = len(changes.renames)
    yield (
        f"Intents: {len(changes.added)} added, {len(changes.removed)} removed, {renamed} renamed, "
        f"{len(changes.edited) - renamed} edited."
    )
    yield ""
    items = [
        *(f"- {code(i.name)} added: {_exemplars(len(i.exemplars))}, target {i.target}" for i in changes.added),
        *(f"- {code(i.name)} removed: {_exemplars(len(i.exemplars))}" for i in changes.removed),
        *(_edited(change) for change in changes.edited),
    ]  # fmt: skip
    yield from items[:_MAX_ITEMS]
    yield from _left_out(len(items), "intents")
    texts = [
        f"- {code(change.name)} {sign} {code(text)}"
        for change in changes.edited
        for sign, listed in (
            ("+", change.exemplars_added),
            ("−", change.exemplars_removed),
            ("+ negative", change.negatives_added),
            ("− negative", change.negatives_removed),
        )
        for text in listed
    ]
    if texts:
        yield from ("", "<details><summary>Exemplars and negatives</summary>", "")
        yield from texts[:_MAX_ITEMS]
        yield from _left_out(len(texts), "texts")
        yield from ("", "</details>")


def _edited(change: IntentChange) -> str:
    name = f"{code(change.old_name)} renamed to {code(change.name)}" if change.renamed else code(change.name)
    counts = (
        ("exemplars", change.exemplars_added, change.exemplars_removed),
        ("negatives", change.negatives_added, change.negatives_removed),
    )
    parts = [
        *(f"{what} +{len(added)} −{len(removed)}" for what, added, removed in counts if added or removed),
        *(
            f"{f.field} {code(f.old) if f.old else 'none'} → {code(f.new) if f.new else 'none'}"
            for f in change.fields
        ),
    ]
    return (
        f"- {name}: {', '.join(parts) or 'the order of texts'}"
        if parts or not change.renamed
        else f"- {name}"
    )


def _traffic(traffic: TrafficDiff, worse: Sequence[str]) -> Iterator[str]:
    n = traffic.prompts
    before, after = traffic.before, traffic.after
    rerouted = sum(flip.count for flip in traffic.flips if flip.rerouted)
    yield (
        f"**{traffic.flipped} of {n} prompts flip**: {rerouted} to another target, "
        f"{traffic.flipped - rerouted} to another intent with the same target."
    )
    yield from ("", "| | before | after | change |", "|---|---|---|---|")
    if traffic.labelled:
        m = traffic.labelled
        yield _row(f"accuracy ({m} labelled)", before.right / m, after.right / m)
        yield _row("sent to a wrong specialist", before.wrong_specialist / m, after.wrong_specialist / m)
    yield _row("answered locally", before.local / n, after.local / n)
    if before.price and after.price:
        yield _price_row(before.price, after.price)
    yield ""
    if traffic.labelled:
        yield f"{traffic.mended} labelled prompts became right, {traffic.broken} became wrong."
        yield f"**Worse:** {'; '.join(worse)}." if worse else "Nothing got worse beyond the tolerance."
    else:
        yield "No prompt has a label, so nothing is known of accuracy."
    if before.price:
        yield _assumption(before.price)
    if traffic.flips:
        yield from ("", "#### Flips", "")
    for flip in traffic.flips[:_MAX_ITEMS]:
        yield from _flip(flip)
    yield from _left_out(len(traffic.flips), "kinds of flips")


def _row(what: str, before: float, after: float) -> str:
    return f"| {what} | {before:.1%} | {after:.1%} | {100 * (after - before):+.1f} points |"


def _price_row(before: Price, after: Price) -> str:
    change = after.as_routed - before.as_routed
    return f"| {before.currency} per 1,000 prompts | {before.as_routed:.4f} | {after.as_routed:.4f} | {change:+.4f} |"


def _assumption(price: Price) -> str:
    how = "counted from the texts" if price.counted else "assumed"
    return (
        f"Price: {price.input_tokens:.0f} input tokens a prompt ({how}), {price.output_tokens:.0f} output tokens "
        "(assumed); a local answer counts as free."
    )


def _flip(flip: Flip) -> Iterator[str]:
    judged = (
        (flip.mended, "became right"),
        (flip.broken, "became wrong"),
        (flip.misrouted, "now at a wrong specialist"),
    )
    told = [f"{count} {what}" for count, what in judged if count]
    prompts = f"{flip.count} prompt{'' if flip.count == 1 else 's'}"
    yield f"- {_route(flip.before)} → {_route(flip.after)}: {'; '.join([prompts, *told])}"
    for text in flip.examples:
        yield f"  - {code(text)}"


def _route(route: Route) -> str:
    return f"**{route.target}** ({route.intent or 'no intent'})"


def _exemplars(count: int) -> str:
    return f"{count} exemplar{'' if count == 1 else 's'}"


def _left_out(count: int, what: str) -> Iterator[str]:
    if count > _MAX_ITEMS:
        yield f"- … and {count - _MAX_ITEMS} {what} more"


def code(text: str, limit: int = _MAX_TEXT) -> str:
    """Return a text as a code span on one line, whatever backticks it holds."""
    line = " ".join(text.split())
    line = line if len(line) <= limit else f"{line[:limit]}…"
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{pad}{line}{pad}{fence}"
