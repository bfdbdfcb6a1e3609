"""Labels of later turns, and targets on the middle tier: judged as a server would route them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import REFUND, WEATHER, Site, write_intent
from pointsman.decision.calibrate import Curve
from pointsman.decision.promise import LOGITS, sigmoid
from pointsman.errors import CatalogError
from pointsman.host.offline import load_catalog, open_workbench
from pointsman.review.calibrate import Serving, calibrate_on, judge_prompts, judge_traffic, unseen
from pointsman.review.traffic import Labelled, read_traffic
from pointsman.router.conversation import Conversation
from pointsman.values.catalog import Mid
from test_calibrated_serving import TRAFFIC

OPENING = "could I have my money back for the chair"


def write_lines(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


# The file


def test_a_line_may_hold_the_user_s_turns_or_all_messages(tmp_path):
    path = write_lines(
        tmp_path / "t.jsonl",
        {"text": "hello", "intent": None},
        {"turns": [OPENING, "it was 45 euros"], "intent": "refund"},
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": OPENING},
                {"role": "assistant", "content": "How much?"},
                {"role": "user", "content": "it was 45 euros"},
            ],
            "intent": "refund",
        },
    )
    first, second, third = read_traffic(path, need_labels=True, conversations=True)
    assert first == Labelled("hello", None, True, 1)
    assert second == Labelled("it was 45 euros", "refund", True, 2, (OPENING,))
    assert (third.text, third.before, third.intent) == (second.text, second.before, "refund")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"turns": []}, "turns: must be a list with at least one turn"),
        ({"turns": "hello"}, "turns: must be a list"),
        ({"turns": ["hello", 3]}, "turns: must be text"),
        ({"turns": ["hello"], "text": "hello"}, "turns: must not stand beside text"),
        ({"messages": ["hello"]}, "messages: must be a list of objects"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "messages: the last message must be the user's",
        ),
        ({"messages": [{"role": "user"}]}, "messages: must be text"),
    ],
)
def test_turns_of_another_form_are_named(tmp_path, line, message):
    path = write_lines(tmp_path / "t.jsonl", line | {"intent": None})
    with pytest.raises(CatalogError) as caught:
        read_traffic(path, need_labels=True, conversations=True)
    assert message in str(caught.value)


def test_conversations_are_refused_where_prompts_are_judged_one_by_one(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"turns": ["hello"], "intent": None})
    with pytest.raises(CatalogError, match="text: field required"):
        read_traffic(path, need_labels=True)


# Judged as served


def test_a_later_turn_is_judged_after_those_before_it_at_every_required_confidence(site: Site) -> None:
    settings = site.fill().settings()
    conversations = [
        (OPENING, "for the second one too"),
        (OPENING, "who painted the night watch"),
        ("is rain expected on friday", "and on sunday", "reverse the charge on my card"),
        ("who painted the night watch", "and when"),
    ]
    traffic = [Labelled(texts[-1], None, True, before=texts[:-1]) for texts in conversations]
    with open_workbench(settings) as bench:
        matcher = bench.matcher(load_catalog(settings))
        turns = [bench.embed(texts) for texts in conversations]
    flat = Curve(-1.0, 3.0, 1.0)  # so that what is required parts the turns
    matcher = replace(matcher, calibration=replace(matcher.calibration, curve=flat))
    verdicts = judge_traffic(matcher, traffic, turns, None, 0.5)
    for step in (0, 60, 140, 200, 300):
        reading = Conversation(matcher, matcher.leaning, 0.5, float(sigmoid(LOGITS[step])))
        served = [reading.read(rows).evidence.accepted for rows in turns]
        assert verdicts.taken(step).tolist() == served
    assert verdicts.taken(300)[0]  # it stays with refunds, whatever it says itself
    assert not verdicts.taken(0).any()
    alone = judge_prompts(matcher, traffic, np.stack([rows[-1] for rows in turns]))
    assert not alone.taken(300)[0]


def test_a_promise_counts_follow_ups_that_go_to_a_wrong_specialist(site: Site) -> None:
    """Every opening is right, and every second turn is out of scope but stays: single prompts do not see it."""
    settings = site.fill().settings()
    serving = Serving(settings.routing, settings.conversations)
    openings = [
        f"{text}{' please' * i}" for i in range(15) for text in (*TRAFFIC["refund"], *TRAFFIC["weather"])
    ]
    singles = [Labelled(text, None if i % 3 == 0 else _intent(text), True) for i, text in enumerate(openings)]
    singles = [item for item in singles if item.intent is not None]
    later = [
        Labelled("and what about that one", None, True, before=(item.text,))
        for item in singles[: len(singles) // 2]
    ]
    with open_workbench(settings) as bench:
        matcher = bench.matcher(load_catalog(settings))

        def promise(traffic: list[Labelled]) -> Any:
            return calibrate_on(
                matcher, bench.encoder_hash, traffic, bench.embed, 0, 0.05, 0.9, None, serving
            )

        first = promise(singles)
        both = promise([*singles, *later])
    assert first.holds
    assert first.labels.conversations == 0
    assert both.labels.conversations == len(later)
    assert both.local_share < first.local_share
    assert both.required_confidence > first.required_confidence


def _intent(text: str) -> str:
    return "refund" if any(text.startswith(known) for known in TRAFFIC["refund"]) else "weather"


def test_a_conversation_with_an_exemplar_in_it_is_left_out(site: Site) -> None:
    settings = site.fill().settings()
    with open_workbench(settings) as bench:
        matcher = bench.matcher(load_catalog(settings))
    fresh = [Labelled(f"prompt {i}", None, True) for i in range(20)]
    kept, left_out = unseen(matcher, [*fresh, Labelled("and then", None, True, before=(REFUND[0],))])
    assert (len(kept), left_out) == (20, 1)


# The middle tier


def test_what_a_specialist_on_the_middle_tier_should_not_answer_counts_as_wrong(site: Site) -> None:
    site.fill()
    settings = site.settings(routing={"mid": "specialist:general"})
    write_intent(site.intents, "weather", "mid", WEATHER)
    traffic = [Labelled("is rain expected on friday", None, True), Labelled(OPENING, "refund", True)]
    with open_workbench(settings) as bench:
        matcher = bench.matcher(load_catalog(settings))
        rows = bench.embed([item.text for item in traffic])
    by_specialist = judge_prompts(matcher, traffic, rows, settings.routing.mid_tier)
    assert by_specialist.local.tolist() == [True, True]
    assert (by_specialist.local & by_specialist.wrong).tolist() == [True, False]
    by_cloud = judge_prompts(matcher, traffic, rows, Mid(model="m"))
    assert by_cloud.local.tolist() == [False, True]
