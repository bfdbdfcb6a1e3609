"""One process that serves: the order of starting, and of ending."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pointsman.artifacts.store import ArtifactStore, Progress
from pointsman.artifacts.uri import Sources
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.load import load_encoder
from pointsman.errors import ConfigError
from pointsman.generation.cloud import Cloud
from pointsman.generation.engine_pool import EnginePool
from pointsman.generation.generator import Generator
from pointsman.generation.likeness import Likeness
from pointsman.generation.shadows import Shadows
from pointsman.generation.trials import Trials
from pointsman.host.bundle_store import BundleStore
from pointsman.host.catalog_manager import CatalogManager, SnapshotBuilder
from pointsman.host.folder_store import FolderStore
from pointsman.host.known_callers import KnownCallers
from pointsman.host.logs import lines
from pointsman.host.policy_source import PolicySource
from pointsman.host.price_source import PriceSource
from pointsman.ledger.audit import AuditLog
from pointsman.ledger.auditor import Auditor
from pointsman.ledger.book import Book
from pointsman.ledger.metrics import Metrics
from pointsman.ledger.recorder import Recorder
from pointsman.ledger.writer import LedgerWriter
from pointsman.router.router import Router
from pointsman.router.worker import EncoderWorker
from pointsman.sections import Audit as AuditSettings
from pointsman.sections import Telemetry as TelemetrySettings
from pointsman.service.doors import Doors
from pointsman.service.server import GrpcServer, ensure_free, ensure_safe
from pointsman.service.tls import Chain, credentials
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog

if TYPE_CHECKING:
    from pointsman.ledger.telemetry import Telemetry
    from pointsman.service.http import HttpServer

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Core:
    """Everything but the wire: what the service, or a command without a server, talks to."""

    answers: Recorder
    catalogs: CatalogManager
    engines: EnginePool
    metrics: Metrics
    policy: PolicySource
    prices: PriceSource
    auditor: Auditor


@asynccontextmanager
async def open_core(
    settings: Settings,
    progress: Progress | None = None,
    *,
    engines: bool = True,
    keep: bool = False,
    known: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[Core, None]:
    """Load encoder, catalog and engines; end them on the way out.

    `engines=False` starts no engine: enough to route. `keep` gives each request a row in the ledger. `known`
    says whether callers show who they are.

    Raises:
        ConfigError: settings that cannot be used.
        ArtifactError: the encoder cannot be fetched.

    """
    store = ArtifactStore(settings.paths.models, settings.paths.specialists, progress)
    async with AsyncExitStack() as ending:
        ending.callback(store.close)
        encoder = await asyncio.to_thread(load_encoder, settings.encoder, store)
        worker = EncoderWorker(encoder, settings.encoder.queue_limit)
        ending.push_async_callback(asyncio.to_thread, worker.close)
        builder = SnapshotBuilder(settings, EmbeddingCache(encoder, settings.paths.cache), encoder.hash)
        ending.push_async_callback(asyncio.to_thread, builder.close)
        cloud = None
        prices = await asyncio.to_thread(PriceSource, settings.paths.prices, settings.cloud_models)
        if settings.cloud.model:
            mid = settings.routing.mid_tier
            cloud = await asyncio.to_thread(  # reads the CA files
                Cloud, settings.cloud, mid.model if mid else None, prices.cost
            )
            ending.push_async_callback(cloud.close)
        tasks = await ending.enter_async_context(asyncio.TaskGroup())
        metrics = Metrics()
        pool = EnginePool(settings.engine, store, tasks)
        ending.callback(pool.stop)
        ending.callback(store.close)  # first of all: what still fetches would keep the others waiting
        auditor = await asyncio.to_thread(_auditor, settings.audit)
        ending.push_async_callback(asyncio.to_thread, auditor.close)
        policy = await asyncio.to_thread(_policy, settings, known)
        metrics.watch_files({"policy": lambda: policy.problem, "prices": lambda: prices.problem})
        ledger = telemetry = None
        if keep:
            ledger, telemetry = await asyncio.to_thread(_books, settings, policy)
            for close in [kept.close for kept in (ledger, telemetry) if kept is not None]:
                ending.push_async_callback(asyncio.to_thread, close)
        router = Router(worker, await builder.build(Catalog()), settings.conversations, policy.gate)
        bundle = settings.paths.bundle
        catalogs = (
            BundleStore(bundle, settings, encoder.hash) if bundle else FolderStore(settings, encoder.hash)
        )
        allowed = settings.registration
        sources = Sources(settings.paths.specialists, allowed.folders, allowed.hubs)
        trials = Trials(Likeness(worker.embed, settings.shadow.similar), tasks)
        manager = CatalogManager(
            catalogs,
            builder,
            router,
            pool,
            metrics,
            tasks,
            sources=sources,
            trials=trials,
            run_engines=engines,
        )
        await manager.reload()
        metrics.watch(lambda: pool.engines, lambda: worker.waiting)
        if ledger is not None:
            metrics.watch_ledger(ledger)
        shadows = None
        if cloud is not None and ledger is not None and settings.shadow.share:
            book = Book(ledger, metrics, text=settings.ledger.text)
            shadows = Shadows(settings.shadow, cloud, worker.embed, book, tasks)
            metrics.watch_shadows(shadows.skipped)
            ending.callback(shadows.stop)
        generator = Generator(router, pool, cloud, settings.cascade, trials, auditor.leaving, shadows)
        recorder = Recorder(
            router,
            generator,
            metrics,
            log_prompts=policy.gate.redacted if settings.log.prompts else None,
            cascade=settings.cascade,
            auditor=auditor,
            ledger=ledger,
            log_text=settings.ledger.text,
            telemetry=telemetry,
            log_together=lines.together,
        )
        ending.callback(recorder.note_routes)
        yield Core(
            recorder,
            manager,
            pool,
            metrics,
            policy,
            prices,
            auditor,
        )


async def serve(
    settings: Settings, progress: Progress | None = None, ready: Callable[[int], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    `ready` is called with the port once requests are answered.

    Raises:
        ConfigError: an address is taken, or settings cannot be used.
        ArtifactError: the encoder cannot be fetched.

    """
    begun = time.perf_counter()
    callers = KnownCallers(settings.paths.callers)
    secured = credentials(settings.server.tls)
    ensure_safe(settings.server, callers.doors)
    ensure_free(settings.server.address, "server.address")
    if settings.server.http_address:
        ensure_free(settings.server.http_address, "server.http_address")
    if settings.server.metrics_address:
        ensure_free(settings.server.metrics_address, "server.metrics_address")
    stop = asyncio.Event()
    _on_signals(asyncio.current_task())  # until it serves, a signal ends the start
    for folder in (settings.paths.intents, settings.paths.specialists):
        with suppress(OSError):  # a read-only disk: then there is nothing to watch
            folder.mkdir(parents=True, exist_ok=True)
    async with open_core(settings, progress, keep=True, known=lambda: callers.doors.watched) as core:
        close_metrics, chains = None, []
        if settings.server.metrics_address:
            tls = settings.server.tls
            close_metrics, context = core.metrics.serve(
                settings.server.metrics_address,
                callers.doors.may_read_metrics,
                (tls.certificate, tls.key) if tls else None,
                tls.client_ca if tls else None,
            )
            chains += [Chain(context, tls)] if tls and context else []
        try:
            server = GrpcServer(
                settings.server, core.answers, core.catalogs, core.metrics.called, callers.doors, secured
            )
            http = await asyncio.to_thread(_http_server, settings, core, callers.doors)
            chains += [http.chain] if http and http.chain else []
            _on_signals(stop)
            await server.start()
            if http is not None:
                await http.start()
                _log.info("http.ready", port=http.port)
            _log.info("server.ready", port=server.port, took_s=round(time.perf_counter() - begun, 2))
            if ready is not None:
                ready(server.port)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(core.catalogs.watch(stop), name="watch")
                tasks.create_task(callers.watch(stop), name="callers")
                tasks.create_task(core.policy.watch(stop), name="policy")
                tasks.create_task(core.prices.watch(stop), name="prices")
                for chain in chains:
                    tasks.create_task(chain.watch(stop), name="certificate")
                await stop.wait()
                grace_s = settings.server.grace_s
                _log.info("server.draining", grace_s=grace_s)
                drained = await asyncio.gather(
                    server.drain(grace_s), *([http.drain(grace_s)] if http else [])
                )
                cut = sum(drained)
            _log.info("server.stopped", streams_cut=cut)
        finally:
            if close_metrics is not None:
                await asyncio.to_thread(close_metrics)


def _auditor(settings: AuditSettings) -> Auditor:
    if settings.folder is None:
        return Auditor(None)
    return Auditor(AuditLog(settings.folder, settings.key.get_secret_value(), settings.head))


def _policy(settings: Settings, known: Callable[[], bool]) -> PolicySource:
    cache = settings.paths.cache / "secret-rules"
    policy = PolicySource(settings.paths.policy, cache, known, required=settings.policy.required)
    if settings.cloud.model and not policy.there:
        _log.warning(
            "policy.none",
            path=str(settings.paths.policy),
            leaves="whatever is for the cloud",
            unless="policy.required is set: then a start without the file is refused",
        )
    return policy


def _books(settings: Settings, policy: PolicySource) -> "tuple[LedgerWriter | None, Telemetry | None]":
    if settings.ledger.enabled and settings.ledger.text and not policy.there:
        policy.redact_stored("ledger.text")
    ledger = LedgerWriter(settings.ledger, policy.gate.redacted_together) if settings.ledger.enabled else None
    return ledger, _telemetry(settings.telemetry)


def _telemetry(settings: TelemetrySettings) -> "Telemetry | None":
    if not settings.otlp_endpoint:
        return None
    try:
        from pointsman.ledger.telemetry import Telemetry
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"telemetry.otlp_endpoint: the extra `telemetry` is missing ({error.name}): "
            "pip install 'pointsman[standard,telemetry]'"
        ) from None
    return Telemetry.over_otlp(settings)


def _http_server(settings: Settings, core: Core, doors: Doors) -> "HttpServer | None":
    if not settings.server.http_address:
        return None
    try:
        from pointsman.service.http import HttpServer
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"server.http_address: the extra `http` is missing ({error.name}): pip install 'pointsman[standard,http]'"
        ) from None
    return HttpServer(
        settings.server, core.answers, core.catalogs, core.metrics.called, doors, settings.cloud_models
    )


def fast_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a uvloop where there is one, and None for asyncio's own: a tenth off Route's latency."""
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


def _on_signals(target: asyncio.Event | asyncio.Task[None] | None) -> None:
    """Let SIGTERM and SIGINT cancel a task, or set an event; a second signal ends the process."""
    loop = asyncio.get_running_loop()

    def handle(number: signal.Signals) -> None:
        if isinstance(target, asyncio.Event) and not target.is_set():
            target.set()
        elif isinstance(target, asyncio.Task) and not target.cancelling():
            target.cancel()
        else:
            _log.warning("server.forced", signal=number.name)
            loop.remove_signal_handler(number)
            signal.raise_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
