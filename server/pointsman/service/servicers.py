"""The two services: decode, ask a port, encode. Errors go up to the guard."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from pointsman.service.convert import Limits, event_message, feedback_of, request_of, route_message
from pointsman.service.convert_catalog import (
    health_message,
    intent_message,
    intent_of,
    specialist_of,
    status_message,
)
from pointsman.service.doors import Doors, let_in
from pointsman.service.guard import said
from pointsman.service.ports import AnswerPort, CatalogPort
from pointsman.v1 import catalog_pb2, catalog_pb2_grpc, router_pb2, router_pb2_grpc
from pointsman.values.catalog import CALLER, TRACEPARENT
from pointsman.values.request import Request


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """`pointsman.v1.RouterService`."""

    def __init__(self, answers: AnswerPort, limits: Limits, doors: Doors) -> None:
        self._answers = answers
        self._limits = limits
        self._doors = doors

    async def Route(self, request: router_pb2.RouteRequest, context: Any) -> router_pb2.RouteResponse:  # noqa: N802
        """Decide."""
        return route_message(await self._answers.route(self._asked(request, context)))

    async def Generate(  # noqa: N802
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
        """Decide and answer."""
        asked = self._asked(request, context)
        answers = self._answers.generate(asked)
        async with aclosing(answers), aclosing(self._doors.counted(answers, asked.tokens)) as events:
            async for event in events:
                yield event_message(event)

    async def Feedback(  # noqa: N802
        self, request: router_pb2.FeedbackRequest, context: Any
    ) -> router_pb2.FeedbackResponse:
        """Keep what a caller says."""
        await self._answers.feedback(feedback_of(request, self._limits, self._caller(context)))
        return router_pb2.FeedbackResponse()

    def _asked(self, request: router_pb2.RouteRequest | router_pb2.GenerateRequest, context: Any) -> Request:
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))
        caller, budget_s = self._caller(context), context.time_remaining()
        trace = said(context, TRACEPARENT)
        return request_of(
            request, self._limits, request_id, caller=caller, budget_s=budget_s, traceparent=trace
        )

    def _caller(self, context: Any) -> str:
        return self._doors.name(let_in.get(), said(context, CALLER))


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """`pointsman.v1.CatalogService`."""

    def __init__(self, catalogs: CatalogPort) -> None:
        self._catalogs = catalogs

    async def ListIntents(self, request: Any, context: Any) -> catalog_pb2.ListIntentsResponse:  # noqa: N802
        """Return all intents and the health of the catalog."""
        del request, context
        catalog = self._catalogs.catalog
        return catalog_pb2.ListIntentsResponse(
            intents=[intent_message(intent) for intent in catalog.intents], health=self._health()
        )

    async def PutIntent(self, request: Any, context: Any) -> catalog_pb2.PutIntentResponse:  # noqa: N802
        """Create or replace an intent."""
        del context
        version = await self._catalogs.put_intent(intent_of(request.intent))
        return catalog_pb2.PutIntentResponse(catalog_version=version)

    async def DeleteIntent(self, request: Any, context: Any) -> catalog_pb2.DeleteIntentResponse:  # noqa: N802
        """Delete an intent."""
        del context
        version = await self._catalogs.delete_intent(request.name)
        return catalog_pb2.DeleteIntentResponse(catalog_version=version)

    async def ListSpecialists(  # noqa: N802
        self, request: Any, context: Any
    ) -> catalog_pb2.ListSpecialistsResponse:
        """Return all specialists, how they are doing, and the health of the catalog."""
        del request, context
        catalog = self._catalogs.catalog
        return catalog_pb2.ListSpecialistsResponse(
            specialists=[status_message(status, catalog) for status in await self._catalogs.statuses()],
            health=self._health(),
        )

    async def RegisterSpecialist(  # noqa: N802
        self, request: Any, context: Any
    ) -> catalog_pb2.RegisterSpecialistResponse:
        """Fetch, verify, load and serve a specialist."""
        del context
        version = await self._catalogs.register_specialist(specialist_of(request.specialist))
        return catalog_pb2.RegisterSpecialistResponse(catalog_version=version)

    async def RemoveSpecialist(  # noqa: N802
        self, request: Any, context: Any
    ) -> catalog_pb2.RemoveSpecialistResponse:
        """Remove a specialist that no intent targets."""
        del context
        version = await self._catalogs.remove_specialist(request.name)
        return catalog_pb2.RemoveSpecialistResponse(catalog_version=version)

    def _health(self) -> catalog_pb2.CatalogHealth:
        return health_message(self._catalogs.catalog, self._catalogs.version)
