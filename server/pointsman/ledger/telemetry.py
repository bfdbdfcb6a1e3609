"""Requests that ended to OpenTelemetry spans and metrics, by the semantic conventions for generative AI (1.38).

Needs the extra `telemetry`. Spans are made once a request has ended, with the times that were taken on its way, so that the way
knows nothing of them. Texts are in none. Conventions: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pointsman.values.request import Tier

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from pointsman.ledger.entries import Step, Story
    from pointsman.sections import Telemetry as TelemetrySettings

_SCOPE = "pointsman"
_TIMEOUT_S = 5
_QUEUE = 1024
"""Spans that wait, and that are sent at once: at the end, a collector that is away is tried once."""
_LOCAL, _CLOUD = "pointsman", "openai"
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_FAILED = ("failed", "late", "throttled", "refused")


class Telemetry:
    """Makes the spans and counts the metrics of each request."""

    def __init__(
        self,
        processors: Sequence[SpanProcessor],
        readers: Sequence[MetricReader],
        *,
        service: str,
        share: float = 1.0,
    ) -> None:
        """Send spans through these processors, and metrics through these readers.

        share: of the traces that begin here; those that callers began are kept or not as they say
        """
        resource = Resource.create({"service.name": service})
        self._tracers = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(share)))
        for processor in processors:
            self._tracers.add_span_processor(processor)
        self._meters = MeterProvider(readers, resource)
        self._tracer = self._tracers.get_tracer(_SCOPE)
        meter = self._meters.get_meter(_SCOPE)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Of an answer.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of an answer.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "To the first token.",
            explicit_bucket_boundaries_advisory=_FIRST_S,
        )
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def over_otlp(cls, settings: "TelemetrySettings") -> "Telemetry":
        """Send to a collector, over gRPC, in batches; one that is away costs nothing but what was for it."""
        plain = settings.otlp_endpoint.startswith("http://")
        target: dict[str, Any] = {
            "endpoint": settings.otlp_endpoint,
            "insecure": plain,
            "timeout": _TIMEOUT_S,
        }
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(**target), export_interval_millis=settings.metrics_every_s * 1e3
        )
        return cls(
            [
                BatchSpanProcessor(
                    OTLPSpanExporter(**target), max_queue_size=_QUEUE, max_export_batch_size=_QUEUE
                )
            ],
            [reader],
            service=settings.service,
            share=settings.share,
        )

    def note(self, story: "Story", outcome: str) -> None:
        """Make the spans of a request that ended, and count it."""
        begun, ended = story.clock(0.0), story.clock(story.ended_ms())
        parent = self._propagator.extract({"traceparent": story.request.traceparent})
        root = self._tracer.start_span(
            f"{_SCOPE}.{story.method}",
            parent,
            SpanKind.SERVER,
            _root_attributes(story, outcome),
            start_time=begun,
        )
        inside = trace.set_span_in_context(root)
        if root.is_recording():
            self._route(story, inside)
            for number, step in enumerate(story.steps):
                end_ms = story.steps[number + 1].at_ms if number + 1 < len(story.steps) else story.ended_ms()
                self._step(story, step, end_ms, inside)
        if outcome in _FAILED:
            root.set_status(Status(StatusCode.ERROR))
        root.end(ended)
        if story.method == "generate" and story.decision is not None:
            self._count(story, outcome)

    def close(self) -> None:
        """Send what waits. Blocking, for some seconds at most."""
        self._tracers.shutdown()
        self._meters.shutdown(_TIMEOUT_S * 1e3)

    def _route(self, story: "Story", inside: "Context") -> None:
        timings = story.timings
        if timings is None:
            return
        searched = timings.policy_ms + timings.queue_ms + timings.embed_ms + timings.search_ms
        embedded = searched - timings.search_ms
        spans = [("policy", 0.0, timings.policy_ms), ("decide", searched, timings.total_ms)]
        if timings.embed_ms:
            spans[1:1] = [("embed", embedded - timings.embed_ms, embedded), ("search", embedded, searched)]
        for name, begin_ms, end_ms in spans:
            span = self._tracer.start_span(name, inside, start_time=story.clock(begin_ms))
            if name == "embed":
                span.set_attribute("gen_ai.operation.name", "embeddings")
            if name == "policy":
                span.set_attribute("pointsman.policy.action", str(story.policy))
            span.end(story.clock(max(begin_ms, end_ms)))

    def _step(self, story: "Story", step: "Step", end_ms: float, inside: "Context") -> None:
        """Make the span of a step, and within it that of the model's answer, by the conventions."""
        begin, end = story.clock(step.at_ms), story.clock(end_ms)
        outer = self._tracer.start_span(step.name, inside, attributes=_decided(step), start_time=begin)
        cloud = step.decision.specialist is None
        inner = self._tracer.start_span(
            f"chat {step.decision.model}",
            trace.set_span_in_context(outer),
            SpanKind.CLIENT if cloud else SpanKind.INTERNAL,
            _asked(story) | _model(step),
            start_time=begin,
        )
        if step is story.steps[-1] and story.done is not None:
            done = story.done
            inner.set_attributes(
                {
                    "gen_ai.usage.input_tokens": done.usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": done.usage.completion_tokens,
                    "gen_ai.usage.cache_read.input_tokens": done.usage.cached_tokens,
                    "gen_ai.response.finish_reasons": [str(done.finish_reason)],
                }
            )
        inner.end(end)
        outer.end(end)

    def _count(self, story: "Story", outcome: str) -> None:
        step, done = story.steps[-1], story.done
        attributes = _model(step)
        failed = {"error.type": outcome} if outcome in _FAILED else {}
        self._duration.record(story.ended_ms() / 1e3, attributes | failed)
        if done is None:
            return
        if done.timings.ttft_ms:
            self._first.record(done.timings.ttft_ms / 1e3, attributes)
        self._tokens.record(done.usage.prompt_tokens, attributes | {"gen_ai.token.type": "input"})
        self._tokens.record(done.usage.completion_tokens, attributes | {"gen_ai.token.type": "output"})


def _root_attributes(story: "Story", outcome: str) -> dict[str, Any]:
    request = story.request
    told = {"pointsman.request_id": request.request_id, "pointsman.outcome": outcome}
    if request.caller:
        told["pointsman.caller"] = request.caller
    if request.session_id:
        told["gen_ai.conversation.id"] = request.session_id
    return told


def _decided(step: "Step") -> dict[str, Any]:
    decision, evidence = step.decision, step.decision.evidence
    told: dict[str, Any] = {
        "pointsman.tier": str(decision.tier),
        "pointsman.reason": str(decision.reason),
        "pointsman.catalog_version": decision.catalog_version,
    }
    if decision.specialist:
        told["pointsman.specialist"] = decision.specialist
    if evidence.intent:
        told |= {
            "pointsman.intent": evidence.intent,
            "pointsman.similarity": evidence.similarity,
            "pointsman.confidence": evidence.confidence,
        }
    return told


def _model(step: "Step") -> dict[str, Any]:
    cloud = step.decision.specialist is None and step.decision.tier is not Tier.LOCAL
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _CLOUD if cloud else _LOCAL,
        "gen_ai.request.model": step.decision.model,
        "gen_ai.response.model": step.decision.model,
    }


def _asked(story: "Story") -> dict[str, Any]:
    sampling = story.request.sampling
    told = {
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.seed": sampling.seed,
    }
    return {name: value for name, value in told.items() if value is not None}
