"""`pointsman import`: labelled texts of other tools become files that the catalog loads."""

import csv
import json
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness import write_specialist
from pointsman.catalog.schema import normalise
from pointsman.catalog.store import FileStore
from pointsman.cli import intents as commands
from pointsman.errors import CatalogError
from pointsman.review.foreign import Example, Read, read_csv, read_jsonl, read_rasa
from pointsman.review.imports import intent_name, to_intents, write_intents

RASA = """\
version: "3.1"
nlu:
- intent: greet
  examples: |
    - hey
    - Hello   there

    - hey
- intent: book/flight
  examples: |
    - fly from [Berlin](city) to [San Francisco]{"entity": "city", "role": "destination"}
    - a seat on [[LH 400](number)]
    - is it [tomorrow](day:2026-11-24) or [next week][{"entity": "day"}, {"entity": "time"}]
    no bullet here
- intent: mood_great
  examples:
  - text: |
      I am [fine](mood)
    metadata:
      sentiment: positive
  - text: "- superb"
  - great!
- synonym: credit
  examples: |
    - credit card account
- regex: account_number
  examples: |
    - \\d{10,12}
- lookup: banks
  examples: |
    - JPMC
stories:
- story: ignored
"""


def _write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def _loaded(root: Path, intents, target: str = "cloud"):
    """Write intents, and load them as the server does."""
    specialists = root / "specialists"
    write_specialist(specialists, "support")
    write_intents(intents, root / "intents", specialists, force=False, dry_run=False)
    catalog = FileStore(root / "intents", specialists).load()
    assert catalog.problems == ()
    return catalog.intents


# --- Rasa


def test_rasa_texts_lose_their_marks_and_keep_their_lines(tmp_path: Path) -> None:
    path = _write(tmp_path / "nlu.yml", RASA)
    read = read_rasa(path)
    texts = {(e.label, e.text) for e in read.examples}
    assert texts == {
        ("greet", "hey"),
        ("greet", "Hello   there"),
        ("book/flight", "fly from Berlin to San Francisco"),
        ("book/flight", "a seat on [LH 400]"),
        ("book/flight", "is it tomorrow or next week"),
        ("mood_great", "I am fine"),
        ("mood_great", "superb"),
        ("mood_great", "great!"),
    }
    lines = RASA.splitlines()
    for example in read.examples:
        if example.label != "mood_great":
            assert lines[example.line - 1].strip()[2:5] == example.text[:3]
    assert set(read.notes) == {
        "passed over: entries without an intent: synonym (1)",
        "passed over: entries without an intent: regex (1)",
        "passed over: entries without an intent: lookup (1)",
        "passed over: lines of examples without a leading '-' (1)",
    }


def test_a_rasa_file_becomes_intents_that_the_catalog_loads(tmp_path: Path) -> None:
    imported = to_intents(read_rasa(_write(tmp_path / "nlu.yml", RASA)), "support")
    loaded = _loaded(tmp_path, imported.intents)
    assert loaded == imported.intents
    assert [(i.name, len(i.exemplars), i.target) for i in loaded] == [
        ("book_flight", 3, "support"), ("greet", 2, "support"), ("mood_great", 3, "support"),
    ]  # fmt: skip
    assert "left out: texts that their intent already has (1)" in imported.notes


def test_a_folder_of_rasa_files_is_read_as_one_and_stories_are_passed_over(tmp_path: Path) -> None:
    _write(tmp_path / "data" / "nlu.yml", RASA)
    _write(tmp_path / "data" / "more" / "nlu.yaml", "nlu:\n- intent: greet\n  examples: |\n    - good day\n")
    _write(tmp_path / "data" / "stories.yml", "stories:\n- story: x\n")
    read = read_rasa(tmp_path / "data")
    assert [e.text for e in read.examples if e.label == "greet"].count("good day") == 1
    assert len(read.examples) == 10
    assert "passed over: files without 'nlu:' (1)" in read.notes


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("stories: []\n", ":1: nlu: expected a list 'nlu:'"),
        ("nlu: [a\n", ":2: not YAML"),
        ("", ":1: nlu: expected a list"),
        ("nlu:\n- greet\n", ":2: nlu.0: expected fields such as 'intent:' (got greet)"),
        ("nlu:\n- intent: 7\n  examples: '- a'\n", ":2: nlu.0.intent: must be a name; quote yes, no and numbers (got 7)"),
        ("nlu:\n- intent: a\n", ":2: nlu.0.examples: expected a text of lines"),
        ("nlu:\n- intent: a\n  examples:\n  - 7\n", ":4: nlu.0.examples.0: expected a text (got 7)"),
        ("nlu:\n- intent: a\n  examples: &x '- a'\n- intent: b\n  examples: *x\n", ":3: YAML anchors are not allowed"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_rasa_nlu_is_refused_at_its_line(tmp_path: Path, content: str, says: str) -> None:
    path = _write(tmp_path / "nlu.yml", content)
    with pytest.raises(CatalogError) as raised:
        read_rasa(path)
    assert f"{path}{says}" in str(raised.value)


# --- tables


def test_csv_reads_the_named_columns_quotes_and_all(tmp_path: Path) -> None:
    content = '\ufeffid,utterance,category\n1,"where, oh ""where""\nis it",track\n2, hi ,\n3,bye,Good Bye\n'
    read = read_csv(_write(tmp_path / "a.csv", content), "utterance", "category")
    assert read.examples == (
        Example('where, oh "where"\nis it', "track", str(tmp_path / "a.csv"), 2),
        Example("hi", None, str(tmp_path / "a.csv"), 4),
        Example("bye", "Good Bye", str(tmp_path / "a.csv"), 5),
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"id,category\n", ":1: text: no such column; there are id, category"),
        (b"", ":1: text: no such column; there are none"),
        (b"text,label\na,b\nonly one\n", ":3: expected 2 columns (got only one)"),
        (b"text,label\na,b,c\n", ":2: expected 2 columns (got a)"),
        (b'text,label\n"a"b,c\n', "not CSV"),
        (b"text,label\na,b\n\xff,b\n", ":3: not UTF-8"),
    ],
)
def test_a_broken_csv_is_refused_at_its_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(CatalogError) as raised:
        read_csv(path, "text", "label")
    assert says in str(raised.value)
    assert str(path) in str(raised.value)


def test_jsonl_reads_the_named_fields_and_null_is_out_of_scope(tmp_path: Path) -> None:
    content = '{"q": "hi", "l": "greet", "x": 1}\n\n{"q": "who is she", "l": null}\n'
    read = read_jsonl(_write(tmp_path / "a.jsonl", content), "q", "l")
    assert [(e.text, e.label, e.line) for e in read.examples] == [("hi", "greet", 1), ("who is she", None, 3)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", ":2: not JSON: Expecting property name"),
        ("[1]", ':2: expected an object such as {"text": "…", "label": "…"} (got [1])'),
        ('{"text": 7, "label": "a"}', ":2: text: must be text (got 7)"),
        ('{"text": "a", "label": 7}', ":2: label: must be text, or null for out of scope (got 7)"),
        ('{"text": "a"}', ":2: label: field required; there are text"),
        ("9" * 5000, ":2: not JSON: cannot be read"),
    ],
)
def test_a_broken_jsonl_is_refused_at_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = _write(tmp_path / "a.jsonl", '{"text": "a", "label": "a"}\n' + line + "\n")
    with pytest.raises(CatalogError) as raised:
        read_jsonl(path, "text", "label")
    assert says in str(raised.value)


def test_a_file_of_another_format_does_not_drown_its_reader(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", "not json\n" * 5000)
    with pytest.raises(CatalogError, match="and 4900 problems more") as raised:
        read_jsonl(path, "text", "label")
    assert len(raised.value.problems) == 101


# --- labels to intents


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("refund", "refund"),
        ("BookRestaurant", "book_restaurant"),
        ("faq/opening-hours", "faq_opening_hours"),
        ("Réclamation élevée", "reclamation_elevee"),
        ("Refund_not_showing_up", "refund_not_showing_up"),
        ("2fa", "intent_2fa"),
        ("__x__", "x"),
        ("a" * 80, "a" * 64),
        ("天気", ""),
    ],
)
def test_labels_become_names(label: str, name: str) -> None:
    assert intent_name(label) == name


def _read(*pairs: tuple[str, str | None]) -> Read:
    return Read(tuple(Example(text, label, "a.csv", i) for i, (text, label) in enumerate(pairs, 2)))


def test_labels_that_become_one_name_are_refused() -> None:
    with pytest.raises(CatalogError) as raised:
        to_intents(_read(("a", "Get Refund"), ("b", "get_refund"), ("c", "天気")), "cloud")
    assert "a.csv:3: label: becomes the name 'get_refund', and so does 'Get Refund'" in str(raised.value)
    assert "a.csv:4: label: holds no letter or digit to make a name of (got 天気)" in str(raised.value)


def test_what_is_left_out_is_counted() -> None:
    read = _read(
        ("a", "one"), ("A ", "one"), ("b", "two"), ("a", "two"), ("x", "oos"), ("y", None), (" ", "one"),
        ("z" * 8193, "one"), ("\ud800", "one"),
    )  # fmt: skip
    imported = to_intents(read, "cloud", skip=["oos", "none"])
    assert [(i.name, i.exemplars) for i in imported.intents] == [("one", ("a",)), ("two", ("b", "a"))]
    assert set(imported.notes) == {
        "left out: texts labelled 'oos' (1)",
        "left out: texts without a label (1)",
        "left out: blank texts (1)",
        "left out: texts of more than 8192 characters (1)",
        "left out: texts with half of a surrogate pair (1)",
        "left out: texts that their intent already has (1)",
        "no text is labelled 'none', which --skip names",
        "texts that stand in more than one intent, named by `pointsman lint` (1)",
    }


def test_the_most_exemplars_are_spread_over_the_file() -> None:
    imported = to_intents(_read(*((f"text {i}", "a") for i in range(100))), "cloud", max_exemplars=4)
    assert imported.intents[0].exemplars == ("text 0", "text 25", "text 50", "text 75")
    assert "left out: texts over --max-exemplars 4 (96)" in imported.notes


def test_nothing_to_import_is_an_error_that_says_why() -> None:
    with pytest.raises(CatalogError, match="nothing to import; left out: texts labelled 'oos'"):
        to_intents(_read(("a", "oos")), "cloud", skip=["oos"])


# --- writing


texts = st.text(st.characters(codec="utf-8"), max_size=60)
labels = st.sampled_from(["get refund", "Weather", "faq/x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(pairs=st.lists(st.tuples(texts, labels), min_size=1, max_size=30))
def test_whatever_is_imported_is_loaded_again(tmp_path_factory: pytest.TempPathFactory, pairs) -> None:
    read = _read(*((text.strip(), label) for text, label in pairs))
    if not any(text.strip() for text, _ in pairs):
        return
    root = tmp_path_factory.mktemp("import")
    imported = to_intents(read, "support")
    loaded = _loaded(root, imported.intents)
    assert loaded == imported.intents
    expected = {(intent_name(label), normalise(text)) for text, label in pairs if text.strip()}
    assert {(i.name, normalise(text)) for i in loaded for text in i.exemplars} == expected


def test_nothing_is_overwritten_without_force_and_then_nothing_is_written_at_all(tmp_path: Path) -> None:
    folder, specialists = tmp_path / "intents", tmp_path / "specialists"
    held = _write(folder / "old_name.yaml", "name: one\ntarget: cloud\nexemplars: [mine]\n")
    intents = to_intents(_read(("a", "one"), ("b", "two")), "cloud").intents
    with pytest.raises(CatalogError, match=r"old_name\.yaml: name: is there already; --force replaces it"):
        write_intents(intents, folder, specialists, force=False, dry_run=False)
    assert [p.name for p in folder.iterdir()] == ["old_name.yaml"]
    assert "mine" in held.read_text()
    files = write_intents(intents, folder, specialists, force=True, dry_run=False)
    assert sorted(Path(file).name for file in files) == ["old_name.yaml", "two.yaml"]
    assert FileStore(folder, specialists).load().intents == intents


def test_a_file_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "intents"
    broken = _write(folder / "one.yaml", "name: one\nexemplars: [\n")
    intents = to_intents(_read(("a", "one")), "cloud").intents
    with pytest.raises(CatalogError, match="is there, and holds something else"):
        write_intents(intents, folder, tmp_path / "specialists", force=True, dry_run=False)
    assert broken.read_text() == "name: one\nexemplars: [\n"


def test_an_unknown_target_and_a_file_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    write_specialist(tmp_path / "specialists", "support")
    intents = to_intents(_read(("a", "one")), "suport").intents
    with pytest.raises(
        CatalogError, match=r"target: no such specialist; known: cloud, support \(got suport\)"
    ):
        write_intents(intents, tmp_path / "intents", tmp_path / "specialists", force=False, dry_run=False)
    many = to_intents(_read(*((f"{i} {'x' * 8000}", "one") for i in range(140))), "cloud").intents
    with pytest.raises(CatalogError, match="--max-exemplars makes it smaller"):
        write_intents(many, tmp_path / "intents", tmp_path / "specialists", force=False, dry_run=False)
    assert not (tmp_path / "intents").exists()


# --- the command

APP = typer.Typer()
APP.command("import")(commands.import_)
APP.command()(commands.lint)


def _import(root: Path, *arguments: str):
    environment = {
        "POINTSMAN_PATHS__INTENTS": str(root / "intents"),
        "POINTSMAN_PATHS__SPECIALISTS": str(root / "specialists"),
    }
    return CliRunner(env=environment).invoke(APP, ["import", *arguments])


def test_the_format_is_told_by_the_suffix(tmp_path: Path) -> None:
    write_specialist(tmp_path / "specialists", "support")
    rows = [("text", "label"), ("where is it", "track"), ("stop it", "cancel")]
    sources = [
        _write(tmp_path / "a.yml", "nlu:\n- intent: track\n  examples: |\n    - where is it\n- intent: cancel\n  examples: |\n    - stop it\n"),
        _write(tmp_path / "a.jsonl", "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])),
        tmp_path / "a.csv",
        tmp_path / "a.tsv",
    ]  # fmt: skip
    for path, delimiter in ((sources[2], ","), (sources[3], "\t")):
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
    for number, source in enumerate(sources):
        to = tmp_path / f"out{number}"
        result = _import(tmp_path, str(source), "--target", "support", "--to", str(to))
        assert result.exit_code == 0, result.output
        assert "wrote 2 intents with 2 exemplars, target support" in result.output
        loaded = FileStore(to, tmp_path / "specialists").load()
        assert [(i.name, i.exemplars) for i in loaded.intents] == [
            ("cancel", ("stop it",)), ("track", ("where is it",)),
        ]  # fmt: skip


def test_a_dry_run_writes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    source = _write(tmp_path / "a.csv", "text,label\nhi,Greet Me\nx,oos\n")
    result = _import(tmp_path, str(source), "--dry-run", "--skip", "oos")
    assert result.exit_code == 0, result.output
    assert "intents/greet_me.yaml: 1 exemplars" in result.output
    assert "note: labels that are no names of intents: 'Greet Me' → greet_me" in result.output
    assert "would write 1 intents with 1 exemplars" in result.output
    assert not (tmp_path / "intents").exists()


@pytest.mark.parametrize(
    ("file", "arguments", "code", "says"),
    [
        ("a.txt", [], 2, "the suffix tells no format"),
        ("a.csv", ["--max-exemplars", "0"], 2, "max-exemplars"),
        ("nowhere.csv", [], 1, "nowhere.csv: cannot be read"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, file: str, arguments: list[str], code: int, says: str) -> None:
    _write(tmp_path / "a.txt", "hi")
    _write(tmp_path / "a.csv", "text,label\nhi,a\n")
    result = _import(tmp_path, str(tmp_path / file), *arguments)
    assert result.exit_code == code
    told = result.output + str(result.exception)
    assert says in " ".join(told.replace("│", " ").split())
