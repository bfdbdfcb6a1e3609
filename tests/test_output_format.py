"""Stated formats: what is refused when a manifest is read, and what of an answer is."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import BASE, write_specialist
from pointsman.catalog.files import read
from pointsman.catalog.output_format import BadFormatError, Format, can_constrain, format_of
from pointsman.catalog.schema import SpecialistFile
from pointsman.errors import CatalogError
from pointsman.service.convert_catalog import specialist_message, specialist_of
from pointsman.values.catalog import Output, Specialist

SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["PlayMusic", "GetWeather"]},
        "city": {"type": "string", "pattern": "^[A-Z]"},
        "n": {"type": "integer", "minimum": 1},
    },
    "required": ["intent"],
    "additionalProperties": False,
}


def fmt(**fields: Any) -> Format:
    found = format_of(Output(**fields))
    assert found is not None
    return found


JSON = {"format": "json", "schema": json.dumps(SCHEMA)}
LINES = {"format": "regex", "pattern": r"CATEGORY: [A-Z]+\nID: (null|\d+)"}
CHOICE = {"format": "choice", "choices": ("positive", "negative")}


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        (JSON, '{"intent": "PlayMusic"}'),
        (JSON, '{"intent": "GetWeather", "city": "Lisbon", "n": 12}'),
        (LINES, "CATEGORY: ORDER\nID: 5120"),
        (CHOICE, "positive"),
        ({"format": "json"}, "[1, 2]"),
    ],
)
def test_a_right_answer_is_right_and_every_beginning_of_it_can_become_right(
    fields: dict[str, Any], good: str
) -> None:
    check = fmt(**fields)
    assert check.why_not(good) == ""
    for end in range(len(good) + 1):
        assert check.why_not_yet(good[:end]) == "", good[:end]


@pytest.mark.parametrize(
    ("fields", "bad", "says"),
    [
        (JSON, "Sure! Here", "not a JSON object"),
        (JSON, '{"intent": "Dance", ', "intent"),
        (JSON, '{"mood": 1,', "no field"),
        (JSON, '{"intent": "PlayMusic", "city": "lisbon"}', "city"),
        (JSON, '{"intent": "PlayMusic"} and', "goes on"),
        (JSON, '{"intent": ]', "not JSON"),
        (LINES, "CATEGORY: order", "pattern"),
        (CHOICE, "neutral", "begins none"),
    ],
)
def test_what_can_no_longer_become_right_is_found_before_the_end(
    fields: dict[str, Any], bad: str, says: str
) -> None:
    assert says in fmt(**fields).why_not_yet(bad)
    assert fmt(**fields).why_not(bad)


@pytest.mark.parametrize(
    ("fields", "unfinished"),
    [(JSON, '{"intent": "Play'), (JSON, "{}"), (JSON, ""), (LINES, "CATEGORY: A\n"), (CHOICE, "pos")],
)
def test_an_answer_that_only_could_become_right_is_not(fields: dict[str, Any], unfinished: str) -> None:
    assert fmt(**fields).why_not_yet(unfinished) == ""
    assert fmt(**fields).why_not(unfinished)


def test_numbers_that_are_no_json_are_refused() -> None:
    assert "NaN" in fmt(format="json").why_not('{"a": NaN}')


def test_complete_fields_end_at_commas_of_the_outermost_level_and_at_line_ends() -> None:
    check = fmt(**JSON)
    text = '{"intent": "Play, \\"x\\"", "city": {"a": [1, 2]}, "n'
    assert text[: check.complete(text)] == '{"intent": "Play, \\"x\\"", "city": {"a": [1, 2]},'
    assert check.complete('{"intent": "Play,') == 0
    assert fmt(**LINES).complete("CATEGORY: A\nID") == len("CATEGORY: A\n")


def test_a_pattern_that_would_take_for_ever_is_given_up() -> None:
    check = fmt(format="regex", pattern=r"(a|a)*(b|b)*c(?<=(x+x+)+y)")
    slow = fmt(format="regex", pattern=r"(\w+\s?)+\d{1,2}(?:\1)?!")
    assert "took longer" in slow.why_not("word " * 40) or "does not match" in slow.why_not("word " * 40)
    assert check.why_not("a" * 30 + "d")
    nested = json.dumps({"type": "string", "pattern": r"^(([a-z])+.)+[A-Z]([a-z])+$"})
    assert fmt(format="json", schema=nested).why_not(json.dumps("a" * 60))


def test_what_can_be_held_to_a_format() -> None:
    assert can_constrain(Output(**JSON))
    assert can_constrain(Output(**CHOICE))
    assert not can_constrain(Output(**LINES))
    assert can_constrain(Output(**LINES, grammar='root ::= "CATEGORY: " [A-Z]+'))
    assert not can_constrain(Output(**JSON, constrained="never"))


@pytest.mark.parametrize(
    ("yaml", "line", "field", "says"),
    [
        ("output:\n  format: json\n  schema:\n    type: objekt\n", 8, "output.schema.type", "objekt"),
        ("output:\n  format: json\n  schema:\n    $ref: 'http://x/y'\n", 8, "output.schema.$ref", "within"),
        ("output:\n  format: json\n  schema:\n    $ref: '#/$defs/x'\n", 8, "output.schema.$ref", "within"),
        ("output:\n  format: json\n  schema:\n    pattern: '('\n", 8, "output.schema.pattern", "regex"),
        ("output:\n  format: regex\n  pattern: '(a'\n", 7, "output.pattern", "regular expression"),
        ("output:\n  format: regex\n", 6, "output.format", "needs 'pattern'"),
        ("output:\n  format: choice\n", 6, "output.format", "needs 'choices'"),
        ("output:\n  format: choice\n  choices: [a, a]\n", 7, "output.choices", "twice"),
        ("output:\n  format: text\n  pattern: a\n", 7, "output.pattern", "belongs to format regex"),
        ("output:\n  format: text\n  grammar: 'x'\n", 7, "output.grammar", "root"),
        ("output:\n  format: yaml\n", 6, "output.format", ""),
        ("output:\n  format: text\n  constrained: often\n", 7, "output.constrained", ""),
        ("history_turns: -1\n", 5, "history_turns", ""),
        ("cascade: perhaps\n", 5, "cascade", ""),
    ],
)
def test_a_manifest_with_a_bad_format_is_refused_with_its_line_and_field(
    tmp_path: Path, yaml: str, line: int, field: str, says: str
) -> None:
    path = write_specialist(tmp_path, "a.yaml", more=yaml)
    with pytest.raises(CatalogError) as raised:
        read(path, SpecialistFile, "specialists/a.yaml")
    (problem,) = raised.value.problems
    assert (problem.file, problem.line, problem.field) == ("specialists/a.yaml", line, field)
    assert says in problem.message
    assert problem.value


def test_a_format_survives_the_file_and_the_wire(tmp_path: Path) -> None:
    more = (
        f"output:\n  format: json\n  schema: {json.dumps(SCHEMA)}\n  constrained: always\n"
        "history_turns: 0\ncascade: false\n"
    )
    stated = read(write_specialist(tmp_path, "a.yaml", more=more), SpecialistFile, "a.yaml").value
    assert isinstance(stated, Specialist)
    assert json.loads(stated.output.schema) == SCHEMA
    assert (stated.output.constrained, stated.history_turns, stated.cascade) == ("always", 0, False)
    assert specialist_of(specialist_message(stated)) == stated
    again = SpecialistFile.model_validate(SpecialistFile.from_value(stated)).to_value()
    assert again == stated


def test_a_schema_of_the_wire_that_is_no_json_is_refused_as_such() -> None:
    fields = SpecialistFile.from_value(Specialist("a", BASE, output=Output("json", "{no")))
    with pytest.raises(ValueError, match=r"output\.schema"):
        SpecialistFile.model_validate(fields)


def test_a_bad_format_is_an_error_that_names_its_field() -> None:
    with pytest.raises(BadFormatError) as raised:
        format_of(Output("regex", pattern="["))
    assert raised.value.field == "pattern"
