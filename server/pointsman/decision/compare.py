"""Two answers to one question to how far they agree. Pure; free text needs an encoder or a judge."""

import json
from typing import Any

from pointsman.values.catalog import Output
from pointsman.values.ledger import Agreement

_ASKED = """\
Two assistants answered the same request. Do both answers serve the one who asked equally well, with no fact, \
number or instruction that one has and the other contradicts? Reply with one word: yes or no.

Request:
{asked}

First answer:
{first}

Second answer:
{second}
"""


def agreement(output: Output, local: str, cloud: str) -> Agreement | None:
    """Compare by the stated format: fields of JSON objects, else the whole; None for free text."""
    if output.format == "text":
        return None
    if output.format == "json":
        found, expected = _parsed(local), _parsed(cloud)
        if isinstance(found, dict) and isinstance(expected, dict) and expected:
            names = found.keys() | expected.keys()
            equal = sum(
                name in found and name in expected and _same(found[name], expected[name]) for name in names
            )
            return Agreement("fields", equal / len(names), equal == len(names))
        same = found is not None and _same(found, expected)
    else:
        same = local == cloud
    return Agreement("exact", float(same), same)


def similar(cosine: float, least: float) -> Agreement:
    """Compare by the cosine of both embeddings, in [-1, 1]."""
    return Agreement("similarity", min(1.0, max(0.0, cosine)), cosine >= least)


def question_to_judge(asked: str, local: str, cloud: str) -> str:
    """Return what a judge is asked about both."""
    return _ASKED.format(asked=asked, first=local, second=cloud)


def judged(reply: str) -> Agreement | None:
    """Read what a judge said; None where that was neither yes nor no."""
    word = reply.strip().casefold().strip("*\"'`.,! \n")
    if not word.startswith(("yes", "no")):
        return None
    return Agreement("judge", float(word.startswith("yes")), word.startswith("yes"))


def _same(one: Any, other: Any) -> bool:
    """Whether two parsed values are the same JSON: to Python, true is 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
