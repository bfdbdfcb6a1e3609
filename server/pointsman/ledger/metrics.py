"""Prometheus metrics, on a port of their own."""

import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman.errors import ConfigError
from pointsman.generation.engine_process import EngineProcess
from pointsman.ledger.shortfalls import Shortfalls
from pointsman.ledger.writer import LedgerWriter
from pointsman.values.caller import names_in
from pointsman.values.catalog import Catalog, EngineState
from pointsman.values.decision import Decision, RouteTimings
from pointsman.values.events import Done
from pointsman.values.ledger import Comparison
from pointsman.values.rollout import Trial

_ROUTE_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)
_ANSWER_BUCKETS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_MUTE_S = 10.0
_PEER = "pointsman.peer"


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels: dict[str, Any] = {"registry": self.registry, "namespace": "pointsman"}
        self._calls = Counter("rpc", "Calls by method and status code.", ["method", "code"], **labels)
        self._decisions = Counter(
            "decisions", "Decisions by where they sent a prompt.", ["tier", "specialist", "reason"], **labels
        )
        # A counter of its own: rules times specialists times reasons would be many series.
        self._rules = Counter("rule_decisions", "Decisions by the rule that made them.", ["rule"], **labels)
        self._route = Histogram(
            "route_seconds", "Time to decide.", ["stage"], buckets=_ROUTE_BUCKETS_S, **labels
        )
        self._stages = {stage: self._route.labels(stage) for stage in ("queue", "embed", "search", "total")}
        self._ttft = Histogram(
            "ttft_seconds",
            "Time to the first token.",
            ["tier", "specialist"],
            buckets=_ANSWER_BUCKETS_S,
            **labels,
        )
        self._answer = Histogram(
            "answer_seconds",
            "Time to the last token.",
            ["tier", "specialist"],
            buckets=_ANSWER_BUCKETS_S,
            **labels,
        )
        self._tokens = Counter(
            "tokens",
            "Tokens by direction: prompt, cached (part of prompt), completion.",
            ["tier", "specialist", "direction"],
            **labels,
        )
        self._cost = Counter("cost", "What the cloud charged.", ["currency"], **labels)
        self._comparisons = Counter(
            "comparisons",
            "Local answers that the cloud was asked for as well, by whether both agree.",
            ["specialist", "agrees"],
            **labels,
        )
        self._escalations = Counter(
            "escalations", "Answers that moved to another model.", ["reason"], **labels
        )
        self._outcomes = Counter(
            "specialist_answers",
            "Answers that a specialist began, by how they fell short; `ok` when they did not.",
            ["specialist", "outcome"],
            **labels,
        )
        self._exemplars = Gauge("catalog_exemplars", "Exemplars that serve.", **labels)
        self._intents = Gauge("catalog_intents", "Intents that serve.", **labels)
        self._stale = Gauge(
            "file_stale", "1 while a file that broke or went serves as it was.", ["file"], **labels
        )
        self._problems = Gauge("catalog_problems", "Problems of refused files.", **labels)
        self._reloads = Counter("catalog_reloads", "Catalogs taken into use.", **labels)
        self._encoder_waiting = Gauge(
            "encoder_waiting", "Prompts in the encoder's queue or at work.", **labels
        )

    def serve(
        self,
        address: str,
        may_read: Callable[[str, tuple[str, ...]], bool] = lambda *_: True,
        certificate: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
    ) -> tuple[Callable[[], None], ssl.SSLContext | None]:
        """Serve /metrics; returns what ends it, and the context of its TLS.

        may_read: asked with the Authorization header of each request, and the names in its peer's certificate
        certificate: PEM files of certificate and key, for TLS
        client_ca: PEM file of who signs the certificates of clients, which may show one; nobody is asked without it

        Raises:
            ConfigError: the address is taken.

        """
        host, _, port = address.rpartition(":")
        try:
            certfile, keyfile = map(str, certificate) if certificate else (None, None)
            server, thread = start_http_server(
                int(port), host.strip("[]"), self.registry, certfile=certfile, keyfile=keyfile
            )
        except OSError as error:
            raise ConfigError(
                f"server.metrics_address: cannot listen on {address}: {error.strerror}"
            ) from None

        # A peer that says nothing holds one thread, for a while: neither the handshake nor a request waits for it.
        handler: Any = server.RequestHandlerClass

        def environment_of(self: Any) -> dict[str, Any]:
            shown = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            return {**handler.get_environ(self), _PEER: names_in(shown)}

        changes = {"timeout": _MUTE_S, "get_environ": environment_of}
        server.RequestHandlerClass = type("Handler", (handler,), changes)
        if isinstance(server.socket, ssl.SSLSocket):
            server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]
            if client_ca is not None:
                server.socket.context.load_verify_locations(client_ca)
                server.socket.context.verify_mode = ssl.CERT_OPTIONAL
        show = server.get_app()
        assert show is not None  # noqa: S101 - it was started with one

        def guarded(environment: dict[str, Any], begin: Callable[..., Any]) -> Any:
            if may_read(environment.get("HTTP_AUTHORIZATION", ""), environment[_PEER]):
                return show(environment, begin)
            begin("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
            return [b"metrics are for operators: send their bearer token, or show their certificate\n"]

        server.set_app(guarded)

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close, getattr(server.socket, "context", None)

    def called(self, method: str, code: str) -> None:
        """Count a call."""
        self._calls.labels(method.rsplit("/", 1)[-1], code).inc()

    def escalated(self, decision: Decision) -> None:
        """Count a decision that took over from another."""
        self._escalations.labels(decision.reason).inc()

    def decided(self, decision: Decision, timings: RouteTimings) -> None:
        """Count a decision."""
        self._decisions.labels(decision.tier, decision.specialist or "", decision.reason).inc()
        if decision.rule:
            self._rules.labels(decision.rule).inc()
        for stage, series in self._stages.items():
            series.observe(getattr(timings, f"{stage}_ms") / 1e3)

    def answered(self, decision: Decision, done: Done) -> None:
        """Count an answer that ended well."""
        who = (str(decision.tier), decision.specialist or "")
        if done.timings.ttft_ms:
            self._ttft.labels(*who).observe(done.timings.ttft_ms / 1e3)
        self._answer.labels(*who).observe(done.timings.total_ms / 1e3)
        self._tokens.labels(*who, "prompt").inc(done.usage.prompt_tokens)
        self._tokens.labels(*who, "cached").inc(done.usage.cached_tokens)
        self._tokens.labels(*who, "completion").inc(done.usage.completion_tokens)
        if done.cost is not None:
            self._cost.labels(done.cost.currency).inc(done.cost.amount)

    def compared(self, found: Comparison) -> None:
        """Count an answer that the cloud was asked for as well."""
        self._comparisons.labels(found.specialist, "yes" if found.agrees else "no").inc()
        self._cost.labels(found.currency).inc(found.cost)

    def loaded(self, catalog: Catalog) -> None:
        """Note a catalog that was taken into use."""
        self._exemplars.set(sum(len(intent.exemplars) for intent in catalog.intents))
        self._intents.set(len(catalog.intents))
        self._problems.set(len(catalog.problems))
        self._reloads.inc()

    def came_out(self, specialist: str, outcome: str) -> None:
        """Count an answer that a specialist began; an empty outcome is fine."""
        self._outcomes.labels(specialist, outcome or "ok").inc()

    def watch_shortfalls(self, shortfalls: Shortfalls) -> None:
        """Read the shares of answers that fall short whenever the metrics are asked for."""
        self.registry.register(_ShortfallCollector(shortfalls))

    def watch(self, engines: Callable[[], list[EngineProcess]], encoder_waiting: Callable[[], int]) -> None:
        """Read engines and encoder whenever the metrics are asked for."""
        self._encoder_waiting.set_function(encoder_waiting)
        self.registry.register(_EngineCollector(engines))

    def watch_files(self, problems: Mapping[str, Callable[[], str]]) -> None:
        """Read whether what serves is what a file says, by its name, whenever the metrics are asked for."""
        for name, problem in problems.items():
            self._stale.labels(name).set_function(partial(_one_if, problem))

    def watch_trials(self, trials: Callable[[], Mapping[str, Trial]]) -> None:
        """Read how new versions of specialists do whenever the metrics are asked for."""
        self.registry.register(_TrialCollector(trials))

    def watch_shadows(self, skipped: Mapping[str, int]) -> None:
        """Read what was not compared whenever the metrics are asked for."""
        self.registry.register(_SkippedCollector(skipped))

    def watch_ledger(self, ledger: LedgerWriter) -> None:
        """Read the ledger's counts whenever the metrics are asked for."""
        self.registry.register(_LedgerCollector(ledger))


def _one_if(problem: Callable[[], str]) -> float:
    return float(bool(problem()))


class _SkippedCollector(Collector):
    """Comparisons that were drawn and not made."""

    def __init__(self, skipped: Mapping[str, int]) -> None:
        self._skipped = skipped

    def collect(self) -> Iterable[Metric]:
        """Yield the family."""
        family = CounterMetricFamily(
            "pointsman_comparisons_skipped", "Comparisons that were not made, by why not.", labels=["why"]
        )
        for why, count in dict(self._skipped).items():
            family.add_metric([why], count)
        yield family


class _TrialCollector(Collector):
    """Rollouts in their stages; one that is over leaves no stale series."""

    def __init__(self, trials: Callable[[], Mapping[str, Trial]]) -> None:
        self._trials = trials

    def collect(self) -> Iterable[Metric]:
        """Yield the three families."""
        stages = GaugeMetricFamily(
            "pointsman_rollout", "1 for the stage of a rollout.", labels=["specialist", "stage"]
        )
        answers = GaugeMetricFamily(
            "pointsman_rollout_answers",
            "Answers of both versions in the stage of a rollout.",
            labels=["specialist", "version", "success"],
        )
        same = GaugeMetricFamily(
            "pointsman_rollout_compared",
            "Answers of the candidate in shadow, by whether they say what callers got.",
            labels=["specialist", "agrees"],
        )
        for name, trial in self._trials().items():
            stages.add_metric([name, str(trial.stage)], 1.0)
            for version, tally in (("candidate", trial.candidate), ("live", trial.live)):
                answers.add_metric([name, version, "yes"], tally.successes)
                answers.add_metric([name, version, "no"], tally.answers - tally.successes)
            same.add_metric([name, "yes"], trial.same.successes)
            same.add_metric([name, "no"], trial.same.answers - trial.same.successes)
        yield stages
        yield answers
        yield same


class _LedgerCollector(Collector):
    """Rows that were written, dropped, not kept, and wait."""

    def __init__(self, ledger: LedgerWriter) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """Yield the two families."""
        rows = CounterMetricFamily(
            "pointsman_ledger_rows", "Rows of the ledger by what became of them.", labels=["what"]
        )
        rows.add_metric(["written"], self._ledger.written)
        rows.add_metric(["dropped"], self._ledger.dropped)
        rows.add_metric(["unkept"], self._ledger.unkept)
        yield rows
        yield GaugeMetricFamily(
            "pointsman_ledger_waiting", "Rows that are not written yet.", self._ledger.waiting
        )


class _ShortfallCollector(Collector):
    """Share and alert of each specialist that answered."""

    def __init__(self, shortfalls: Shortfalls) -> None:
        self._shortfalls = shortfalls

    def collect(self) -> Iterable[Metric]:
        """Yield the two families."""
        share = GaugeMetricFamily(
            "pointsman_specialist_shortfall_share",
            "Share of the last answers that fell short.",
            labels=["specialist"],
        )
        alert = GaugeMetricFamily(
            "pointsman_specialist_alert",
            "1 while that share is above cascade.alert_rate.",
            labels=["specialist"],
        )
        for name, alarmed in self._shortfalls.alerts().items():
            share.add_metric([name], self._shortfalls.share(name))
            alert.add_metric([name], float(alarmed))
        yield share
        yield alert


class _EngineCollector(Collector):
    """Gauges of the engines that run now; an engine that is gone leaves no stale series."""

    _READINGS: tuple[tuple[str, str, Callable[[EngineProcess], float]], ...] = (
        ("up", "1 while the engine is ready.", lambda e: float(e.state is EngineState.READY)),
        ("restarts", "Restarts since the engine was registered.", lambda e: e.restarts),
        ("busy_slots", "Answers being made.", lambda e: e.admission.held),
        ("waiting", "Answers waiting for a slot.", lambda e: e.admission.waiting),
        (
            "tokens_per_second",
            "Of all answers, smoothed; 0 before the first.",
            lambda e: e.admission.tokens_per_s or 0.0,
        ),
        ("turns", "Turns that ended because another adapter waited.", lambda e: e.admission.switches),
        ("swapped_bytes", "Prompt caches that had to leave their slot.", lambda e: e.admission.swapped_bytes),
        (
            "swap_failed",
            "1 while caches are not swapped because that went wrong; until the engine is started again.",
            lambda e: float(e.admission.swap_failed),
        ),
    )

    def __init__(self, engines: Callable[[], list[EngineProcess]]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        """Yield one family a reading."""
        for name, description, read in self._READINGS:
            family = GaugeMetricFamily(f"pointsman_engine_{name}", description, labels=["engine"])
            for engine in self._engines():
                family.add_metric([engine.name], read(engine))
            yield family
