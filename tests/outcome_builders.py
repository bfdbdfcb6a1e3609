"""Outcome-labelled prompts for tests."""

from collections.abc import Sequence

import numpy as np

from builders import clustered_rows
from pointsman.decision.outcomes import Outcomes, make_outcomes

D = 12
TOPICS = ("refunds", "physics", "law", None)
HASH = "ab" * 32


def outcomes_of(n: int, seed: int = 0, topics: Sequence[str | None] = TOPICS, d: int = D) -> Outcomes:
    """Return prompts of which the local side fails more the longer they are, and by topic."""
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, len(topics), n)
    rows = clustered_rows(np.random.default_rng([seed, 1]), np.append(codes, len(topics) - 1), d, 1.0)[:-1]
    words = generator.integers(1, 40, n)
    texts = [f"prompt {seed} {i} " + "word 7 " * int(count) for i, count in enumerate(words)]
    chance = 0.95 - 0.012 * words - 0.08 * codes
    local = (generator.random(n) < chance).astype(float)
    cloud = (generator.random(n) < 0.93).astype(float)
    return make_outcomes(rows, texts, [topics[code] for code in codes], local, cloud)
