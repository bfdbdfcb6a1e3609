"""`pointsman train`: a specialist's adapter from one's own examples."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pointsman.host.training import Delivered, Reporter
    from pointsman.training.lora import Step

_ENDED_BY_SIGNAL = 130
_LINES_A_TRAINING = 20


def train(
    name: Annotated[str, typer.Argument(help="The specialist to train.", show_default=False)],
    data: Annotated[Path, typer.Option(help="JSONL of examples: user, answer and perhaps system.")],
    held_out: Annotated[
        Path | None, typer.Option("--eval", help="JSONL that judges; else a part of the examples does.")
    ] = None,
    base: Annotated[str, typer.Option(help="URI of the GGUF base; the shipped one if left out.")] = "",
    base_sha256: Annotated[str, typer.Option(help="sha256 of that base.")] = "",
    system: Annotated[
        str | None, typer.Option(help="System prompt to train and serve with, instead of the rows'.")
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=256, help="Rank of the adapter.")] = 16,
    alpha: Annotated[float, typer.Option(help="Its weight is alpha / rank.")] = 32.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 8,
    learning_rate: Annotated[
        float, typer.Option(help="Greatest step of the optimiser; less for larger bases.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal weights.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; engine.threads if left out.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest example, prompt and answer.")] = 512,
    max_minutes: Annotated[
        float | None, typer.Option(help="End the training after this time, with fewer passes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of adapter and card; SPECIALISTS/adapters if left out.")
    ] = None,
    drop_leaks: Annotated[
        bool, typer.Option("--drop-leaks", help="Leave out of the training what --eval asks too.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an adapter and a card of that name.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; else $POINTSMAN_CONFIG, else pointsman.yaml if there is one."),
    ] = None,
) -> None:
    """Train a LoRA adapter on examples, check it in the engine, and measure it.

    The base is measured first, without and with worked examples: it may be good enough. Then it is trained;
    Ctrl-C keeps a checkpoint for --resume. Exit status 1 if the engine does not say what was trained.
    """
    from pointsman.errors import ConfigError
    from pointsman.host.logs import configure_logs
    from pointsman.host.progress import fetch_progress
    from pointsman.host.training import SHIPPED_BASE, Order, train_adapter
    from pointsman.settings import load
    from pointsman.training.lora import Recipe
    from pointsman.values.catalog import Artifact

    if bool(base) != bool(base_sha256):
        raise ConfigError("--base and --base-sha256: give both, or neither")
    if not 0 < learning_rate < 1:
        raise ConfigError(f"--learning-rate: must lie between 0 and 1 (got {learning_rate})")
    if not 0 < alpha <= 1024:
        raise ConfigError(f"--alpha: must be above 0 and at most 1024 (got {alpha})")
    if max_minutes is not None and not max_minutes > 0:
        raise ConfigError(f"--max-minutes: must be above 0 (got {max_minutes})")
    settings = load(config)
    configure_logs(settings.log)
    order = Order(
        name=name,
        data=data,
        held_out=held_out,
        base=Artifact(base, base_sha256) if base else SHIPPED_BASE,
        system=system,
        recipe=Recipe(rank, alpha, epochs, batch, learning_rate, seed, max_minutes),
        threads=threads or settings.engine.threads,
        most_tokens=max_tokens,
        out=out or settings.paths.specialists / "adapters",
        resume=resume,
        drop_leaks=drop_leaks,
        overwrite=overwrite,
    )
    try:
        with fetch_progress() as fetching, _reporter() as report:
            delivered = train_adapter(settings, order, report, fetching)
    except KeyboardInterrupt:
        kept = settings.paths.cache / "train" / name / "checkpoint.pt"
        if kept.is_file():
            typer.echo("stopped; the same command with --resume goes on from here", err=True)
        raise typer.Exit(_ENDED_BY_SIGNAL) from None
    _say(delivered)


def _say(delivered: "Delivered") -> None:
    from pointsman.host.training import FEW_SHOT, TRAINED
    from pointsman.training.card import table

    print(table(delivered.figures))
    unquantised, quantised = delivered.agreements
    print(
        f"same next token as trained: {unquantised.share:.1%} of {unquantised.tokens}, {quantised.share:.1%} as served"
    )
    if delivered.figures[FEW_SHOT].exact >= delivered.figures[TRAINED].exact:
        print("few-shot is as good: worked examples in few_shot do without an adapter")
    print(f"written: {delivered.adapter}, {delivered.card}")
    if delivered.diff:
        print(f"{delivered.manifest} is there already; to serve the adapter, change it so:")
        print(delivered.diff, end="")
    else:
        print(f"written: {delivered.manifest}; a running server takes it up by itself")


@contextmanager
def _reporter() -> "Generator[Reporter, None, None]":
    """Yield what shows progress: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading", total=None, left="")

        class Bars:
            def counted(self, what: str, done: int, total: int) -> None:
                bars.update(task, description=what, completed=done, total=total, left=f"{done} of {total}")

            def trained(self, step: "Step") -> None:
                bars.update(
                    task,
                    description=f"training: loss {step.loss:.3f}",
                    completed=step.done,
                    total=step.total,
                    left=_left(step.left_s),
                )

            def note(self, text: str) -> None:
                bars.console.print(text, highlight=False, markup=False)

        yield Bars()


class _Lines:
    def counted(self, what: str, done: int, total: int) -> None:
        if done == total:
            self.note(f"{what}: {total} done")

    def trained(self, step: "Step") -> None:
        if step.done % max(1, step.total // _LINES_A_TRAINING) == 0:
            self.note(
                f"training, step {step.done} of {step.total}: loss {step.loss:.3f}, {_left(step.left_s)}"
            )

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _left(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"
