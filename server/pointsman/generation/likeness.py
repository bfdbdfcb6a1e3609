"""Two answers to one question to how far they agree: by the stated format, else by meaning."""

from collections.abc import Awaitable, Callable, Sequence

from pointsman.decision.compare import agreement, similar
from pointsman.embedding.encoder import Rows
from pointsman.values.catalog import Output
from pointsman.values.ledger import Agreement

Embed = Callable[[Sequence[str]], Awaitable[Rows]]
"""Texts (n) to unit rows (n, d)."""


class Likeness:
    """Compares answers; `least` is the cosine from which two free texts agree."""

    def __init__(self, embed: Embed, least: float) -> None:
        self._embed = embed
        self._least = least

    async def of(self, output: Output, one: str, other: str) -> Agreement:
        """Compare two answers of a stated format, or free text by the cosine of both embeddings."""
        if one == other:
            return Agreement("exact", 1.0, agrees=True)
        return agreement(output, one, other) or await self.by_meaning(one, other)

    async def by_meaning(self, one: str, other: str) -> Agreement:
        """Compare two texts, whatever their format."""
        if not one.strip() or not other.strip():
            return Agreement("exact", float(one == other), one == other)
        first, second = await self._embed([one, other])
        return similar(float(first @ second), self._least)
