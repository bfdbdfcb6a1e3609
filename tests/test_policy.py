"""What detection finds, what a policy makes of it, and what leaves and comes back."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.catalog.policy_file import read_policy
from pointsman.errors import CatalogError, ConfigError, PolicyError
from pointsman.host.policy_source import PolicySource
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate
from pointsman.policy.plain_text import plain_text
from pointsman.policy.redact import Redaction, redact
from pointsman.values.kinds import PRESIDIO
from pointsman.values.policy import SECRET, UNREADABLE, Action, Pattern, Policy, Span, WordList
from pointsman.values.request import Constraints, Message, Request, Role

CARD = "4111 1111 1111 1111"
IBAN = "DE89 3704 0044 0532 0130 00"
TOKEN = "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5"


@pytest.fixture(scope="session")
def rules_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secret-rules")


@pytest.fixture(scope="session")
def everything(rules_cache: Path) -> Detector:
    kinds = {*PRESIDIO, SECRET}
    return Detector(Policy(dict.fromkeys(kinds, Action.STAY_LOCAL), phone_regions=("US", "DE")), rules_cache)


def kinds_in(detector: Detector, text: str) -> set[str]:
    return {span.kind for span in detector.find(text)}


def asked(*texts: str, caller: str = "", **constraints: object) -> Request:
    messages = tuple(
        Message(Role.USER if i % 2 == (len(texts) - 1) % 2 else Role.ASSISTANT, text)
        for i, text in enumerate(texts)
    )
    return Request(messages, Constraints(**constraints), caller=caller)  # type: ignore[arg-type]


def gate(everything: Detector, actions: dict[str, Action], **more: object) -> Gate:
    return Gate(Policy(actions, **more), everything)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe@acme-corp.com please", "email"),
        ("call me at +49 30 901820", "phone"),
        ("my number is (415) 555-2671", "phone"),
        (f"charge {CARD} again", "payment_card"),
        ("my JCB is 3530 1113 3330 0000", "payment_card"),
        ("the old one, 180052695486566", "payment_card"),
        ("Diners 30569309025904", "payment_card"),
        ("Maestro 676182145620", "payment_card"),
        ("4111 1111 1111 1111 12/27 cvv 123", "payment_card"),
        ("4111111111111111 12/27", "payment_card"),
        ("4111 1111 1111 1111 123", "payment_card"),
        ("CVV 123 4111 1111 1111 1111", "payment_card"),
        ("3782 822463 10005 1 27", "payment_card"),
        ("4222 2222 2222 2 12/27", "payment_card"),
        ("11/29 3056 9309 0259 04 123", "payment_card"),
        ("4111-1111-1111-1111 2027", "payment_card"),
        (f"pay to {IBAN} today", "iban"),
        ("the host is 203.0.113.77", "ip_address"),
        ("SSN 536-22-8714 on file", "us_ssn"),
        (f"use {TOKEN} to log in", SECRET),
        ("NHS number 943 476 5919", "uk_nhs"),
        ("PESEL 44051401359", "pl_pesel"),
        ("codice fiscale RSSMRA85T10A562S", "it_fiscal_code"),
    ],
)
def test_what_is_sensitive_is_found_by_kind(everything: Detector, text: str, kind: str) -> None:
    assert kind in kinds_in(everything, text)


@pytest.mark.parametrize(
    "text",
    [
        "charge 4111 1111 1111 1112 again",  # the check digit is wrong
        "pay to DE88 3704 0044 0532 0130 00 today",
        "order 4471-2231 of 2026-03-14, version 2.3.1 build 20260314",
        "the meeting is at 10:45 on 12/11/2026 in room 4.12",
    ],
)
def test_what_only_looks_like_it_is_not(everything: Detector, text: str) -> None:
    assert kinds_in(everything, text) == set()


@pytest.mark.parametrize("text", ["Zu\u0308rich Plan", "Blue\ufe0f Bird", "Bl\u034fue Bird", "ＢＬＵＥ bird"])
def test_words_are_found_however_they_are_written(rules_cache: Path, text: str) -> None:
    words = (WordList("project", ("Zürich Plan", "blue bird")),)
    policy = Policy({"project": Action.REFUSE}, words=words)
    assert kinds_in(Detector(policy, rules_cache), f"the {text} is late") == {"project"}


@pytest.mark.parametrize(
    "text",
    [
        "charge ４１１１ １１１１ １１１１ １１１１ again",  # full-width digits
        "charge 4111\u200d 1111\u200b 1111\u2060 1111 again",  # zero-width characters
        "charge ٤١١١ ١١١١ ١١١١ ١١١١ again",  # Arabic-Indic digits
        "charge 4111–1111–1111–1111 again",  # dashes
        "charge 4111\u00a01111\u00a01111\u00a01111 again",  # spaces that do not break
        "charge 4\u0301111 1111 1111 1111 again",  # a combining mark
        "charge 4111\ufe0f 1111\u034f 1111\u3164 1111 again",  # what is invisible and no format character
    ],
)
def test_look_alike_digits_and_invisible_characters_hide_nothing(everything: Detector, text: str) -> None:
    (span,) = (span for span in everything.find(text) if span.kind == "payment_card")
    assert text[span.start : span.end] == text.removeprefix("charge ").removesuffix(" again")


@given(st.text())
def test_plain_text_knows_the_way_back(text: str) -> None:
    plain = plain_text(text)
    for i in range(len(plain.text)):
        start, end = plain.before(i, i + 1)
        assert 0 <= start < end <= len(text)


def test_own_patterns_and_words_are_found_in_any_case_as_whole_words(rules_cache: Path) -> None:
    policy = Policy(
        {"customer": Action.REDACT, "project": Action.REFUSE},
        (Pattern("customer", r"CUST-\d{6}"),),
        (WordList("project", ("Blue Bird", "Falcon")),),
    )
    detector = Detector(policy, rules_cache)
    text = "CUST-123456 asks about blue  bird and FALCON, not about falconry"
    assert [(span.kind, text[span.start : span.end]) for span in detector.find(text)] == [
        ("customer", "CUST-123456"),
        ("project", "blue  bird"),
        ("project", "FALCON"),
    ]


async def test_an_earlier_turn_counts_as_much_as_the_last(everything: Detector) -> None:
    admitted = await gate(everything, {"iban": Action.STAY_LOCAL}).admit(
        asked(f"my iban is {IBAN}", "ok", "thanks")
    )
    assert admitted.constraints.local_only
    assert admitted.screening.describe(Action.STAY_LOCAL) == "iban (message 1)"
    (finding,) = admitted.screening.findings
    assert finding.length == len(IBAN)


async def test_the_strictest_action_holds_and_refusal_names_kinds_only(everything: Detector) -> None:
    strict = gate(
        everything, {"iban": Action.STAY_LOCAL, "payment_card": Action.REFUSE, "email": Action.ALLOW}
    )
    with pytest.raises(PolicyError) as raised:
        await strict.admit(asked(f"{IBAN} and {CARD} of a@acme-corp.com"))
    assert str(raised.value) == "the policy refuses what the conversation holds: payment_card (message 1)"


async def test_a_caller_may_have_actions_of_their_own(everything: Detector) -> None:
    here = gate(everything, {"email": Action.STAY_LOCAL}, callers={"crm": {"email": Action.ALLOW}})
    assert (await here.admit(asked("a@acme-corp.com"))).constraints.local_only
    assert not (await here.admit(asked("a@acme-corp.com", caller="crm"))).constraints.local_only


async def test_who_only_claims_a_name_has_nothing_of_it_that_is_looser(everything: Detector) -> None:
    actions = {"email": Action.REDACT, "iban": Action.REDACT}
    crm = {"email": Action.ALLOW, "iban": Action.STAY_LOCAL, "payment_card": Action.REFUSE}
    known = False
    here = Gate(Policy(actions, callers={"crm": crm}), everything, lambda: known)
    text = f"a@acme-corp.com {IBAN}"
    for known, action in ((False, Action.REDACT), (True, Action.ALLOW)):
        assert (await here.admit(asked("a@acme-corp.com", caller="crm"))).screening.action is action
        assert (await here.admit(asked(text, caller="crm"))).constraints.local_only
        assert ("a@acme-corp.com" in here.redacted(text, "crm")) is known
        with pytest.raises(PolicyError):
            await here.admit(asked(CARD, caller="crm"))


async def test_what_detection_fails_on_stays_local() -> None:
    class Broken(Detector):
        def __init__(self) -> None: ...

        def find(self, text: str) -> tuple[Span, ...]:
            raise RuntimeError("out of order")

    broken = Gate(Policy({"email": Action.REDACT}), Broken())
    admitted = await broken.admit(asked("hello"))
    assert admitted.constraints.local_only
    assert {finding.kind for finding in admitted.screening.findings} == {UNREADABLE}
    with pytest.raises(PolicyError):
        await broken.outbound((Message(Role.USER, "hello"),), asked("hello"))


async def test_a_pattern_that_runs_away_fails_closed(rules_cache: Path) -> None:
    policy = Policy({"slow": Action.ALLOW, "other": Action.REDACT}, (Pattern("other", r"(a|aa)+$"),))
    admitted = await Gate(policy, Detector(policy, rules_cache)).admit(asked("a" * 400 + "b"))
    assert admitted.constraints.local_only


async def test_a_pattern_that_takes_long_does_not_stop_the_loop(rules_cache: Path) -> None:
    policy = Policy({"slow": Action.REDACT}, (Pattern("slow", r"(?:a|aa)+$"),))
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.005)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    begun = asyncio.get_running_loop().time()
    admitted = await Gate(policy, Detector(policy, rules_cache)).admit(asked("a" * 60 + "!"))
    took = asyncio.get_running_loop().time() - begun
    beating.cancel()
    assert admitted.constraints.local_only  # nobody could read it in time
    assert took > 0.05
    assert len(beats) > 5


async def test_a_gigantic_conversation_is_read_to_its_end_without_stopping_the_loop(
    everything: Detector,
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    texts = [f"turn {i}: nothing to see here, move along. " * 25 for i in range(200)] + [f"and {CARD}"]
    admitted = await gate(everything, {"payment_card": Action.STAY_LOCAL}).admit(asked(*texts))
    ticking.cancel()
    assert admitted.screening.describe(Action.STAY_LOCAL) == "payment_card (message 201)"
    assert ticks > 1


async def test_redaction_replaces_each_thing_by_one_placeholder_everywhere(everything: Detector) -> None:
    here = gate(everything, {"email": Action.REDACT})
    request = asked("I am a@acme-corp.com", "Hello a@acme-corp.com", "copy b@acme-corp.com")
    leaving = await here.outbound(request.messages, request)
    assert [m.content for m in leaving.messages] == ["I am [EMAIL_1]", "Hello [EMAIL_1]", "copy [EMAIL_2]"]


async def test_a_placeholder_in_the_users_own_text_stays_theirs(everything: Detector) -> None:
    here = gate(everything, {"email": Action.REDACT})
    request = asked("print [EMAIL_1] and a@acme-corp.com")
    leaving = await here.outbound(request.messages, request)
    assert leaving.messages[0].content == "print [EMAIL_1] and [EMAIL_2]"
    restorer = leaving.redaction.restorer()
    assert restorer.feed("so [EMAIL_1] and [EMAIL_2]") + restorer.end() == "so [EMAIL_1] and a@acme-corp.com"


async def test_nothing_that_stays_local_gets_past_the_last_door(everything: Detector) -> None:
    here = gate(everything, {"iban": Action.STAY_LOCAL})
    with pytest.raises(PolicyError, match=r"iban \(message 2\)"):  # a draft that says more than it was told
        await here.outbound((Message(Role.USER, "hi"), Message(Role.ASSISTANT, IBAN)), asked("hi"))
    with pytest.raises(PolicyError):
        await here.outbound((Message(Role.USER, "hi"),), asked("hi", local_only=True))


ORIGINALS = {"[EMAIL_1]": "a@b.org", "[EMAIL_12]": "x@y.org", "[IBAN_1]": "DE89"}
PIECES = st.lists(
    st.sampled_from([*ORIGINALS, "[", "]", "[EMAIL", "EMAIL_1", "words ", "[[", "\n"]), max_size=12
)


@given(PIECES, st.data())
def test_placeholders_are_restored_over_any_chunk_borders(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    restorer, said, at = Redaction(ORIGINALS).restorer(), "", 0
    while at < len(text):
        size = data.draw(st.integers(1, 7))
        said += restorer.feed(text[at : at + size])
        at += size
    whole = text
    for placeholder, original in ORIGINALS.items():
        whole = whole.replace(placeholder, original)
    assert said + restorer.end() == whole


@given(st.text(min_size=1))
def test_in_an_answer_that_is_json_originals_stand_as_in_a_string_of_it(original: str) -> None:
    restorer = Redaction({"[NOTE_1]": original}).restorer(as_json=True)
    said = "".join(restorer.feed(piece) for piece in ('{"note": "so [NO', 'TE_1]"}')) + restorer.end()
    assert json.loads(said) == {"note": f"so {original}"}


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6))
def test_redaction_takes_every_span_out_and_can_be_undone(text: str, places: list[tuple[int, int]]) -> None:
    spans = sorted(
        {Span("email", start, min(start + n, len(text))) for start, n in places if start < len(text)},
        key=lambda span: (span.start, -span.end),
    )
    (redacted,), redaction = redact((Message(Role.USER, text),), (tuple(spans),))
    restorer = redaction.restorer()
    assert restorer.feed(redacted.content) + restorer.end() == text


def test_what_is_stored_is_redacted_whatever_may_leave(everything: Detector) -> None:
    here = gate(everything, {"email": Action.STAY_LOCAL, "iban": Action.REDACT, "phone": Action.ALLOW})
    assert here.redacted(f"a@acme-corp.com, {IBAN}") == "[EMAIL_1], [IBAN_1]"
    both = here.redacted_together(("from ann@acme-corp.com to bob@acme-corp.com", "bob@acme-corp.com"))
    assert both == ("from [EMAIL_1] to [EMAIL_2]", "[EMAIL_2]")  # or an answer would name another one


WRONG = {
    "actions: {emial: redact}": "policy.yaml:1: actions.emial: unknown kind",
    "actions: {email: drop}": "policy.yaml:1: actions.email: Input should be 'allow', 'redact'",
    "patterns: [{name: email, regex: x, action: redact}]": "another kind has this name (got email)",
    "patterns: [{name: own, regex: '(', action: redact}]": "is no regular expression",
    "patterns: [{name: own, regex: 'a*', action: redact}]": "matches the empty text",
    "words: [{name: own, words: [], action: redact}]": "words.0.words",
    "actions: {person: redact}": "must name a spaCy model",
    "callers: [{caller: crm, actions: {nothing: allow}}]": "unknown kind (got nothing)",
    "phone_regions: [Germany]": "phone_regions.0",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_wrong_policy_is_refused_by_line_field_and_value(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(CatalogError) as raised:
        read_policy(path)
    assert message in str(raised.value)


def test_a_policy_that_breaks_or_goes_leaves_the_gate_as_it_was(tmp_path: Path, rules_cache: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("actions: {email: redact}")
    source = PolicySource(path, rules_cache)
    path.write_text("actions: {email: nothing}")
    source.look()
    assert source.gate.redacted("a@acme-corp.com") == "[EMAIL_1]"
    path.unlink()
    source.look()
    assert source.gate.redacted("a@acme-corp.com") == "[EMAIL_1]"
    path.write_text("actions: {iban: redact}")
    source.look()
    assert source.gate.redacted("a@acme-corp.com") == "a@acme-corp.com"


def test_a_policy_that_cannot_be_used_ends_the_start(tmp_path: Path, rules_cache: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("actions: {email: nothing}")
    with pytest.raises(ConfigError, match=r"paths\.policy: policy\.yaml:1: actions\.email"):
        PolicySource(path, rules_cache)
    path.write_text("ner_model: no_such_model\nactions: {person: redact}")
    with pytest.raises(ConfigError, match="no_such_model"):
        PolicySource(path, rules_cache)


def test_names_are_found_by_a_model_of_spacy(tmp_path: Path, rules_cache: Path) -> None:
    import spacy

    model = spacy.blank("en")
    ruler = model.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])  # type: ignore[attr-defined]
    model.to_disk(tmp_path / "model")
    policy = Policy({"person": Action.REDACT}, ner_model=str(tmp_path / "model"))
    here = Gate(policy, Detector(policy, rules_cache))
    assert here.redacted("Dear Ada Lovelace, hello") == "Dear [PERSON_1], hello"
