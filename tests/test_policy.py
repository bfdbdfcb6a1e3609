"""What detection finds, what a policy makes of it, and what leaves and comes back."""

import asyncio
import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.catalog.policy_file import read_policy
from pointsman.errors import CatalogError, ConfigError, PolicyError
from pointsman.host.policy_source import PolicySource
from pointsman.policy.detect import Detector
from pointsman.policy.gate import Gate
from pointsman.policy.plain_text import plain_text, readings
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


VALUES = {
    "email": "jane.doe@acme-corp.com",
    "phone": "+49 30 901820",
    "payment_card": CARD,
    "iban": IBAN,
    "ip_address": "203.0.113.77",
    "us_ssn": "536-22-8714",
}
DISGUISES: dict[str, Callable[[str], str]] = {
    "full width": lambda value: "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in value),
    "zero-width joiner": "\u200d".join,
    "control": lambda value: f"{value[:3]}\x00{value[3:]}",
    "the empty pattern of Braille": lambda value: f"{value[:3]}\u2800{value[3:]}",
    "a vowel that is inherent": lambda value: f"{value[:3]}\u17b4{value[3:]}",
    "circled digits": lambda value: "".join(chr(0x2775 + int(c)) if c in "123456789" else c for c in value),
    "digits in brackets": lambda value: "".join(
        chr(0x2473 + int(c)) if c in "123456789" else c for c in value
    ),
    "underlined": lambda value: "".join(f"{c}\u0332" if c.isalnum() else c for c in value),
    "Chinese around": "邮箱{}谢谢".format,
    "Japanese around": "これは{}です".format,
    "Korean around": "번호{}입니다".format,
    "Thai around": "หมายเลข{}ครับ".format,
    "as a part of a name": "backup_{}_old".format,
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("kind", VALUES)
def test_no_kind_is_hidden_by_how_it_is_written(everything: Detector, kind: str, disguise: str) -> None:
    text = DISGUISES[disguise](VALUES[kind])
    start = text.index(VALUES[kind]) if VALUES[kind] in text else 0
    end = start + len(VALUES[kind]) if VALUES[kind] in text else len(text)
    covered = {i for s in everything.find(text) if s.kind == kind for i in range(s.start, s.end)}
    assert covered >= set(range(start, end))


@pytest.mark.parametrize(
    "text",
    [
        "ann@corp.local",
        "ann@mail.internal",
        "ann@pc7.lan",
        "jane.doe@acme-corp.org_old",
        "ann@acme-corp.org.Please",
    ],
)
def test_an_address_is_found_on_hosts_inside_and_with_something_that_touches_it(
    everything: Detector, text: str
) -> None:
    assert "email" in kinds_in(everything, f"ask {text} about it")


@pytest.mark.parametrize(
    "text", ["foo@bar", "lodash@4.17.21", "@app.route", "ann @ acme-corp.org", "@pytest.fixture"]
)
def test_not_everything_with_an_at_is_an_address(everything: Detector, text: str) -> None:
    assert "email" not in kinds_in(everything, f"see {text} in it")


@pytest.mark.parametrize(
    "text",
    [
        "4111\t1111\t1111\t1111", "4111/1111/1111/1111", "4111·1111·1111·1111", "4111.1111.1111.1111",
        "4111\n1111\n1111\n1111", "4111  1111  1111  1111", "4111 - 1111 - 1111 - 1111", "4111_1111_1111_1111",
        "4111-1111-1111-1111-123", "4111111111111111EUR", "card_4111111111111111", "3782.822463.10005",
    ],
)  # fmt: skip
def test_a_card_is_found_whatever_parts_its_groups_or_touches_it(everything: Detector, text: str) -> None:
    (span,) = (s for s in everything.find(f"pay by {text} now") if s.kind == "payment_card")
    found = f"pay by {text} now"[span.start : span.end]
    assert "".join(filter(str.isdigit, found)) in {"4111111111111111", "378282246310005"}


@pytest.mark.parametrize("text", ["0.4111111111111111", "9f4111111111111111b2", "+4111111111111111"])
def test_a_fraction_a_hash_and_a_telephone_number_are_no_cards(everything: Detector, text: str) -> None:
    assert "payment_card" not in kinds_in(everything, f"it is {text} today")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("これは社外秘です", "社外秘"),
        ("the falcon_budget.xlsx", "falcon"),
        ("my Falcon2 notes", "Falcon"),
        ("the falcon预算 of", "falcon"),
        ("这是Überseering的", "Überseering"),
        ("F\u0332a\u0332lcon", "F\u0332a\u0332lcon"),
        ("in C++x and", "C++"),
        ("falconry, unfalcon, Falken 77", None),
    ],
)
def test_words_end_where_a_reader_sees_them_end(rules_cache: Path, text: str, found: str | None) -> None:
    words = (WordList("project", ("社外秘", "Falcon", "Falken 7", "Überseering", "C++")),)
    spans = Detector(Policy({"project": Action.REFUSE}, words=words), rules_cache).find(text)
    assert [text[s.start : s.end] for s in spans] == ([found] if found else [])


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("（機密）", "これは（機密）です"),
        ("（機密）", "これは(機密)です"),
        ("[ｦ-ﾟ]{3}", "half width ｱｲｳ here"),
        (r"第\d+号", "これは第12号です"),
        (r"第\d+号", "これは第１２号です"),
        (r"\bCUST-\d{6}\b", "客户CUST-123456的"),
        ("Größe–[ＡＢ]", "die Größe-A da"),
    ],
)
def test_a_pattern_of_ones_own_means_what_its_characters_look_like(
    rules_cache: Path, pattern: str, text: str
) -> None:
    policy = Policy({"own": Action.REFUSE}, (Pattern("own", pattern),))
    assert kinds_in(Detector(policy, rules_cache), text) == {"own"}


@given(st.text())
def test_every_reading_knows_the_way_back(text: str) -> None:
    for plain in readings(text):
        for i in range(len(plain.text)):
            start, end = plain.before(i, i + 1)
            assert 0 <= start < end <= len(text)


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
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    texts = [f"turn {i}: nothing to see here, move along. " * 25 for i in range(200)]
    texts[120] += f"and {CARD}"
    admitted = await gate(everything, {"payment_card": Action.STAY_LOCAL}).admit(asked(*texts))
    ticks.append(asyncio.get_running_loop().time())
    ticking.cancel()
    assert admitted.screening.describe(Action.STAY_LOCAL) == "payment_card (message 121)"
    assert max(later - earlier for earlier, later in pairwise(ticks)) < 1


class Watched(Detector):
    """Finds nothing; knows the threads that asked."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def find(self, text: str) -> tuple[Span, ...]:
        self.threads.append(threading.current_thread())
        return ()


@pytest.mark.parametrize(
    ("text", "on_the_loop"),
    [
        ("please look into this and tell me what went wrong " * 8 + "with 4471-2231", True),
        ("für mich ist das schön " * 20, True),
        ("nothing to see here " * 300, False),
        ("4471 2231 " * 40, False),  # numbers are looked at by everybody
        ("请看一下这个测试文本" * 60, False),
    ],
)
async def test_what_takes_long_to_read_is_read_on_a_thread(text: str, on_the_loop: bool) -> None:
    watched = Watched()
    await Gate(Policy({"phone": Action.REDACT}), watched).admit(asked("hello", text))
    assert [thread is threading.current_thread() for thread in watched.threads] == [on_the_loop] * 2


@pytest.mark.parametrize("turns", [["4111 2222 " * 20_000], ["4111 2222 " * 900 + str(i) for i in range(40)]])
async def test_a_conversation_that_takes_absurdly_long_to_read_stays_local(
    rules_cache: Path, turns: list[str]
) -> None:
    policy = Policy({"phone": Action.REDACT}, phone_regions=("US", "DE"))
    detector = await asyncio.to_thread(Detector, policy, rules_cache, 0.2)
    admitted = await Gate(policy, detector, budget_s=0.2).admit(asked(*turns))
    assert admitted.constraints.local_only
    assert UNREADABLE in {finding.kind for finding in admitted.screening.findings}


def test_what_stands_where_a_long_text_is_cut_to_pieces_is_found_once(everything: Detector) -> None:
    near = "x" * 15_100 + " "
    for begins in range(15_000, 16_500, 7):
        text = f"{near[:begins].ljust(begins)}{CARD} and {'y' * 20_000}"
        found = [s for s in everything.find(text) if s.kind == "payment_card"]
        assert [(s.start, s.end) for s in found] == [(begins, begins + len(CARD))]


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


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("I wrote to jane.doe@exam", True),
        ("the card 4111 1111 1111 11", True),
        ("the card 4111:1111:1111:1111", True),
        ("the card 4111.1111.1111.1111", False),  # it is found, and redacted
        ("the card 4 1 1 1, 1 1 1 1", True),
        ("it ends in 1111", True),
        ("it ends in １-１-１-１", True),
        ("JANE DOE wrote", True),
        ("her name is jane\u200bdoe", True),
        ("I wrote to jane.doe@example.com and 4111 1111 1111 1111", False),  # it is redacted, as a whole
        ("Your parcel is on its way, 41 days late", False),
    ],
)
async def test_pieces_and_other_forms_of_what_is_redacted_are_known(
    everything: Detector, text: str, repeated: bool
) -> None:
    here = gate(everything, {"email": Action.REDACT, "payment_card": Action.REDACT, "iban": Action.ALLOW})
    request = asked(f"I am jane.doe@example.com, {IBAN}", "hello", f"charge {CARD}")
    assert await here.repeats(request.messages, request, "nothing", text) is repeated
    assert not await gate(everything, {"ip_address": Action.REDACT}).repeats(request.messages, request, text)


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


def test_a_policy_that_must_be_there_ends_a_start_without_it(tmp_path: Path, rules_cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"paths\.policy: .*no such file, and policy\.required is set"):
        PolicySource(tmp_path / "policy.yaml", rules_cache, required=True)
    assert not PolicySource(tmp_path / "policy.yaml", rules_cache).there


def test_a_policy_that_goes_is_a_problem_until_it_is_back(
    tmp_path: Path, rules_cache: Path, log_lines: list[dict[str, object]]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("actions: {email: redact}")
    source = PolicySource(path, rules_cache, required=True)
    assert source.problem == ""
    path.unlink()
    source.look()
    source.look()
    assert "No such file" in source.problem
    assert source.gate.redacted("a@acme-corp.com") == "[EMAIL_1]"
    path.write_text("actions: {email: nothing}")
    source.look()
    assert "actions.email" in source.problem
    path.write_text("actions: {iban: redact}")
    source.look()
    assert source.problem == ""
    events = [line["event"] for line in log_lines]
    assert events == ["policy.gone", "policy.refused", "policy.loaded"]


def test_a_disk_without_room_for_the_rules_refuses_a_policy_until_there_is_some(
    tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    path, cache = tmp_path / "policy.yaml", tmp_path / "cache"
    cache.write_text("where a folder should be")
    path.write_text("actions: {email: redact}")
    source = PolicySource(path, cache)
    path.write_text("actions: {email: redact, secret: refuse}")
    source.look()
    source.look()
    assert source.problem == f"{cache}: File exists"
    assert source.gate.redacted(f"a@acme-corp.com {TOKEN}") == f"[EMAIL_1] {TOKEN}"
    cache.unlink()
    source.look()
    assert source.problem == ""
    assert source.gate.redacted(f"a@acme-corp.com {TOKEN}") == "[EMAIL_1] [SECRET_1]"
    events = [line["event"] for line in log_lines]
    assert events == ["policy.refused", "policy.loaded"]  # it is said once


def test_a_disk_without_room_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("actions: {secret: refuse}")
    (tmp_path / "cache").write_text("where a folder should be")
    with pytest.raises(ConfigError, match=r"paths\.policy: .*cache: File exists"):
        PolicySource(tmp_path / "policy.yaml", tmp_path / "cache")


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
