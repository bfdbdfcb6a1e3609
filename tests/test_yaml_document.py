"""YAML text to data with lines: what is read, what is refused, and on which line."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.catalog.yaml_document import MAX_BYTES, MAX_DEPTH, YamlError, parse

keys = st.text("abcdefgh_", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
documents = st.dictionaries(keys, scalars | st.lists(scalars, max_size=4), max_size=5)


def refusal(content: bytes) -> YamlError:
    with pytest.raises(YamlError) as caught:
        parse(content)
    return caught.value


@settings(deadline=None)
@given(documents)
def test_what_a_dumper_writes_is_read_as_it_was(data):
    assert parse(yaml.safe_dump(data).encode()).data == data


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_line(content):
    line = 1
    try:
        parse(content)
    except YamlError as error:
        line = error.line
    # The parser counts the end of the file as a line.
    assert 1 <= line <= len(content.decode("utf-8", "replace").splitlines()) + 1


@settings(deadline=None)
@given(st.text("ab:-[]{}&*!|>'\"#%@`?, \n0", max_size=60))
def test_any_punctuation_is_read_or_refused(text):
    with suppress(YamlError):
        parse(text.encode())


def test_every_field_has_its_line():
    document = parse(b"# note\nname: a\nexemplars:\n  - one\n\n  - two\nbase:\n  uri: x\n")
    lines = {path: document.line(path) for path in [("name",), ("exemplars", 1), ("base", "uri")]}
    assert lines == {("name",): 2, ("exemplars", 1): 6, ("base", "uri"): 8}


def test_a_field_that_is_not_there_has_the_line_of_what_is_around_it():
    document = parse(b"name: a\nbase:\n  uri: x\n")
    assert document.line(("base", "sha256")) == 3
    assert document.line(("nothing",)) == 1


def test_an_empty_file_is_no_data():
    assert parse(b"").data is None
    assert parse(b"# only a comment\n").data is None


def test_a_byte_order_mark_and_windows_line_ends_are_read():
    document = parse(b"\xef\xbb\xbfname: a\r\ntarget: b\r\n")
    assert document.data == {"name": "a", "target": "b"}
    assert document.line(("target",)) == 2


def test_an_anchor_is_refused_with_its_line_and_name():
    error = refusal(b"name: a\nexemplars:\n  - &greeting hello\n")
    assert (error.line, error.value) == (3, "&greeting")
    assert "anchors" in error.message


def test_an_alias_is_refused_with_its_line_and_name():
    error = refusal(b"name: a\ntarget: *somewhere\n")
    assert (error.line, error.value) == (2, "*somewhere")
    assert "aliases" in error.message


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!str", "!custom", "!"])
def test_a_tag_is_refused_with_its_line(tag):
    error = refusal(f"name: a\ntarget: {tag} 'b'\n".encode())
    assert error.line == 2
    assert "tags" in error.message


def test_a_billion_laughs_is_refused_at_its_first_anchor():
    rows = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert refusal("\n".join(rows).encode()).line == 1


def test_nesting_is_allowed_to_its_limit():
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH).data is not None


def test_deeper_nesting_is_refused_with_its_line():
    error = refusal(b"a:\n  " + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert error.line == 2
    assert str(MAX_DEPTH) in error.message


@pytest.mark.parametrize("bracket", [b"[", b"{", b"- ", b"? "])
def test_a_megabyte_of_open_brackets_is_refused_without_recursion(bracket):
    assert refusal((bracket * MAX_BYTES)[:MAX_BYTES]).line == 1


def test_a_key_given_twice_is_refused_with_the_second_line():
    error = refusal(b"name: a\ntarget: b\nname: c\n")
    assert (error.line, error.value) == (3, "name")


def test_a_nested_key_given_twice_is_refused_with_its_line():
    assert refusal(b"base:\n  uri: a\n  sha256: b\n  uri: c\n").line == 4


def test_a_key_that_is_not_text_is_refused_with_its_line():
    assert refusal(b"name: a\n? [b, c]\n: d\n").line == 2


def test_a_merge_key_is_refused_with_its_line():
    assert refusal(b"name: a\n<<: {target: b}\n").line == 2


def test_bytes_that_are_not_utf_8_are_refused_with_line_and_bytes():
    error = refusal("name: a\ndescription: café\n".encode("latin-1"))
    assert (error.line, error.value) == (2, r"b'\xe9'")


def test_a_file_at_the_size_limit_is_read():
    assert parse(b"a: b\n#".ljust(MAX_BYTES, b"x")).data == {"a": "b"}


def test_a_larger_file_is_refused_with_both_sizes():
    error = refusal(b"a: b\n#".ljust(MAX_BYTES + 1, b"x"))
    assert str(MAX_BYTES + 1) in error.message
    assert str(MAX_BYTES) in error.message


def test_a_second_document_is_refused_with_its_line():
    assert refusal(b"name: a\n---\nname: b\n").line == 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"name: a\nexemplars: [one, two\n", 3),
        (b"name: a\n\ttarget: b\n", 2),
        (b"name: a\ntarget: 'b\n", 3),
        (b"name: a\ntarget: b: c\n", 2),
        (b"name: a\n  target: b\n", 2),
    ],
)
def test_broken_syntax_is_refused_with_its_line(content, line):
    assert refusal(content).line == line


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"2026-02-30", id="a day that does not exist"),
        pytest.param(b"9" * 5000, id="a number too long"),
        pytest.param(b"=", id="the value indicator of YAML 1.1"),
        pytest.param(b'"\x01"', id="a control character"),
    ],
)
def test_a_value_that_yaml_cannot_hold_is_refused_with_its_line(value):
    assert refusal(b"name: a\nexemplars:\n  - one\n  - " + value + b"\n").line == 4
