"""`lint`, `diff` and `import`: what a change of intents/ is worth, before it serves."""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.options import Config
from pointsman.errors import PointsmanError

if TYPE_CHECKING:
    from pointsman.embedding.cache import EmbeddingCache
    from pointsman.embedding.encoder import Encoder, Rows
    from pointsman.review.diff import Diff
    from pointsman.review.findings import Finding
    from pointsman.review.foreign import Read
    from pointsman.review.revisions import Revision
    from pointsman.review.sensitive import Found
    from pointsman.settings import Settings

_TROUBLE = 2
"""Exit status of `lint` and `diff` when they could not be carried out: 1 is for what they found."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class FailOn(StrEnum):
    """What makes `diff` exit with status 1."""

    FLIPS = "flips"
    WORSE = "worse"
    NEVER = "never"


class Format(StrEnum):
    """What `import` reads."""

    AUTO = "auto"
    RASA = "rasa"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


_FORMATS = {
    ".yml": Format.RASA,
    ".yaml": Format.RASA,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}


def lint(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of intents; else paths.intents.", show_default=False)
    ] = None,
    near: Annotated[float, typer.Option(min=0, max=1, help="Cosine of near duplicates.")] = 0.95,
    margin: Annotated[
        float, typer.Option(min=0, help="Lead of another intent's held-out score over the own one.")
    ] = 0.1,
    thin: Annotated[int, typer.Option(min=1, help="Exemplars that an intent should have.")] = 5,
    broad: Annotated[
        float, typer.Option(min=0, help="Deviations below the median held-out score of intents.")
    ] = 3.0,
    harmful: Annotated[int, typer.Option(min=0, help="Most exemplars to name as harmful.")] = 5,
    phone_region: Annotated[
        str, typer.Option(help="Find phone numbers in this country's form too, such as US.")
    ] = "",
    since: Annotated[
        str, typer.Option(help="Only what concerns intents edited since: a folder, REV, or REV:path.")
    ] = "",
    ignore: Annotated[list[str] | None, typer.Option(help="A code to pass over; may be repeated.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit 1 on warnings too.")] = False,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option(help="Print Markdown, for a pull request.")] = False,
    config: Config = None,
) -> None:
    """Find what is wrong with exemplars: repeated, misplaced, thin, private; exit 1 on errors."""
    from pointsman.review.findings import RULES, Severity
    from pointsman.review.lint import Limits, texts_of
    from pointsman.review.lint import lint as find
    from pointsman.review.revisions import read_folder
    from pointsman.settings import load

    unknown = sorted(set(ignore or ()) - set(RULES))
    if unknown:
        raise typer.BadParameter(f"no such code: {', '.join(unknown)}; known: {', '.join(RULES)}")
    with _trouble():
        settings = load(config)
        revision = read_folder(
            (folder or settings.paths.intents).resolve(), str(folder or settings.paths.intents)
        )
        problems = _refused((folder or settings.paths.intents).resolve(), settings)
        exemplars = [text for intent in revision.intents for text in intent.exemplars]
        rows = _Embedder(settings).rows(exemplars, twin=True)
        sensitive = _sensitive([item.text for item in texts_of(revision)], settings, phone_region)
        found = find(revision, rows, Limits(near, margin, thin, broad, harmful), sensitive, problems)
        edited = _edited(revision, since, settings) if since else {i.name for i in revision.intents}
    found = tuple(f for f in found if f.code not in (ignore or ()) and f.concerns(edited))
    summary = _summary(revision, found) + (f", of what was edited since {since}" if since else "")
    if as_json:
        plain = [asdict(f) | {"severity": f.severity, "advice": f.advice} for f in found]
        sizes = {"intents": len(revision.intents), "exemplars": len(exemplars)}
        print(json.dumps(sizes | {"findings": plain}, indent=2, ensure_ascii=False))
    elif markdown:
        from pointsman.review.markdown import lint_markdown

        print(lint_markdown(found, summary))
    else:
        for finding in found:
            print(finding)
        print(summary)
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing for finding in found):
        raise typer.Exit(1)


def diff(
    old: Annotated[str, typer.Argument(help="A folder, REV, or REV:path.", show_default=False)],
    new: Annotated[str, typer.Argument(help="The same; else paths.intents.", show_default=False)] = "",
    traffic: Annotated[
        Path | None, typer.Option(help="JSONL of prompts: text, and intent where it is known.")
    ] = None,
    fail_on: Annotated[FailOn, typer.Option(help="What exits with 1.")] = FailOn.WORSE,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of labelled prompts by which accuracy may drop.")
    ] = 0.0,
    examples: Annotated[int, typer.Option(min=0, help="Prompts to show of those that flip alike.")] = 3,
    input_tokens: Annotated[
        float | None, typer.Option(min=0, help="Tokens of a prompt; counted from the texts when left out.")
    ] = None,
    output_tokens: Annotated[float, typer.Option(min=0, help="Tokens of an answer.")] = 256,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Compare two folders or git revisions of intents: what was edited, and which traffic flips.

    Prints Markdown. Exits with 1 when the change fails, with 2 when it cannot be judged.
    """
    from pointsman.review.revisions import load_revision
    from pointsman.settings import load

    if fail_on is FailOn.FLIPS and traffic is None:
        raise typer.BadParameter("--fail-on flips needs --traffic")
    with _trouble():
        settings = load(config)
        before = load_revision(old, settings.paths.intents)
        after = load_revision(new or str(settings.paths.intents), settings.paths.intents)
        found = _compare(before, after, settings, traffic, examples, input_tokens, output_tokens)
    worse = found.worse(tolerance)
    if as_json:
        print(json.dumps(_plain_diff(found, worse), indent=2, ensure_ascii=False))
    else:
        from pointsman.review.markdown import diff_markdown

        print(diff_markdown(found, worse))
    flips = found.traffic is not None and bool(found.traffic.flips)
    if (fail_on is FailOn.WORSE and worse) or (fail_on is FailOn.FLIPS and flips):
        raise typer.Exit(1)


def import_(
    source: Annotated[Path, typer.Argument(help="A file, or a folder of Rasa files.", show_default=False)],
    source_format: Annotated[
        Format, typer.Option("--format", help="Told by the suffix when left out.")
    ] = Format.AUTO,
    target: Annotated[str, typer.Option(help="Who answers: a specialist, or cloud.")] = "cloud",
    to: Annotated[Path | None, typer.Option(help="Where to write; else paths.intents.")] = None,
    text_field: Annotated[str, typer.Option(help="Column or field of the text.")] = "text",
    label_field: Annotated[str, typer.Option(help="Column or field of the label.")] = "label",
    skip: Annotated[
        list[str] | None, typer.Option(help="A label of out-of-scope texts; may be repeated.")
    ] = None,
    max_exemplars: Annotated[int | None, typer.Option(min=1, help="Most exemplars of an intent.")] = None,
    force: Annotated[bool, typer.Option(help="Replace intents that are there.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be written.")] = False,
    config: Config = None,
) -> None:
    """Make intents of Rasa NLU YAML, or of a CSV, TSV or JSONL of text and label."""
    from pointsman.review.imports import to_intents, write_intents
    from pointsman.settings import load

    settings = load(config)
    read = _read(source, source_format, text_field, label_field)
    imported = to_intents(read, target, skip=skip or (), max_exemplars=max_exemplars)
    files = write_intents(
        imported.intents,
        to or settings.paths.intents,
        settings.paths.specialists,
        force=force,
        mid=settings.routing.mid_tier,
        dry_run=dry_run,
    )
    for file, intent in zip(files, imported.intents, strict=True):
        print(f"{file}: {len(intent.exemplars)} exemplars")
    for note in imported.notes:
        print(f"note: {note}")
    count = sum(len(intent.exemplars) for intent in imported.intents)
    print(
        f"{'would write' if dry_run else 'wrote'} {len(files)} intents with {count} exemplars, target {target}"
    )


def _read(source: Path, source_format: Format, text_field: str, label_field: str) -> "Read":
    from pointsman.review.foreign import read_csv, read_jsonl, read_rasa

    told = Format.RASA if source.is_dir() else _FORMATS.get(source.suffix.lower())
    match told if source_format is Format.AUTO else source_format:
        case Format.RASA:
            return read_rasa(source)
        case Format.CSV:
            return read_csv(source, text_field, label_field)
        case Format.TSV:
            return read_csv(source, text_field, label_field, "\t")
        case Format.JSONL:
            return read_jsonl(source, text_field, label_field)
        case _:
            raise typer.BadParameter(f"{source}: the suffix tells no format; name one with --format")


@contextmanager
def _trouble() -> Generator[None, None, None]:
    try:
        yield
    except PointsmanError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(_TROUBLE) from None


class _Embedder:
    """The configured encoder, loaded when it is first needed, with a bar where there is a terminal."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._loaded: tuple[Encoder, EmbeddingCache] | None = None

    def load(self) -> "tuple[Encoder, EmbeddingCache]":
        """Return encoder and cache."""
        if self._loaded is None:
            from pointsman.artifacts.store import ArtifactStore
            from pointsman.embedding.cache import EmbeddingCache
            from pointsman.embedding.load import load_encoder
            from pointsman.host.logs import configure_logs
            from pointsman.host.progress import fetch_progress

            configure_logs(self._settings.log.model_copy(update={"level": "error"}))
            paths = self._settings.paths
            with fetch_progress() as progress:
                store = ArtifactStore(paths.models, paths.specialists, progress)
                encoder = load_encoder(self._settings.encoder, store)
            self._loaded = encoder, EmbeddingCache(encoder, paths.cache)
        return self._loaded

    def rows(self, texts: Sequence[str], *, twin: bool = False) -> "Rows":
        """Return one unit row a text, (n, d); of the `twin` of a tuned encoder, which has not seen all of them."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        _, cache = self.load()
        columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
        ) as bar:
            task = bar.add_task("", total=None)
            return (cache.twin if twin else cache).encode(
                texts, lambda done, total: bar.update(task, completed=done, total=total)
            )


def _refused(folder: Path, settings: "Settings") -> "list[Any]":
    from pointsman.catalog.store import FileStore

    mid = settings.routing.mid_tier
    problems = FileStore(folder, settings.paths.specialists, mid=mid).load().problems
    return [problem for problem in problems if problem.file.startswith(f"{folder.name}/")]


def _edited(revision: "Revision", since: str, settings: "Settings") -> set[str]:
    from pointsman.review.changes import compare
    from pointsman.review.revisions import load_revision

    changes = compare(load_revision(since, settings.paths.intents).catalog, revision.catalog)
    return {intent.name for intent in changes.added} | {change.name for change in changes.edited}


def _sensitive(texts: Sequence[str], settings: "Settings", phone_region: str) -> "list[Found] | None":
    from pointsman.review.sensitive import find_personal, find_secrets

    try:
        return [
            *find_secrets(texts, settings.paths.cache / "secret-rules"),
            *find_personal(texts, phone_region or None),
        ]
    except ModuleNotFoundError:
        return None


def _summary(revision: "Revision", found: "Sequence[Finding]") -> str:
    from pointsman.review.findings import Severity

    exemplars = sum(len(intent.exemplars) for intent in revision.intents)
    counts = [(s, sum(finding.severity is s for finding in found)) for s in Severity]
    told = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts)
    return f"{len(revision.intents)} intents with {exemplars} exemplars: {told}"


def _compare(
    before: "Revision",
    after: "Revision",
    settings: "Settings",
    traffic: Path | None,
    examples: int,
    input_tokens: float | None,
    output_tokens: float,
) -> "Diff":
    from pointsman.catalog.prices_file import read_prices
    from pointsman.host.offline import Workbench, learned_of
    from pointsman.review.changes import compare
    from pointsman.review.diff import Diff, diff_traffic
    from pointsman.review.price import prices_of
    from pointsman.review.traffic import check_intents, read_traffic

    changes = compare(before.catalog, after.catalog)
    if traffic is None:
        return Diff(before.name, after.name, changes, None)
    prompts = read_traffic(traffic, need_labels=False)
    check_intents(prompts, {intent.name for side in (before, after) for intent in side.intents}, traffic)
    embedder = _Embedder(settings)
    exemplars = [t for side in (before, after) for i in side.intents for t in (*i.exemplars, *i.negatives)]
    rows = embedder.rows([*(item.text for item in prompts), *exemplars])[: len(prompts)]
    encoder, cache = embedder.load()
    bench, snapshots, notes = Workbench(settings, cache, encoder), [], []
    for side in (before, after):
        learned, stale = learned_of(
            bench, side.catalog
        )  # as it would be served: with a promise that is stale, too
        snapshots.append(bench.snapshot(side.catalog, learned))
        notes += [f"for {side.name}, {note}" for note in stale]
    old, new = snapshots
    prices = prices_of(read_prices(settings.paths.prices), settings.cloud.model, input_tokens, output_tokens)
    found = diff_traffic(prompts, rows, old, new, changes.renames, prices, examples)
    return Diff(before.name, after.name, changes, found, tuple(notes))


def _plain_diff(found: "Diff", worse: Sequence[str]) -> dict[str, Any]:
    plain = asdict(found) | {"worse": list(worse)}
    if found.traffic is not None:
        totals = {
            "flipped": found.traffic.flipped,
            "mended": found.traffic.mended,
            "broken": found.traffic.broken,
        }
        plain["traffic"] |= totals
    return plain
