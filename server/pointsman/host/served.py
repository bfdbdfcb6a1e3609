"""Settings to what a server with them would serve, without one: the bundle where one is configured, else the folders."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pointsman.embedding.cache import EmbeddingCache
from pointsman.errors import PreconditionError
from pointsman.host.bundles import open_bundle
from pointsman.host.offline import Workbench, learned_of, load_catalog, open_workbench
from pointsman.router.snapshot import Learned, Matcher, Snapshot, assemble
from pointsman.settings import Settings


@dataclass(frozen=True, slots=True)
class Served:
    """What serves.

    bench: has the encoder that the matcher is asked with
    notes: what does not hold any more
    """

    bench: Workbench
    snapshot: Snapshot
    notes: tuple[str, ...] = ()

    @property
    def matcher(self) -> Matcher:
        """The matcher; where there may be none, ask the snapshot."""
        assert self.snapshot.matcher is not None  # noqa: S101 - there are intents
        return self.snapshot.matcher

    @property
    def version(self) -> str:
        """The version that decisions carry."""
        return self.snapshot.version

    @property
    def learned(self) -> Learned:
        """What was learned beside the catalog."""
        return self.matcher.learned


@contextmanager
def open_served(settings: Settings, *, bare: bool = False) -> Generator[Served, None, None]:
    """Load what would serve.

    bare: also without intents

    Raises:
        CatalogError: a file was refused: what is judged must be what is meant.
        ArtifactError: the encoder cannot be had, or the bundle cannot be served.
        PreconditionError: there are no intents.

    """
    bundle = settings.paths.bundle
    if bundle is not None:
        with open_workbench(settings) as bench:
            contents = open_bundle(bundle, settings, bench.encoder_hash)
            encoder = contents.matcher.encoder or bench.encoder
            cache = EmbeddingCache(encoder, settings.paths.cache)
            matcher = replace(contents.matcher, reader=encoder)
            routing, cloud_model = settings.routing, settings.cloud.model or None
            snapshot = assemble(matcher.catalog, contents.version, matcher, routing, cloud_model)
            yield Served(replace(bench, encoder=encoder, cache=cache), snapshot)
        return
    catalog = load_catalog(settings)
    if not catalog.intents and not bare:
        raise PreconditionError(f"{settings.paths.intents}/ holds no intents")
    with open_workbench(settings) as bench:
        learned, stale = learned_of(bench, catalog)
        yield Served(bench, bench.snapshot(catalog, learned), tuple(stale))
