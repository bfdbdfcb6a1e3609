"""What was learned beside the catalog, from its files, at their last good: promise, difficulty model, cascade."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pointsman.artifacts.whole_file import signature_of
from pointsman.catalog.calibration_file import read_calibration
from pointsman.catalog.cascade_file import read_cascade
from pointsman.decision.difficulty_file import load as load_difficulty
from pointsman.errors import ArtifactError, CatalogError
from pointsman.router.snapshot import Learned
from pointsman.values.catalog import Problem
from pointsman.values.promise import Promise

T = TypeVar("T")


class LearnedFiles:
    """The three files. A file that breaks keeps serving its last good content; one that goes is gone."""

    def __init__(
        self, calibration: Path, difficulty: Path, encoder_hash: str, cascade: Path | None = None
    ) -> None:
        self.paths = [calibration, difficulty, *([cascade] if cascade else [])]
        self._promise = _LastGood(calibration, read_calibration)
        self._difficulty = _LastGood(difficulty, lambda path: load_difficulty(path, encoder_hash).difficulty)
        self._cascade = _LastGood(cascade, read_cascade) if cascade else None
        self._taken: tuple[Promise | None, str] = (None, "")  # with its digest

    @property
    def stated(self) -> Promise | None:
        """The promise of the file, taken or refused."""
        return self._promise.value

    def load(
        self, refuses: Callable[[Promise], bool] = lambda _: False
    ) -> tuple[Learned, tuple[Problem, ...]]:
        """Return what serves, and what was refused. Reads only a file that changed.

        refuses: whether a promise is not to be taken; the one before it stays, or none where there was none
        """
        files: list[_LastGood[Any]] = [self._promise, self._difficulty]
        files += [self._cascade] if self._cascade else []
        for file in files:
            file.look()
        if self._promise.value is None or not refuses(self._promise.value):
            self._taken = self._promise.value, self._promise.digest
        promise, digest = self._taken
        digests = [name for name in (digest, *(file.digest for file in files[1:])) if name]
        learned = Learned(
            promise,
            self._difficulty.value,
            hashlib.sha256(" ".join(digests).encode()).hexdigest() if digests else "",
            self._cascade.value if self._cascade else None,
            self._difficulty.digest,
        )
        return learned, tuple(problem for file in files for problem in file.problems)


class _LastGood(Generic[T]):
    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._signature: tuple[int, ...] | None = None
        self.value: T | None = None
        self.digest = ""
        self.problems: tuple[Problem, ...] = ()

    def look(self) -> None:
        try:
            signature = signature_of(self._path)
        except OSError:
            self._signature, self.value, self.digest, self.problems = None, None, "", ()
            return
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self.value, self.problems = self._read(self._path), ()
            self.digest = hashlib.sha256(self._path.read_bytes()).hexdigest()
        except CatalogError as error:
            self.problems = error.problems
        except ArtifactError as error:
            self.problems = (Problem(self._path.name, 0, "", "", str(error)),)
