"""A bundle as the store of a catalog: read whole, never written."""

from pathlib import Path
from typing import Any, NoReturn

from pointsman.artifacts.whole_file import signature_of
from pointsman.errors import ArtifactError, PreconditionError
from pointsman.host.bundles import Contents, open_bundle
from pointsman.router.snapshot import Learned
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog, Intent, Problem, Specialist


class BundleStore:
    """The bundle at `paths.bundle`. One that is not sound is refused, and the one before it keeps serving."""

    def __init__(self, path: Path, settings: Settings, encoder_hash: str) -> None:
        self.folders: list[Path] = []
        self.files = [path]
        self.contents: Contents | None = None
        self._path = path
        self._settings = settings
        self._encoder_hash = encoder_hash
        self._signature: tuple[int, ...] | None = None
        self._problems: tuple[Problem, ...] = ()

    @property
    def catalogs(self) -> "BundleStore":
        """Who changes the catalog; it refuses every change."""
        return self

    def load(self) -> tuple[Catalog, Learned]:
        """Return what serves. Reads only a file that changed.

        Raises:
            ArtifactError: there was never a sound bundle.

        """
        try:
            signature = signature_of(self._path)
        except OSError as error:
            self._refuse(ArtifactError(f"{self._path}: cannot be read: {error.strerror}"))
        else:
            if signature != self._signature:
                try:
                    self.contents = open_bundle(self._path, self._settings, self._encoder_hash)
                    self._problems = ()
                except ArtifactError as error:
                    self._refuse(error)
                self._signature = signature
        assert self.contents is not None  # noqa: S101 - else it was refused, and raised
        served = self.contents.matcher.catalog
        catalog = Catalog(served.intents, served.specialists, self._problems, served.rules)
        return catalog, self.contents.matcher.learned

    def put_intent(self, intent: Intent) -> None:
        """Refuse."""
        self._read_only(f"intent {intent.name!r}")

    def put_specialist(self, specialist: Specialist) -> None:
        """Refuse."""
        self._read_only(f"specialist {specialist.name!r}")

    def check_specialist(self, specialist: Specialist) -> dict[str, Any]:
        """Refuse."""
        self._read_only(f"specialist {specialist.name!r}")

    def delete(self, kind: str, name: str) -> None:
        """Refuse."""
        self._read_only(f"{kind} {name!r}")

    def model_problem(self, name: str, message: str) -> Problem:
        """Return a problem with the model files of a specialist."""
        return Problem(self._path.name, 0, "specialists", name, message)

    def _refuse(self, error: ArtifactError) -> None:
        if self.contents is None:
            raise error
        message = f"{error}; version {self.contents.version} keeps serving"
        self._problems = (Problem(self._path.name, 0, "", "", message),)

    def _read_only(self, what: str) -> NoReturn:
        raise PreconditionError(
            f"{what} cannot be changed: a bundle is served ({self._path.name}); build and activate another"
        )
