"""The catalog over time: files to snapshot and engines, one change after the other."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial

import structlog
from threadpoolctl import threadpool_limits

from pointsman.artifacts.uri import Sources
from pointsman.catalog.targets import users_of
from pointsman.catalog.watch import changes
from pointsman.decision.trial import Course, Verdict
from pointsman.embedding.cache import EmbeddingCache
from pointsman.errors import ArtifactError, CatalogError, PointsmanError, PreconditionError
from pointsman.generation.engine_pool import EnginePool
from pointsman.generation.trials import Trials
from pointsman.host.bundle_store import BundleStore
from pointsman.host.bundles import Contents
from pointsman.host.folder_store import FolderStore
from pointsman.host.rollouts import advance
from pointsman.ledger.metrics import Metrics
from pointsman.router.router import Router
from pointsman.router.snapshot import NOTHING_LEARNED, Learned, Snapshot, assemble, build_snapshot
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog, Intent, Problem, Rollout, Specialist, SpecialistStatus
from pointsman.values.rollout import Past

_log = structlog.get_logger()
_RETRY_S = 60.0
"""Time between two looks at model files that were refused."""


class SnapshotBuilder:
    """Catalogs to snapshots, on a thread of its own."""

    def __init__(self, settings: Settings, cache: EmbeddingCache, encoder_hash: str) -> None:
        self._settings = settings
        self._cache = cache
        self._encoder_hash = encoder_hash
        limit_blas = partial(_limit_blas, settings.encoder.threads)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="catalog", initializer=limit_blas)

    async def build(
        self,
        catalog: Catalog,
        learned: Learned = NOTHING_LEARNED,
        contents: Contents | None = None,
    ) -> Snapshot:
        """Embed what is new, fit, calibrate; the event loop stays free. Of a bundle's contents nothing is fitted."""
        routing, cloud_model = self._settings.routing, self._settings.cloud.model or None
        if contents is not None:
            matcher = replace(contents.matcher, reader=contents.matcher.encoder or self._cache.encoder)
            return assemble(catalog, contents.version, matcher, routing, cloud_model)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread,
            partial(
                build_snapshot,
                catalog,
                self._cache,
                self._encoder_hash,
                routing,
                cloud_model,
                learned=learned,
            ),
        )

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _limit_blas(threads: int) -> None:
    """BLAS threads that wait for each other take the cores of encoder and engines; the limit is the process's."""
    import sklearn.linear_model  # noqa: F401 - brings scipy's BLAS: what is loaded later is not limited

    threadpool_limits(limits=threads, user_api="blas")


class CatalogManager:
    """The one owner of the file store. Changes by RPC and changes on disk take turns."""

    def __init__(
        self,
        store: FolderStore | BundleStore,
        builder: SnapshotBuilder,
        router: Router,
        engines: EnginePool,
        metrics: Metrics,
        tasks: asyncio.TaskGroup,
        *,
        sources: Sources,
        trials: Trials,
        run_engines: bool = True,
    ) -> None:
        self._trials = trials
        trials.tell(self.conclude)
        metrics.watch_trials(trials.running)
        self._tasks = tasks
        self._sources = sources
        self._store = store
        self._builder = builder
        self._router = router
        self._engines = engines
        self._metrics = metrics
        self._run_engines = run_engines
        self._learned = NOTHING_LEARNED
        self._contents: Contents | None = None  # of the bundle that serves; the store may hold a newer one
        self._running: list[Specialist] = []  # those that the engines were last set to
        # The specialists that were last stated; None looks at all of them again.
        self._stated: tuple[Specialist, ...] | None = None
        self._refused: tuple[Problem, ...] = ()  # whose files cannot be used
        self._unfetched: set[Specialist] = set()
        self._retry_at = time.monotonic() + _RETRY_S
        self._lock = asyncio.Lock()

    @property
    def catalog(self) -> Catalog:
        """The catalog that serves now."""
        return self._router.snapshot.catalog

    @property
    def version(self) -> str:
        """Its version."""
        return self._router.snapshot.version

    async def statuses(self) -> list[SpecialistStatus]:
        """How each specialist is doing."""
        await self._engines.measure()
        trials = self._trials.running()
        return [
            replace(self._engines.status(specialist), trial=trials.get(specialist.name))
            for specialist in self.catalog.specialists
        ]

    async def reload(self, *, fetch: bool = True) -> None:
        """Take changed files into use; what is refused is logged and listed.

        Without `fetch`, specialists whose model files are not here yet are left for later.
        """
        await self._to_the_end(partial(self._reload, fetch=fetch))

    async def watch(self, stop: asyncio.Event) -> None:
        """Reload whenever a file changes, until `stop`. A model that is being fetched keeps no change waiting."""
        fetching: dict[Specialist, asyncio.Task[None]] = {}

        async def fetch(specialist: Specialist) -> None:
            try:
                await self._engines.verify([specialist])
                await self._reload_or_log(again=True)
            finally:
                fetching.pop(specialist, None)

        async with asyncio.TaskGroup() as tasks:
            async with aclosing(changes(self._store.folders, self._store.files, stop)) as batches:
                async for changed in batches:
                    _log.debug("catalog.files_changed", files=sorted(path.name for path in changed))
                    await self._reload_or_log(again=self._retry_is_due())
                    for specialist in self._unfetched - set(fetching):
                        name = f"fetch {specialist.name}"
                        fetching[specialist] = tasks.create_task(fetch(specialist), name=name)
            for task in list(fetching.values()):
                task.cancel()

    async def put_intent(self, intent: Intent) -> str:
        """Create or replace an intent; see `FileStore.put_intent`."""

        async def put() -> str:
            await asyncio.to_thread(self._store.catalogs.put_intent, intent)
            return await self._reload()

        return await self._to_the_end(put)

    async def delete_intent(self, name: str) -> str:
        """Delete an intent; see `FileStore.delete`."""

        async def delete() -> str:
            await asyncio.to_thread(self._store.catalogs.delete, "intent", name)
            return await self._reload()

        return await self._to_the_end(delete)

    def _ensure_allowed(self, specialist: Specialist) -> None:
        named = {"base.uri": specialist.base.uri}
        named |= {"adapter.uri": specialist.adapter.artifact.uri} if specialist.adapter else {}
        problems = [
            Problem("request", 0, field, uri, why)
            for field, uri in named.items()
            if (why := self._sources.refusal(uri))
        ]
        if problems:
            raise CatalogError(problems)

    async def register_specialist(self, specialist: Specialist) -> str:
        """Fetch, verify, load and serve a specialist; what cannot be served is not kept.

        Raises:
            CatalogError: not a valid manifest, or files from where none may be fetched.
            ArtifactError: its files cannot be had or used, or no engine starts with them.

        """
        self._store.catalogs.check_specialist(specialist)
        await asyncio.to_thread(self._ensure_allowed, specialist)
        refused = await self._engines.verify([specialist])  # outside the lock: a fetch may take minutes
        if refused:
            raise ArtifactError(refused[specialist.name])

        async def register() -> str:
            before = self.catalog.specialist(specialist.name)
            await asyncio.to_thread(self._store.catalogs.put_specialist, specialist)
            version = await self._reload(asked=specialist)
            problem = next((p for p in self._refused if p.value == specialist.name), None)
            if problem is None:
                return version
            if before is None:
                await asyncio.to_thread(self._store.catalogs.delete, "specialist", specialist.name)
            else:
                await asyncio.to_thread(self._store.catalogs.put_specialist, before)
            await self._reload()
            raise ArtifactError(f"specialist {specialist.name!r} cannot be served: {problem.message}")

        return await self._to_the_end(register)

    async def remove_specialist(self, name: str) -> str:
        """Remove a specialist.

        Raises:
            UnknownNameError: there is none of that name.
            PreconditionError: intents, rules or settings still name it.

        """

        async def remove() -> str:
            catalog, setup = self.catalog, self._router.snapshot.setup
            users = users_of(catalog.intents, catalog.rules, setup.mid, setup.general_specialist).get(name)
            if users and catalog.specialist(name) is not None:
                message = f"specialist {name!r} is still the target of {', '.join(users)}; change or delete them first"
                raise PreconditionError(message)
            await asyncio.to_thread(self._store.catalogs.delete, "specialist", name)
            return await self._reload()

        return await self._to_the_end(remove)

    async def conclude(self, rollout: Rollout, verdict: Verdict, past: Past) -> None:
        """Take a rollout to its next stage, into the place of the live version, or back."""

        async def conclude() -> str:
            live, store = self.catalog.specialist(rollout.name), self._store
            changed = self.catalog.rollout(rollout.name) != rollout  # by hand, meanwhile
            if changed or live is None or isinstance(store, BundleStore):
                return self.version
            await asyncio.to_thread(advance, store.catalogs, live, rollout, verdict, past)
            return await self._reload()

        back = verdict.course is Course.BACK
        log = _log.error if back else _log.info
        event = "rollout.rolled_back" if back else "rollout.advanced"
        log(event, specialist=rollout.name, stage=str(rollout.stage), why=verdict.why)
        try:
            await self._to_the_end(conclude)
        except PointsmanError as error:  # a folder that cannot be written; the verdict holds until a restart
            _log.error("rollout.not_written", specialist=rollout.name, error=str(error))

    async def _to_the_end(self, change: Callable[[], Awaitable[str]]) -> str:
        """Make one change after the other, each to its end: a caller that leaves half-way leaves no half change."""

        async def run() -> str | Exception:
            async with self._lock:
                try:
                    return await change()
                except Exception as error:  # noqa: BLE001 - handed to the caller, below
                    return error

        outcome = await asyncio.shield(self._tasks.create_task(run(), name="catalog change"))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _retry_is_due(self) -> bool:
        now = time.monotonic()
        if not self._refused or now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_S
        self._engines.forget_problems()
        return True

    async def _reload_or_log(self, *, again: bool) -> None:
        """Reload; `again` looks at the specialists' files even when no manifest changed."""

        async def reload() -> str:
            if again:
                self._stated = None
            return await self._reload()

        try:
            await self._to_the_end(reload)
        except Exception as error:  # noqa: BLE001 - a file must not end the watch, whatever is wrong with it
            _log.error(
                "catalog.reload_failed", error=str(error), exc_info=not isinstance(error, PointsmanError)
            )

    async def _reload(self, *, fetch: bool = False, asked: Specialist | None = None) -> str:
        begun = time.perf_counter()
        catalog, learned = await asyncio.to_thread(self._store.load)  # no file I/O on the event loop
        current = self.catalog
        contents = self._store.contents if isinstance(self._store, BundleStore) else None
        if self._run_engines:
            stated = catalog.specialists
            catalog = await self._with_engines(catalog, fetch=fetch, asked=asked)
            if self._contents is not None and self._held_back(stated):
                contents, learned = self._contents, self._learned
                catalog = replace(current, problems=catalog.problems)
        if (
            catalog == replace(current, loaded_at=catalog.loaded_at)
            and learned.digest == self._learned.digest
        ):
            self._engines.retire_unused()  # an adapter that was asked for may have changed them nevertheless
            return self.version
        self._router.swap(await self._builder.build(catalog, learned, contents))
        self._learned, self._contents = learned, contents
        self._trials.take(self.catalog)
        self._engines.retire_unused()
        self._metrics.loaded(catalog)
        _log.info(
            "catalog.loaded",
            version=self.version,
            intents=len(catalog.intents),
            exemplars=sum(len(intent.exemplars) for intent in catalog.intents),
            specialists=len(catalog.specialists),
            rules=len(catalog.rules),
            problems=len(catalog.problems),
            took_ms=round((time.perf_counter() - begun) * 1e3, 1),
        )
        for problem in catalog.problems:
            if problem not in current.problems:
                _log.error("catalog.refused", **asdict(problem))
        return self.version

    async def _with_engines(self, catalog: Catalog, *, fetch: bool, asked: Specialist | None) -> Catalog:
        """Run the engines of a catalog; specialists that cannot be served keep their last good manifest.

        Candidates that cannot be served are on no trial.
        """
        stated = catalog.specialists + tuple(rollout.candidate for rollout in catalog.rollouts)
        if stated != self._stated or asked is not None:
            await self._set_engines(stated, fetch=fetch, asked=asked)
            self._stated = stated
        refused = {problem.value for problem in self._refused}
        return replace(
            catalog,
            specialists=self._last_good(catalog.specialists),
            rollouts=tuple(r for r in catalog.rollouts if r.candidate.name not in refused),
            problems=catalog.problems + self._refused,
        )

    async def _set_engines(
        self, specialists: tuple[Specialist, ...], *, fetch: bool, asked: Specialist | None
    ) -> None:
        engines = self._engines
        self._unfetched = set()
        if not fetch:
            self._unfetched = await asyncio.to_thread(engines.unfetched, specialists)
        refused = {s.name: "its model files are being fetched" for s in self._unfetched}
        refused |= await engines.verify([s for s in specialists if s not in self._unfetched])
        self._refused = self._problems(refused)
        if self._held_back(specialists):
            return
        # The last good manifest of a refused one, if it has any, serves in its place.
        serving = [s for s in self._last_good(specialists) if s.name not in refused or s not in specialists]
        refused |= await engines.apply(serving, asked)
        self._refused = self._problems(refused)
        if self._held_back(specialists):
            await engines.apply(self._running)  # what still serves
        else:
            self._running = serving

    def _held_back(self, stated: tuple[Specialist, ...]) -> bool:
        """Whether a new bundle must wait for model files, so that the one before it serves on: whole, or not at all.

        What the one before it states alike, and cannot be served either, keeps no bundle waiting.
        """
        refused = {problem.value for problem in self._refused}
        return self._contents is not None and any(
            s.name in refused and s != self.catalog.specialist(s.name) for s in stated
        )

    def _problems(self, refused: dict[str, str]) -> tuple[Problem, ...]:
        return tuple(
            self._store.catalogs.model_problem(name, message) for name, message in sorted(refused.items())
        )

    def _last_good(self, stated: tuple[Specialist, ...]) -> tuple[Specialist, ...]:
        refused = {problem.value for problem in self._refused}
        return tuple((s.name in refused and self.catalog.specialist(s.name)) or s for s in stated)
