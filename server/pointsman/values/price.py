"""What models of the cloud charge, and what local machines cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TypeVar

from pointsman.values.events import Cost, Usage

Amount = TypeVar("Amount", bound=float)
"""A number, or an array of them."""

HOURS_A_MONTH = 365.25 * 24 / 12


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of one model per million tokens, and the day they were listed. `cached` is that of cached input."""

    input: float
    cached: float
    output: float
    as_of: date | None = None

    def amount(self, prompt: Amount, cached: Amount, output: Amount) -> Amount:
        """Return what tokens cost; the cached ones are part of the prompt."""
        return ((prompt - cached) * self.input + cached * self.cached + output * self.output) / 1e6  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class LocalCosts:
    """What the local machines cost: a month whatever is asked, and their power at its price per kWh."""

    per_month: float = 0.0
    watts: float = 0.0
    per_kwh: float = 0.0

    @property
    def monthly(self) -> float:
        """All of it, a month."""
        return self.per_month + self.watts / 1000 * HOURS_A_MONTH * self.per_kwh


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices, in one currency (ISO 4217)."""

    currency: str = "USD"
    models: Mapping[str, ModelPrice] = field(default_factory=dict)
    local: LocalCosts = LocalCosts()

    def cost(self, model: str, usage: Usage) -> Cost | None:
        """Return what an answer cost; None where the model has no price."""
        price = self.models.get(model)
        if price is None:
            return None
        amount = price.amount(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        return Cost(self.currency, amount)

    def missing(self, model: str) -> str:
        """Return what to say of a model that has no price."""
        known = ", ".join(sorted(self.models)) or "none"
        return f"no price of the model {model!r} (priced: {known})"
