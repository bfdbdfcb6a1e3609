"""Whether the engine, with the exported adapter, says what the trained model says.

Both are given the same held-out prompts and the first tokens of their answers, and name the likeliest next
token: the share of places where they name the same one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman.errors import ArtifactError
from pointsman.training.base import Base, Tokens
from pointsman.training.engine import Engine
from pointsman.training.lora import answer_logits

LEAST_UNQUANTISED = 0.99
"""Of tokens, over a base without quantisation: what is left is rounding, of the base to F16 and of the adapter to Q8_0, and ties."""
LEAST_QUANTISED = 0.95
"""Of tokens, over the base as it is served: its kernels round the activations too."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Places compared, and how many of them agree."""

    tokens: int
    equal: int

    @property
    def share(self) -> float:
        """Of places that agree."""
        return self.equal / self.tokens


def likeliest_tokens(base: Base, model: Any, rows: Sequence[Tokens]) -> list[list[int]]:
    """Return what a trained model holds for the likeliest token at each place of each answer."""
    import torch

    model.eval()
    with torch.no_grad():
        return [answer_logits(base, model, [row], ())[0].argmax(dim=1).tolist() for row in rows]


def agreement(
    engine: Engine, rows: Sequence[Tokens], expected: Sequence[Sequence[int]], said: Callable[[int], None]
) -> Agreement:
    """Ask an engine for the likeliest token at every place of every answer; `said` counts rows."""
    tokens = equal = 0
    for number, (row, likeliest) in enumerate(zip(rows, expected, strict=True), 1):
        named = engine.next_tokens(row.prompt, row.answer)
        tokens += len(named)
        equal += sum(a == b for a, b in zip(named, likeliest, strict=True))
        said(number)
    return Agreement(tokens, equal)


def check_agreement(unquantised: Agreement, quantised: Agreement) -> None:
    """Refuse an adapter that the engine reads otherwise than it was trained.

    Raises:
        ArtifactError: too few tokens agree; says over which base.

    """
    for what, found, least in (
        ("without quantisation", unquantised, LEAST_UNQUANTISED),
        ("as it is served", quantised, LEAST_QUANTISED),
    ):
        if found.share < least:
            one_tie = found.equal == found.tokens - 1
            raise ArtifactError(
                f"the engine, over the base {what}, and the trained model name the same next token at "
                f"{found.equal} of {found.tokens} places ({found.share:.1%}); at least {least:.0%} must agree"
                + ("; among so few, one near tie is too much: give --eval more examples" if one_tie else "")
            )
