"""`pointsman diff`: what was edited between two revisions, and what that does to traffic."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from builders import make_intent
from harness import REFUND, WEATHER, write_intent, write_prices
from pointsman.catalog.calibration_file import calibration_json
from pointsman.cli import intents as commands
from pointsman.decision.difficulty import Verdict
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Rows
from pointsman.errors import CatalogError
from pointsman.review import revisions
from pointsman.review.changes import compare
from pointsman.review.diff import Diff, Route, diff_traffic
from pointsman.review.markdown import diff_markdown
from pointsman.review.price import Prices
from pointsman.review.revisions import load_revision
from pointsman.review.traffic import Labelled
from pointsman.router.snapshot import NOTHING_LEARNED, Learned, Snapshot, build_snapshot
from pointsman.sections import Routing
from pointsman.values.catalog import Catalog, Intent
from test_promise import promise

ROOT = Path(__file__).parent.parent
ROUTING = Routing()
WORKFLOW = ROOT / ".github" / "workflows" / "intents.yml"


class Words:
    """An encoder that knows words only: texts are near when they share some."""

    hash = "ab" * 32
    dimensions = 256
    limit = None
    twin = None

    def encode(self, texts: Sequence[str]) -> Rows:
        rows = np.full((len(texts), self.dimensions), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[int.from_bytes(word.encode()[:6], "big") * 2654435761 % self.dimensions] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        return np.zeros(len(texts), np.bool_)

    def tokens(self, text: str) -> Sequence[str]:
        return text.split()


def _catalog(**intents: tuple[str, Sequence[str]]) -> Catalog:
    return Catalog(
        tuple(Intent(name, target, tuple(texts)) for name, (target, texts) in sorted(intents.items()))
    )


def _snapshot(
    catalog: Catalog, folder: Path, routing: Routing = ROUTING, learned: Learned = NOTHING_LEARNED
) -> Snapshot:
    return build_snapshot(
        catalog, EmbeddingCache(Words(), folder), Words.hash, routing, None, learned=learned
    )


class Scripted:
    """A difficulty model that holds every prompt too hard."""

    on, threshold = True, 0.1

    def judge(self, row: Rows, text: str, intent: str | None) -> Verdict:
        return Verdict(0.5, self.threshold, local=False, reason="")

    def covers(self, intent: str | None) -> bool:
        return True


def _traffic(*pairs: tuple[str, str | None]) -> list[Labelled]:
    return [Labelled(text, intent, labelled=True) for text, intent in pairs]


def _diffed(
    old: Catalog,
    new: Catalog,
    traffic: Sequence[Labelled],
    folder: Path,
    routing: Routing = ROUTING,
    learned: Learned = NOTHING_LEARNED,
    **more,
):
    rows = Words().encode([item.text for item in traffic])
    renames = compare(old, new).renames
    before, after = (_snapshot(catalog, folder, routing, learned) for catalog in (old, new))
    return diff_traffic(traffic, rows, before, after, renames, **more)


# --- what was edited


def test_equal_catalogs_have_no_changes() -> None:
    catalog = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    assert not compare(catalog, catalog)


def test_every_kind_of_edit_is_told() -> None:
    old = Catalog((make_intent("a"), make_intent("b"), make_intent("gone", exemplars=("x",))))
    new = Catalog((
        make_intent("a"),
        Intent("b", "cloud", ("a refund", "A Refund"), "New.", ("no",), 0.5),
        make_intent("new", exemplars=("y",)),
    ))  # fmt: skip
    changes = compare(old, new)
    assert [i.name for i in changes.added] == ["new"]
    assert [i.name for i in changes.removed] == ["gone"]
    (edited,) = changes.edited
    assert [(f.field, f.old, f.new) for f in edited.fields] == [
        ("target", "support", "cloud"), ("threshold", "", "0.5"), ("description", "", "New."),
    ]  # fmt: skip
    assert (edited.exemplars_added, edited.exemplars_removed) == (("A Refund",), ("money back",))
    assert (edited.negatives_added, edited.negatives_removed) == (("no",), ())


def test_an_intent_that_keeps_half_of_its_texts_is_renamed_and_the_most_alike_are_paired() -> None:
    old = Catalog((
        make_intent("a", exemplars=("1", "2", "3", "4")), make_intent("b", exemplars=("1", "2", "3", "x")),
        make_intent("c", exemplars=("7", "8", "9")),
    ))  # fmt: skip
    new = Catalog((
        make_intent("d", exemplars=("1", "2", "3", "4")), make_intent("e", exemplars=("1", "2", "3", "x", "y")),
        make_intent("f", exemplars=("7", "8x", "9x")),
    ))  # fmt: skip
    changes = compare(old, new)
    assert changes.renames == {"a": "d", "b": "e"}
    assert [i.name for i in changes.removed] == ["c"]
    assert [i.name for i in changes.added] == ["f"]


# --- what it does to traffic


def test_flips_are_grouped_judged_and_shown_with_what_broke_first(tmp_path: Path) -> None:
    old = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    new = _catalog(refund=("support", REFUND), weather=("general", [*WEATHER, "refund my order in the rain"]))
    texts = ("please refund my order", "refund my order in the rain", "is it going to rain")
    found = _diffed(
        old, new, _traffic((texts[0], "refund"), (texts[1], "refund"), (texts[2], "weather")), tmp_path
    )
    (flip,) = found.flips
    assert (flip.before, flip.after) == (Route("refund", "support"), Route("weather", "general"))
    assert (flip.count, flip.broken, flip.mended, flip.misrouted) == (1, 1, 0, 1)
    assert flip.examples == (texts[1],)
    assert flip.rerouted
    assert (found.before.right, found.after.right) == (3, 2)
    assert (found.before.wrong_specialist, found.after.wrong_specialist) == (0, 1)
    diff = Diff("old", "new", compare(old, new), found)
    assert diff.worse(0.0) == ("1 fewer of 3 labelled prompts are right", "1 more go to a wrong specialist")
    assert diff.worse(0.5) == ("1 more go to a wrong specialist",)
    (back,) = _diffed(new, old, _traffic((texts[1], "refund")), tmp_path).flips
    assert (back.mended, back.broken, back.misrouted) == (1, 0, 0)


def test_a_new_target_flips_everything_and_a_new_name_nothing(tmp_path: Path) -> None:
    old = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    traffic = _traffic(*((text, "refund") for text in REFUND), *((text, "weather") for text in WEATHER))
    renamed = _catalog(money=("support", REFUND), weather=("general", WEATHER))
    for labels in ("refund", "money"):  # both names mean the same intent, in both catalogs
        called = [
            Labelled(t.text, labels if t.intent == "refund" else t.intent, labelled=True) for t in traffic
        ]
        found = _diffed(old, renamed, called, tmp_path)
        assert found.flips == ()
        assert found.before.right == found.after.right == len(traffic)
    moved = _diffed(old, _catalog(refund=("cloud", REFUND), weather=("general", WEATHER)), traffic, tmp_path)
    (flip,) = moved.flips
    assert (flip.count, flip.before.target, flip.after.target) == (len(REFUND), "support", "cloud")
    assert (moved.before.local, moved.after.local) == (20, 10)


def test_a_label_that_a_catalog_lacks_is_out_of_scope_in_it(tmp_path: Path) -> None:
    refund = Intent("refund", "support", tuple(REFUND), threshold=0.9)
    one = Catalog((refund,))
    both = Catalog((refund, Intent("weather", "general", tuple(WEATHER))))
    traffic = _traffic(*((text, "weather") for text in WEATHER))
    found = _diffed(both, one, traffic, tmp_path)
    assert found.before.right == found.after.right == len(WEATHER)  # without the intent, the cloud is right
    assert {flip.after for flip in found.flips} == {Route(None, "cloud")}
    assert Diff("a", "b", compare(both, one), found).worse(0.0) == ()


def test_an_empty_catalog_sends_everything_to_the_cloud(tmp_path: Path) -> None:
    full = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    traffic = [Labelled(text, None, labelled=False) for text in REFUND]
    found = _diffed(full, Catalog(), traffic, tmp_path)
    assert (found.before.local, found.after.local, found.labelled) == (len(REFUND), 0, 0)
    assert Diff("a", "b", compare(full, Catalog()), found).worse(0.0) == ()  # nobody can say


def test_the_middle_tier_is_who_answers_on_it(tmp_path: Path) -> None:
    catalog = _catalog(refund=("mid", REFUND), weather=("general", WEATHER))
    traffic = _traffic((REFUND[1] + " please", "refund"), (REFUND[2] + " please", None))
    for mid, target, local, wrong in (
        ("specialist:big", "big", 2, 1),
        ("cloud:other-model", "mid", 0, 0),
    ):
        found = _diffed(Catalog(), catalog, traffic, tmp_path, routing=Routing(mid=mid))
        assert {flip.after.target for flip in found.flips} == {target}
        assert (found.after.local, found.after.wrong_specialist) == (local, wrong)


def test_what_was_learned_beside_the_exemplars_takes_part(tmp_path: Path) -> None:
    catalog = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    traffic = _traffic((REFUND[1] + " please", "refund"), (WEATHER[1] + " please", "weather"))
    strict = Learned(promise(required_confidence=1.0))
    found = _diffed(catalog, catalog, traffic, tmp_path, learned=strict)
    assert (found.before.local, found.after.local) == (0, 0)
    hard = Learned(difficulty=Scripted())
    assert _diffed(catalog, catalog, traffic, tmp_path, learned=hard).after.local == 0
    on_mid = _diffed(
        catalog, catalog, traffic, tmp_path, learned=hard, routing=Routing(mid="specialist:general")
    )
    assert on_mid.after.local == 1  # what is for `general` has only the cloud above it


def test_the_price_follows_what_the_cloud_answers(tmp_path: Path) -> None:
    full = _catalog(refund=("support", REFUND), weather=("general", WEATHER))
    half = _catalog(refund=("support", REFUND), weather=("cloud", WEATHER))
    traffic = _traffic(*((t, "refund") for t in REFUND), *((t, "weather") for t in WEATHER))
    found = _diffed(full, half, traffic, tmp_path, prices=Prices("EUR", 1.0, 2.0, 1000, 500))
    assert found.before.price is not None
    assert found.after.price is not None
    assert found.before.price.as_routed == 0
    assert found.after.price.as_routed == pytest.approx(1000 * 0.5 * (1000 * 1.0 + 500 * 2.0) / 1e6)
    text = diff_markdown(Diff("a", "b", compare(full, half), found), ())
    assert "| EUR per 1,000 prompts | 0.0000 | 1.0000 | +1.0000 |" in text
    assert "1000 input tokens a prompt (assumed), 500 output tokens (assumed)" in text


# --- the report


def test_texts_cannot_break_out_of_the_comment(tmp_path: Path) -> None:
    evil = ["</details>\n# x `@everyone` ![i](http://x) <!-- y", "``` ` ``", "`start", "| a | b |"]
    old, new = _catalog(a=("cloud", ["x"])), _catalog(a=("cloud", ["x", *evil]))
    traffic = [Labelled(text, None, labelled=False) for text in evil]
    found = _diffed(old, new, traffic, tmp_path)
    text = diff_markdown(Diff("old`", "new", compare(old, new), found), ())
    outside = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text)  # as CommonMark reads code spans
    for piece in ("@everyone", "# x", "![i]", "<!--", "| a | b |", "start"):
        assert piece not in outside
    assert outside.count("</details>") == outside.count("<details>") == 1
    assert all(line.count("`") % 2 == 0 or "``" in line for line in text.splitlines())


def test_a_vast_change_still_fits_a_comment(tmp_path: Path) -> None:
    old = _catalog(**{f"a{i}": (f"t{i % 7}", [f"{'word ' * 900}{i}"]) for i in range(300)})
    new = _catalog(**{f"a{i}": (f"t{i % 5}", [f"{'other ' * 900}{i}"]) for i in range(290)})
    traffic = [Labelled(f"{'word ' * 900}{i}", None, labelled=False) for i in range(300)]
    text = diff_markdown(Diff("a", "b", compare(old, new), _diffed(old, new, traffic, tmp_path)), ())
    assert "intents more" in text
    assert "texts more" in text
    assert len(text) < 40_000


# --- revisions


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=30  # noqa: S607
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, the first tagged `v1`; a broken file on the branch `broken`; the folder is where we are."""
    root = tmp_path / "repository"
    root.mkdir()
    _git(root, "init")
    write_intent(root / "intents", "refund", "cloud", REFUND)
    (root / "intents" / "notes.txt").write_text("not an intent")
    _git(root, "add", ".")
    _git(root, "commit", "-m", "one")
    _git(root, "tag", "v1")
    _git(root, "checkout", "-b", "broken")
    (root / "intents" / "broken.yaml").write_text("name: broken\ntarget: cloud\nexemplars: [a\n")
    write_intent(root / "intents", "twice", "cloud", ["x"])
    (root / "intents" / "twice.yaml").write_text("name: refund\ntarget: cloud\nexemplars: [a]\n")
    _git(root, "add", ".")
    _git(root, "commit", "-m", "broken")
    _git(root, "checkout", "main")
    write_intent(root / "intents", "weather", "cloud", WEATHER)
    _git(root, "add", ".")
    _git(root, "commit", "-m", "two")
    monkeypatch.chdir(root)
    return root


INTENTS = Path("intents")


@pytest.mark.parametrize(
    ("name", "intents"),
    [
        ("HEAD", 2), ("main", 2), ("HEAD~1", 1), ("v1", 1), ("v1:intents", 1), ("v1:intents/", 1),
        ("main^{commit}:intents", 2), ("intents", 2),
    ],
)  # fmt: skip
def test_a_revision_is_a_name_a_name_and_a_path_or_a_folder(
    repository: Path, name: str, intents: int
) -> None:
    revision = load_revision(name, INTENTS)
    assert len(revision.intents) == intents
    assert revision.catalog.intents[0].exemplars == tuple(REFUND)
    file, line = revision.place("refund", "exemplars", 2)
    assert file.endswith("intents/refund.yaml")
    assert REFUND[2] in (repository / "intents" / "refund.yaml").read_text().splitlines()[line - 1]


def test_a_revision_is_found_from_below_and_does_not_touch_the_work_tree(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "intents" / "refund.yaml").write_text("edited: and broken\n")
    before = _git(repository, "status", "--porcelain")
    monkeypatch.chdir(repository / "intents")
    assert len(load_revision("v1", repository / "intents").intents) == 1
    assert len(load_revision("v1:intents", Path("elsewhere")).intents) == 1
    assert _git(repository, "status", "--porcelain") == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "nope: no such folder, and no such git revision"),
        ("v1:nope", "v1:nope: the revision has no folder 'nope'"),
        ("v1:intents/refund.yaml", "the revision has no folder 'intents/refund.yaml'"),
        ("--upload-pack=touch x", "no name of a git revision"),
        (":intents", "no name of a git revision"),
        ("", "no name of a git revision"),
    ],
)  # fmt: skip
def test_a_revision_that_does_not_exist_is_named(repository: Path, name: str, says: str) -> None:
    with pytest.raises(CatalogError) as raised:
        load_revision(name, INTENTS)
    assert says in str(raised.value)


def test_a_revision_with_broken_files_names_each_of_them_and_the_revision(repository: Path) -> None:
    with pytest.raises(CatalogError) as raised:
        load_revision("broken", INTENTS)
    assert [str(problem).split(":")[:3] for problem in raised.value.problems] == [
        ["broken", "intents/broken.yaml", "4"], ["broken", "intents/twice.yaml", "1"],
    ]  # fmt: skip
    assert "already stands in broken:intents/refund.yaml" in str(raised.value)


def test_links_and_huge_files_of_a_revision_are_refused(repository: Path) -> None:
    (repository / "intents" / "link.yaml").symlink_to("/etc/passwd")
    (repository / "intents" / "huge.yaml").write_text("#" * (2 << 20))
    _git(repository, "add", ".")
    _git(repository, "commit", "-m", "three")
    with pytest.raises(CatalogError) as raised:
        load_revision("HEAD", INTENTS)
    assert "HEAD:intents/link.yaml: not a regular file" in str(raised.value)
    assert "HEAD:intents/huge.yaml: file is 2097152 bytes, the limit is 1048576" in str(raised.value)


def test_without_a_repository_or_without_git_only_folders_can_be_compared(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(CatalogError, match="no such folder, and git says: fatal: not a git repository"):
        load_revision("HEAD", INTENTS)
    monkeypatch.chdir(repository)
    with pytest.raises(CatalogError, match="is not in the git repository"):
        load_revision("HEAD", tmp_path / "intents")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CatalogError, match="git, which is not installed"):
        load_revision("HEAD", INTENTS)
    assert len(load_revision("intents", INTENTS).intents) == 2


def test_a_git_that_hangs_is_ended(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(revisions, "_GIT_TIMEOUT_S", 0.2)
    with pytest.raises(CatalogError, match="git rev-parse did not end within"):
        load_revision("HEAD", INTENTS)


# --- the command

APP = typer.Typer()
APP.command()(commands.diff)
APP.command()(commands.lint)
_DRIVER = """
import typer
from pointsman.cli import intents
app = typer.Typer()
app.command()(intents.lint)
app.command()(intents.diff)
app()
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "error: nope: no such folder, and no such git revision"),
        (["broken"], "error: broken:intents/broken.yaml:4: not YAML"),
        (["v1", "v1:nope"], "no folder 'nope'"),
        (["v1", "--traffic", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["v1", "--traffic", "bad.jsonl"], "bad.jsonl:1: intent: unknown intent"),
        (["v1", "--fail-on", "flips"], "--fail-on flips needs --traffic"),
        (["v1", "--fail-on", "moon"], "moon"),
        (["v1", "--tolerance", "2"], "tolerance"),
        ([], "Missing argument"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_exits_with_2(repository: Path, arguments: list[str], says: str) -> None:
    (repository / "bad.jsonl").write_text('{"text": "hi", "intent": "refnd"}\n')
    result = CliRunner().invoke(APP, ["diff", *arguments])
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())


def test_without_traffic_only_the_edits_are_told(repository: Path) -> None:
    result = CliRunner().invoke(APP, ["diff", "v1"])
    assert result.exit_code == 0
    assert "- `weather` added: 10 exemplars, target cloud" in result.output
    assert "No traffic was given" in result.output
    plain = json.loads(CliRunner().invoke(APP, ["diff", "v1", "--json"]).output)
    assert (plain["old"], plain["new"], plain["traffic"], plain["worse"]) == ("v1", "intents", None, [])
    assert [i["name"] for i in plain["changes"]["added"]] == ["weather"]


def _diff(repository: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ours = {"PATHS__CACHE": str(repository.parent / "cache")} | settings
    return subprocess.run(
        [sys.executable, "-c", _DRIVER, "diff", *arguments],
        env=os.environ | {f"POINTSMAN_{key}": value for key, value in ours.items()},
        cwd=repository, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_a_calibration_takes_part_and_a_revision_that_it_was_not_made_for_is_named(repository: Path) -> None:
    for name in ("refund", "weather"):
        write_intent(
            repository / "intents", name, "support", REFUND if name == "refund" else [*WEATHER, "sleet"]
        )
    lines = [{"text": f"{text} please", "intent": "refund"} for text in REFUND]
    (repository / "traffic.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["intents", "--traffic", "traffic.jsonl", "--json"]
    free = json.loads(_diff(repository, *given).stdout)
    assert free["notes"] == []
    assert free["traffic"]["after"]["local"] > 0
    (repository / "calibration.json").write_text(calibration_json(promise(required_confidence=1.0)))
    bound = json.loads(_diff(repository, *given).stdout)
    assert bound["traffic"]["after"]["local"] == 0
    assert "for intents, calibration.json is stale" in bound["notes"][0]
    assert "Note: for intents, calibration.json is stale" in _diff(repository, *given[:-1]).stdout


def test_the_exit_status_tells_ci_what_traffic_thinks_of_the_change(repository: Path) -> None:
    lines = [*((t, "refund") for t in REFUND), *((t, "weather") for t in WEATHER)]
    traffic = "".join(json.dumps({"text": f"{t} please", "intent": i}) + "\n" for t, i in lines)
    (repository / "traffic.jsonl").write_text(traffic)
    given = ["--traffic", "traffic.jsonl"]
    same = _diff(repository, "HEAD", *given, "--fail-on", "flips")
    assert same.returncode == 0, same.stderr
    assert "**0 of 20 prompts flip**" in same.stdout
    # Five exemplars are moved by mistake.
    write_intent(repository / "intents", "refund", "support", REFUND[:5])
    write_intent(repository / "intents", "weather", "cloud", [*WEATHER[:2], *REFUND[5:]])
    worse = _diff(repository, "HEAD", *given)
    assert worse.returncode == 1, worse.stderr
    assert "**Worse:**" in worse.stdout
    plain = _diff(
        repository, "HEAD", *given, "--json", "--fail-on", "never", "--examples", "1",
        CLOUD__MODEL="big", PATHS__PRICES=str(write_prices(repository, big=(1.0, 1.0, 2.0))),
    )  # fmt: skip
    assert plain.returncode == 0
    found = json.loads(plain.stdout)
    assert found["worse"]
    assert found["traffic"]["prompts"] == found["traffic"]["labelled"] == 20
    assert found["traffic"]["flipped"] == sum(flip["count"] for flip in found["traffic"]["flips"]) > 0
    assert all(len(flip["examples"]) == 1 for flip in found["traffic"]["flips"])
    assert found["traffic"]["before"]["price"]["currency"] == "USD"
    assert _diff(repository, "HEAD", *given, "--tolerance", "1", "--fail-on", "flips").returncode == 1


# --- the workflow


def _steps(job: str) -> list[dict]:
    return yaml.safe_load(WORKFLOW.read_text())["jobs"][job]["steps"]


def _script(job: str, name: str) -> str:
    return next(step["run"] for step in _steps(job) if step.get("name") == name)


def test_the_workflow_runs_the_change_without_rights_and_writes_without_running_it() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())
    assert jobs["permissions"] == {}
    assert jobs["jobs"]["review"]["permissions"] == {"contents": "read"}
    assert jobs["jobs"]["comment"]["permissions"] == {"pull-requests": "write"}
    assert not [step for step in _steps("comment") if "checkout" in step.get("uses", "")]
    for step in (*_steps("review"), *_steps("comment")):
        assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        assert "${{" not in step.get("run", "")  # what others wrote reaches a shell by the environment only


def _shell(script: str, folder: Path, **programs: str) -> tuple[int, str]:
    """Run a step's script as Actions does, with programs that are given as shell scripts."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name, content in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{content}\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin", "TRAFFIC": "traffic.jsonl", "NUMBER": "7",
        "GITHUB_REPOSITORY": "acme/repo", "GITHUB_STEP_SUMMARY": "summary.md", "GITHUB_OUTPUT": "output.txt",
    }  # fmt: skip
    done = subprocess.run(
        ["/bin/bash", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("with_traffic", [False, True])
def test_the_workflow_makes_one_report_and_tells_what_failed(tmp_path: Path, with_traffic: bool) -> None:
    if with_traffic:
        (tmp_path / "traffic.jsonl").write_text("")
    pointsman = "echo said: $*; if [ $1 = diff ]; then echo 'error: ``` no such revision' >&2; exit 2; fi"
    code, errors = _shell(_script("review", "Lint and diff"), tmp_path, pointsman=pointsman)
    assert code == 0, errors
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("<!-- pointsman: review of intents -->\n")
    assert "said: lint --since HEAD^1 --markdown\n" in report
    given = " --traffic traffic.jsonl" if with_traffic else ""
    assert f"said: diff HEAD^1 intents{given}\n" in report
    assert "    error: ``` no such revision\n" in report
    assert (tmp_path / "summary.md").read_text() == report
    assert (tmp_path / "output.txt").read_text() == "failed= diff\n"


def test_the_workflow_writes_one_comment_and_then_keeps_it_up_to_date(tmp_path: Path) -> None:
    script = _script("comment", "Write the comment, or write it anew")
    gh = 'if [ "$2" = --paginate ]; then echo "$5" > filter; cat ids; else echo "$*" >> calls; fi'
    (tmp_path / "ids").write_text("")
    assert _shell(script, tmp_path, gh=gh)[0] == 0
    (tmp_path / "ids").write_text("41\n42\n")
    assert _shell(script, tmp_path, gh=gh)[0] == 0
    assert (tmp_path / "calls").read_text().splitlines() == [
        "api --silent --method POST repos/acme/repo/issues/7/comments --field body=@report.md",
        "api --silent --method PATCH repos/acme/repo/issues/comments/41 --field body=@report.md",
    ]
    assert "<!-- pointsman: review of intents -->" in (tmp_path / "filter").read_text()
