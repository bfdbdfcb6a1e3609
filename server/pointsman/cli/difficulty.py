"""`pointsman difficulty fit | append | report`: how hard prompts are for the local models, from outcomes."""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.options import Config

if TYPE_CHECKING:
    from pointsman.decision.difficulty import Difficulty
    from pointsman.decision.difficulty_file import Saved
    from pointsman.decision.outcomes import Outcomes
    from pointsman.host.offline import Workbench
    from pointsman.review.difficulty import Kept, Review

difficulty = typer.Typer(
    help="How hard prompts are for the local models, learned from prompts answered by both sides.",
    no_args_is_help=True,
)

Data = Annotated[
    Path,
    typer.Option(
        help='Outcomes, .jsonl, .csv or .parquet: {"text": …, "quality_local": 0..1, "quality_cloud": 0..1, '
        '"topic": … or null}; the topic is the intent that the router gives.',
        show_default=False,
    ),
]
Model = Annotated[Path | None, typer.Option(help="The difficulty file; paths.difficulty when left out.")]
Out = Annotated[Path | None, typer.Option(help="File to write; paths.difficulty when left out.")]


@difficulty.command()
def fit(
    data: Data,
    out: Out = None,
    target: Annotated[float, typer.Option(help="Share of the cloud's mean quality to keep.")] = 0.95,
    confidence: Annotated[float, typer.Option(help="How sure that must be.")] = 0.9,
    calibration_share: Annotated[
        float,
        typer.Option(help="Share of the prompts kept from training, to set the threshold; 200 at least."),
    ] = 0.2,
    config: Config = None,
) -> None:
    """Learn from outcomes, and set the threshold up to which prompts may stay local.

    The prompts must be a random sample of traffic. Under 300 training and 200 calibration prompts the file
    is written, to append to, but switches nothing; where the labels support no threshold, everything goes
    to the cloud. The exit status is 1 in both cases.
    """
    from pointsman.decision import difficulty as decision
    from pointsman.decision.outcomes import calibration_cut
    from pointsman.errors import ConfigError
    from pointsman.host.offline import open_workbench
    from pointsman.review.outcome_file import read_outcomes

    if not 0 < calibration_share < 1:
        raise ConfigError(f"--calibration-share: must lie between 0 and 1 (got {calibration_share})")
    try:
        promise = decision.QualityPromise(target, confidence)
    except ValueError as error:
        raise ConfigError(f"--target, --confidence: {error}") from None
    settings = _settings(config)
    outcomes = read_outcomes(data)
    cut = calibration_cut([outcome.text for outcome in outcomes], calibration_share)
    with open_workbench(settings) as bench:
        training, calibration = _labels(bench, outcomes, cut)
        with _bar("fitting") as progress:
            fitted = decision.fit(training, calibration, promise, bench.encoder_hash, cut, progress)
    _write(fitted, out or settings.paths.difficulty)


@difficulty.command()
def append(data: Data, model: Model = None, out: Out = None, config: Config = None) -> None:
    """Add outcomes to a difficulty file without fitting it again; the threshold is set anew.

    Prompts that the file has already are left out, so the same data may be given twice. `--out` keeps the
    old file. The exit status is that of `fit`.
    """
    from pointsman.decision.difficulty_file import load
    from pointsman.host.offline import open_workbench
    from pointsman.review.outcome_file import read_outcomes

    settings = _settings(config)
    path = model or settings.paths.difficulty
    outcomes = read_outcomes(data)
    with open_workbench(settings) as bench:
        old = load(path, bench.encoder_hash).difficulty
        training, calibration = (_new(labels, old) for labels in _labels(bench, outcomes, old.cut))
        with _bar("appending") as progress:
            longer = old.append(training, calibration, progress)
    known = len(outcomes) - len(training) - len(calibration)
    print(f"{len(outcomes) - known} prompts appended, {known} left out: the file has them already")
    _write(longer, out or path)


@difficulty.command()
def report(
    model: Model = None,
    data: Annotated[
        Path | None, typer.Option(help="Outcomes to measure it on, too, in the format of `fit`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: Config = None,
) -> None:
    """Show the promise, what each target would leave local, and every topic.

    With --data also what is kept on those prompts; those that the file was made from are left out.
    """
    from pointsman.decision.difficulty_file import load
    from pointsman.errors import CatalogError
    from pointsman.host.offline import open_workbench
    from pointsman.review.difficulty import measure, review
    from pointsman.review.outcome_file import read_outcomes
    from pointsman.values.catalog import Problem

    settings = _settings(config)
    path = model or settings.paths.difficulty
    saved = load(path)
    fresh = None
    if data is not None:
        outcomes = read_outcomes(data)
        with open_workbench(settings) as bench:
            saved = load(path, bench.encoder_hash)
            labels = _new(_embedded(bench, outcomes), saved.difficulty)
        if not len(labels):
            message = f"every prompt is one that {path} was made from; they say nothing of its promise"
            raise CatalogError([Problem(str(data), 0, "", "", message)])
        with _bar("measuring") as progress:
            fresh = measure(labels, saved.difficulty.stays_local(labels, progress))
    with _bar("scoring calibration prompts") as progress:
        found = review(saved.difficulty, progress)
    if as_json:
        print(json.dumps(_as_json(saved, found, fresh), indent=2, ensure_ascii=False))
        return
    _print_labels(saved.difficulty, path, saved.fitted)
    if found is not None:
        _print_review(saved.difficulty, found)
    if fresh is not None:
        _print_fresh(saved.difficulty, fresh)


def _settings(config: Path | None) -> Any:
    from pointsman.host.logs import configure_logs
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log)
    return settings


def _embedded(bench: "Workbench", outcomes: Sequence[Any]) -> "Outcomes":
    from pointsman.decision.outcomes import make_outcomes

    texts = [outcome.text for outcome in outcomes]
    return make_outcomes(
        bench.embed(texts),
        texts,
        [outcome.topic for outcome in outcomes],
        [outcome.local for outcome in outcomes],
        [outcome.cloud for outcome in outcomes],
    )


def _labels(bench: "Workbench", outcomes: Sequence[Any], cut: float) -> "tuple[Outcomes, Outcomes]":
    """Return training and calibration labels."""
    from pointsman.decision.outcomes import in_calibration

    labels = _embedded(bench, outcomes)
    aside = in_calibration([outcome.text for outcome in outcomes], cut)
    return labels.take(~aside), labels.take(aside)


def _new(labels: "Outcomes", old: "Difficulty") -> "Outcomes":
    return labels.without(old.training).without(old.calibration)


def _write(made: "Difficulty", path: Path) -> None:
    from pointsman.decision.difficulty import ALL_CLOUD
    from pointsman.decision.difficulty_file import save
    from pointsman.review.difficulty import measure

    save(made, path)
    _print_labels(made, path)
    if not made.on:
        raise typer.Exit(1)
    if made.threshold == ALL_CLOUD:
        typer.echo(f"no threshold: the labels do not show that {made.promise} is kept", err=True)
        raise typer.Exit(1)
    kept = measure(made.calibration, made.stays_local(made.calibration))
    print(f"promise: at least {made.promise}")
    print(f"threshold {made.threshold:.3f}: {_described(kept)} on the calibration prompts")


def _print_labels(made: "Difficulty", path: Path, fitted: str = "") -> None:
    named = {topic for topic in made.training.topics + made.calibration.topics if topic is not None}
    print(
        f"{path}: {len(made.training)} training and {len(made.calibration)} calibration labels, "
        f"{len(named)} topics{f', of {fitted}' if fitted else ''}, encoder {made.encoder_hash[:12]}"
    )
    if not made.on:
        typer.echo(made.shortage, err=True)


def _print_review(made: "Difficulty", found: "Review") -> None:
    print(f"promise: at least {made.promise}; threshold {made.threshold:.3f}")
    print(f"on the calibration prompts: {_described(found.kept)}")
    print("\n  target  stays local")
    for target, local in found.local_shares.items():
        print(f"  {target:>6.1%}  {local:>11.1%}")
    print("\n  training  calibration   rate  stays local  topic")
    for row in found.topics:
        local_share = "cloud" if row.local_share is None else f"{row.local_share:.1%}"
        name = "(none)" if row.topic is None else row.topic
        print(f"  {row.training:>8}  {row.calibration:>11}  {row.rate:>+.2f}  {local_share:>11}  {name}")


def _print_fresh(made: "Difficulty", fresh: "Kept") -> None:
    print(f"\non {fresh.prompts} other prompts: {_described(fresh)}")
    if made.on and fresh.quality is not None:
        verdict = "kept" if fresh.quality >= made.promise.target else "NOT kept"
        print(f"target of {made.promise.target:.1%}: {verdict}")


def _described(kept: "Kept") -> str:
    local = f"{kept.local_share:.1%} stay local"
    if kept.quality is None:
        return f"{local}; the cloud's answers are worth nothing there"
    error = "" if kept.error is None else f" ± {kept.error:.1%}"
    return f"{local}, at {kept.quality:.1%}{error} of the cloud's quality"


def _as_json(saved: "Saved", found: "Review | None", fresh: "Kept | None") -> dict[str, Any]:
    from pointsman.decision.difficulty import ALL_CLOUD

    made = saved.difficulty
    return {
        "on": made.on,
        "encoder_hash": made.encoder_hash,
        "fitted": saved.fitted,
        "training": len(made.training),
        "calibration": len(made.calibration),
        "target": made.promise.target,
        "confidence": made.promise.confidence,
        "threshold": None if made.threshold == ALL_CLOUD else made.threshold,
        "alpha": made.alpha,
        "calibration_figures": asdict(found.kept) if found else None,
        "local_by_target": {str(target): share for target, share in found.local_shares.items()}
        if found
        else None,
        "topics": [asdict(topic) for topic in found.topics] if found else [],
        "data_figures": asdict(fresh) if fresh else None,
    }


@contextmanager
def _bar(what: str) -> Generator[Callable[[int, int], None], None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
