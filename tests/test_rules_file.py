"""The rules file: what it may state, what is refused and how it is named, and what serves on."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_intent, write_intent, write_specialist
from pointsman.catalog.schema import RulesFile
from pointsman.catalog.store import FileStore
from pointsman.catalog.targets import users_of
from pointsman.errors import CatalogError
from pointsman.policy.rules import rule as apply_rules
from pointsman.values.catalog import CLOUD, MID, Bounds, Catalog, Mid, Problem, Rule
from pointsman.values.request import Constraints, Message, Request, Role

GOOD = """\
rules:
  - name: long_documents_to_cloud
    when: {tokens: {over: 8000}}
    to: cloud
  - name: batch_jobs_mid
    when: {caller: [nightly-batch, reports], output_tokens: {over: 1000, under: 5000}}
    to: mid
  - name: in_a_hurry
    when: {budget_ms: {under: 800}}
    to: local
  - name: extraction
    when:
      task_type: [extraction, classification]
    to: specialist:support
  - name: the_rest
    to: cloud
"""
EXAMPLE = Path(__file__).parent.parent / "docs" / "rules.example.yaml"
RULES = (
    Rule("long_documents_to_cloud", "cloud", tokens=Bounds(over=8000)),
    Rule("batch_jobs_mid", "mid", callers=("nightly-batch", "reports"), output_tokens=Bounds(1000, 5000)),
    Rule("in_a_hurry", "local", budget_ms=Bounds(under=800)),
    Rule("extraction", "specialist:support", task_types=("extraction", "classification")),
    Rule("the_rest", "cloud"),
)


class Site:
    """Two folders with one specialist, 'support', and a rules file to be written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rules = root / "rules.yaml"
        self.support = write_specialist(root / "specialists", "support.yaml")
        self.store = self.again(Mid(model="middling-model"))

    def again(self, mid: Mid | None) -> FileStore:
        """Return a store as a process has it that has just started."""
        return FileStore(self.root / "intents", self.root / "specialists", self.rules, mid)

    def load(self, text: str) -> Catalog:
        self.rules.write_text(text, encoding="utf-8")
        return self.store.load()

    def only_problem(self, text: str) -> Problem:
        problems = self.load(text).problems
        assert len(problems) == 1, problems
        return problems[0]


@pytest.fixture
def files(tmp_path: Path) -> Site:
    return Site(tmp_path)


# What is read


def test_rules_are_read_in_their_order(files):
    catalog = files.load(GOOD)
    assert (catalog.rules, catalog.problems) == (RULES, ())


def test_a_file_that_does_not_exist_states_no_rules(files):
    catalog = files.store.load()
    assert (catalog.rules, catalog.problems) == ((), ())


def test_an_empty_list_states_no_rules(files):
    catalog = files.load("rules: []\n")
    assert (catalog.rules, catalog.problems) == ((), ())


def test_rules_are_part_of_the_version_and_so_is_their_order(files):
    def version(text: str) -> str:
        return files.load(text).digest("encoder")

    two = "rules:\n  - {name: a, when: {caller: [x]}, to: cloud}\n  - {name: b, when: {caller: [y]}, to: cloud}\n"
    turned = "rules:\n  - {name: b, when: {caller: [y]}, to: cloud}\n  - {name: a, when: {caller: [x]}, to: cloud}\n"
    assert len({version(text) for text in (GOOD, "rules: []\n", two, turned)}) == 4
    assert version(two) == version("# a comment\n" + two)


# What is refused


@pytest.mark.parametrize(
    ("text", "line", "field", "value", "message"),
    [
        ("rules:\n  - name: Bad Name\n    to: cloud\n", 2, "rules.0.name", "Bad Name", "pattern"),
        ("rules:\n  - name: a\n    to: moon\n", 3, "rules.0.to", "moon", "pattern"),
        ("rules:\n  - name: a\n    to: support\n", 3, "rules.0.to", "support", "pattern"),
        ("rules:\n  - name: a\n", 2, "rules.0.to", "", "required"),
        ("rules:\n  - to: cloud\n", 2, "rules.0.name", "", "required"),
        ("rules:\n  - {name: a, to: cloud, then: b}\n", 2, "rules.0.then", "b", "not permitted"),
        ("rules:\n  - name: a\n    when:\n    to: cloud\n", 3, "rules.0.when", "None", "dictionary"),
        ("rules:\n  - name: a\n    when: {}\n    to: cloud\n", 3, "rules.0.when", "{}", "no condition"),
        (
            "rules:\n  - name: a\n    when:\n      color: red\n    to: cloud\n",
            4,
            "rules.0.when.color",
            "red",
            "not permitted",
        ),
        (
            "rules:\n  - name: a\n    when:\n      caller: reports\n    to: cloud\n",
            4,
            "rules.0.when.caller",
            "reports",
            "list",
        ),
        (
            "rules:\n  - name: a\n    when:\n      caller: []\n    to: cloud\n",
            4,
            "rules.0.when.caller",
            "[]",
            "at least 1",
        ),
        (
            "rules:\n  - name: a\n    when:\n      caller: ['a b']\n    to: cloud\n",
            4,
            "rules.0.when.caller.0",
            "a b",
            "pattern",
        ),
        (
            "rules:\n  - name: a\n    when:\n      task_type: [Big]\n    to: cloud\n",
            4,
            "rules.0.when.task_type.0",
            "Big",
            "pattern",
        ),
        (
            "rules:\n  - name: a\n    when:\n      tokens:\n        over: many\n    to: cloud\n",
            5,
            "rules.0.when.tokens.over",
            "many",
            "integer",
        ),
        (
            "rules:\n  - name: a\n    when:\n      tokens:\n        over: -1\n    to: cloud\n",
            5,
            "rules.0.when.tokens.over",
            "-1",
            "greater than or equal to 0",
        ),
        (
            "rules:\n  - name: a\n    when:\n      tokens: 8000\n    to: cloud\n",
            4,
            "rules.0.when.tokens",
            "8000",
            "dictionary",
        ),
        (
            "rules:\n  - name: a\n    when:\n      tokens: {}\n    to: cloud\n",
            4,
            "rules.0.when.tokens",
            "{}",
            "expected 'over', 'under' or both",
        ),
        (
            "rules:\n  - name: a\n    when:\n      budget_ms: {over: 800, under: 801}\n    to: cloud\n",
            4,
            "rules.0.when.budget_ms",
            "{'over': 800, 'under': 801}",
            "no number",
        ),
        (
            "rules:\n  - {name: a, when: {caller: [x]}, to: cloud}\n  - {name: a, to: cloud}\n",
            3,
            "rules.1.name",
            "a",
            "a rule before it has this name",
        ),
        (
            "rules:\n  - {name: a, to: cloud}\n  - {name: b, to: mid}\n",
            3,
            "rules.1",
            "b",
            "never reached: rule 'a' before it always holds",
        ),
        (
            "rules:\n  - name: a\n    to: specialist:nobody\n",
            3,
            "rules.0.to",
            "specialist:nobody",
            "no such specialist; known: support",
        ),
        ("rules:\n  a: b\n", 2, "rules", "{'a': 'b'}", "list"),
        ("- name: a\n", 1, "", "", "expected fields such as 'rules:', found list"),
        ("", 1, "", "", "expected fields such as 'rules:', found nothing"),
        ("rules: [\n", 2, "", "", "not YAML"),
        ("rules: &x []\n", 1, "", "&x", "anchors"),
        ("rules: []\nrules: []\n", 2, "", "rules", "key given twice"),
    ],
)
def test_a_refused_rule_is_named_by_file_line_field_and_value(files, text, line, field, value, message):
    problem = files.only_problem(text)
    assert problem.file == f"{files.root.name}/rules.yaml"
    assert (problem.line, problem.field, problem.value) == (line, field, value)
    assert message in problem.message
    assert files.store.load().rules == ()


def test_more_rules_than_anybody_reads_are_refused(files):
    rules = "".join(f"  - {{name: r{i}, when: {{caller: [x]}}, to: cloud}}\n" for i in range(257))
    assert "256" in files.only_problem(f"rules:\n{rules}").message


def test_all_problems_of_the_file_are_named_at_once(files):
    text = "rules:\n  - {name: a, to: moon}\n  - {name: B, to: cloud}\n"
    assert [p.field for p in files.load(text).problems] == ["rules.0.to", "rules.1.name"]


def test_a_rules_file_in_the_working_directory_is_named_without_a_folder(files, monkeypatch):
    monkeypatch.chdir(files.root)
    files.rules.write_text("rules: 5\n")
    (problem,) = FileStore(Path("intents"), Path("specialists"), Path("rules.yaml")).load().problems
    assert str(problem) == "rules.yaml:1: rules: Input should be a valid list (got 5)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_rules_file_that_cannot_be_read_is_refused(files):
    files.rules.write_text(GOOD)
    files.rules.chmod(0)
    (problem,) = files.store.load().problems
    assert "cannot be read" in problem.message


def test_a_folder_in_place_of_the_file_is_refused(files):
    files.rules.mkdir()
    (problem,) = files.store.load().problems
    assert "not a regular file" in problem.message


# The mid tier


@pytest.mark.parametrize(
    ("mid", "message"),
    [
        (None, "no mid tier is configured; set routing.mid"),
        (Mid(specialist="nobody"), "routing.mid names 'nobody': no such specialist; known: support"),
    ],
)
def test_rules_and_intents_for_a_mid_tier_that_cannot_be_had_are_refused_with_the_setting(
    files, mid, message
):
    files.rules.write_text("rules:\n  - name: a\n    to: mid\n")
    write_intent(files.root / "intents", "a.yaml", target=MID)
    catalog = files.again(mid).load()
    assert (catalog.rules, catalog.intents) == ((), ())
    assert {(p.line, p.field, p.value, p.message) for p in catalog.problems} == {
        (3, "rules.0.to", "mid", message),
        (4, "target", "mid", message),
    }


@pytest.mark.parametrize("mid", [Mid(model="middling-model"), Mid(specialist="support")])
def test_rules_and_intents_may_lead_to_a_mid_tier(files, mid):
    files.rules.write_text("rules:\n  - name: a\n    to: mid\n")
    write_intent(files.root / "intents", "a.yaml", target=MID)
    catalog = files.again(mid).load()
    assert catalog.problems == ()
    assert (catalog.rules[0].to, catalog.intents[0].target) == ("mid", MID)


def test_an_intent_for_the_mid_tier_can_be_put(files):
    files.store.load()
    files.store.put_intent(make_intent(target=MID))
    assert files.store.load().intents[0].target == MID
    without = files.again(None)
    without.load()
    with pytest.raises(CatalogError, match=r"set routing\.mid"):
        without.put_intent(make_intent(target=MID))


def test_no_specialist_may_be_called_mid(files):
    write_specialist(files.root / "specialists", "mid.yaml", name="mid")
    (problem,) = files.store.load().problems
    assert "'mid' is a tier's own name" in problem.message


# What serves on


@pytest.mark.parametrize(
    "broken",
    [
        "rules: [\n",
        "rules:\n  - {name: a, to: moon}\n",
        "rules:\n  - {name: a, to: 'specialist:nobody'}\n",
        "",
    ],
)
def test_a_file_that_breaks_keeps_its_last_good_rules_with_a_problem(files, broken):
    files.load(GOOD)
    catalog = files.load(broken)
    assert catalog.rules == RULES
    assert len(catalog.problems) == 1
    assert files.store.load().rules == RULES
    mended = files.load("rules:\n  - {name: a, to: cloud}\n")
    assert ([rule.name for rule in mended.rules], mended.problems) == (["a"], ())


def test_a_file_that_is_broken_at_the_start_states_no_rules_until_it_is_mended(files):
    assert files.load("rules: [\n").rules == ()
    assert files.load(GOOD).rules == RULES


def test_a_deleted_file_states_no_rules_any_more(files):
    files.load(GOOD)
    files.rules.unlink()
    assert files.store.load().rules == ()
    files.load("rules: [\n")
    assert files.store.load().rules == ()  # the rules that were deleted do not come back


def test_rules_serve_as_soon_as_their_specialist_does(files):
    text = "rules:\n  - {name: a, to: 'specialist:slots'}\n"
    assert files.load(text).rules == ()
    write_specialist(files.root / "specialists", "slots.yaml", name="slots")
    catalog = files.store.load()
    assert ([rule.to for rule in catalog.rules], catalog.problems) == (["specialist:slots"], ())


@pytest.mark.parametrize(
    ("to", "mid", "users"),
    [("specialist:support", None, "rule a"), ("mid", Mid(specialist="support"), "rule a, routing.mid")],
)
def test_a_specialist_whose_file_is_deleted_serves_while_rules_name_it(files, to, mid, users):
    files.rules.write_text(f"rules:\n  - {{name: a, to: '{to}'}}\n")
    store = files.again(mid)
    store.load()
    files.support.unlink()
    for _ in range(2):
        catalog = store.load()
        assert [s.name for s in catalog.specialists] == ["support"]
        assert [rule.to for rule in catalog.rules] == [to]
        (problem,) = catalog.problems
        assert f"file is gone, but still the target of {users}; it keeps serving" in problem.message
    files.rules.unlink()
    assert len(store.load().specialists) == (mid is not None)


def test_a_rule_loses_its_place_with_a_specialist_that_takes_another_name(files):
    files.load(GOOD)
    write_specialist(files.root / "specialists", "support.yaml", name="helper")
    catalog = files.store.load()
    assert [rule.name for rule in catalog.rules] == [r.name for r in RULES if r.name != "extraction"]
    (problem,) = catalog.problems
    assert (problem.field, problem.value) == ("rules.3.to", "specialist:support")


def test_users_of_a_specialist_are_the_intents_rules_and_settings_that_lead_to_it():
    intents = (make_intent("a", "x"), make_intent("b", MID), make_intent("c", CLOUD))
    rules = (Rule("d", "specialist:x"), Rule("e", "mid"), Rule("f", "local"), Rule("g", "cloud"))
    assert users_of(intents, rules, Mid(specialist="y"), "x") == {
        "x": ["a", "rule d", "routing.general_specialist"],
        "y": ["b", "rule e", "routing.mid"],
    }
    assert users_of(intents, rules, Mid(model="m")) == {"x": ["a", "rule d"]}


# Whatever a file may state


names = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
ends = st.tuples(st.integers(0, 10**9), st.integers(2, 10**9)).map(lambda p: {"over": p[0], "under": sum(p)})
bounds = ends | st.builds(dict, over=st.integers(0, 10**9)) | st.builds(dict, under=st.integers(1, 10**9))
conditions = st.fixed_dictionaries(
    {},
    optional={
        "task_type": st.lists(names, min_size=1, max_size=3),
        "caller": st.lists(
            st.from_regex(r"[A-Za-z0-9.:/=+_-]{1,128}", fullmatch=True), min_size=1, max_size=3
        ),
        "tokens": bounds,
        "output_tokens": bounds,
        "budget_ms": bounds,
    },
).filter(bool)


@given(
    st.lists(names, unique=True, max_size=5).flatmap(
        lambda unique: st.tuples(
            *(
                st.fixed_dictionaries(
                    {
                        "name": st.just(name),
                        "to": st.sampled_from(["cloud", "mid", "local", "specialist:a"]),
                        "when": conditions,
                    }
                )
                for name in unique
            )
        )
    )
)
def test_every_condition_of_a_file_arrives_in_its_rule(entries):
    found = RulesFile.model_validate({"rules": list(entries)}).to_value()
    assert len(found) == len(entries)
    for rule, entry in zip(found, entries, strict=True):
        when = entry["when"]
        assert (rule.name, rule.to) == (entry["name"], entry["to"])
        assert list(rule.task_types) == when.get("task_type", [])
        assert list(rule.callers) == when.get("caller", [])
        for field in ("tokens", "output_tokens", "budget_ms"):
            assert getattr(rule, field) == (Bounds(**when[field]) if field in when else None)


# The example


def test_the_example_in_the_docs_holds_for_the_shipped_specialists_and_sends_what_it_says(tmp_path):
    root = EXAMPLE.parent.parent
    store = FileStore(root / "intents", root / "specialists", EXAMPLE)
    catalog = store.load()
    assert not catalog.problems

    def ruled(text="hello", **constraints):
        request = Request((Message(Role.USER, text),), Constraints(**constraints))
        return apply_rules(request, catalog, ("reasoning",)).rule

    assert ruled("word " * 8000) == "long_documents"
    assert ruled(task_type="reasoning") == "reasoning"
    assert ruled(output_tokens=2000) == "long_answers"
    assert ruled(task_type="sentiment") == "short_texts"
    assert ruled() == ""
