"""Settings to a matcher without a server: what the commands of review stand on."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from pointsman.artifacts.store import ArtifactStore
from pointsman.catalog.store import FileStore
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.load import load_encoder
from pointsman.errors import CatalogError, PreconditionError
from pointsman.host.learned import LearnedFiles
from pointsman.host.progress import fetch_progress
from pointsman.router.basis import basis_of
from pointsman.router.snapshot import NOTHING_LEARNED, Learned, Matcher, Snapshot, build_snapshot
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Workbench:
    """Encoder and cache, with progress bars: catalogs to matchers, texts to rows."""

    settings: Settings
    cache: EmbeddingCache
    encoder: Encoder

    @property
    def encoder_hash(self) -> str:
        """sha256 over what makes the rows."""
        return self.encoder.hash

    def tokens(self, text: str) -> Sequence[str]:
        """Return the tokens that the encoder reads a text as."""
        return self.encoder.tokens(text)

    def embed(self, texts: Sequence[str], what: str = "embedding prompts") -> Rows:
        """Return unit rows (n, d)."""
        with bar(what) as progress:
            return self.cache.encode(texts, progress)

    def snapshot(self, catalog: Catalog, learned: Learned) -> Snapshot:
        """Return what would serve, with the version that decisions carry."""
        with bar("embedding exemplars") as progress:
            model = self.settings.cloud.model or None
            return build_snapshot(
                catalog, self.cache, self.encoder_hash, self.settings.routing, model, progress, learned
            )

    def matcher(self, catalog: Catalog, learned: Learned = NOTHING_LEARNED) -> Matcher:
        """Return the matcher of a catalog, with what was learned beside it or without.

        Raises:
            PreconditionError: the catalog has no intents.

        """
        matcher = self.snapshot(catalog, learned).matcher
        if matcher is None:
            raise PreconditionError(f"{self.settings.paths.intents}/ holds no intents")
        return matcher


@contextmanager
def open_workbench(settings: Settings) -> Generator[Workbench, None, None]:
    """Load the encoder; fetches it with a progress bar on first use.

    Raises:
        ArtifactError: the encoder cannot be had.

    """
    with fetch_progress() as progress, threadpool_limits(settings.encoder.threads, user_api="blas"):
        store = ArtifactStore(settings.paths.models, settings.paths.specialists, progress)
        encoder = load_encoder(settings.encoder, store)
        yield Workbench(settings, EmbeddingCache(encoder, settings.paths.cache), encoder)


def load_catalog(settings: Settings) -> Catalog:
    """Return the catalog of the configured folders.

    Raises:
        CatalogError: a file was refused: what is judged must be what is meant.

    """
    catalog = file_store(settings).load()
    if catalog.problems:
        raise CatalogError(catalog.problems)
    return catalog


def learned_of(bench: Workbench, catalog: Catalog) -> tuple[Learned, list[str]]:
    """Return what serves beside the catalog, and a note where its promise is stale.

    Raises:
        CatalogError: a file that is there and cannot be used.

    """
    paths = bench.settings.paths
    files = LearnedFiles(paths.calibration, paths.difficulty, bench.encoder_hash, paths.cascade)
    learned, problems = files.load()
    if problems:
        raise CatalogError(problems)
    promise = learned.promise
    basis = basis_of(bench.settings.routing, catalog)
    why = promise.stale(bench.encoder_hash, catalog.exemplar_hash, basis) if promise is not None else ""
    return learned, [f"{paths.calibration} is stale, so its promise does not hold: {why}."] if why else []


def file_store(settings: Settings) -> FileStore:
    """Return the store of the configured folders."""
    paths, routing = settings.paths, settings.routing
    general = routing.general_specialist or None
    return FileStore(paths.intents, paths.specialists, paths.rules, routing.mid_tier, general)


@contextmanager
def bar(what: str) -> Generator[Callable[[int, int], None], None, None]:
    """Show a bar on a terminal; yields what is told how many are done, of how many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
