"""`pointsman export`."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pointsman.cli.options import Config, write_rows
from pointsman.cli.report import span_of
from pointsman.errors import ConfigError


def export(
    out: Annotated[Path, typer.Argument(help="Folder for the files.", show_default=False)],
    kind: Annotated[
        Literal["pairs", "outcomes", "answers", "labels"],
        typer.Option(
            "--format",
            help="pairs: accepted answers, for `train`; outcomes, answers: what the cloud said of local answers, "
            "for `difficulty` and `cascade fit`; labels: prompts with the intent that callers said is right, for "
            "`calibrate` and `eval`.",
        ),
    ] = "pairs",
    since: Annotated[str, typer.Option(help="How far back: 24h, 7d, 4w.")] = "30d",
    specialist: Annotated[str, typer.Option(help="Only what was routed to this one.")] = "",
    test_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Of pairs: newest share, for judging.")
    ] = 0.2,
    config: Config = None,
) -> None:
    """Write what the ledger has to learn from: to train specialists, and to judge prompts and answers by."""
    from pointsman.host.policy_source import PolicySource
    from pointsman.ledger.labels import answers_of, intents_of, outcomes_of
    from pointsman.ledger.pairs import pairs_of
    from pointsman.settings import load

    paths, settings = (loaded := load(config)).paths, loaded.ledger
    # Texts were redacted when they were stored; the policy may say more by now.
    redacted = PolicySource(paths.policy, paths.cache / "secret-rules").gate.redacted_together
    url, begin = settings.url.get_secret_value(), datetime.now(UTC) - span_of(since)
    advice = "" if settings.text else "; ledger.text is off, so no prompts are kept"
    if kind != "pairs":
        of_kind = {"outcomes": outcomes_of, "answers": answers_of, "labels": intents_of}
        rows = of_kind[kind](url, begin, specialist)
        if not rows and kind == "labels":
            raise ConfigError(f"no prompts whose intent callers confirmed since {begin:%Y-%m-%d}{advice}")
        if not rows:
            message = f"no answers that were compared with the cloud's since {begin:%Y-%m-%d}{advice}"
            raise ConfigError(message + ("" if advice else "; see shadow.share"))
        for row in rows:
            texts = {name: row[name] for name in ("prompt", "text", "answer") if name in row}
            row |= zip(texts, redacted(tuple(texts.values())), strict=True)  # noqa: PLW2901 - in place
        write_rows(out / f"{kind}.jsonl", rows)
        print(f"{len(rows)} lines to {out / f'{kind}.jsonl'}")
        return
    pairs = pairs_of(url, begin, specialist, test_share, redacted)
    if not pairs.train:
        raise ConfigError(f"no accepted answers with their text since {begin:%Y-%m-%d}{advice}")
    for name, examples in (("train", pairs.train), ("test", pairs.test)):
        write_rows(out / f"{name}.jsonl", [asdict(example) for example in examples])
    print(
        f"{len(pairs.train)} examples to {out / 'train.jsonl'}, {len(pairs.test)} newer ones to {out / 'test.jsonl'}; "
        f"{pairs.repeated} asked again and {pairs.followed} that go on from earlier turns were left out"
        + (
            f", and {pairs.unclear} corrections with the same placeholder as their prompt"
            if pairs.unclear
            else ""
        )
    )
