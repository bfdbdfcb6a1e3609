"""A request to a decision: rule, embed, match, decide, over the snapshot that holds when it arrives."""

import time
from dataclasses import dataclass

from pointsman.decision.decide import decide
from pointsman.policy.rules import rule
from pointsman.router.snapshot import Snapshot
from pointsman.router.worker import EncoderWorker, Matched
from pointsman.values.decision import Evidence, Routed, RouteTimings
from pointsman.values.request import Request


@dataclass(frozen=True, slots=True)
class Route:
    """A routed request, with the snapshot that it keeps to its end."""

    routed: Routed
    snapshot: Snapshot


class Router:
    """Routes over the current snapshot; `swap` replaces it whole."""

    def __init__(self, worker: EncoderWorker, snapshot: Snapshot) -> None:
        self._worker = worker
        self._snapshot = snapshot

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that new requests see."""
        return self._snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Serve another snapshot from now on; requests in flight keep theirs."""
        self._snapshot = snapshot

    async def route(self, request: Request) -> Route:
        """Decide where a request goes.

        Raises:
            InvalidRequestError, UnknownNameError, NoRouteError, OverloadedError

        """
        arrived = time.perf_counter()
        snapshot = self._snapshot
        ruling = rule(request.constraints, snapshot.catalog, snapshot.cloud_task_types)
        matched = Matched(Evidence(), 0.0, 0.0, 0.0)
        if ruling.needs_similarity and snapshot.matcher is not None:
            matched = await self._worker.match(request.prompt, snapshot.matcher)
        decision = decide(ruling, matched.evidence, snapshot.setup)
        timings = RouteTimings(
            queue_ms=matched.queue_ms,
            embed_ms=matched.embed_ms,
            search_ms=matched.search_ms,
            total_ms=(time.perf_counter() - arrived) * 1e3,
        )
        return Route(Routed(decision, timings), snapshot)
