"""Settings to what a server with them would serve, without one: the bundle where one is configured, else the folders."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pointsman.embedding.cache import EmbeddingCache
from pointsman.errors import PreconditionError
from pointsman.host.bundles import open_bundle
from pointsman.host.offline import Workbench, learned_of, load_catalog, open_workbench, snapshot_of
from pointsman.router.snapshot import Learned, Matcher
from pointsman.settings import Settings


@dataclass(frozen=True, slots=True)
class Served:
    """A matcher as it serves, with the version that decisions carry.

    bench: has the encoder that the matcher is asked with
    notes: what does not hold any more
    """

    bench: Workbench
    matcher: Matcher
    version: str
    notes: tuple[str, ...] = ()

    @property
    def learned(self) -> Learned:
        """What was learned beside the catalog."""
        return self.matcher.learned


@contextmanager
def open_served(settings: Settings) -> Generator[Served, None, None]:
    """Load what would serve.

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
            yield Served(replace(bench, encoder=encoder, cache=cache), matcher, contents.version)
        return
    catalog = load_catalog(settings)
    if not catalog.intents:
        raise PreconditionError(f"{settings.paths.intents}/ holds no intents")
    with open_workbench(settings) as bench:
        learned, stale = learned_of(bench, catalog)
        snapshot = snapshot_of(bench, catalog, learned)
        assert snapshot.matcher is not None  # noqa: S101 - the catalog has intents
        yield Served(bench, snapshot.matcher, snapshot.version, tuple(stale))
