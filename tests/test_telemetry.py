"""Spans and metrics of requests, in memory and at a collector on loopback."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from harness import Cloud, Running, Site, collect, running, until
from pointsman.client import constraints
from pointsman.ledger.recorder import Recorder
from pointsman.ledger.telemetry import Telemetry
from test_cascade import BAD, Endpoint, Engine, asked, events_of, generator

FAR = "Compare the foreign policies of Bismarck and Metternich in an essay."
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Seen:
    """What telemetry said so far."""

    def __init__(self, share: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.telemetry = Telemetry(
            [SimpleSpanProcessor(self.exporter)], [self.reader], service="test", share=share
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@asynccontextmanager
async def watched(site: Site, seen: Seen, **sections: Any) -> AsyncGenerator[Running, None]:
    async with running(site.fill().settings(**sections), engines=False) as server:
        server.core.answers._telemetry = seen.telemetry
        yield server


def tree(spans: list[ReadableSpan]) -> dict[str, str]:
    names = {span.context.span_id: span.name for span in spans if span.context}
    return {span.name: names.get(span.parent.span_id, "") if span.parent else "" for span in spans}


async def test_an_answer_is_a_tree_of_spans_with_times_and_no_text(site: Site) -> None:
    seen = Seen()
    with Cloud() as cloud:
        async with watched(site, seen, cloud=cloud.settings) as server:
            await collect(server.client.generate(FAR, session_id="s1"))
    top = "pointsman.generate"
    assert tree(seen.spans) == {
        "policy": top, "embed": top, "search": top, "decide": top, "generate": top,
        "chat big-model": "generate", top: "",
    }  # fmt: skip
    roots = [span for span in seen.spans if span.parent is None]
    assert [root.kind for root in roots] == [SpanKind.SERVER]
    (root,) = roots
    steps = [s for s in seen.spans if s.parent and root.context and s.parent.span_id == root.context.span_id]
    assert [span.name for span in sorted(steps, key=lambda s: s.start_time or 0)] == [
        "policy", "embed", "search", "decide", "generate",
    ]  # fmt: skip
    for earlier, later in itertools.pairwise(sorted(steps, key=lambda s: s.start_time or 0)):
        assert root.start_time <= earlier.start_time <= earlier.end_time <= root.end_time  # type: ignore[operator]
        assert earlier.start_time <= later.start_time  # type: ignore[operator]
    chat = seen.named("chat big-model")
    assert chat.kind is SpanKind.CLIENT
    told = dict(chat.attributes or {})
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "openai"
    assert told["gen_ai.response.model"] == "big-model"
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (1000, 500)
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert (root.attributes or {})["gen_ai.conversation.id"] == "s1"
    assert (root.attributes or {})["pointsman.outcome"] == "ok"
    assert "Bismarck" not in "".join(span.to_json() for span in seen.spans)
    assert "from the cloud" not in "".join(span.to_json() for span in seen.spans)


async def test_a_decision_alone_and_one_that_needs_no_look_have_their_spans(site: Site) -> None:
    seen = Seen()
    async with watched(
        site, seen, cloud={"model": "big-model", "base_url": "http://127.0.0.1:9/v1"}
    ) as server:
        await server.client.route("please refund my order")
        await until(lambda: len(seen.spans) == 5)
        names = {span.name for span in seen.spans}
        seen.exporter.clear()
        await server.client.route(FAR, constraints(tier="cloud"))
        await until(lambda: len(seen.spans) == 3)
    assert names == {"policy", "embed", "search", "decide", "pointsman.route"}
    assert {span.name for span in seen.spans} == {"policy", "decide", "pointsman.route"}
    assert seen.reader.get_metrics_data() is None  # no answer was made


async def test_an_escalation_is_a_span_beside_the_answer_that_it_replaces() -> None:
    seen = Seen()
    with Endpoint("slow") as endpoint:
        source = await generator(Engine(BAD), endpoint)
        recorder = Recorder(source._router, source, _metrics(), telemetry=seen.telemetry)
        await events_of(recorder, asked())
    escalate = seen.named("escalate")
    assert (escalate.attributes or {})["pointsman.reason"] == "escalated"
    assert (escalate.start_time or 0) >= (seen.named("generate").end_time or 0)
    assert (escalate.end_time or 0) - (
        escalate.start_time or 0
    ) > 10e6  # from when the cloud was asked, not from its first token
    names = tree(seen.spans)
    assert (names["chat m"], names["chat big-model"]) == ("generate", "escalate")
    assert (seen.named("chat m").attributes or {})["gen_ai.provider.name"] == "pointsman"
    assert "gen_ai.usage.input_tokens" not in (seen.named("chat m").attributes or {})
    outcome = [(s.attributes or {})["pointsman.outcome"] for s in seen.spans if s.parent is None]
    assert outcome == ["escalated"]


def _metrics() -> Any:
    from pointsman.ledger.metrics import Metrics

    return Metrics()


async def test_a_failure_is_an_error(site: Site) -> None:
    seen = Seen()
    with Cloud(500) as cloud:
        async with watched(site, seen, cloud=cloud.settings | {"max_retries": 0}) as server:
            with pytest.raises(grpc.aio.AioRpcError):
                await collect(server.client.generate(FAR))
            await until(lambda: any(span.parent is None for span in seen.spans))
    (root,) = (span for span in seen.spans if span.parent is None)
    assert root.status.status_code is StatusCode.ERROR
    (point,) = seen.metrics()["gen_ai.client.operation.duration"]
    assert point.attributes["error.type"] == "failed"


async def test_metrics_are_those_of_the_conventions(site: Site) -> None:
    seen = Seen()
    with Cloud() as cloud:
        async with watched(site, seen, cloud=cloud.settings) as server:
            for _ in range(3):
                await collect(server.client.generate(FAR))
    found = seen.metrics()
    assert set(found) == {
        "gen_ai.client.operation.duration", "gen_ai.client.token.usage", "gen_ai.server.time_to_first_token",
    }  # fmt: skip
    (duration,) = found["gen_ai.client.operation.duration"]
    assert duration.count == 3
    assert duration.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "big-model",
        "gen_ai.response.model": "big-model",
    }  # fmt: skip
    sums = {point.attributes["gen_ai.token.type"]: point.sum for point in found["gen_ai.client.token.usage"]}
    assert sums == {"input": 3000, "output": 1500}


@pytest.mark.parametrize(("flags", "kept"), [("01", True), ("00", False)])
async def test_the_trace_is_that_of_the_caller_and_kept_as_it_says(
    site: Site, flags: str, kept: bool
) -> None:
    seen = Seen(share=0.0)
    async with watched(site, seen) as server:
        channel = grpc.aio.insecure_channel(server.address)
        from pointsman.v1 import router_pb2, router_pb2_grpc

        stub = router_pb2_grpc.RouterServiceStub(channel)
        message = router_pb2.RouteRequest(
            messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content="refund")]
        )
        await stub.Route(message, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),))
        await stub.Route(message, metadata=(("traceparent", "nonsense"),))
        await asyncio.sleep(0.1)
        await channel.close()
    assert {f"{span.context.trace_id:032x}" for span in seen.spans if span.context} == (
        {TRACE} if kept else set()
    )
    if kept:
        assert f"{seen.named('pointsman.route').parent.span_id:016x}" == PARENT  # type: ignore[union-attr]


# Over the wire.


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            self.services |= {
                a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
            }
            self.names += [span.name for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


class Meters(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.came = threading.Event()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_metrics:
            self.names |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
        self.came.set()
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextmanager
def collector() -> Iterator[tuple[str, Traces, Meters]]:
    traces, meters = Traces(), Meters()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(meters, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", traces, meters
    finally:
        server.stop(None).wait(10)


async def test_a_collector_gets_spans_and_metrics_at_the_latest_when_the_server_ends(site: Site) -> None:
    with Cloud() as cloud, collector() as (url, traces, meters):
        settings = site.fill().settings(
            cloud=cloud.settings, telemetry={"otlp_endpoint": url, "service": "ours"}
        )
        async with running(settings, engines=False) as server:
            await collect(server.client.generate(FAR))
    assert {"policy", "embed", "search", "decide", "generate", "chat big-model"} <= set(traces.names)
    assert traces.services == {"ours"}
    assert "gen_ai.client.token.usage" in meters.names


async def test_it_is_off_without_an_endpoint(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        assert server.core.answers._telemetry is None
