"""Prices that follow their file."""

from collections.abc import Sequence
from pathlib import Path

import structlog

from pointsman.catalog.prices_file import read_prices
from pointsman.host.last_good import LastGood
from pointsman.values.events import Cost, Usage
from pointsman.values.price import PriceList

_log = structlog.get_logger()


class PriceSource(LastGood):
    """The price list. One that breaks or goes leaves the prices as they were."""

    def __init__(self, path: Path, models: Sequence[str]) -> None:
        """Read the file, and warn of the `models` that it has no price of.

        Raises:
            ConfigError: it is there, and cannot be used.

        """
        self.prices = PriceList()
        self._models = models
        super().__init__("prices", path, self._apply)

    def cost(self, model: str, usage: Usage) -> Cost | None:
        """Return what an answer cost; None where the model has no price."""
        return self.prices.cost(model, usage)

    def _apply(self, path: Path) -> int:
        self.prices = read_prices(path)
        for model in self._models:
            if model not in self.prices.models:
                _log.warning("prices.missing", why=self.prices.missing(model), then="its cost is not known")
        return len(self.prices.models)
