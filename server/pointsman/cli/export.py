"""`pointsman export`."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pointsman.cli.options import Config
from pointsman.cli.report import span_of
from pointsman.errors import ConfigError


def export(
    out: Annotated[Path, typer.Argument(help="Folder for train.jsonl and test.jsonl.", show_default=False)],
    kind: Annotated[Literal["pairs"], typer.Option("--format", help="What to export.")] = "pairs",
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w.")] = "30d",
    specialist: Annotated[str, typer.Option(help="Only what was routed to this one.")] = "",
    test_share: Annotated[float, typer.Option(min=0, max=0.9, help="Newest share, for judging.")] = 0.2,
    config: Config = None,
) -> None:
    """Write answers that their callers accepted, or corrected, as examples for `pointsman train`."""
    from pointsman.artifacts.whole_file import whole_file
    from pointsman.ledger.pairs import pairs_of
    from pointsman.settings import load

    del kind  # the only one so far
    settings = load(config).ledger
    begin = datetime.now(UTC) - span_of(since)
    pairs = pairs_of(settings.url.get_secret_value(), begin, specialist, test_share)
    if not pairs.train:
        advice = "" if settings.text else "; ledger.text is off, so no prompts are kept"
        raise ConfigError(f"no accepted answers with their text since {begin:%Y-%m-%d}{advice}")
    for name, rows in (("train", pairs.train), ("test", pairs.test)):
        with whole_file(out / f"{name}.jsonl") as file:
            file.writelines(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n" for row in rows)
    print(
        f"{len(pairs.train)} examples to {out / 'train.jsonl'}, {len(pairs.test)} newer ones to {out / 'test.jsonl'}; "
        f"{pairs.repeated} asked again were left out"
    )
