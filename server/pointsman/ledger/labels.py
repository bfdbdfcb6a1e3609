"""What the cloud and callers said, to labels: of difficulty and cascade models, and of intents."""

import json
from datetime import datetime
from typing import Any

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import compared, follows, ratings
from pointsman.ledger.tables import comparisons, requests


def outcomes_of(url: str, since: datetime, specialist: str = "") -> list[dict[str, Any]]:
    """Return lines for `pointsman difficulty`: the cloud's answer counts as right, ours where both agree.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    return [
        {
            "text": row.prompt,
            "quality_local": float(row.agrees),
            "quality_cloud": 1.0,
            "topic": row.intent or None,
        }
        for row in _compared(url, since, specialist)
    ]


def answers_of(url: str, since: datetime, specialist: str = "") -> list[dict[str, Any]]:
    """Return lines for `pointsman cascade fit`: an answer is right where the cloud says the same.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    return [
        {
            "specialist": row.specialist,
            "prompt": row.prompt,
            "answer": row.answer,
            "logprobs": json.loads(row.logprobs),
            "right": bool(row.agrees),
            "finish": "length" if row.cut else "stop",
            "answers_hash": row.answers_hash,
        }
        for row in _compared(url, since, specialist)
        if row.answer is not None
    ]


def intents_of(url: str, since: datetime, specialist: str = "") -> list[dict[str, Any]]:
    """Return lines for `pointsman calibrate` and `eval`: prompts, with the intent that their caller says is right.

    That is the one they corrected it to, else the one it was taken for where they accepted what came of it. A prompt
    that was asked again counts once, by what was said last. A follow-up is left out: the turns before it are not there.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    row = requests.c
    with reading(url) as connection:
        said = ratings(
            connection,
            since.timestamp(),
            row.prompt,
            row.intent,
            row.asked,
            specialist=specialist,
            methods=("route", "generate"),
        )
    found: dict[str, str] = {}
    for one in sorted(said, key=lambda one: one.said):
        intent = one.intent or (one.row.intent if one.accepted else "")
        text = (one.row.prompt or "").strip()
        if text and intent and not follows(one.row.asked):
            found.pop(text, None)
            found[text] = intent
    return [{"text": text, "intent": intent} for text, intent in found.items()]


def _compared(url: str, since: datetime, specialist: str) -> list[Any]:
    columns = (
        requests.c.prompt,
        requests.c.answer,
        requests.c.intent,
        comparisons.c.specialist,
        comparisons.c.agrees,
        comparisons.c.cut,
        comparisons.c.logprobs,
        comparisons.c.answers_hash,
    )
    with reading(url) as connection:
        found = compared(connection, since.timestamp(), *columns, specialist=specialist)
    return [row for row in found if row.prompt and row.prompt.strip()]
