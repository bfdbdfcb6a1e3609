"""A request to a decision: rule, embed, match, decide, over the snapshot that holds when it arrives."""

import time
from dataclasses import dataclass

from pointsman.decision.decide import decide
from pointsman.policy.gate import Gate
from pointsman.policy.rules import rule
from pointsman.router.conversation import Conversation
from pointsman.router.sessions import RecentRows, Sessions
from pointsman.router.snapshot import Snapshot
from pointsman.router.worker import Asked, EncoderWorker, Matched
from pointsman.sections import Conversations
from pointsman.values.decision import Evidence, Routed, RouteTimings
from pointsman.values.request import Request, Role


@dataclass(frozen=True, slots=True)
class Route:
    """A routed request, with the snapshot that it keeps to its end. `request` is what the policy made of it."""

    routed: Routed
    snapshot: Snapshot
    request: Request


class Router:
    """Routes over the current snapshot; `swap` replaces it whole. Belongs to the event loop."""

    def __init__(
        self, worker: EncoderWorker, snapshot: Snapshot, settings: Conversations, gate: Gate | None = None
    ) -> None:
        self.gate = gate or Gate()
        self._worker = worker
        self._settings = settings
        self._sessions = Sessions(settings.sessions, settings.session_ttl_s)
        self._recent = RecentRows(settings.recent_turns)
        self._snapshot = snapshot
        self._conversation = self._read_with(snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that new requests see."""
        return self._snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Serve another snapshot from now on; requests in flight keep theirs."""
        if _encoder(snapshot) is not _encoder(self._snapshot):  # rows of another encoder mean nothing to it
            self._sessions.clear()
            self._recent.clear()
        self._snapshot = snapshot
        self._conversation = self._read_with(snapshot)

    async def route(self, request: Request) -> Route:
        """Decide where a request goes.

        Raises:
            InvalidRequestError, UnknownNameError, PolicyError, NoRouteError, OverloadedError

        """
        arrived = time.perf_counter()
        request = await self.gate.admit(request)
        policy_ms = (time.perf_counter() - arrived) * 1e3
        snapshot = self._snapshot
        ruling = rule(request, snapshot.catalog, snapshot.cloud_task_types, snapshot.setup.mid)
        matched = await self._match(request, snapshot) if ruling.needs_similarity else None
        decision = decide(ruling, matched.evidence if matched else Evidence(), snapshot.setup)
        total_ms = (time.perf_counter() - arrived) * 1e3
        timings = (
            RouteTimings(matched.queue_ms, matched.embed_ms, matched.search_ms, total_ms, policy_ms)
            if matched
            else RouteTimings(total_ms=total_ms, policy_ms=policy_ms)
        )
        return Route(Routed(decision, timings, request.screening), snapshot, request)

    async def _match(self, request: Request, snapshot: Snapshot) -> Matched | None:
        """Match the last user turn, with those before it in mind: of the messages, else of the session."""
        matcher, conversation = snapshot.matcher, self._conversation
        if matcher is None or conversation is None:
            return None
        turns = [m.content for m in request.messages if m.role is Role.USER and m.content.strip()]
        texts = tuple(turns[-self._settings.turns :])
        # Callers choose their ids freely; the same id of another caller is another session.
        session = f"{request.caller} {request.session_id}" if request.session_id else ""
        remembered = self._sessions.recall(session, time.monotonic()) if session and len(texts) == 1 else None
        rows = tuple(self._recent.get(text) for text in texts[:-1])
        matched = await self._worker.match(Asked(texts, (*rows, None), remembered), matcher, conversation)
        if _encoder(snapshot) is _encoder(self._snapshot):  # not swapped for another encoder meanwhile
            for text, row in zip(texts, matched.rows, strict=True):
                self._recent.put(text, row)
            if session:
                self._sessions.remember(session, matched.topic, time.monotonic())
        return matched

    def _read_with(self, snapshot: Snapshot) -> Conversation | None:
        matcher = snapshot.matcher
        return Conversation(matcher, matcher.leaning, self._settings.hysteresis) if matcher else None


def _encoder(snapshot: Snapshot) -> object:
    return snapshot.matcher.encoder if snapshot.matcher else None
