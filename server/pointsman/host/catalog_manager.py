"""The catalog over time: files to snapshot and engines, one change after the other."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import structlog
from threadpoolctl import threadpool_limits

from pointsman.catalog.store import FileStore
from pointsman.catalog.watch import changes
from pointsman.embedding.cache import EmbeddingCache
from pointsman.errors import ArtifactError, PointsmanError, PreconditionError
from pointsman.generation.engine_pool import EnginePool
from pointsman.ledger.metrics import Metrics
from pointsman.router.router import Router
from pointsman.router.snapshot import Snapshot, build_snapshot
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog, Intent, Problem, Specialist, SpecialistStatus

_log = structlog.get_logger()


class SnapshotBuilder:
    """Catalogs to snapshots, on a thread of its own."""

    def __init__(self, settings: Settings, cache: EmbeddingCache, encoder_hash: str) -> None:
        self._settings = settings
        self._cache = cache
        self._encoder_hash = encoder_hash
        # BLAS threads that wait for each other take the cores of encoder and engines; the limit is the process's.
        limit_blas = partial(threadpool_limits, limits=settings.encoder.threads, user_api="blas")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog", initializer=limit_blas)

    async def build(self, catalog: Catalog) -> Snapshot:
        """Embed what is new, fit, calibrate; the event loop stays free."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread,
            build_snapshot,
            catalog,
            self._cache,
            self._encoder_hash,
            self._settings.routing,
            self._settings.cloud.model or None,
        )

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class CatalogManager:
    """The one owner of the file store. Changes by RPC and changes on disk take turns."""

    def __init__(
        self,
        store: FileStore,
        builder: SnapshotBuilder,
        router: Router,
        engines: EnginePool,
        metrics: Metrics,
        *,
        run_engines: bool = True,
    ) -> None:
        self._store = store
        self._builder = builder
        self._router = router
        self._engines = engines
        self._metrics = metrics
        self._run_engines = run_engines
        self._lock = asyncio.Lock()

    @property
    def catalog(self) -> Catalog:
        """The catalog that serves now."""
        return self._router.snapshot.catalog

    @property
    def version(self) -> str:
        """Its version."""
        return self._router.snapshot.version

    def statuses(self) -> list[SpecialistStatus]:
        """How each specialist is doing."""
        return [self._engines.status(specialist) for specialist in self.catalog.specialists]

    async def reload(self) -> None:
        """Take changed files into use; what is refused is logged and listed."""
        async with self._lock:
            await self._reload()

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload whenever a file changes, until `stop`."""
        async for changed in changes([self._store.intents_dir, self._store.specialists_dir], stop):
            _log.debug("catalog.files_changed", files=sorted(path.name for path in changed))
            try:
                await self.reload()
            except (PointsmanError, OSError, ValueError) as error:
                _log.error("catalog.reload_failed", error=str(error))

    async def put_intent(self, intent: Intent) -> str:
        """Create or replace an intent; see `FileStore.put_intent`."""
        async with self._lock:
            await asyncio.to_thread(self._store.put_intent, intent)
            return await self._reload()

    async def delete_intent(self, name: str) -> str:
        """Delete an intent; see `FileStore.delete`."""
        async with self._lock:
            await asyncio.to_thread(self._store.delete, "intent", name)
            return await self._reload()

    async def register_specialist(self, specialist: Specialist) -> str:
        """Fetch, verify, load and serve a specialist; what cannot be served is not kept.

        Raises:
            CatalogError: not a valid manifest.
            ArtifactError: its files cannot be had or used, or no engine starts with them.

        """
        async with self._lock:
            self._store.check_specialist(specialist)
            await self._engines.check(specialist)
            before = self.catalog.specialist(specialist.name)
            await asyncio.to_thread(self._store.put_specialist, specialist)
            version = await self._reload()
            status = self._engines.status(specialist)
            if not status.error:
                return version
            if before is None:
                await asyncio.to_thread(self._store.delete, "specialist", specialist.name)
            else:
                await asyncio.to_thread(self._store.put_specialist, before)
            await self._reload()
            raise ArtifactError(f"specialist {specialist.name!r} cannot be served: {status.error}")

    async def remove_specialist(self, name: str) -> str:
        """Remove a specialist.

        Raises:
            UnknownNameError: there is none of that name.
            PreconditionError: intents still target it.

        """
        async with self._lock:
            users = [intent.name for intent in self.catalog.intents if intent.target == name]
            if users:
                message = f"specialist {name!r} is still the target of {', '.join(users)}; change or delete them first"
                raise PreconditionError(message)
            await asyncio.to_thread(self._store.delete, "specialist", name)
            return await self._reload()

    async def _reload(self) -> str:
        begun = time.perf_counter()
        catalog = await asyncio.to_thread(self._store.load)  # file I/O has no place on the event loop
        current = self.catalog
        if self._run_engines and catalog.specialists != current.specialists:
            refused = await self._engines.apply(catalog.specialists)
            catalog = replace(catalog, problems=catalog.problems + _problems(refused))
        else:
            catalog = replace(catalog, problems=catalog.problems + self._engine_problems(current))
        if (catalog.intents, catalog.specialists, catalog.problems) == (
            current.intents,
            current.specialists,
            current.problems,
        ):
            return self.version
        self._router.swap(await self._builder.build(catalog))
        self._metrics.loaded(catalog)
        _log.info(
            "catalog.loaded",
            version=self.version,
            intents=len(catalog.intents),
            exemplars=sum(len(intent.exemplars) for intent in catalog.intents),
            specialists=len(catalog.specialists),
            problems=len(catalog.problems),
            took_ms=round((time.perf_counter() - begun) * 1e3, 1),
        )
        for problem in catalog.problems:
            if problem not in current.problems:
                _log.error(
                    "catalog.refused",
                    file=problem.file,
                    line=problem.line,
                    field=problem.field,
                    value=problem.value,
                    message=problem.message,
                )
        return self.version

    def _engine_problems(self, catalog: Catalog) -> tuple[Problem, ...]:
        """Problems of model files stand until the specialists change."""
        names = {s.name: s for s in catalog.specialists}
        return tuple(
            problem for problem in catalog.problems if problem.field == "files" and problem.value in names
        )


def _problems(refused: dict[str, str]) -> tuple[Problem, ...]:
    return tuple(
        Problem(f"specialists/{name}", 0, "files", name, message) for name, message in sorted(refused.items())
    )
