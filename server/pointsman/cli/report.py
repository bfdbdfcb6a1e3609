"""`pointsman report`."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config
from pointsman.errors import ConfigError

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def report(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w.")] = "7d",
    html: Annotated[
        Path | None, typer.Option(help="Write a page for browsers (extra `review`).", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say what answers cost, took and were worth, from the ledger: cost per successful task first."""
    from pointsman.catalog.prices_file import read_prices
    from pointsman.ledger.report import report_of
    from pointsman.ledger.report_text import advice, markdown
    from pointsman.ledger.weeks import drift
    from pointsman.settings import load

    settings = load(config)
    url, begin = settings.ledger.url.get_secret_value(), datetime.now(UTC) - span_of(since)
    found = report_of(url, begin, read_prices(settings.paths.prices), settings.cloud.model)
    if html is not None:
        from pointsman.cli.options import write_text
        from pointsman.ledger.report_html import page

        write_text(html, page(found), "--html")
    if as_json:
        specialists = [asdict(one) | {"share": one.share, "advice": advice(one)} for one in found.specialists]
        derived = {
            "specialists": specialists,
            "cost_per_success": found.cost_per_success,
            "cost_per_request": found.cost_per_request,
            "saved": found.saved,
            "local_share": found.local_share,
            "latency_gain": found.latency_gain,
            "drift": drift(found.weeks),
        }
        print(json.dumps(asdict(found) | derived, indent=2, default=str))
    else:
        print(markdown(found), end="")


def span_of(text: str) -> timedelta:
    """Return how far back an option reaches.

    Raises:
        ConfigError: it is no number with a unit.

    """
    found = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if not found:
        raise ConfigError(f"--since: a number with h, d or w, such as 7d (got {text!r})")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
