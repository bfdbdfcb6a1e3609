"""The file of prices: YAML to values."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pointsman.catalog.file_model import FileModel, refusal
from pointsman.catalog.files import read_document, validate
from pointsman.values.price import LocalCosts, ModelPrice, PriceList

_AHEAD = timedelta(hours=14)
"""How far the first time zone is ahead of UTC: nowhere is it later."""


def _not_in_the_future(day: date) -> date:
    if day > (today := (datetime.now(UTC) + _AHEAD).date()):
        message = f"is in the future (today is {today:%Y-%m-%d})"
        raise PydanticCustomError("refused", "{message}", {"message": message})
    return day


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ModelEntry(FileModel):
    """Prices of one model, per million tokens."""

    model: Annotated[
        str,
        Field(min_length=1, max_length=256, description="Name, as `cloud.model` or `routing.mid` has it."),
    ]
    input: Amount
    cached: Annotated[Amount | None, Field(description="Of cached input; else as fresh input.")] = None
    output: Amount
    as_of: Annotated[date, AfterValidator(_not_in_the_future), Field(description="Day of the price list.")]

    def to_value(self) -> ModelPrice:
        """Return what the entry states."""
        cached = self.input if self.cached is None else self.cached
        return ModelPrice(self.input, cached, self.output, self.as_of)


class LocalEntry(FileModel):
    """What the local machines cost."""

    per_month: Annotated[Amount, Field(description="Machines, people: whatever is asked.")] = 0.0
    watts: Annotated[Amount, Field(description="Power of the machines, mean of the month.")] = 0.0
    per_kwh: Amount = 0.0


class PricesFile(FileModel):
    """All prices, in one currency."""

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217.")]
    models: Annotated[list[ModelEntry], Field(max_length=1000)]
    local: LocalEntry = LocalEntry()

    @model_validator(mode="after")
    def _each_model_once(self) -> Self:
        seen: set[str] = set()
        for i, entry in enumerate(self.models):
            if entry.model in seen:
                raise refusal(("models", i, "model"), "has prices already", entry.model)
            seen.add(entry.model)
        return self

    @model_validator(mode="after")
    def _power_has_a_price(self) -> Self:
        if self.local.watts and not self.local.per_kwh:
            raise refusal(("local", "watts"), "needs 'per_kwh' beside it", self.local.watts)
        return self

    def to_value(self) -> PriceList:
        """Return what the file states."""
        local = self.local
        return PriceList(
            self.currency,
            {entry.model: entry.to_value() for entry in self.models},
            LocalCosts(local.per_month, local.watts, local.per_kwh),
        )


def read_prices(path: Path) -> PriceList:
    """Read the file; one that is not there states no prices.

    Raises:
        CatalogError: every problem with its line; unreadable.

    """
    if not path.exists():
        return PriceList()
    document = read_document(path, path.name, "currency")
    return validate(document.data, PricesFile, path.name, document).to_value()
