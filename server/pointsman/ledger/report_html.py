"""A report to one HTML page that needs nothing else. Needs jinja2 and matplotlib (extra `review`)."""

from pointsman.ledger.report import FALLS_SHORT_ABOVE, Latency, Report
from pointsman.ledger.report_text import WEEK_NAMES, headlines, specialist_rows, tier_rows, week_rows
from pointsman.review.html import render
from pointsman.review.plots import draw_groups, draw_shares


def page(report: Report) -> str:
    """Return the page. Equal reports make equal pages."""
    plots = _plots(report) if report.answers else dict.fromkeys(("weeks", "well", "short", "latencies"), "")
    return render(
        "report.html.jinja",
        r=report,
        headlines=list(headlines(report)) if report.answers else [],
        tiers=list(tier_rows(report)),
        specialists=list(specialist_rows(report)),
        week_names=WEEK_NAMES,
        week_rows=list(week_rows(report)),
        **plots,
    )


def _plots(report: Report) -> dict[str, str]:
    mondays = [f"{week.monday:%d %b}" for week in report.weeks]
    weeks = draw_shares(
        mondays, [week.cloud_share for week in report.weeks], "Cloud share of answers by week"
    )
    well = draw_shares(
        mondays,
        [week.well / week.answers for week in report.weeks],
        "Success by week: answers that ended well",
    )
    short = draw_shares(
        [one.name for one in report.specialists],
        [one.share for one in report.specialists],
        "Specialists: share of answers that fell short",
        FALLS_SHORT_ABOVE,
    )
    latencies = draw_groups(
        ["p50", "p95", "p99", "first token p50", "p95", "p99"],
        [(tier.tier, (*_known(tier.total), *_known(tier.ttft))) for tier in report.tiers],
        "ms",
        "Latency by tier",
    )
    return {"weeks": weeks, "well": well, "short": short, "latencies": latencies}


def _known(latency: Latency) -> tuple[float, ...]:
    return tuple(value or 0.0 for value in (latency.p50, latency.p95, latency.p99))
