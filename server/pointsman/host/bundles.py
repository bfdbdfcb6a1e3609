"""Bundles over time: built from settings, verified, taken into use and rolled back."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, TypeVar

from pointsman import __version__
from pointsman.artifacts.bundle_file import BundleFile, read_bundle_file, write_bundle_file
from pointsman.artifacts.whole_file import whole_file
from pointsman.catalog.calibration_file import read_calibration
from pointsman.catalog.cascade_file import read_cascade
from pointsman.decision.difficulty_file import load as load_difficulty
from pointsman.embedding.card import CARD_FILE, GRAPH_FILE, TOKENIZER_FILE, TWIN_FILE
from pointsman.embedding.encoder import Encoder
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.tuned_encoder import TunedEncoder
from pointsman.errors import ArtifactError, CatalogError, PreconditionError
from pointsman.host.offline import Workbench, load_catalog
from pointsman.router.basis import basis_of
from pointsman.router.bundle import (
    CASCADE,
    DIFFICULTY,
    ENCODER_CARD,
    ENCODER_MODEL,
    ENCODER_TOKENIZER,
    ENCODER_TWIN,
    EncoderId,
    encoder_of,
    matcher_of,
    members_of,
)
from pointsman.router.snapshot import Learned, Matcher
from pointsman.settings import Settings
from pointsman.values.cascade import STALE
from pointsman.values.promise import Promise

T = TypeVar("T")
_ENCODER_FILES = {
    ENCODER_MODEL: GRAPH_FILE,
    ENCODER_TOKENIZER: TOKENIZER_FILE,
    ENCODER_TWIN: TWIN_FILE,
    ENCODER_CARD: CARD_FILE,
}
"""Members, and the files of a tuned encoder that they are."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle serves. The matcher has the bundle's own encoder, where it is not the configured one."""

    version: str
    facts: dict[str, Any]
    encoder: EncoderId
    matcher: Matcher


def build_bundle(settings: Settings, bench: Workbench, out: Path) -> Contents:
    """Write what the configured folders would serve, and return it as it reads back.

    Raises:
        CatalogError: a file of the catalog was refused.
        PreconditionError: no intents, or a calibration or a cascade that is stale.
        ArtifactError: `out` cannot be written.

    """
    promise = None
    if settings.paths.calibration.is_file():
        promise = read_calibration(settings.paths.calibration)
    catalog = load_catalog(settings)
    basis = basis_of(settings.routing, catalog)
    if promise is not None and (why := promise.stale(bench.encoder_hash, catalog.exemplar_hash, basis)):
        raise PreconditionError(f"{settings.paths.calibration}: {why}; run `pointsman calibrate` again")
    matcher = bench.matcher(catalog, Learned(promise))
    identity = EncoderId(settings.encoder.model, bench.encoder_hash)
    members = members_of(matcher, identity)
    folder = Path(settings.encoder.model)
    if (folder / CARD_FILE).is_file():  # a tuned encoder travels with what was fitted on it
        members |= {
            name: (folder / file).read_bytes()
            for name, file in _ENCODER_FILES.items()
            if (folder / file).is_file()
        }
    if settings.paths.difficulty.is_file():
        load_difficulty(settings.paths.difficulty, bench.encoder_hash)  # refuses what could not be served
        members[DIFFICULTY] = settings.paths.difficulty.read_bytes()
    if settings.paths.cascade.is_file():
        cascade = read_cascade(settings.paths.cascade)
        for model in cascade.stale(catalog):
            raise PreconditionError(f"{settings.paths.cascade}: models.{model.specialist}: {STALE}")
        members[CASCADE] = settings.paths.cascade.read_bytes()
    facts = {
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "pointsman": __version__,
        "encoder": identity.model,
        "encoder_hash": identity.hash,
        "intents": len(matcher.catalog.intents),
        "exemplars": matcher.size,
        "specialists": [specialist.name for specialist in matcher.catalog.specialists],
        "promise": None if promise is None else _stated(promise),
        "difficulty": DIFFICULTY in members,
        "cascade": CASCADE in members,
    }
    write_bundle_file(out, facts, members)
    return open_bundle(out, settings, bench.encoder_hash)


def _stated(promise: Promise) -> str:
    of = "" if promise.prompts is None else f" of the next {promise.prompts:,}"
    return f"{promise.risk:.1%}{of} at {promise.confidence:.0%}"


def open_bundle(path: Path, settings: Settings, encoder_hash: str) -> Contents:
    """Read and verify a bundle; its own encoder is loaded where it brings one.

    Raises:
        ArtifactError: damaged, tampered with, or of an encoder that is neither in it nor configured.

    """
    bundle = read_bundle_file(path)
    try:
        identity = encoder_of(bundle.members)
        encoder = _encoder(bundle, settings, identity, encoder_hash)
        matcher = matcher_of(bundle.members, settings.routing.neighbors)
        difficulty = _read(bundle, DIFFICULTY, lambda path: load_difficulty(path, identity.hash).difficulty)
        cascade = _read(bundle, CASCADE, read_cascade)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    content = bundle.members.get(DIFFICULTY)
    digest = (
        "" if content is None else hashlib.sha256(content).hexdigest()
    )  # as that of the file it was made from
    learned = Learned(matcher.promise, difficulty, bundle.version, cascade, digest)
    return Contents(
        bundle.version, bundle.facts, identity, replace(matcher, learned=learned, encoder=encoder)
    )


def activate(bundle: Path, active: Path) -> None:
    """Put a verified bundle where serving looks; what was there becomes the previous one.

    Raises:
        ArtifactError: the folder cannot be written.

    """

    def swap() -> None:
        if active.exists():
            _copy(active, previous(active))
        _copy(bundle, active)

    _guarded(active, swap)


def roll_back(active: Path) -> None:
    """Exchange the active bundle for the previous one; again, and the newer one is back.

    Raises:
        PreconditionError: there is no previous one.
        ArtifactError: the folder cannot be written.

    """
    before = previous(active)
    if not before.is_file():
        raise PreconditionError(f"{before}: no previous bundle to roll back to")

    def swap() -> None:
        newer = active.with_name(f".{active.name}.rolled-back")
        _copy(active, newer)
        _copy(before, active)
        newer.replace(before)

    _guarded(active, swap)


def previous(active: Path) -> Path:
    """Return where the bundle before the active one is kept."""
    return active.with_name(f"{active.name}.previous")


def _encoder(
    bundle: BundleFile, settings: Settings, identity: EncoderId, encoder_hash: str
) -> Encoder | None:
    """Return the bundle's own encoder; None when it is the configured one."""
    if identity.hash == encoder_hash:
        return None
    if ENCODER_MODEL not in bundle.members:
        raise ArtifactError(
            f"bundle: made with encoder {identity.model} ({identity.hash[:12]}), "
            f"but {settings.encoder.model} ({encoder_hash[:12]}) is configured"
        )
    if ENCODER_TOKENIZER not in bundle.members:
        raise ArtifactError(f"bundle: {ENCODER_TOKENIZER}: is missing")
    folder = settings.paths.cache / "bundles" / bundle.version
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in _ENCODER_FILES.items():
        if name in bundle.members:
            with NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(bundle.members[name])
            Path(file.name).replace(folder / target)
    encoder: Encoder
    if ENCODER_CARD in bundle.members:
        encoder = TunedEncoder(folder, settings.encoder.threads)
    else:  # a bundle made before its card travelled with an encoder
        encoder = OnnxEncoder(folder / GRAPH_FILE, folder / TOKENIZER_FILE, settings.encoder.threads)
    if encoder.hash != identity.hash:
        raise ArtifactError(f"bundle: its encoder has hash {encoder.hash[:12]}, not {identity.hash[:12]}")
    return encoder


def _read(bundle: BundleFile, name: str, read: Callable[[Path], T]) -> T | None:
    """Read a member as the file that it was made from."""
    if name not in bundle.members:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bundle.members[name])
        try:
            return read(path)
        except CatalogError as error:
            raise ArtifactError(f"bundle: {name}: {error}") from error


def _copy(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    with whole_file(target) as file, source.open("rb") as content:
        shutil.copyfileobj(content, file)


def _guarded(active: Path, change: Callable[[], None]) -> None:
    try:
        active.parent.mkdir(parents=True, exist_ok=True)
        change()
    except OSError as error:
        raise ArtifactError(f"{active}: cannot be written: {error.strerror}") from error
