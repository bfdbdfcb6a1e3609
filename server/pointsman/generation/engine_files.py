"""The files of engines: verified once, and looked at again before every start of an engine."""

from dataclasses import dataclass
from pathlib import Path

from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.verdict import sha256_of
from pointsman.errors import ArtifactError
from pointsman.generation.engine_spec import EngineSpec
from pointsman.generation.gguf_check import check_adapter, check_base, check_scale
from pointsman.values.catalog import Specialist

_State = tuple[int, int, int]  # inode, size, time of the last change in nanoseconds


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A specialist, and where its verified files stand."""

    specialist: Specialist
    base: Path
    adapter: Path | None


def fetch_and_check(store: ArtifactStore, specialist: Specialist) -> ModelFiles:
    """Return the verified files of a specialist. Blocking.

    Raises:
        ArtifactError: they cannot be had or used; says which and why.

    """
    base = store.fetch(specialist.base)
    check_base(base)
    if specialist.adapter is None:
        return ModelFiles(specialist, base, None)
    adapter = store.fetch(specialist.adapter.artifact)
    check_adapter(adapter, base, specialist.base.sha256)
    check_scale(adapter, specialist.adapter.scale)
    return ModelFiles(specialist, base, adapter)


@dataclass(frozen=True, slots=True)
class Changes:
    """Of the files of an engine. overwritten: whether one was, in place, which reaches an engine that has it open."""

    told: tuple[str, ...]
    overwritten: bool


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """The files of one engine."""

    known: "EngineFiles"
    paths: tuple[Path, ...]

    def verify(self) -> None:
        """Raise `ArtifactError` if a file is no longer what was verified. Blocking."""
        for path in self.paths:
            self.known.check(path)

    def look(self) -> Changes:
        """Return which files look changed, by inode, size and time. Blocking."""
        found = [self.known.changed(path) for path in self.paths]
        return Changes(tuple(told for told, _ in found if told), any(in_place for _, in_place in found))


class EngineFiles:
    """What the files of engines looked like when they were verified."""

    def __init__(self) -> None:
        self._verified: dict[Path, _State] = {}

    def fetch(self, store: ArtifactStore, specialist: Specialist) -> ModelFiles:
        """Return the files of a specialist, and remember how they look; see `fetch_and_check`."""
        files = fetch_and_check(store, specialist)
        for path in (files.base, files.adapter):
            if path is not None and path not in self._verified:
                self._verified[path] = _state(path)
        return files

    def of(self, spec: EngineSpec) -> "CheckedFiles":
        """Return the files of one engine."""
        return CheckedFiles(self, (spec.model, *spec.adapters))

    def changed(self, path: Path) -> tuple[str, bool]:
        """Return what has happened to a file since it was verified, if anything, and whether in place. Blocking."""
        before = self._verified.get(path)
        try:
            now = _state(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}", False
        if before is None or now == before:
            return "", False
        in_place = now[0] == before[0]
        return f"{path}: {'overwritten' if in_place else 'replaced'} on disk while it is served", in_place

    def check(self, path: Path) -> None:
        """Make sure that a file is what was verified, reading it again where it looks changed. Blocking.

        Raises:
            ArtifactError: it is not, or cannot be read.

        """
        try:
            state = _state(path)
            if state == self._verified.get(path):
                return
            digest = sha256_of(path)
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror or error}") from error
        if digest != path.parent.name:  # the store names folders by content
            raise ArtifactError(
                f"{path}: changed on disk, its sha256 is {digest}; delete it and it is fetched again"
            )
        if _state(path) != state:
            raise ArtifactError(f"{path}: changed on disk while it was read")
        self._verified[path] = state


def _state(path: Path) -> _State:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
