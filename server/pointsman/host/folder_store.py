"""The configured folders and files as the store of a catalog, with what was learned beside it."""

from dataclasses import replace
from pathlib import Path

from pointsman.errors import PreconditionError
from pointsman.host.learned import LearnedFiles
from pointsman.host.offline import file_store
from pointsman.router.basis import basis_of
from pointsman.router.snapshot import Learned
from pointsman.settings import Settings
from pointsman.values.cascade import STALE
from pointsman.values.catalog import Catalog, Problem
from pointsman.values.promise import Promise


class FolderStore:
    """Intents, specialists and rules, the calibration, the difficulty model and the cascade."""

    def __init__(self, settings: Settings, encoder_hash: str) -> None:
        paths = settings.paths
        self.catalogs = file_store(settings)
        self._learned = LearnedFiles(paths.calibration, paths.difficulty, encoder_hash, paths.cascade)
        self._calibration = paths.calibration
        self._cascade = paths.cascade
        self._encoder_hash = encoder_hash
        self._routing = settings.routing
        self._refuses = settings.routing.stale_calibration == "refuse"
        self._served: Catalog | None = None  # the last one that the calibration in use was made for

    @property
    def folders(self) -> list[Path]:
        """The folders whose YAML is read."""
        return self.catalogs.folders

    @property
    def files(self) -> list[Path]:
        """The single files that are read; they need not exist."""
        return [*self.catalogs.files, *self._learned.paths]

    def load(self) -> tuple[Catalog, Learned]:
        """Return what serves, with the problems of what does not. Reads only files that changed.

        Where settings refuse a stale calibration, neither a file that is stale nor exemplars that make the one
        in use stale are taken: what served goes on serving.

        Raises:
            PreconditionError: the calibration is stale, settings refuse it, and nothing serves yet.

        """
        catalog = self.catalogs.load()
        learned, problems = self._learned.load(
            lambda promise: self._refuses and bool(self._stale(promise, catalog))
        )
        problems += self._stale_models(catalog, learned)
        if why := self._stale(self._learned.stated, catalog):
            message = f"stale: {why}; run `pointsman calibrate` again"
            problems = (*problems, Problem(self._calibration.name, 0, "", "", message))
            if self._refuses and self._served is None:
                raise PreconditionError(f"{self._calibration}: {message} (routing.stale_calibration: refuse)")
        if not self._stale(learned.promise, catalog):
            self._served = catalog
        elif self._refuses and self._served is not None:
            kept = self._served
            catalog = replace(catalog, intents=kept.intents, specialists=kept.specialists, rules=kept.rules)
        return replace(catalog, problems=catalog.problems + problems), learned

    def _stale(self, promise: Promise | None, catalog: Catalog) -> str:
        """Return why a promise does not hold for a catalog; empty where it does, or there is nothing to hold for."""
        if promise is None or not catalog.intents:
            return ""
        return promise.stale(self._encoder_hash, catalog.exemplar_hash, basis_of(self._routing, catalog))

    def _stale_models(self, catalog: Catalog, learned: Learned) -> tuple[Problem, ...]:
        """Return the models of answers that other files or prompts made; they are not used."""
        return tuple(
            Problem(self._cascade.name, 0, f"models.{model.specialist}", model.answers_hash[:12], STALE)
            for model in (learned.cascade.stale(catalog) if learned.cascade else ())
        )
