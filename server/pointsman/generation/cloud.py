"""The far backend: any OpenAI-compatible endpoint."""

from collections.abc import Callable

from pointsman.generation.admission import Admission
from pointsman.generation.chat_client import ChatClient
from pointsman.sections import Cloud as CloudSettings
from pointsman.values.events import Cost, Usage

Price = Callable[[str, Usage], Cost | None]
"""A model and its tokens to what they cost; None where no price is known."""


class Cloud:
    """The configured endpoint, its places and its prices. Every model on it shares the places."""

    def __init__(
        self,
        settings: CloudSettings,
        mid_model: str | None = None,
        price: Price = lambda _model, _usage: None,
    ) -> None:
        """Speak to the endpoint; `mid_model` is the model of the mid tier, if it is one of this endpoint."""
        self.settings = settings
        self.cost = price
        self.admission = Admission("the cloud", settings.concurrency, settings.concurrency)
        self.client = self._open("the cloud", settings.model)
        self._clients = {settings.model: self.client}
        if mid_model is not None and mid_model != settings.model:
            self._clients[mid_model] = self._open(f"the cloud's {mid_model}", mid_model)

    def client_of(self, model: str) -> ChatClient:
        """Return the client that asks one of the configured models."""
        return self._clients[model]

    async def close(self) -> None:
        """Close idle connections."""
        for client in self._clients.values():
            await client.close()

    def _open(self, name: str, model: str) -> ChatClient:
        settings = self.settings
        return ChatClient(
            name,
            settings.base_url,
            model,
            settings.api_key.get_secret_value(),
            connect_s=settings.connect_timeout_s,
            read_s=settings.first_token_timeout_s,
            retries=settings.max_retries,
            limit_field=settings.limit_field,
        )
