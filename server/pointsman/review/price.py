"""What prompts cost when the cloud answers all of them, and when it answers what is routed to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.review.metrics import Flags
from pointsman.values.price import PriceList

DEFAULT_OUTPUT_TOKENS = 256
TOKENS_PER_WORD = 1.3
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices per million tokens, and how long prompts and answers are taken to be.

    input_tokens: of every prompt; None counts them by `tokens_of`
    """

    currency: str
    input_price: float
    output_price: float
    input_tokens: float | None = None
    output_tokens: float = DEFAULT_OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class Price:
    """Cost of 1,000 prompts like these. A local answer counts as free.

    input_tokens, output_tokens: mean of a prompt
    counted: whether the input tokens are approximated from the texts, instead of assumed
    """

    currency: str
    all_cloud: float
    as_routed: float
    input_tokens: float
    output_tokens: float
    counted: bool

    @property
    def saved(self) -> float:
        """Share of the cost that routing saves; 0 when there is none."""
        return 1 - self.as_routed / self.all_cloud if self.all_cloud else 0.0

    @property
    def sentence(self) -> str:
        """What it costs, and what was taken for granted."""
        source = "approximated from the texts" if self.counted else "as stated"
        return (
            f"1,000 prompts like these cost {self.currency} {self.all_cloud:.4f} when the cloud answers all, "
            f"{self.currency} {self.as_routed:.4f} as routed ({self.saved:.1%} less); a local answer counts as "
            f"free, input is {self.input_tokens:.1f} tokens a prompt ({source}), output {self.output_tokens:g}."
        )


def prices_of(
    listed: PriceList, model: str, input_tokens: float | None, output_tokens: float
) -> Prices | None:
    """Return the prices of a model; None where it has none."""
    found = listed.models.get(model)
    if found is None:
        return None
    return Prices(listed.currency, found.input, found.output, input_tokens, output_tokens)


def tokens_of(text: str) -> float:
    """Return about how many tokens a text has: 1.3 a word, or one in four characters, whichever is more.

    Languages that put no spaces between words have no words to count.
    """
    return max(TOKENS_PER_WORD * len(text.split()), len(text) / CHARACTERS_PER_TOKEN)


def price(texts: Sequence[str], local: Flags, prices: Prices) -> Price:
    """Price prompts (n) of which `local` (n,) are answered by specialists; n is at least one."""
    counted = prices.input_tokens is None
    tokens = np.array([tokens_of(text) if counted else prices.input_tokens for text in texts], np.float64)
    costs = (tokens * prices.input_price + prices.output_tokens * prices.output_price) / 1e6  # (n,)
    return Price(
        currency=prices.currency,
        all_cloud=1000 * float(costs.mean()),
        as_routed=1000 * float(np.where(local, 0.0, costs).mean()),
        input_tokens=float(tokens.mean()),
        output_tokens=prices.output_tokens,
        counted=counted,
    )
