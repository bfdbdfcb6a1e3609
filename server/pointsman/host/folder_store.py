"""The configured folders and files as the store of a catalog, with what was learned beside it."""

from dataclasses import replace
from pathlib import Path

from pointsman.errors import PreconditionError
from pointsman.host.learned import LearnedFiles
from pointsman.host.offline import file_store
from pointsman.router.snapshot import Learned
from pointsman.settings import Settings
from pointsman.values.cascade import STALE
from pointsman.values.catalog import Catalog, Problem


class FolderStore:
    """Intents, specialists and rules, the calibration, the difficulty model and the cascade."""

    def __init__(self, settings: Settings, encoder_hash: str) -> None:
        paths = settings.paths
        self.catalogs = file_store(settings)
        self._learned = LearnedFiles(paths.calibration, paths.difficulty, encoder_hash, paths.cascade)
        self._calibration = paths.calibration
        self._cascade = paths.cascade
        self._encoder_hash = encoder_hash
        self._refuses = settings.routing.stale_calibration == "refuse"
        self._served: Catalog | None = None  # the last one that no stale calibration stood against

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

        Raises:
            PreconditionError: the calibration is stale, settings refuse it, and nothing serves yet.

        """
        catalog = self.catalogs.load()
        learned, problems = self._learned.load()
        problems += self._stale_models(catalog, learned)
        why = (
            learned.promise.stale(self._encoder_hash, catalog.exemplar_hash)
            if learned.promise and catalog.intents
            else ""
        )
        if why:
            message = f"stale: {why}; run `pointsman calibrate` again"
            problems = (*problems, Problem(self._calibration.name, 0, "exemplar_hash", "", message))
            if self._refuses and self._served is None:
                raise PreconditionError(f"{self._calibration}: {message} (routing.stale_calibration: refuse)")
            if self._refuses and self._served is not None:
                kept = self._served
                catalog = replace(
                    catalog, intents=kept.intents, specialists=kept.specialists, rules=kept.rules
                )
        else:
            self._served = catalog
        return replace(catalog, problems=catalog.problems + problems), learned

    def _stale_models(self, catalog: Catalog, learned: Learned) -> tuple[Problem, ...]:
        """Return the models of answers that other files or prompts made; they are not used."""
        return tuple(
            Problem(self._cascade.name, 0, f"models.{model.specialist}", model.answers_hash[:12], STALE)
            for model in (learned.cascade.stale(catalog) if learned.cascade else ())
        )
