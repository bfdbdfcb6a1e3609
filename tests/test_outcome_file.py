"""Files of outcome-labelled prompts: three formats, one meaning, every bad line placed."""

import json
import math
import sys

import pytest

from pointsman.errors import CatalogError
from pointsman.review.outcome_file import Outcome, read_outcomes

GOOD = {"text": "hi", "quality_local": 0.5, "quality_cloud": 1}


def test_jsonl_csv_and_parquet_say_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [
        {"text": "one\ntwo, three", "quality_local": 0.25, "quality_cloud": 1.0, "topic": "law", "id": 7},
        {"text": "ünï", "quality_local": 1.0, "quality_cloud": 0.0, "topic": None, "id": 8},
    ]
    (tmp_path / "o.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    (tmp_path / "o.csv").write_text(
        '﻿id,text,quality_local,quality_cloud,topic\n7,"one\ntwo, three",0.25,1,law\n8,ünï,1,0,\n',
        encoding="utf-8",
    )
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "o.parquet")
    expected = (Outcome("one\ntwo, three", 0.25, 1.0, "law"), Outcome("ünï", 1.0, 0.0, None))
    for suffix in ("jsonl", "csv", "parquet"):
        assert read_outcomes(tmp_path / f"o.{suffix}") == expected


def test_true_and_false_are_qualities(tmp_path):
    (tmp_path / "o.jsonl").write_text(json.dumps(GOOD | {"quality_local": False, "quality_cloud": True}))
    assert read_outcomes(tmp_path / "o.jsonl") == (Outcome("hi", 0.0, 1.0, None),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: "),
        ("[1]", "expected an object with text, quality_local, quality_cloud (got [1])"),
        ("[" * 5000, "not JSON that can be read"),
        (json.dumps({"text": "a", "quality_cloud": 1}), "quality_local: field required"),
        (json.dumps(GOOD | {"text": 7}), "text: must be text (got 7)"),
        (json.dumps(GOOD | {"text": " "}), "text: must not be blank"),
        (json.dumps(GOOD | {"text": "\ud800"}), "text: not Unicode"),
        (json.dumps(GOOD | {"quality_local": 1.5}), "quality_local: must be from 0 to 1 (got 1.5)"),
        (json.dumps(GOOD | {"quality_cloud": math.nan}), "quality_cloud: must be from 0 to 1 (got nan)"),
        (json.dumps(GOOD | {"quality_cloud": "1"}), "quality_cloud: must be a number from 0 to 1 (got 1)"),
        (json.dumps(GOOD | {"quality_cloud": None}), "quality_cloud: must be a number from 0 to 1 (got None)"),
        (json.dumps(GOOD | {"topic": 3}), "topic: must be text, or null for none (got 3)"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_line_is_named_with_field_and_value(tmp_path, line, message):
    path = tmp_path / "o.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(CatalogError) as raised:
        read_outcomes(path)
    (problem,) = raised.value.problems
    assert str(problem).startswith(f"{path}:3: {message}")


def test_every_bad_line_is_named_but_not_without_end(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_text("{}\n" * 500)
    with pytest.raises(CatalogError, match="and 1400 problems more") as raised:
        read_outcomes(path)
    assert len(raised.value.problems) == 101


def test_bytes_that_are_not_utf_8_are_placed(tmp_path):
    (tmp_path / "o.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"text": "\xff"}\n')
    with pytest.raises(CatalogError, match=r"o\.jsonl:2: not UTF-8 \(got b'\\xff'\)"):
        read_outcomes(tmp_path / "o.jsonl")
    (tmp_path / "o.csv").write_bytes(b"text,quality_local,quality_cloud\n\xff,1,1\n")
    with pytest.raises(CatalogError, match=r"o\.csv:\d: not UTF-8 \(got b'\\xff'\)"):
        read_outcomes(tmp_path / "o.csv")


def test_a_bad_row_of_a_csv_stands_where_it_begins(tmp_path):
    path = tmp_path / "o.csv"
    path.write_text('text,quality_local,quality_cloud\n"a\nb",1,1\nc,much,1\nd,1\n')
    with pytest.raises(CatalogError) as raised:
        read_outcomes(path)
    assert [str(problem) for problem in raised.value.problems] == [
        f"{path}:4: quality_local: must be a number from 0 to 1 (got much)",
        f"{path}:5: quality_cloud: field required",
    ]


def test_columns_that_are_missing_are_named(tmp_path):
    (tmp_path / "o.csv").write_text("text,local\na,1\n")
    with pytest.raises(CatalogError, match=r"quality_local: column required.*quality_cloud: column required"):
        read_outcomes(tmp_path / "o.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("o.txt", "", r"expected \.jsonl, \.csv or \.parquet \(got \.txt\)"),
        ("o.jsonl", " \n", "holds no prompts"),
        ("o.csv", "", "column required"),
        ("o.csv", 'text,quality_local,quality_cloud\n"a', "not CSV"),
    ],
)
def test_files_without_outcomes_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CatalogError, match=message):
        read_outcomes(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(CatalogError, match=rf"o\.{suffix}: cannot be read: "):
        read_outcomes(tmp_path / f"o.{suffix}")


def test_damaged_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "o.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(CatalogError, match="not Parquet that can be read"):
        read_outcomes(tmp_path / "o.parquet")


def test_without_pyarrow_parquet_is_refused_with_advice(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "o.parquet").write_bytes(b"PAR1")
    with pytest.raises(CatalogError, match="pip install pyarrow, or convert the file to JSONL or CSV"):
        read_outcomes(tmp_path / "o.parquet")
