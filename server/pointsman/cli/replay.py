"""`pointsman replay`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from pointsman.cli.options import Config
from pointsman.cli.report import span_of


def replay(
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w.")] = "30d",
    most: Annotated[
        int, typer.Option(min=1, help="Prompts that are embedded at most; beyond, a sample is replayed.")
    ] = 10_000,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Shown of each way that requests flip.")] = 3,
    policy: Annotated[
        bool, typer.Option(help="Read stored prompts by the proposal's policy too: half a millisecond each.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say what a proposed configuration would have made of the ledger's requests: flips, cost, quality.

    --config names the proposal: a settings file with its intents, specialists, rules, thresholds and prices.
    No model is asked; prompts are embedded only where the ledger does not know enough, and only if it keeps text.
    """
    from pointsman.catalog.policy_file import read_policy
    from pointsman.catalog.prices_file import read_prices
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import bar
    from pointsman.host.served import open_served
    from pointsman.ledger.history import past_of
    from pointsman.policy.detect import Detector
    from pointsman.review.replay import replay as replay_past
    from pointsman.review.replay import rescreened
    from pointsman.review.replay_text import markdown
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    begin = datetime.now(UTC) - span_of(since)
    prices = read_prices(settings.paths.prices)
    pasts = past_of(settings.ledger.url.get_secret_value(), begin)
    if policy:
        stated = read_policy(settings.paths.policy)
        find = Detector(stated, settings.paths.cache / "secret-rules").find
        known = settings.paths.callers.is_file()
        with bar("reading prompts by the policy") as progress:
            for number, past in enumerate(pasts):
                pasts[number] = rescreened(past, stated, find, known=known)
                progress(number + 1, len(pasts))
    with open_served(settings, bare=True) as served, bar("replaying") as progress:
        found = replay_past(
            pasts,
            served.snapshot,
            prices,
            served.bench.embed,
            most=most,
            examples=examples,
            cascade=settings.cascade.enabled,
            progress=progress,
        )
    if as_json:
        print(json.dumps(asdict(found) | {"flipped": found.flipped}, indent=2, ensure_ascii=False))
    else:
        print(markdown(found, since), end="")
