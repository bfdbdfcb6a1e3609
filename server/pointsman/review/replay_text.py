"""A `Replay` to Markdown."""

from collections.abc import Iterator

from pointsman.review.markdown import code
from pointsman.review.replay import Replay
from pointsman.review.replay_case import REFUSED

_MOST_FLIPS = 20


def markdown(found: Replay, days: str) -> str:
    """Return the page; `days` says how far back."""
    return "\n".join(_lines(found, days)) + "\n"


def _lines(found: Replay, days: str) -> Iterator[str]:
    yield f"# {found.decisions:,} decisions of the last {days}, under the proposed configuration"
    yield ""
    if not found.decisions:
        yield "There were none."
        return
    share = found.flipped / found.decisions
    yield f"**{found.flipped:,} go elsewhere ({share:.1%}).**"
    yield ""
    before, after = found.before, found.after
    yield "| | before | proposed | change |"
    yield "|---|---:|---:|---:|"
    yield _points("answered locally", before.local_share, after.local_share)
    if before.quality is not None and after.quality is not None:
        yield _points(f"good answers, of {found.judged:,}", before.quality, after.quality)
    if before.cost is not None and after.cost is not None:
        change = f"{after.cost - before.cost:+,.4f}"
        yield f"| cost, {found.currency} | {before.cost:,.4f} | {after.cost:,.4f} | {change} |"
    yield ""
    yield from _notes(found)
    if found.flips:
        yield from ("", "## What goes elsewhere", "")
    for flip in found.flips[:_MOST_FLIPS]:
        after_name = "an error" if flip.after == REFUSED else f"**{flip.after}**"
        yield f"- **{flip.before or 'an error'}** → {after_name}: {flip.count:,}"
        for request_id, prompt in flip.examples:
            yield f"  - {code(prompt)}" if prompt else f"  - request {code(request_id)}"
    if len(found.flips) > _MOST_FLIPS:
        yield f"- … and {len(found.flips) - _MOST_FLIPS} ways more"


def _notes(found: Replay) -> Iterator[str]:
    if found.decisions < found.recorded:
        yield f"- A random sample: the ledger has {found.recorded:,} decisions."
    yield (
        f"- {found.known:,} were decided by what the ledger knows of them, {found.embedded:,} by their prompts; "
        f"{found.kept:,} stay as they were, for want of both."
    )
    yield (
        f"- {found.moved:,} answers that stood would move to the cloud, by the confidence they had and the proposed cascade; what "
        "moved so far still does, as nobody knows how sure the local answer was."
    )
    if found.unpriced:
        yield f"- Costs are not known: {found.unpriced}."
    if found.before.quality is None:
        yield "- Nothing is known of how good answers are."
    else:
        yield (
            "- An answer that goes elsewhere counts as good as answers from there were, on prompts that went there so far: "
            "those that come new to a specialist are often further from what it knows."
        )
    if found.unpredicted:
        yield f"- {found.unpredicted:,} answers go where too little is known of, and are left out of the quality."


def _points(what: str, before: float, after: float) -> str:
    return f"| {what} | {before:.1%} | {after:.1%} | {100 * (after - before):+.1f} points |"
