"""`pointsman audit-traffic`."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.options import Config, write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman.review.call_log import Call
    from pointsman.review.candidates import Audit
    from pointsman.settings import Settings
    from pointsman.values.catalog import Intent


def audit_traffic(
    log: Annotated[Path, typer.Argument(help="Calls of language models, JSONL.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(help="Price all calls as this model of prices.yaml.", show_default=False)
    ] = None,
    drafts: Annotated[
        Path | None,
        typer.Option(
            help="Write drafts here: intents/NAME.yaml and training/NAME.jsonl.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace drafts that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Say what of a log of LLM calls is routine, which two or three groups to answer locally first, and whether to.

    Lines are requests and responses of the chat-completions API, or {"prompt": …, "answer": …}; see docs/audit-traffic.md.
    """
    import numpy as np

    from pointsman.catalog.prices_file import read_prices
    from pointsman.errors import ConfigError
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import open_workbench
    from pointsman.host.policy_source import PolicySource
    from pointsman.review.call_log import read_calls
    from pointsman.review.candidates import audit, intents_of, lines
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    prices = read_prices(settings.paths.prices)
    if model is not None and model not in prices.models:
        raise ConfigError(f"--model: {settings.paths.prices}: {prices.missing(model)}")
    read = read_calls(log)
    for problem in read.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if read.bad > len(read.problems):
        print(f"left out: {read.bad - len(read.problems)} lines more", file=sys.stderr)
    # Before anything is made of them: names and examples are their texts.
    redacted = PolicySource(
        settings.paths.policy, settings.paths.cache / "secret-rules"
    ).gate.redacted_together
    calls = [
        replace(call, prompt=prompt, answer=answer, model=model or call.model)
        for call in read.calls
        for prompt, answer in [redacted((call.prompt, call.answer))]
    ]
    with open_workbench(settings) as bench:
        rows = bench.embed([call.prompt for call in calls])
        answered = [i for i, call in enumerate(calls) if call.answer.strip()]
        answers = np.zeros_like(rows)
        if answered:
            answers[answered] = bench.embed([calls[i].answer for i in answered], "embedding answers")
        found = audit(calls, rows, answers, prices, bench.matcher)
    if as_json:
        plain = asdict(found) | dict(zip(("routine_mark", "output_mark"), found.marks, strict=True))
        for candidate, value in zip(plain["candidates"], found.candidates, strict=True):
            del candidate["members"]
            candidate["risk"] = value.risk
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    if drafts is not None:
        _write(
            found, calls, intents_of(found.candidates[: found.chosen], calls), drafts, settings, force=force
        )


def _write(
    found: "Audit",
    calls: "Sequence[Call]",
    intents: "Sequence[Intent]",
    drafts: Path,
    settings: "Settings",
    *,
    force: bool,
) -> None:
    from pointsman.catalog.schema import normalise
    from pointsman.review.imports import write_intents

    unique = [
        replace(intent, exemplars=tuple(dict.fromkeys(intent.exemplars))) for intent in intents
    ]  # what was replaced may have been all in which they differed
    written = write_intents(
        unique, drafts / "intents", settings.paths.specialists, force=force, dry_run=False
    )
    for file, candidate in zip(written, found.candidates, strict=False):
        pairs = {
            normalise(calls[i].prompt): {
                "user": calls[i].prompt,
                "answer": calls[i].answer,
            }
            for i in candidate.members
            if calls[i].answer.strip()
        }
        print(f"{drafts / file}: {candidate.name}", file=sys.stderr)
        if pairs:
            path = drafts / "training" / f"{candidate.name}.jsonl"
            write_rows(path, pairs.values())
            print(f"{path}: {len(pairs)} examples", file=sys.stderr)
