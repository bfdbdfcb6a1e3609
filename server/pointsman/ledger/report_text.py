"""A report to Markdown."""

from collections.abc import Iterator, Sequence

from pointsman.ledger.ratings import REJECTED
from pointsman.ledger.report import FALLS_SHORT_ABOVE, Latency, Report, SpecialistFigures
from pointsman.ledger.weeks import FEW, drift


def markdown(report: Report) -> str:
    """Return the report as a page."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Answers since {report.since:%Y-%m-%d %H:%M} UTC"
    yield ""
    if not report.answers:
        rejected = report.outcomes.get(REJECTED, 0)
        yield f"There were none; {rejected:,} calls were rejected." if rejected else "There were none."
        return
    yield from _table(("", ""), headlines(report))
    yield from ("", "## Tiers", "")
    names = ("", "answers", "share", "p50 / p95 / p99 ms", "first token, the same", "output tokens")
    yield from _table(names, tier_rows(report))
    if report.specialists:
        yield from ("", "## Specialists", "")
        yield from _table(("", "answers", "fell short", "as the cloud says", ""), specialist_rows(report))
    yield from ("", "## Weeks", "")
    yield from _table(WEEK_NAMES, week_rows(report))


WEEK_NAMES = (
    "from Monday",
    "answers",
    "answered by the cloud",
    "ended well",
    "local p95, ms",
    "fields as the cloud says",
)


def week_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield a row a week, under `WEEK_NAMES`."""
    for w in report.weeks:
        slow = "-" if w.p95 is None else f"{w.p95:,.0f}"
        fields = f"{w.same:,} of {w.fields:,}" if w.fields else "-"
        yield (
            f"{w.monday}",
            f"{w.answers:,}",
            f"{w.cloud_share:.1%}",
            f"{w.well / w.answers:.1%}",
            slow,
            fields,
        )


def tier_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield a row a tier: name, answers, share, latencies, those of the first token, output tokens."""
    for t in report.tiers:
        yield (
            t.tier, f"{t.answers:,}", f"{t.share:.1%}", _shown(t.total), _shown(t.ttft), f"{t.output_tokens:.0f}"
        )  # fmt: skip


def specialist_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Yield a row a specialist: name, answers, those that fell short, what the cloud says, advice."""
    for s in report.specialists:
        agreed = f"{s.agreed:,} of {s.compared:,}" if s.compared else "-"
        yield s.name, f"{s.answers:,}", f"{s.share:.1%}", agreed, advice(s)


def headlines(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what is said first: cost per successful task, then the rest."""
    yield "cost per successful task", _money(report, report.cost_per_success)
    yield (
        "successful tasks",
        _share(report.successes, report.answers),
    )
    yield "cost per request", _money(report, report.cost_per_request)
    yield "cost", _money(report, report.cost)
    yield (
        "the same tokens on the cloud alone, those of local answers as fresh input",
        _money(report, report.all_cloud),
    )
    if report.unpriced:
        yield "why costs are not known", report.unpriced
    if report.saved is not None:
        yield "saved", f"{report.saved:.1%}"
    rated = (
        f"{report.accepted:,} of {report.rated:,} that were rated accepted"
        if report.rated
        else "nobody rated one of them"
    )
    yield "local share", f"{report.local_share:.1%}; {rated}"
    if report.uncounted:
        yield (
            "answers of the cloud given up or broken off, at a cost that is not known and not in here",
            f"{report.uncounted:,}",
        )
    if report.compared:
        yield (
            "of local answers asked of the cloud as well, the same",
            _share(report.agreed, report.compared) + f", for {_money(report, report.compared_cost)}",
        )
    if any(report.latency_gain):
        *total, first = ("-" if part is None else f"{part:.2f}" for part in report.latency_gain)
        yield "local latency, of the cloud's: p50 / p95 / p99; first token", f"{' / '.join(total)}; {first}"
    yield "output tokens", f"{report.output_share:.1%} of all"
    yield "cloud asked again", f"{report.retried:.1%} of answers"
    yield "throttled", f"{report.throttled:.1%} of requests"
    if len(report.weeks) > 1:
        yield "worse in the last week", "; ".join(drift(report.weeks)) or "nothing beyond chance"
    yield "outcomes", ", ".join(f"{name} {count:,}" for name, count in sorted(report.outcomes.items()))


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})"


def _money(report: Report, amount: float | None) -> str:
    return "not known" if amount is None else f"{report.currency} {amount:,.6f}"


def advice(of: SpecialistFigures) -> str:
    """Return what to do about a specialist; empty where nothing is to be done."""
    if of.answers < FEW:
        return "few answers"
    if of.share <= FALLS_SHORT_ABOVE:
        return ""
    return (
        "train it on prompts like these (`pointsman train`), or move its threshold (`pointsman cascade fit`)"
    )


def _shown(latency: Latency) -> str:
    parts = (latency.p50, latency.p95, latency.p99)
    return " / ".join("-" if part is None else f"{part:,.0f}" for part in parts)


def _table(
    headers: Sequence[str], rows: "Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]"
) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield "|---|" + "---:|" * (len(headers) - 1)
    for row in rows:
        yield f"| {' | '.join(row)} |"
