"""What the service needs of the rooms after it."""

from collections.abc import AsyncGenerator
from typing import Protocol

from pointsman.values.catalog import Catalog, Intent, Specialist, SpecialistStatus
from pointsman.values.decision import Routed
from pointsman.values.events import Event
from pointsman.values.ledger import Feedback
from pointsman.values.request import Request


class AnswerPort(Protocol):
    """Who routes and answers."""

    async def route(self, request: Request) -> Routed:
        """Decide."""

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Decide and answer; the decision comes first."""

    async def feedback(self, said: Feedback) -> None:
        """Keep what a caller says of a request of theirs."""

    def kept_out(self, method: str, request_id: str, caller: str, error: BaseException) -> None:
        """Note a call that was refused before `route` or `generate`; `method` as in the contract."""


class CatalogPort(Protocol):
    """Who keeps the catalog. Changes return the version that holds them."""

    @property
    def catalog(self) -> Catalog:
        """The catalog that serves now."""

    @property
    def version(self) -> str:
        """Its version."""

    async def statuses(self) -> list[SpecialistStatus]:
        """How each specialist is doing."""

    async def put_intent(self, intent: Intent) -> str:
        """Create or replace an intent."""

    async def delete_intent(self, name: str) -> str:
        """Delete an intent."""

    async def register_specialist(self, specialist: Specialist) -> str:
        """Fetch, verify, load and serve a specialist."""

    async def remove_specialist(self, name: str) -> str:
        """Remove a specialist that no intent targets."""
