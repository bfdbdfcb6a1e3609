"""`eval` and `explain`: how good the catalog is on labelled traffic, and why one prompt goes where it goes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.options import Config, read_prompt, write_text
from pointsman.errors import PointsmanError

if TYPE_CHECKING:
    from pointsman.review.evaluate import Evaluation
    from pointsman.review.explain import Explanation

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_TROUBLE = 2
"""Exit status of `eval` when nothing could be measured: 1 is for a figure that misses its limit."""
_PAIRS = 5
_STANDINGS = 5


def evaluate(
    data: Annotated[Path, typer.Option(help='Labelled prompts, JSONL: {"text": …, "intent": … or null}.')],
    html: Annotated[Path | None, typer.Option(help="Write a report for browsers.")] = None,
    json_file: Annotated[Path | None, typer.Option(help="Write JSON to a file.")] = None,
    as_json: Json = False,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 1 when accuracy is less.")
    ] = None,
    max_wrong: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit with 1 when more of all prompts reach a wrong specialist."),
    ] = None,
    input_tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of a prompt; counted from the texts when left out.")
    ] = None,
    output_tokens: Annotated[float, typer.Option(min=0, help="Tokens of an answer.")] = 256,
    config: Config = None,
) -> None:
    """Measure the catalog on labelled traffic: accuracy, out-of-scope detection, confusions, price.

    Exits with 1 when --min-accuracy or --max-wrong is missed, with 2 when nothing could be measured.
    """
    from pointsman.review.evaluate import plain

    try:
        measured, encoder = _measure(data, input_tokens, output_tokens, config)
        figures = json.dumps(plain(measured), indent=2, ensure_ascii=False)
        if json_file is not None:
            write_text(json_file, f"{figures}\n", "--json-file")
        if html is not None:
            from pointsman.review.html import page

            write_text(html, page(measured, data=str(data), encoder=encoder), "--html")
    except PointsmanError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(_TROUBLE) from None
    if as_json:
        print(figures)
    else:
        _print_evaluation(measured, data)
    missed = _missed(measured, min_accuracy, max_wrong)
    for line in missed:
        print(line, file=sys.stderr)
    if missed:
        raise typer.Exit(1)


def explain(
    text: Annotated[str, typer.Argument(help="The prompt; - reads standard input.", show_default=False)],
    as_intent: Annotated[
        str | None, typer.Option("--as", help="Show what follows if it were an exemplar of this intent.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Show why a prompt goes where it goes, and what would have to change."""
    from pointsman.host.logs import configure_logs
    from pointsman.host.served import open_served
    from pointsman.review.explain import explain as explain_prompt
    from pointsman.review.explain import plain
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    prompt = read_prompt(text)
    with open_served(settings) as served:
        bench = served.bench
        explanation = explain_prompt(
            prompt,
            served.matcher,
            bench.embed,
            lambda changed: bench.matcher(changed, served.learned),
            as_intent=as_intent,
            tokens=bench.tokens(prompt),
        )
    explanation = replace(explanation, notes=(*explanation.notes, *served.notes))
    if as_json:
        print(json.dumps(plain(explanation), indent=2, ensure_ascii=False))
    else:
        _print_explanation(explanation)


def _measure(
    data: Path, input_tokens: float | None, output_tokens: float, config: Path | None
) -> "tuple[Evaluation, str]":
    """Return the evaluation, and which encoder it was made with."""
    from pointsman.catalog.prices_file import read_prices
    from pointsman.host.logs import configure_logs
    from pointsman.host.served import open_served
    from pointsman.review.evaluate import evaluate as evaluate_traffic
    from pointsman.review.price import prices_of
    from pointsman.review.traffic import check_intents, read_traffic
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    traffic = read_traffic(data, need_labels=True)
    with open_served(settings) as served:
        bench, matcher = served.bench, served.matcher
        check_intents(traffic, {intent.name for intent in matcher.catalog.intents}, data)
        rows = bench.embed([item.text for item in traffic])
        prices = prices_of(
            read_prices(settings.paths.prices), settings.cloud.model, input_tokens, output_tokens
        )
        measured = evaluate_traffic(
            traffic, rows, matcher, served.version, prices, mid=settings.routing.mid_tier
        )
        encoder = f"{settings.encoder.model} ({bench.encoder_hash[:12]})"
    return replace(measured, notes=(*measured.notes, *served.notes)), encoder


def _missed(measured: "Evaluation", min_accuracy: float | None, max_wrong: float | None) -> list[str]:
    """Return a line for each limit that does not hold; a figure that does not exist holds none."""
    missed = []
    accuracy, wrong = measured.quality.accuracy, measured.routing.wrong_specialist
    if min_accuracy is not None and accuracy is None:
        missed.append("--min-accuracy: no line is in scope, so there is no accuracy")
    if min_accuracy is not None and accuracy is not None and accuracy.value < min_accuracy:
        missed.append(f"--min-accuracy: {accuracy.value:.4f} is less than {min_accuracy:g}")
    if max_wrong is not None and wrong.value > max_wrong:
        missed.append(f"--max-wrong: {wrong.value:.4f} is more than {max_wrong:g}")
    return missed


def _print_evaluation(measured: "Evaluation", data: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pointsman.review.numbers import cut, interval, percent

    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"catalog {measured.catalog_version}: {measured.intents} intents, {measured.exemplars} exemplars; "
        f"{measured.prompts} prompts of {data}, {measured.out_of_scope} out of scope",
        markup=False,
    )
    quality, routing = measured.quality, measured.routing
    table = Table("", "value", "95 % interval", "prompts", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in (
        ("accuracy", quality.accuracy),
        ("joint accuracy", quality.joint_accuracy),
        ("in-scope refused", quality.in_scope_refused),
        ("OOS recall", quality.oos_recall),
        ("answered locally", routing.local),
        ("wrong specialist", routing.wrong_specialist),
        ("right when local", routing.right_when_local),
        ("not local, but should be", routing.not_local),
        ("OOS not local", routing.oos_not_local),
    ):
        counts = f"{value.count} of {value.of}" if value else ""
        table.add_row(name, percent(value), interval(value), counts)
    table.add_row("OOS AUROC: score / confidence",
                  f"{percent(quality.oos_auroc)} / {percent(quality.oos_auroc_confidence)}")  # fmt: skip
    reliability = measured.reliability
    table.add_row("confidence: ECE / Brier", f"{reliability.ece:.3f} / {reliability.brier:.3f}")
    console.print(table)
    if measured.price is not None:
        console.print(measured.price.sentence, markup=False)
    if measured.confusions:
        console.print(f"\nconfused pairs ({len(measured.confusions)}):")
    for pair in measured.confusions[:_PAIRS]:
        where = f"{pair.expected or 'out of scope'} → {pair.chosen or 'refused'}"
        mark = f" (to {pair.chosen_target}: wrong specialist)" if pair.wrong_specialist else ""
        console.print(Text(f"  {pair.count} × {where}{mark}: “{cut(pair.examples[0])}”"))
    for note in measured.notes:
        console.print(Text(f"note: {note}"))


def _print_explanation(explanation: "Explanation") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pointsman.review.numbers import cut

    console = Console(highlight=False, soft_wrap=True)
    evidence = explanation.evidence
    hard = evidence.hardness is not None and not evidence.hardness.local
    if not evidence.accepted:
        fate = "refused, goes to the cloud"
    elif hard:
        fate = f"accepted, but too hard for {evidence.target}"
    else:
        fate = f"accepted, goes to {evidence.target}"
    console.print(
        f"{evidence.intent}: {fate}; score {evidence.score:.3f}, threshold {evidence.threshold:.3f}, "
        f"confidence {evidence.confidence:.3f}"
        + (f" of {evidence.required_confidence:.3f} required" if evidence.required_confidence else ""),
        markup=False,
    )
    neighbors = Table("similarity", "intent", "nearest exemplars, as scores count", box=None, pad_edge=False)
    for neighbor in evidence.neighbors:
        neighbors.add_row(f"{neighbor.similarity:.3f}", neighbor.intent, Text(cut(neighbor.text)))
    table = Table("score", "threshold", "behind", "intent", "target", box=None, pad_edge=False)
    for standing in explanation.standings[:_STANDINGS]:
        behind = "ruled out" if standing.behind is None else f"{standing.behind:.3f}"
        table.add_row(
            f"{standing.score:.3f}", f"{standing.threshold:.3f}", behind, standing.intent, standing.target
        )
    for part in (neighbors, table):
        console.print()
        console.print(part)
    if (more := len(explanation.standings) - _STANDINGS) > 0:
        console.print(f"and {more} more; --json shows all")
    console.print()
    for line in explanation.advice:
        console.print(Text(f"- {line}"))
    for note in explanation.notes:
        console.print(Text(f"note: {note}"))
