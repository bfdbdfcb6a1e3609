"""`pointsman encoder tune`: an encoder fitted to one's own exemplars."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pointsman.embedding.tune import Step, Watch

encoder = typer.Typer(help="The encoder that turns texts into vectors.", no_args_is_help=True)


@encoder.callback()
def _group() -> None:
    """Keep `tune` a subcommand: an app of one command would be that command."""


@encoder.command()
def tune(
    out: Annotated[Path, typer.Option(help="Folder to write; name it as encoder.model to serve it.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; else $POINTSMAN_CONFIG, else pointsman.yaml if there is one."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the exemplars.")] = 8,
    holdout: Annotated[
        float,
        typer.Option(help="Share of exemplars kept out at first, which judge it and set its thresholds."),
    ] = 0.2,
    learning_rate: Annotated[float, typer.Option(help="Greatest step of the optimiser.")] = 1.5e-4,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal weights.")] = 0,
) -> None:
    """Fine-tune the encoder on the exemplars; use it only if that wins on exemplars which were kept out, then tune on all.

    Exit status 1 where it does not win: the folder then holds its card and no model.
    """
    from pointsman.embedding.tune import Recipe
    from pointsman.errors import ConfigError
    from pointsman.host.logs import configure_logs
    from pointsman.host.offline import load_catalog
    from pointsman.host.progress import fetch_progress
    from pointsman.host.tuning import tune_encoder
    from pointsman.settings import load

    if not 0 < holdout <= 0.5:
        raise ConfigError(f"--holdout: must be above 0 and at most 0.5 (got {holdout})")
    if not 0 < learning_rate < 1:
        raise ConfigError(f"--learning-rate: must lie between 0 and 1 (got {learning_rate})")
    settings = load(config)
    configure_logs(settings.log)
    recipe = Recipe(epochs=epochs, learning_rate=learning_rate, seed=seed, threads=settings.encoder.threads)
    catalog = load_catalog(settings)
    with fetch_progress() as fetching, _tuning_progress() as watch:
        card = tune_encoder(settings, catalog, out, recipe, holdout, watch, fetching)
    for epoch in card.epochs:
        print(f"pass {epoch['number']}: loss {epoch['loss']:.3f}, on kept-out {epoch['held_out_loss']:.3f}")
    total = len(card.held_out)
    figures = (
        f"{card.tuned_right} of {total} kept-out exemplars right, {card.frozen_right} by {card.base_model}"
    )
    if not card.adopted:
        typer.echo(f"not better: {figures}. {card.base_model} stays; {out} holds the card only.", err=True)
        raise typer.Exit(1)
    precision = "int8" if card.quantised else "fp32: int8 was too far off"
    print(f"better: {figures}")
    print(f"written to {out} ({precision}, cosine to torch {card.cosine_to_torch:.3f})")
    print(f"to serve it: encoder.model: {out}")


@contextmanager
def _tuning_progress() -> "Generator[Watch, None, None]":
    """Yield what shows each step: a bar on a terminal, a line a pass elsewhere."""
    if not sys.stderr.isatty():
        yield _print_passes
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("tuning", total=None, visible=False, left="")

        def show(step: "Step") -> None:
            bars.update(
                task,
                completed=step.done,
                total=step.total,
                description=_done(step),
                left=_left(step),
                visible=True,
            )

        yield show


def _print_passes(step: "Step") -> None:
    if step.done * step.epochs % step.total == 0:
        print(f"{_done(step)}, {_left(step)}", file=sys.stderr, flush=True)


def _done(step: "Step") -> str:
    return f"tuning{' on all' if step.final else ''}, pass {step.epoch}: loss {step.loss:.3f}"


def _left(step: "Step") -> str:
    return f"{step.left_s:.0f} s left at most{'' if step.final else ', then on all if it wins'}"
