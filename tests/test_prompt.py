"""What of a conversation a specialist is shown, and what the cloud is asked in its place."""

import json

import pytest

from builders import make_specialist
from pointsman.generation.prompt import cloud_question, escalated_question, local_question
from pointsman.sections import Cloud as CloudSettings
from pointsman.values.catalog import FewShot, Output
from pointsman.values.request import Message, Request, Role, Sampling

CLOUD = CloudSettings(model="big")


def conversation(*turns: str, system: str = "") -> Request:
    """Return user and assistant in turn, the last one the user's."""
    messages = [Message(Role.SYSTEM, system)] if system else []
    roles = (Role.USER, Role.ASSISTANT)
    messages += [Message(roles[i % 2], text) for i, text in enumerate(turns)]
    return Request(tuple(messages))


def shown(request: Request, **fields: object) -> list[str]:
    fields = {"system_prompt": "Be brief.", "few_shot": (FewShot("hi", "hello"),)} | fields
    return [m.content for m in local_question(request, make_specialist("a", **fields), None).messages]


def test_prompt_and_examples_stand_before_the_whole_conversation() -> None:
    request = conversation("one", "first", "two", system="In French.")
    assert shown(request) == ["Be brief.\n\nIn French.", "hi", "hello", "one", "first", "two"]


@pytest.mark.parametrize(
    ("turns", "kept"), [(0, ["c"]), (1, ["b", "2", "c"]), (9, ["a", "1", "b", "2", "c"])]
)
def test_a_specialist_is_shown_as_many_turns_as_it_wants(turns: int, kept: list[str]) -> None:
    assert shown(conversation("a", "1", "b", "2", "c"), history_turns=turns)[3:] == kept


def test_the_oldest_turns_go_where_the_conversation_does_not_fit() -> None:
    long = "word " * 100  # 125 tokens, as estimated
    request = conversation(long, "1", long, "2", "last")
    assert shown(request, context_tokens=256, max_output_tokens=64)[3:] == [long, "2", "last"]
    assert shown(request, context_tokens=512, max_output_tokens=64)[3:] == [long, "1", long, "2", "last"]


def test_the_last_turn_prompt_and_examples_stay_whatever_their_size() -> None:
    long = "word " * 1000
    assert shown(conversation("a", "1", long), context_tokens=256, max_output_tokens=64) == [
        "Be brief.",
        "hi",
        "hello",
        long,
    ]


def test_a_short_answer_leaves_room_for_more_history() -> None:
    long = "word " * 100
    request = conversation(long, "1", "last")
    specialist = make_specialist("a", context_tokens=300, max_output_tokens=200)
    short = Request(request.messages, sampling=Sampling(max_tokens=8))
    assert len(local_question(request, specialist, None).messages) == 1
    assert len(local_question(short, specialist, None).messages) == 3


def test_a_constrained_question_keeps_no_stop_string_of_white_space() -> None:
    schema = json.dumps({"type": "object"})
    for kind, stop, constraint in (
        ("repair", ("\n", ";"), None),
        ("always", (";",), {"json_schema": {"type": "object"}}),
    ):
        specialist = make_specialist("a", stop=("\n", ";"), output=Output("json", schema, constrained=kind))
        question = local_question(conversation("x"), specialist, None)
        assert question.stop == stop
        assert (question.constraint.fields if question.constraint else None) == constraint
    repaired = local_question(
        conversation("x"), make_specialist("a", output=Output("json", schema)), None, repair=True
    )
    assert repaired.constraint is not None


def test_the_cloud_is_asked_the_bare_conversation_unless_it_takes_over() -> None:
    request = conversation("one", "first", "two")
    assert [m.content for m in cloud_question(request, CLOUD).messages] == ["one", "first", "two"]


def test_an_escalated_question_holds_prompt_examples_conversation_draft_and_format() -> None:
    specialist = make_specialist(
        "a",
        system_prompt="Classify.",
        few_shot=(FewShot("hi", "A"),),
        output=Output("choice", choices=("A", "B")),
    )
    question = escalated_question(conversation("one", "A", "two"), specialist, CLOUD, "a draft")
    assert [(m.role, m.content) for m in question.messages[:-1]] == [
        (Role.SYSTEM, "Classify."),
        (Role.USER, "hi"),
        (Role.ASSISTANT, "A"),
        (Role.USER, "one"),
        (Role.ASSISTANT, "A"),
        (Role.USER, "two"),
        (Role.ASSISTANT, "a draft"),
    ]
    assert question.messages[-1].role is Role.USER
    assert "one of: A, B" in question.messages[-1].content
    assert (question.adapters, question.constraint) == (None, None)
