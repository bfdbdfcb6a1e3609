"""The far backend: any OpenAI-compatible endpoint."""

from pointsman.generation.admission import Admission
from pointsman.generation.chat_client import ChatClient
from pointsman.settings import Cloud as CloudSettings
from pointsman.values.events import Cost, Usage


class Cloud:
    """The configured endpoint, its places and its prices."""

    def __init__(self, settings: CloudSettings) -> None:
        self.settings = settings
        self.admission = Admission("the cloud", settings.concurrency, settings.concurrency)
        self.client = ChatClient(
            "the cloud",
            settings.base_url,
            settings.model,
            settings.api_key.get_secret_value(),
            connect_s=settings.connect_timeout_s,
            read_s=settings.first_token_timeout_s,
            retries=settings.max_retries,
            limit_field=settings.limit_field,
        )

    def cost(self, usage: Usage) -> Cost | None:
        """Return what an answer cost; None when no prices are configured."""
        prices = self.settings
        if prices.input_price is None or prices.output_price is None:
            return None
        cached_price = prices.input_price if prices.cached_price is None else prices.cached_price
        fresh = usage.prompt_tokens - usage.cached_tokens
        amount = (
            fresh * prices.input_price
            + usage.cached_tokens * cached_price
            + usage.completion_tokens * prices.output_price
        )
        return Cost(prices.currency, amount / 1e6)
