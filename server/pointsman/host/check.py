"""Files to a verdict without serving: `pointsman check` and `pointsman models pull`."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pointsman.artifacts.store import ArtifactStore, Progress
from pointsman.catalog.prices_file import read_prices
from pointsman.embedding.load import load_encoder
from pointsman.errors import ArtifactError, CatalogError
from pointsman.generation.engine_files import fetch_and_check
from pointsman.host.offline import file_store
from pointsman.settings import Settings
from pointsman.values.catalog import CLOUD, Catalog


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found: problems fail it, notes do not."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    summary: str


def check_catalog(settings: Settings, *, fetch: bool) -> Report:
    """Check every file; model files too where they have been fetched, or with `fetch`."""
    catalog = file_store(settings).load()
    store = ArtifactStore(settings.paths.models, settings.paths.specialists)
    problems = [str(problem) for problem in catalog.problems]
    notes = []
    folders = (settings.paths.intents, settings.paths.specialists)
    problems += [f"{folder}/: no such folder" for folder in folders if not folder.is_dir()]
    found, unchecked = _check_files(store, catalog, fetch=fetch)
    problems += found
    if unchecked:
        notes.append(f"model files of {unchecked} specialists are not fetched and not checked; use --fetch")
    general = settings.routing.general_specialist
    if general and catalog.specialist(general) is None:
        problems.append(f"routing.general_specialist: no specialist {general!r}")
    mid = settings.routing.mid_tier
    if mid and mid.specialist and catalog.specialist(mid.specialist) is None:
        problems.append(f"routing.mid: no specialist {mid.specialist!r}")
    problems += _unpriced(settings)
    if not settings.cloud.model:
        users = [intent.name for intent in catalog.intents if intent.target == CLOUD]
        if users:
            notes.append(f"no cloud is configured; intents that target it: {', '.join(users)}")
    notes += [
        f"intent {intent.name!r} has {len(intent.exemplars)} exemplars; five or more are advised"
        for intent in catalog.intents
        if len(intent.exemplars) < 5
    ]
    return Report(tuple(problems), tuple(notes), _summary(catalog, len(problems)))


def _check_files(store: ArtifactStore, catalog: Catalog, *, fetch: bool) -> tuple[list[str], int]:
    """Return what is wrong with model files, and how many specialists' are not here and not to be fetched."""
    problems = []
    unchecked = 0
    for specialist in catalog.specialists:
        if not fetch and not all(store.has(artifact) for artifact in specialist.artifacts):
            unchecked += 1
            continue
        try:
            if not fetch:
                for artifact in specialist.artifacts:
                    store.verify(artifact)
            fetch_and_check(store, specialist)
        except ArtifactError as error:
            problems.append(f"specialists: {specialist.name}: {error}")
    return problems, unchecked


def _unpriced(settings: Settings) -> Iterator[str]:
    path = settings.paths.prices
    if not path.exists():
        return
    try:
        prices = read_prices(path)
    except CatalogError as error:
        yield from map(str, error.problems)
        return
    for model in settings.cloud_models:
        if model not in prices.models:
            yield f"{path}: {prices.missing(model)}"


def pull_models(settings: Settings, progress: Progress) -> Iterator[str]:
    """Fetch the encoder and all model files, and hash what was fetched before; yields a line each.

    Raises:
        ArtifactError: one cannot be had or is not the promised one.

    """
    interactive = sys.stderr.isatty()
    store = ArtifactStore(
        settings.paths.models, settings.paths.specialists, progress, interactive=interactive, recheck=True
    )
    encoder = load_encoder(settings.encoder, store)
    yield f"encoder {settings.encoder.model}: {encoder.dimensions} dimensions, hash {encoder.hash[:12]}"
    catalog = file_store(settings).load()
    artifacts = {a.sha256: a for s in catalog.specialists for a in s.artifacts}
    for artifact in artifacts.values():
        path = store.fetch(artifact)
        yield f"{artifact.uri}: {path.stat().st_size >> 20} MiB, sha256 {artifact.sha256[:12]} verified"


def _summary(catalog: Catalog, problems: int) -> str:
    exemplars = sum(len(intent.exemplars) for intent in catalog.intents)
    verdict = "no problems" if not problems else f"{problems} problem{'s' if problems > 1 else ''}"
    rules = f", {len(catalog.rules)} rules" if catalog.rules else ""
    return (
        f"{len(catalog.intents)} intents with {exemplars} exemplars, "
        f"{len(catalog.specialists)} specialists{rules}: {verdict}"
    )
