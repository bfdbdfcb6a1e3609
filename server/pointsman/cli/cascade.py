"""`pointsman cascade collect | fit | report`: how sure local answers must be to stand, from labelled ones."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.options import Config

if TYPE_CHECKING:
    from pointsman.settings import Settings
    from pointsman.values.cascade import AnswerModel

cascade = typer.Typer(
    help="When a local answer moves to the cloud after all, learned from labelled answers.",
    no_args_is_help=True,
)

Answers = Annotated[
    Path,
    typer.Option(
        help='Labelled answers, JSONL: {"specialist": …, "prompt": …, "answer": …, "logprobs": […], '
        '"right": true or false, "finish": "stop" or "length"}.',
        show_default=False,
    ),
]


@cascade.command()
def collect(
    data: Annotated[Path, typer.Option(help='Prompts with their answers, JSONL: {"user": …, "answer": …}.')],
    specialist: Annotated[str, typer.Option(help="Who answers them; NAME@next: its candidate.")],
    out: Annotated[Path, typer.Option(help="Labelled answers to write.")] = Path("answers.jsonl"),
    adapter: Annotated[
        Path | None,
        typer.Option(
            help="GGUF of a twin that answers in its place: an adapter that was trained on its other examples, "
            "without these. Such answers shape the curve and set no threshold.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Prompts to ask, the first ones; 0: all.")] = 0,
    add: Annotated[bool, typer.Option("--add", help="Add to the file instead of replacing it.")] = False,
    config: Config = None,
) -> None:
    """Ask a specialist prompts whose answers are known, and write what it said and how sure it was.

    The prompts must be none that it was trained on, and be drawn as traffic is drawn. An answer is right when it
    equals the known one, once both are normalised.
    """
    from rich.console import Console
    from rich.progress import Progress

    from pointsman.host.cascade import collect as ask
    from pointsman.host.cascade import read_known
    from pointsman.review.cascade import answer_line

    settings = _settings(config)
    known = read_known(data)
    known = known[:limit] if limit else known
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("asking", total=len(known))
        answers = asyncio.run(
            ask(settings, specialist, known, lambda done, _: progress.update(task, completed=done), adapter)
        )
    with out.open("a" if add else "w", encoding="utf-8") as file:
        file.writelines(answer_line(answer) for answer in answers)
    right = sum(answer.right for answer in answers)
    who = f"a twin of {specialist}" if adapter else specialist
    print(f"{len(answers)} answers of {who}, {right} right ({right / len(answers):.1%}): {out}")


@cascade.command()
def fit(
    data: Answers,
    risk: Annotated[
        float, typer.Option(help="Largest share of a specialist's answers that may stand and be wrong.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="How sure that must be.")] = 0.95,
    calibration_share: Annotated[
        float, typer.Option(help="Share of the answers that set the threshold; the others shape the curve.")
    ] = 0.5,
    out: Annotated[Path | None, typer.Option(help="File to write; paths.cascade when left out.")] = None,
    config: Config = None,
) -> None:
    """Learn how sure an answer must be to stand, so that a stated risk holds.

    Where the labels of a specialist cannot support the promise, all its answers escalate, and the exit status
    is 1.
    """
    from pointsman.catalog.cascade_file import cascade_json
    from pointsman.errors import ConfigError
    from pointsman.host.offline import load_catalog
    from pointsman.review.cascade import fit_cascade, read_answers

    for name, value in (
        ("--risk", risk),
        ("--confidence", confidence),
        ("--calibration-share", calibration_share),
    ):
        if not 0 < value < 1:
            raise ConfigError(f"{name}: must lie between 0 and 1 (got {value})")
    settings = _settings(config)
    catalog = load_catalog(settings).with_candidates
    fitted = fit_cascade(read_answers(data, catalog), catalog, risk, confidence, calibration_share)
    path = out or settings.paths.cascade
    path.write_text(cascade_json(fitted), encoding="utf-8")
    for model in fitted.models:
        print(_line(model, risk, confidence))
    print(f"written to {path}")
    if not all(model.holds for model in fitted.models):
        raise typer.Exit(1)


@cascade.command()
def report(
    data: Answers,
    model: Annotated[Path | None, typer.Option(help="The cascade file; paths.cascade when left out.")] = None,
    cloud_accuracy: Annotated[
        float, typer.Option(min=0, max=1, help="How often the cloud is taken to be right.")
    ] = 1.0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="The answers are other ones than `fit` was given: use them all.")
    ] = False,
    config: Config = None,
) -> None:
    """Show how well confidence tells right answers, and the accuracy for shares that escalate."""
    from pointsman.catalog.cascade_file import read_cascade
    from pointsman.host.offline import load_catalog
    from pointsman.review.cascade import SHARES, figures_on, is_held_out, read_answers

    settings = _settings(config)
    catalog = load_catalog(settings).with_candidates
    answers = [answer for answer in read_answers(data, catalog) if not answer.twin]
    used = answers if fresh else [answer for answer in answers if is_held_out(answer)]
    shares = " ".join(f"{f'{share:.0%}':>7}" for share in SHARES)
    print(f"{'specialist':20} {'answers':>7} {'AUROC':>6}  accuracy at {shares} escalated; at the threshold")
    for figures in figures_on(used, catalog, read_cascade(model or settings.paths.cascade), cloud_accuracy):
        auroc = "-" if figures.auroc is None else f"{figures.auroc:.3f}"
        row = " ".join(f"{figures.accuracy[share]:7.1%}" for share in SHARES)
        print(
            f"{figures.specialist:20} {figures.answers:7} {auroc:>6}              {row}  "
            f"{figures.escalated:.1%} escalate, {figures.standing_wrong:.1%} stand and are wrong"
        )


def _line(model: "AnswerModel", risk: float, confidence: float) -> str:
    curve = "curve of all specialists" if model.shared else "curve of its own"
    auroc = "" if model.auroc is None else f", AUROC {model.auroc:.3f}"
    head = f"{model.specialist}: {model.fitting + model.calibration} answers, {model.right} right; {curve}{auroc}"
    if model.holds:
        return (
            f"{head}\n  promise: at most {risk:.1%} of answers stand and are wrong, with {confidence:.0%} "
            f"confidence ({model.wrong} did; upper bound {model.bound:.2%}); {model.kept:.1%} stand, from "
            f"confidence {model.required_confidence:.3f} on"
        )
    more = (
        f"about {model.labels_missing} more labelled answers that set the threshold would support one"
        if model.labels_missing
        else "more labels will not help: too many of its surest answers are wrong; train it"
    )
    return f"{head}\n  no promise: {more}. All its answers escalate."


def _settings(config: Path | None) -> "Settings":
    from pointsman.host.logs import configure_logs
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    return settings
