"""The files of engines: verified once, and looked at again before every start of an engine."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError
from pointsman.generation.engine_process import EngineSpec
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

    def check_of(self, spec: EngineSpec) -> Callable[[], None]:
        """Return what raises `ArtifactError` if a file of an engine is no longer what it was. Blocking."""

        def check() -> None:
            for path in (spec.model, *spec.adapters):
                self._check(path)

        return check

    def _check(self, path: Path) -> None:
        try:
            state = _state(path)
            if state == self._verified.get(path):
                return
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror or error}") from error
        if digest != path.parent.name:  # the store names folders by content
            raise ArtifactError(
                f"{path}: changed on disk, its sha256 is {digest}; delete it and it is fetched again"
            )
        self._verified[path] = state


def _state(path: Path) -> _State:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
