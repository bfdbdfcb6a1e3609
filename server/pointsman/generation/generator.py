"""A request to events: decision, tokens, perhaps an escalation, done."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from pointsman.decision.decide import without_cloud
from pointsman.errors import BackendDownError, OverloadedError
from pointsman.generation.backend import Stream
from pointsman.generation.cloud import Cloud
from pointsman.generation.engine_pool import EnginePool
from pointsman.generation.prompt import cloud_question, local_question
from pointsman.router.router import Route, Router
from pointsman.values.decision import Decision
from pointsman.values.events import Done, Escalation, Event, Finished, GenerateTimings, Token
from pointsman.values.request import Request


@dataclass(slots=True)
class _Progress:
    """Of one answer."""

    arrived: float
    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    finished: Finished | None = field(default=None)

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.arrived) * 1e3


class Generator:
    """Routes, then answers from the backend that the decision names."""

    def __init__(self, router: Router, engines: EnginePool, cloud: Cloud | None) -> None:
        self._router = router
        self._engines = engines
        self._cloud = cloud

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request. Closing the generator frees the slot within a token.

        Raises:
            InvalidRequestError, UnknownNameError, NoRouteError, OverloadedError, BackendDownError

        """
        progress = _Progress(time.perf_counter())
        route = await self._router.route(request)
        decision = route.routed.decision
        yield route.routed
        try:
            async with aclosing(self._tokens(request, decision, route, progress)) as tokens:
                async for token in tokens:
                    yield token
        except (BackendDownError, OverloadedError) as error:
            takeover = self._takeover(decision, route, progress, error)
            if takeover is None:
                raise
            decision = takeover.decision
            yield takeover
            async with aclosing(self._tokens(request, decision, route, progress)) as tokens:
                async for token in tokens:
                    yield token
        yield self._done(decision, route, progress)

    def _takeover(
        self, decision: Decision, route: Route, progress: _Progress, error: Exception
    ) -> Escalation | None:
        """Return the switch to the general specialist, if the cloud failed before it said anything."""
        if decision.specialist is not None or progress.ttft_ms:
            return None
        local = without_cloud(decision, route.snapshot.setup, f"The cloud is down ({error})")
        return Escalation(local, 0, local.explanation) if local else None

    async def _tokens(
        self, request: Request, decision: Decision, route: Route, progress: _Progress
    ) -> AsyncGenerator[Token, None]:
        async with aclosing(self._stream(request, decision, route, progress)) as stream:
            async for item in stream:
                if isinstance(item, Finished):
                    progress.finished = item
                else:
                    progress.ttft_ms = progress.ttft_ms or progress.elapsed_ms()
                    yield item

    async def _stream(
        self, request: Request, decision: Decision, route: Route, progress: _Progress
    ) -> Stream:
        if decision.specialist is None:
            assert self._cloud is not None  # noqa: S101 - decisions name the cloud only when there is one
            async with self._cloud.admission.place() as queue_ms:
                progress.queue_ms = queue_ms
                question = cloud_question(request, self._cloud.settings)
                async with aclosing(self._cloud.client_of(decision.model).stream(question)) as stream:
                    async for item in stream:
                        yield item
            return
        specialist = route.snapshot.catalog.specialist(decision.specialist or "")
        assert specialist is not None  # noqa: S101 - decisions name specialists of their own snapshot
        async with self._engines.lease(specialist) as lease, lease.engine.admission.place() as queue_ms:
            progress.queue_ms = queue_ms
            question = local_question(request, specialist, lease.adapters)
            async with aclosing(lease.engine.stream(question)) as stream:
                async for item in stream:
                    yield item

    def _done(self, decision: Decision, route: Route, progress: _Progress) -> Done:
        finished = progress.finished
        assert finished is not None  # noqa: S101 - a backend's stream ends with it, or raises
        cost = None
        if self._cloud is not None and decision.specialist is None:
            cost = self._cloud.cost(decision.model, finished.usage)
        timings = GenerateTimings(
            route=route.routed.timings,
            queue_ms=progress.queue_ms,
            ttft_ms=progress.ttft_ms,
            total_ms=progress.elapsed_ms(),
        )
        return Done(finished.reason, finished.usage, timings, cost)
