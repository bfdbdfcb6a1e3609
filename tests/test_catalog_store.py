"""Folders of YAML to catalogs: what serves, what is refused and how it is named, what is written back."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import SHA, make_intent, make_specialist, write_intent, write_specialist
from pointsman.catalog.files import dump, read
from pointsman.catalog.json_schema import schemas
from pointsman.catalog.schema import IntentFile, SpecialistFile, normalise
from pointsman.catalog.store import FileStore
from pointsman.errors import CatalogError, PreconditionError, UnknownNameError
from pointsman.service.convert_catalog import health_message
from pointsman.values.catalog import CLOUD, Adapter, Artifact, Catalog, FewShot, Intent, Problem, Specialist

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folders(tmp_path: Path) -> FileStore:
    """Return a store over two folders with one good specialist, 'support', and no intents."""
    write_specialist(tmp_path / "specialists", "support.yaml")
    (tmp_path / "intents").mkdir()
    return FileStore(tmp_path / "intents", tmp_path / "specialists")


def again(store: FileStore) -> Catalog:
    """Load the same folders as a process that has just started."""
    return FileStore(store.intents_dir, store.specialists_dir).load()


def names(catalog: Catalog) -> list[str]:
    return [intent.name for intent in catalog.intents]


def only_problem(catalog: Catalog) -> Problem:
    assert len(catalog.problems) == 1, catalog.problems
    return catalog.problems[0]


# What is read


def test_zero_intents_are_a_catalog_without_problems(folders):
    catalog = folders.load()
    assert (catalog.intents, catalog.problems) == ((), ())


def test_missing_folders_are_empty_ones(tmp_path):
    catalog = FileStore(tmp_path / "no", tmp_path / "where", general="general").load()
    assert (catalog.intents, catalog.specialists, catalog.problems) == ((), (), ())


def test_an_intent_file_states_an_intent(folders):
    write_intent(folders.intents_dir, "a.yaml", more="negatives: [not this]\nthreshold: 0.25\n")
    (intent,) = folders.load().intents
    assert intent == Intent(
        name="refund",
        target="support",
        exemplars=("first of refund", "second of refund"),
        description="For people.",
        negatives=("not this",),
        threshold=0.25,
    )


def test_one_exemplar_is_enough(folders):
    (folders.intents_dir / "a.yaml").write_text("name: a\ntarget: cloud\nexemplars: [hello]\n")
    catalog = folders.load()
    assert catalog.intents[0].exemplars == ("hello",)
    assert not catalog.problems


def test_the_cloud_is_a_target_that_needs_no_specialist(folders):
    write_intent(folders.intents_dir, "a.yaml", target=CLOUD)
    assert names(folders.load()) == ["refund"]


def test_intents_come_in_the_order_of_their_names(folders):
    for file, name in [("1.yaml", "cherry"), ("2.yml", "apple"), ("3.yaml", "banana")]:
        write_intent(folders.intents_dir, file, name=name)
    assert names(folders.load()) == ["apple", "banana", "cherry"]


@pytest.mark.parametrize(
    "file", [".hidden.yaml", ".tmpabc.tmp", "a.yaml~", "a.yaml.bak", "README.md", "a.json"]
)
def test_hidden_and_other_files_are_ignored(folders, file):
    write_intent(folders.intents_dir, file)
    catalog = folders.load()
    assert (catalog.intents, catalog.problems) == ((), ())


def test_an_unchanged_folder_loads_to_an_equal_catalog(folders):
    write_intent(folders.intents_dir, "a.yaml")
    (folders.intents_dir / "b.yaml").write_text("name: [")
    first, second = folders.load(), folders.load()
    assert replace(first, loaded_at=second.loaded_at) == second


# What is refused, and how it is named


@pytest.mark.parametrize(
    ("text", "line", "field", "value"),
    [
        ("name: a\ntarget: cloud\nexemplars: [x]\nexamples: [y]\n", 4, "examples", "['y']"),
        ("name: a\ntarget: cloud\n", 1, "exemplars", ""),
        ("# c\nname: a\ntarget: cloud\n", 2, "exemplars", ""),
        ("name: a\ntarget: cloud\nexemplars: []\n", 3, "exemplars", "[]"),
        ("name: a\ntarget: cloud\nexemplars: just one\n", 3, "exemplars", "just one"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - ''\n", 5, "exemplars.1", ""),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - '  '\n", 5, "exemplars.1", "  "),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - 12\n", 5, "exemplars.1", "12"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - yes\n", 5, "exemplars.1", "True"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - 2026-01-01\n", 5, "exemplars.1", "datetime.date"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - a: b\n", 5, "exemplars.1", "{'a': 'b'}"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\n  - y\n  - x\n", 6, "exemplars.2", "x"),
        ("name: a\ntarget: cloud\nexemplars:\n  - X  y\n  - x Y\n", 5, "exemplars.1", "x Y"),
        ("name: a\ntarget: cloud\nexemplars:\n  - x\nnegatives:\n  - x\n", 6, "negatives.0", "x"),
        ("name: a\ntarget: cloud\nexemplars: [x]\nthreshold: .nan\n", 4, "threshold", "nan"),
        ("name: a\ntarget: cloud\nexemplars: [x]\nthreshold: .inf\n", 4, "threshold", "inf"),
        ("name: a\ntarget: cloud\nexemplars: [x]\nthreshold: 1.5\n", 4, "threshold", "1.5"),
        ("name: a\ntarget: cloud\nexemplars: [x]\nthreshold: '0.5'\n", 4, "threshold", "0.5"),
        ("name: Refund Request\ntarget: cloud\nexemplars: [x]\n", 1, "name", "Refund Request"),
        ("name: 5\ntarget: cloud\nexemplars: [x]\n", 1, "name", "5"),
        ("name:\ntarget: cloud\nexemplars: [x]\n", 1, "name", "None"),
        ("name: a\ntarget: nobody\nexemplars: [x]\n", 2, "target", "nobody"),
        ("- name: a\n", 1, "", ""),
        ("just text\n", 1, "", ""),
        ("", 1, "", ""),
        ("name: a\ntarget: &t cloud\n", 2, "", "&t"),
        ("name: a\ntarget: cloud\nname: b\n", 3, "", "name"),
    ],
)
def test_a_refused_intent_is_named_by_file_line_field_and_value(folders, text, line, field, value):
    (folders.intents_dir / "bad.yaml").write_text(text)
    catalog = folders.load()
    problem = only_problem(catalog)
    assert (problem.file, problem.line, problem.field) == ("intents/bad.yaml", line, field)
    assert problem.value.startswith(value)
    assert problem.message
    assert not catalog.intents


@pytest.mark.parametrize(
    ("more", "line", "field", "value"),
    [
        ("temperature: 1\n", 5, "temperature", "1"),
        ("sampling:\n  temperature: 3\n", 6, "sampling.temperature", "3"),
        ("sampling:\n  temperature: .nan\n", 6, "sampling.temperature", "nan"),
        ("sampling:\n  top_p: 0\n", 6, "sampling.top_p", "0"),
        ("sampling:\n  top_k: 40\n", 6, "sampling.top_k", "40"),
        ("context_tokens: 64\n", 5, "context_tokens", "64"),
        ("context_tokens: 2048.0\n", 5, "context_tokens", "2048.0"),
        ("max_output_tokens: 2048\n", 5, "max_output_tokens", "2048"),
        ("engine: vllm\n", 5, "engine", "vllm"),
        ("stop: ['']\n", 5, "stop.0", ""),
        ("task_types: [Sum It Up]\n", 5, "task_types.0", "Sum It Up"),
        ("few_shot:\n  - user: hello\n", 6, "few_shot.0.assistant", ""),
        (f"adapter:\n  uri: file:a.gguf\n  sha256: {SHA}\n  scale: .nan\n", 8, "adapter.scale", "nan"),
        (f"adapter:\n  uri: file:a.gguf\n  sha256: {SHA}\n  scale: 1.0e+30\n", 8, "adapter.scale", "1e+30"),
        (f"adapter:\n  uri: file:a.gguf\n  sha256: {SHA}\nengine: ctransformers\n", 6, "adapter", "file:a"),
    ],
)
def test_a_refused_specialist_is_named_by_file_line_field_and_value(folders, more, line, field, value):
    write_specialist(folders.specialists_dir, "bad.yaml", name="bad", more=more)
    problem = only_problem(folders.load())
    assert (problem.file, problem.line, problem.field) == ("specialists/bad.yaml", line, field)
    assert problem.value.startswith(value)


@pytest.mark.parametrize(
    "uri", ["model.gguf", "https://example.org/m.gguf", "hf:model.gguf", "pypi:a/b", "'file:'"]
)
def test_a_base_that_is_no_artifact_address_is_refused(folders, uri):
    text = f"name: bad\nbase:\n  uri: {uri}\n  sha256: {SHA}\n"
    (folders.specialists_dir / "bad.yaml").write_text(text)
    problem = only_problem(folders.load())
    assert (problem.line, problem.field) == (3, "base.uri")


@pytest.mark.parametrize("sha256", ["", "abc", "AB" * 32, "ab" * 33])
def test_a_sha256_that_is_none_is_refused(folders, sha256):
    text = f"name: bad\nbase:\n  uri: file:m.gguf\n  sha256: '{sha256}'\n"
    (folders.specialists_dir / "bad.yaml").write_text(text)
    problem = only_problem(folders.load())
    assert (problem.line, problem.field, problem.value) == (4, "base.sha256", sha256)


def test_no_specialist_may_be_called_cloud(folders):
    write_specialist(folders.specialists_dir, "bad.yaml", name=CLOUD)
    problem = only_problem(folders.load())
    assert (problem.field, problem.value) == ("name", CLOUD)


def test_all_problems_of_a_file_are_named_at_once(folders):
    (folders.intents_dir / "bad.yaml").write_text("name: A\ntarget: cloud\nexemplars: ['', x]\nmore: 1\n")
    fields = {problem.field: problem.line for problem in folders.load().problems}
    assert fields == {"name": 1, "exemplars.0": 3, "more": 4}


def test_a_problem_reads_as_compilers_write_theirs(folders):
    write_intent(folders.intents_dir, "bad.yaml", more="threshold: 7\n")
    text = str(only_problem(folders.load()))
    assert text.startswith("intents/bad.yaml:8: threshold: ")
    assert text.endswith("(got 7)")


def test_a_long_value_is_cut_in_its_problem(folders):
    write_intent(folders.intents_dir, "bad.yaml", name="x" * 5000)
    assert len(only_problem(folders.load()).value) < 100


def test_an_unknown_target_is_told_the_known_ones(folders):
    write_intent(folders.intents_dir, "bad.yaml", target="suport")
    problem = only_problem(folders.load())
    assert (problem.line, problem.field, problem.value) == (4, "target", "suport")
    assert "cloud, support" in problem.message


def test_a_folder_that_is_called_like_a_file_is_refused_and_named(folders):
    (folders.intents_dir / "odd.yaml").mkdir()
    problem = only_problem(folders.load())
    assert problem.file == "intents/odd.yaml"
    assert "cannot be read" in problem.message


def test_a_file_name_that_is_not_utf_8_is_named_in_text_that_is(folders):
    path = os.path.join(os.fsencode(folders.intents_dir), b"caf\xe9.yaml")  # noqa: PTH118 - pathlib knows no bytes
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"name: [")
    catalog = folders.load()
    assert str(only_problem(catalog)).encode("utf-8")
    assert health_message(catalog, "v").problems[0].file


def test_one_bad_file_leaves_the_others_serving(folders):
    write_intent(folders.intents_dir, "good.yaml", name="good")
    (folders.intents_dir / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    catalog = folders.load()
    assert names(catalog) == ["good"]
    assert only_problem(catalog).message == "not UTF-8"


# What changes


def test_a_dropped_file_serves_after_the_next_load(folders):
    folders.load()
    write_intent(folders.intents_dir, "a.yaml")
    assert names(folders.load()) == ["refund"]


def test_a_deleted_file_serves_no_longer(folders):
    path = write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    path.unlink()
    catalog = folders.load()
    assert (catalog.intents, catalog.problems) == ((), ())


def test_a_file_that_breaks_keeps_its_last_good_content_with_a_problem(folders):
    write_intent(folders.intents_dir, "a.yaml")
    good = folders.load().intents
    write_intent(folders.intents_dir, "a.yaml", more="threshold: 9\n")
    for _ in range(2):
        catalog = folders.load()
        assert catalog.intents == good
        assert only_problem(catalog).field == "threshold"


def test_a_specialist_that_breaks_keeps_its_last_good_content(folders):
    write_intent(folders.intents_dir, "a.yaml")
    good = folders.load()
    write_specialist(folders.specialists_dir, "support.yaml", more="engine: none\n")
    catalog = folders.load()
    assert (catalog.specialists, catalog.intents) == (good.specialists, good.intents)
    assert only_problem(catalog).file == "specialists/support.yaml"


def test_an_intent_whose_target_becomes_unknown_keeps_its_last_good_content(folders):
    write_intent(folders.intents_dir, "a.yaml")
    good = folders.load().intents
    write_intent(folders.intents_dir, "a.yaml", target="nobody_at_all")
    catalog = folders.load()
    assert only_problem(catalog).field == "target"
    assert catalog.intents == good


def test_a_mended_file_serves_its_new_content(folders):
    path = folders.intents_dir / "a.yaml"
    path.write_text("name: [")
    folders.load()
    write_intent(folders.intents_dir, "a.yaml", name="mended")
    catalog = folders.load()
    assert names(catalog) == ["mended"]
    assert not catalog.problems


def test_a_broken_file_that_is_deleted_is_no_problem_any_more(folders):
    path = folders.intents_dir / "a.yaml"
    path.write_text("name: [")
    folders.load()
    path.unlink()
    assert not folders.load().problems


def test_an_intent_serves_as_soon_as_its_specialist_does(folders):
    write_intent(folders.intents_dir, "a.yaml", target="late")
    assert not folders.load().intents
    write_specialist(folders.specialists_dir, "late.yaml", name="late")
    catalog = folders.load()
    assert names(catalog) == ["refund"]
    assert not catalog.problems


def test_a_specialist_whose_file_is_deleted_serves_while_intents_target_it(folders):
    write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    (folders.specialists_dir / "support.yaml").unlink()
    for _ in range(2):
        catalog = folders.load()
        assert [s.name for s in catalog.specialists] == ["support"]
        assert names(catalog) == ["refund"]
        problem = only_problem(catalog)
        assert (problem.file, problem.value) == ("specialists/support.yaml", "support")
        assert "refund" in problem.message


def test_a_deleted_specialist_goes_with_the_last_intent_that_targets_it(folders):
    path = write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    (folders.specialists_dir / "support.yaml").unlink()
    folders.load()
    path.unlink()
    catalog = folders.load()
    assert (catalog.specialists, catalog.problems) == ((), ())


def test_an_intent_can_still_be_put_while_its_deleted_specialist_serves(folders):
    write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    (folders.specialists_dir / "support.yaml").unlink()
    folders.load()
    folders.put_intent(make_intent(exemplars=("a new exemplar",)))
    assert folders.load().intents[0].exemplars == ("a new exemplar",)


def test_a_deleted_specialist_that_comes_back_is_no_problem_any_more(folders):
    write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    (folders.specialists_dir / "support.yaml").unlink()
    folders.load()
    write_specialist(folders.specialists_dir, "renamed.yaml", more="context_tokens: 512\n")
    catalog = folders.load()
    assert not catalog.problems
    assert catalog.specialists[0].context_tokens == 512


# Names


def test_at_a_cold_start_a_name_belongs_to_the_first_file(folders):
    write_intent(folders.intents_dir, "b.yaml", target=CLOUD)
    write_intent(folders.intents_dir, "a.yaml")
    catalog = folders.load()
    assert [intent.target for intent in catalog.intents] == ["support"]
    problem = only_problem(catalog)
    assert (problem.file, problem.line, problem.field) == ("intents/b.yaml", 2, "name")
    assert "intents/a.yaml" in problem.message


def test_a_name_stays_with_the_file_that_serves_it(folders):
    write_intent(folders.intents_dir, "b.yaml")
    good = folders.load().intents
    write_intent(folders.intents_dir, "a.yaml", target=CLOUD)
    catalog = folders.load()
    assert catalog.intents == good
    assert only_problem(catalog).file == "intents/a.yaml"


def test_a_second_file_takes_over_when_the_first_goes(folders):
    path = write_intent(folders.intents_dir, "a.yaml")
    write_intent(folders.intents_dir, "b.yaml", target=CLOUD)
    folders.load()
    path.unlink()
    catalog = folders.load()
    assert [intent.target for intent in catalog.intents] == [CLOUD]
    assert not catalog.problems


def test_a_file_that_breaks_keeps_its_name_against_a_second_file(folders):
    write_intent(folders.intents_dir, "b.yaml")
    good = folders.load().intents
    (folders.intents_dir / "b.yaml").write_text("name: [")
    write_intent(folders.intents_dir, "a.yaml", target=CLOUD)
    catalog = folders.load()
    assert catalog.intents == good
    assert {problem.file for problem in catalog.problems} == {"intents/a.yaml", "intents/b.yaml"}


def test_a_file_may_take_another_name(folders):
    write_intent(folders.intents_dir, "a.yaml", name="old")
    folders.load()
    write_intent(folders.intents_dir, "a.yaml", name="entirely_new")
    catalog = folders.load()
    assert names(catalog) == ["entirely_new"]
    assert not catalog.problems


def test_a_specialist_given_twice_is_refused_the_second_time(folders):
    write_specialist(folders.specialists_dir, "zzz.yaml", more="context_tokens: 512\n")
    catalog = folders.load()
    assert [s.context_tokens for s in catalog.specialists] == [2048]
    assert only_problem(catalog).file == "specialists/zzz.yaml"


def test_an_intent_and_a_specialist_may_share_a_name(folders):
    write_intent(folders.intents_dir, "support.yaml", name="support")
    catalog = folders.load()
    assert names(catalog) == ["support"]
    assert not catalog.problems


def test_deleting_both_files_of_a_name_keeps_the_specialist_that_served(folders):
    write_intent(folders.intents_dir, "a.yaml")
    write_specialist(folders.specialists_dir, "zzz.yaml", more="context_tokens: 512\n")
    served = folders.load().specialists
    for path in folders.specialists_dir.iterdir():
        path.unlink()
    assert folders.load().specialists == served


# What is written back


def test_a_put_intent_survives_a_restart(folders):
    folders.load()
    intent = replace(make_intent(), negatives=("no",), threshold=0.0, description="ünïcödé 🚂")
    folders.put_intent(intent)
    assert folders.load().intents == (intent,)
    assert again(folders).intents == (intent,)
    assert not again(folders).problems


def test_a_put_specialist_survives_a_restart(folders):
    folders.load()
    specialist = make_specialist("sums", ("arithmetic",), system_prompt="Add.\n  Carry.\n", stop=("\n", " x"))
    folders.put_specialist(specialist)
    assert again(folders).specialist("sums") == specialist


def test_put_replaces_the_file_that_holds_the_name(folders):
    path = write_intent(folders.intents_dir, "another_name.yaml")
    folders.load()
    folders.put_intent(make_intent(exemplars=("new",)))
    assert list(folders.intents_dir.iterdir()) == [path]
    assert again(folders).intents[0].exemplars == ("new",)


def test_put_mends_the_broken_file_of_its_name(folders):
    write_intent(folders.intents_dir, "refund.yaml")
    folders.load()
    (folders.intents_dir / "refund.yaml").write_text("name: [")
    folders.load()
    folders.put_intent(make_intent())
    catalog = folders.load()
    assert catalog.intents == (make_intent(),)
    assert not catalog.problems


def test_a_put_file_tells_editors_its_schema(folders):
    folders.load()
    folders.put_intent(make_intent())
    first = (folders.intents_dir / "refund.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../docs/schema/intent.schema.json"


def test_put_makes_a_missing_folder(tmp_path):
    store = FileStore(tmp_path / "intents", tmp_path / "specialists")
    store.load()
    store.put_intent(make_intent(target=CLOUD))
    assert names(again(store)) == ["refund"]


def test_put_refuses_an_unknown_target_and_writes_nothing(folders):
    folders.load()
    with pytest.raises(CatalogError, match="nobody") as caught:
        folders.put_intent(make_intent(target="nobody"))
    assert caught.value.problems[0].field == "target"
    assert not list(folders.intents_dir.iterdir())


def test_put_refuses_what_a_file_could_not_state(folders):
    folders.load()
    with pytest.raises(CatalogError) as caught:
        folders.put_intent(make_intent(name="../escape", exemplars=()))
    assert {problem.field for problem in caught.value.problems} == {"name", "exemplars"}


def test_put_refuses_a_file_that_holds_something_else(folders):
    path = write_intent(folders.intents_dir, "refund.yaml", name="other")
    before = path.read_bytes()
    folders.load()
    with pytest.raises(CatalogError, match=r"intents/refund\.yaml exists and holds something else"):
        folders.put_intent(make_intent())
    assert path.read_bytes() == before


def test_put_refuses_a_broken_file_that_never_was_good(folders):
    path = folders.intents_dir / "refund.yaml"
    path.write_text("name: [")
    folders.load()
    with pytest.raises(CatalogError, match="holds something else"):
        folders.put_intent(make_intent())
    assert path.read_text() == "name: ["


def test_delete_removes_the_file_that_holds_the_name(folders):
    path = write_intent(folders.intents_dir, "another_name.yaml")
    folders.load()
    folders.delete("intent", "refund")
    assert not path.exists()
    assert not again(folders).intents


def test_delete_of_an_unknown_name_tells_the_known_ones(folders):
    write_intent(folders.intents_dir, "a.yaml")
    folders.load()
    with pytest.raises(UnknownNameError, match="known: refund"):
        folders.delete("intent", "nothing")


def test_a_folder_that_cannot_be_written_is_a_precondition(tmp_path):
    (tmp_path / "intents").write_text("a file where a folder should be")
    store = FileStore(tmp_path / "intents", tmp_path / "specialists")
    store.load()
    with pytest.raises(PreconditionError, match="intents/ cannot be written"):
        store.put_intent(make_intent(target=CLOUD))


def test_a_failed_write_leaves_no_temporary_file(folders):
    (folders.intents_dir / "refund.yaml").mkdir()  # cannot be replaced by a file
    folders.load()
    with pytest.raises((CatalogError, PreconditionError)):
        folders.put_intent(make_intent())
    assert [path.name for path in folders.intents_dir.iterdir()] == ["refund.yaml"]


# Round trip

names_of_things = st.from_regex(r"\A[a-z][a-z0-9_]{0,20}\Z")
plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
texts = plain_texts.filter(lambda text: text.strip())
numbers = st.floats(0, 1, exclude_min=True)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
artifacts = st.builds(
    Artifact, st.sampled_from(["file:m/ü.gguf", "hf:o/r@v1/m.gguf", "pypi:a==1/b/c"]), hashes
)
intents = st.builds(
    Intent,
    name=names_of_things,
    target=names_of_things,
    exemplars=st.lists(texts, min_size=1, max_size=5, unique_by=normalise).map(tuple),
    description=plain_texts,
    threshold=st.none() | st.floats(-1, 1),
)
specialists = st.builds(
    Specialist,
    name=names_of_things.filter(lambda name: name != CLOUD),
    base=artifacts,
    description=plain_texts,
    adapter=st.none() | st.builds(Adapter, artifacts, numbers),
    system_prompt=plain_texts,
    few_shot=st.lists(st.builds(FewShot, texts, texts), max_size=2).map(tuple),
    context_tokens=st.integers(300, 4096),
    max_output_tokens=st.integers(1, 299),
    temperature=st.floats(0, 2),
    top_p=numbers,
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)).map(
        lambda stops: tuple(stops[:16])
    ),
    task_types=st.lists(names_of_things, max_size=3).map(tuple),
)


@given(intents)
def test_an_intent_written_and_read_is_equal(tmp_path_factory, intent):
    path = tmp_path_factory.getbasetemp() / "round_trip_intent.yaml"
    path.write_text(dump(IntentFile.from_value(intent), "intent"), encoding="utf-8")
    assert read(path, IntentFile, "file").value == intent


@given(specialists)
def test_a_specialist_written_and_read_is_equal(tmp_path_factory, specialist):
    path = tmp_path_factory.getbasetemp() / "round_trip_specialist.yaml"
    path.write_text(dump(SpecialistFile.from_value(specialist), "specialist"), encoding="utf-8")
    assert read(path, SpecialistFile, "file").value == specialist


@pytest.mark.parametrize(
    "text",
    ["next\x85line", "sep\u2028arated", "\ufeffbom", "nul\x00", "~", "no", "=", "<<", "- x", "# x", "a: b"],
)
def test_an_awkward_exemplar_survives_a_put(folders, text):
    folders.load()
    folders.put_intent(make_intent(exemplars=(text,)))
    assert again(folders).intents[0].exemplars == (text,)


# What is shipped


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return FileStore(ROOT / "intents", ROOT / "specialists").load()


def test_the_shipped_files_have_no_problems(shipped):
    assert [str(problem) for problem in shipped.problems] == []


def test_twelve_intents_or_more_over_four_targets_or_more_are_shipped(shipped):
    assert len(shipped.intents) >= 12
    assert len({intent.target for intent in shipped.intents} - {CLOUD}) >= 4


def test_every_shipped_intent_has_fifteen_exemplars_or_more(shipped):
    assert [intent.name for intent in shipped.intents if len(intent.exemplars) < 15] == []


def test_no_shipped_exemplar_stands_in_two_intents(shipped):
    exemplars = [normalise(text) for intent in shipped.intents for text in intent.exemplars]
    assert len(set(exemplars)) == len(exemplars)


def test_every_shipped_file_is_named_after_what_it_holds(shipped):
    files = {path.stem for folder in ("intents", "specialists") for path in (ROOT / folder).glob("*.yaml")}
    assert files == {i.name for i in shipped.intents} | {s.name for s in shipped.specialists}


def test_the_default_general_specialist_is_shipped(shipped):
    assert shipped.specialist("general") is not None


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_schema_that_editors_use_is_current(name):
    text = (ROOT / "docs" / "schema" / name).read_text(encoding="utf-8")
    assert text == schemas()[name], "run `pointsman schema`"


# The general specialist


def test_the_general_specialist_outlives_its_file_and_is_named(tmp_path):
    intents, specialists = tmp_path / "intents", tmp_path / "specialists"
    store = FileStore(intents, specialists, general="general")
    file = write_specialist(specialists, "general.yaml", name="general")
    write_specialist(specialists, "spare.yaml", name="spare")
    assert store.load().problems == ()
    for name in ("general", "spare"):
        (specialists / f"{name}.yaml").unlink()
    for _ in range(2):
        catalog = store.load()
        assert [s.name for s in catalog.specialists] == ["general"]
        (problem,) = catalog.problems
        assert (problem.file, problem.value) == ("specialists/general.yaml", "general")
        assert "still the target of routing.general_specialist; it keeps serving" in problem.message
    write_specialist(specialists, "other.yaml", name="general")
    assert store.load().problems == ()
    assert not file.exists()
