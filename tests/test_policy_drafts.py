"""Drafts of a local model, which reads originals, and what of them the cloud gets to see."""

import asyncio
import json
from pathlib import Path

import pytest

from harness import Cloud as Endpoint
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate
from pointsman.values.events import Token
from pointsman.values.policy import Action, Policy
from test_cascade import SURE, UNSURE, Engine, asked, escalations, events_of, generator, text_of

CARD = "4111 1111 1111 1111"
ASKS = f"I am jane.doe@example.com, charge {CARD}"
POLICY = Policy({"email": Action.REDACT, "payment_card": Action.REDACT})


@pytest.fixture
async def gate(tmp_path: Path) -> Gate:
    return Gate(POLICY, await asyncio.to_thread(Detector, POLICY, tmp_path))


@pytest.mark.parametrize(
    "draft", ["Written to jane.doe@exam", "Charged 4111 1111 1111 11", "Charged 4-1-1-1-1-1-1", "Dear Jane"]
)
async def test_a_draft_with_a_piece_of_what_is_redacted_does_not_leave(gate: Gate, draft: str) -> None:
    with Endpoint(words=("Written to [EMAIL_1]",)) as endpoint:
        source = await generator(Engine([(draft, UNSURE)]), endpoint, gate=gate)
        events = await events_of(source, asked(ASKS))
    assert text_of(events) == "Written to jane.doe@example.com"
    assert escalations(events)
    messages = endpoint.requests[0]["messages"]
    assert messages[-1] == {"role": "user", "content": "I am [EMAIL_1], charge [PAYMENT_CARD_1]"}
    assert draft not in json.dumps(messages)


@pytest.mark.parametrize(
    ("draft", "left"),
    [("It is done.", "It is done."), (f"Charged {CARD} now", "Charged [PAYMENT_CARD_1] now")],
)
async def test_a_draft_without_any_leaves_and_a_whole_value_as_its_placeholder(
    gate: Gate, draft: str, left: str
) -> None:
    with Endpoint() as endpoint:
        source = await generator(Engine([(draft, UNSURE)]), endpoint, gate=gate)
        await events_of(source, asked(ASKS))
    assert endpoint.requests[0]["messages"][-2] == {"role": "assistant", "content": left}


async def test_what_would_stand_of_a_draft_is_taken_back_where_it_may_not_leave(gate: Gate) -> None:
    script = [("Dear", SURE), (" Jane", SURE)] + [(" and", SURE), (" then", SURE), (" again", SURE)] * 60
    with Endpoint() as endpoint:
        source = await generator(Engine(script), endpoint, gate=gate)
        events = await events_of(source, asked(ASKS))
    (moved,) = escalations(events)
    assert moved.retract_from == 0
    assert text_of(events) == "from the cloud"
    assert any(isinstance(event, Token) and "Jane" in event.text for event in events)
    assert "Jane" not in json.dumps(endpoint.requests)
    assert "broke off" not in json.dumps(endpoint.requests)
