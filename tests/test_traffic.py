"""Traffic files: what is read, and that every bad line is placed."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.errors import CatalogError
from pointsman.review.traffic import Labelled, check_intents, read_traffic

LABELS = st.one_of(st.none(), st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "traffic.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, *, need_labels: bool = True) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        read_traffic(path, need_labels=need_labels)
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


def test_a_line_is_a_text_and_its_intent_and_null_is_out_of_scope(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "hi", "intent": "greet"}\n{"intent": null, "text": "π?"}')
    assert read_traffic(path, need_labels=True) == (
        Labelled("hi", "greet", True, 1),
        Labelled("π?", None, True, 2),
    )


def test_a_line_without_an_intent_is_unlabelled_where_labels_are_not_needed(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "hi"}\n{"text": "ho", "intent": null}\n')
    assert [item.labelled for item in read_traffic(path, need_labels=False)] == [False, True]


def test_blank_lines_are_skipped_but_counted_and_repeated_prompts_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, '\n{"text": "hi", "intent": null}\r\n  \n{"text": "hi", "intent": null}\n\n')
    assert [item.line for item in read_traffic(path, need_labels=True)] == [2, 4]


def test_other_fields_and_a_byte_order_mark_are_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"text": "hi", "intent": null, "at": "2026-01-01", "n": [1]}')
    assert read_traffic(path, need_labels=True)[0].text == "hi"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.tuples(TEXTS, LABELS), min_size=1), as_ascii=st.booleans())
def test_any_text_comes_back_as_it_was_written(
    tmp_path: Path, prompts: list[tuple[str, str | None]], as_ascii: bool
) -> None:
    lines = [json.dumps({"text": text, "intent": intent}, ensure_ascii=as_ascii) for text, intent in prompts]
    path = written(tmp_path, "\n".join(lines))
    assert [(item.text, item.intent) for item in read_traffic(path, need_labels=True)] == prompts


def test_a_text_of_a_megabyte_is_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"text": "word " * 200_000, "intent": None}))
    assert len(read_traffic(path, need_labels=True)[0].text) == 1_000_000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "hi", "intent": }', "not JSON: Expecting value at column 26"),
        ("text,intent", "not JSON: Expecting value at column 1 (got text,intent)"),
        ('["hi", null]', "expected an object"),
        ("3", "expected an object"),
        ('{"intent": null}', "text: field required"),
        ('{"text": 5, "intent": null}', "text: must be text (got 5)"),
        ('{"text": "  ", "intent": null}', "text: must not be blank"),
        (r'{"text": "\ud800", "intent": null}', "text: not Unicode: half of a surrogate pair"),
        ('{"text": "hi"}', "intent: field required; null means out of scope"),
        ('{"text": "hi", "intent": ""}', "intent: must be the name of an intent"),
        ('{"text": "hi", "intent": ["a"]}', "intent: must be the name of an intent"),
        ('{"text": "hi", "intent": 1' + "0" * 5000 + "}", "not JSON that can be read"),
        ("[" * 100_000, "not JSON that can be read"),
    ],
)
def test_a_bad_line_is_named_with_its_number_field_and_value(
    tmp_path: Path, line: str, expected: str
) -> None:
    (problem,) = refused(written(tmp_path, f'{{"text": "good", "intent": null}}\n{line}\n'))
    assert problem.startswith(":2: ")
    assert expected in problem
    assert len(problem) < 300


def test_every_bad_line_is_reported_and_every_field_of_it(tmp_path: Path) -> None:
    problems = refused(written(tmp_path, '{"text": 1, "intent": 2}\n\n{"text": "fine", "intent": null}\n{\n'))
    assert [problem.split(" ")[0] for problem in problems] == [":1:", ":1:", ":4:"]


def test_a_file_of_another_format_is_not_reported_line_by_line_for_ever(tmp_path: Path) -> None:
    problems = refused(written(tmp_path, "text,intent\n" * 5000))
    assert len(problems) == 101
    assert problems[-1] == ": and 4900 problems more"


def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path: Path) -> None:
    (problem,) = refused(written(tmp_path, b'{"text": "a", "intent": null}\n{"text": "caf\xe9"}\n'))
    assert problem == r":2: not UTF-8 (got b'\xe9')"


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: str) -> None:
    assert refused(written(tmp_path, content)) == [": holds no prompts"]


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.jsonl") == [": cannot be read: No such file or directory"]
    assert refused(tmp_path) == [": cannot be read: Is a directory"]


def test_labels_that_name_no_intent_are_refused_by_line_with_the_nearest_names(tmp_path: Path) -> None:
    traffic = (
        Labelled("a", "refund_request", True, 1),
        Labelled("b", "refund_requst", True, 3),
        Labelled("c", None, True, 4),
        Labelled("d", "zebra", True, 7),
    )
    known = ["track_order", "refund_request", "get_weather", "play_music"]
    with pytest.raises(CatalogError) as caught:
        check_intents(traffic, known, tmp_path)
    first, second = map(str, caught.value.problems)
    assert f"{tmp_path}:3: intent: unknown intent; the nearest known names: refund_request" in first
    assert first.endswith("(got refund_requst)")
    assert ":7: intent: unknown intent; no known name is like it; known are get_weather, " in second
    check_intents(traffic[:1], known, tmp_path)


def test_labels_against_a_catalog_without_intents_say_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="unknown intent; the catalog has none"):
        check_intents([Labelled("a", "refund", True, 1)], [], tmp_path)
