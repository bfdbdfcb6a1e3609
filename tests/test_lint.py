"""`pointsman lint`: what is wrong with exemplars, and where it stands."""

import json
import os
import random
import string
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from builders import clustered_rows, normalised
from harness import REFUND, WEATHER, write_intent, write_specialist
from pointsman.cli import intents as commands
from pointsman.decision.cross_fit import folds_of
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.review.effects import removal_effects
from pointsman.review.findings import RULES, Finding, Severity
from pointsman.review.lint import Limits, lint, texts_of
from pointsman.review.markdown import lint_markdown
from pointsman.review.revisions import Revision, read_folder
from pointsman.review.sensitive import Found, find_personal, find_secrets

ROOT = Path(__file__).parent.parent
D = 16


def _folder(root: Path, counts: dict[str, int], target: str = "cloud") -> Path:
    """Write an intent a name, with that many exemplars; the k-th stands on line 3 + k."""
    folder = root / "intents"
    folder.mkdir(exist_ok=True)
    for name, count in counts.items():
        lines = [f"  - text {k} of {name}" for k in range(count)]
        own = target if target == "cloud" else name
        (folder / f"{name}.yaml").write_text(
            "\n".join([f"name: {name}", f"target: {own}", "exemplars:", *lines, ""])
        )
    return folder


def _revision(root: Path, counts: dict[str, int], target: str = "cloud") -> Revision:
    return read_folder(_folder(root, counts, target), "intents")


def _clusters(counts: dict[str, int], seed: int = 0, spread: float = 0.4):
    labels = np.repeat(np.arange(len(counts)), [counts[name] for name in sorted(counts)])
    return clustered_rows(np.random.default_rng(seed), labels, D, spread)


def _codes(findings: tuple[Finding, ...]) -> dict[str, list[Finding]]:
    return {f.code: [g for g in findings if g.code == f.code] for f in findings}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled rules are kept here: to make them takes seconds."""
    return tmp_path_factory.mktemp("cache")


# --- what it finds


def test_clean_intents_have_no_findings(tmp_path: Path) -> None:
    counts = dict.fromkeys("abcdef", 8)
    assert lint(_revision(tmp_path, counts), _clusters(counts), Limits(harmful=0)) == ()


def test_a_text_in_two_intents_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    counts = {"a": 6, "b": 6}
    folder = _folder(tmp_path, counts)
    path = folder / "b.yaml"
    path.write_text(path.read_text().replace("text 2 of b", "TEXT  4   of A"))
    found = _codes(lint(read_folder(folder, "intents"), _clusters(counts), Limits()))
    (finding,) = found["duplicate"]
    assert (finding.severity, finding.file, finding.line) == (Severity.ERROR, "intents/b.yaml", 6)
    assert "a (intents/a.yaml:8)" in finding.message


def test_near_duplicates_are_told_once_across_intents_and_never_within_one(tmp_path: Path) -> None:
    counts = {"a": 6, "b": 6}
    rows = normalised(np.random.default_rng(1).normal(size=(12, 64)))
    rows[8] = normalised(rows[[2]] + 0.1 * rows[[5]])[0]  # b's third is nearly a's third
    rows[4] = rows[3]  # within a: nobody's concern
    found = lint(_revision(tmp_path, counts), rows, Limits(margin=9, harmful=0))
    (finding,) = found
    assert (finding.code, finding.file, finding.line) == ("near_duplicate", "intents/b.yaml", 6)
    assert "intents/a.yaml:6" in finding.message
    assert not lint(_revision(tmp_path, counts), rows, Limits(near=0.999, margin=9, harmful=0))


@pytest.mark.parametrize(("target", "code"), [("own", "misplaced"), ("cloud", "unclear")])
def test_an_exemplar_nearer_to_another_intent_is_found_though_it_is_its_own_nearest(
    tmp_path: Path, target: str, code: str
) -> None:
    counts = dict.fromkeys("abcdef", 8)
    rows = _clusters(counts)
    rows[3] = normalised(rows[[8, 9, 10]].mean(axis=0, keepdims=True))[0]  # a's fourth lies amid b
    found = _codes(lint(_revision(tmp_path, counts, target), rows, Limits(near=1.1, harmful=0)))
    assert list(found) == [code]
    (finding,) = found[code]
    assert (finding.file, finding.line) == ("intents/a.yaml", 7)
    assert "is nearer to b than to a" in finding.message


def test_an_exemplar_near_to_nothing_is_an_outlier_and_not_said_to_belong_elsewhere(tmp_path: Path) -> None:
    counts = dict.fromkeys("abcdef", 8)
    rows = _clusters(counts)
    strange = np.random.default_rng(8).normal(size=(1, D))  # what little it scores, another intent gets
    basis, _ = np.linalg.qr(np.stack([rows[8 * c : 8 * c + 8].mean(axis=0) for c in range(6)]).T)
    rows[3] = normalised(strange - strange @ basis @ basis.T)[0]  # orthogonal to every intent
    found = _codes(lint(_revision(tmp_path, counts), rows, Limits(margin=0.0, harmful=0)))
    assert [f.line for f in found.get("outlier", [])] == [7]
    assert "misplaced" not in found
    assert "unclear" not in found


def test_a_thin_intent_is_told_and_its_exemplars_are_not_judged(tmp_path: Path) -> None:
    counts = {"a": 8, "b": 8, "c": 2, "d": 1}
    rows = _clusters(counts)
    rows[16] = rows[0]  # c's first lies amid a; with two exemplars that says little
    found = _codes(lint(_revision(tmp_path, counts), rows, Limits(near=1.1, harmful=0)))
    assert [(f.file, f.line) for f in found["thin"]] == [("intents/c.yaml", 4), ("intents/d.yaml", 4)]
    assert "d has 1 exemplar, under 5" in found["thin"][1].message
    assert "unclear" not in found


def test_an_intent_far_wider_than_the_others_is_broad(tmp_path: Path) -> None:
    counts = dict.fromkeys("abcdefgh", 10)
    rows = _clusters(counts)
    rows[20:30] = normalised(np.random.default_rng(3).normal(size=(10, D)))
    found = _codes(lint(_revision(tmp_path, counts), rows, Limits(margin=9, near=1.1, harmful=0)))
    (finding,) = found["broad"]
    assert (finding.file, finding.line, finding.intent) == ("intents/c.yaml", 1, "c")
    assert not lint(_revision(tmp_path, counts), rows, Limits(margin=9, near=1.1, harmful=0, broad=999))


def test_the_exemplar_that_attracts_the_most_prompts_of_others_is_named_first(tmp_path: Path) -> None:
    counts = dict.fromkeys("abcdef", 8)
    rows = _clusters(counts, spread=1.2)
    rows[3] = normalised(rows[8:16].mean(axis=0, keepdims=True))[0]  # a's fourth is the very centre of b
    found = _codes(lint(_revision(tmp_path, counts), rows, Limits(margin=9, near=1.1)))
    assert len(found["harmful"]) <= 5
    effects = removal_effects(rows, np.repeat(np.arange(6), 8))
    assert effects.balance[3] == effects.balance.max() > 0
    assert ("intents/a.yaml", 7) in [(f.file, f.line) for f in found["harmful"]]


def _scores_by_hand(query, rows, labels, classes):
    """S_c as docs/routing.md states it, exemplar by exemplar; -1 for a class without any."""
    scores = np.full(classes, -1.0)
    for c in np.unique(labels):
        own = rows[labels == c]
        mean = own.sum(axis=0)
        scores[c] = 0.5 * (own @ query).max() + 0.5 * float(mean @ query) / np.linalg.norm(mean)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_the_effect_of_an_exemplar_is_that_of_scores_made_without_it(seed: int) -> None:
    labels = np.repeat(np.arange(5), [9, 7, 8, 2, 1])
    rows = clustered_rows(np.random.default_rng(seed), labels, D, spread=1.6)
    mended, broken = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    folds = folds_of(labels)
    for fold in range(5):
        kept = np.flatnonzero(folds != fold)
        present = np.unique(labels[kept])
        index = ExemplarIndex(rows[kept], np.searchsorted(present, labels[kept]), len(present))
        vectors = index.transform.apply(rows)
        for query in np.flatnonzero(folds == fold):
            whole = int(_scores_by_hand(vectors[query], vectors[kept], labels[kept], 5).argmax())
            rivals = kept[labels[kept] == whole]
            hit = rivals[(vectors[rivals] @ vectors[query]).argmax()]
            rest = kept[kept != hit]
            without = int(_scores_by_hand(vectors[query], vectors[rest], labels[rest], 5).argmax())
            truth = labels[query]
            mended[hit] += whole != truth and without == truth
            broken[hit] += whole == truth and without != truth
    effects = removal_effects(rows, labels)
    assert effects.mended.tolist() == mended.tolist()
    assert effects.broken.tolist() == broken.tolist()
    assert mended.sum() + broken.sum() > 0


# --- bad input


def test_two_intents_with_the_same_exemplars_are_told_for_each_of_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_intent(tmp_path / "intents", name, "cloud", REFUND)
    rows = normalised(np.random.default_rng(0).normal(size=(len(REFUND), D)))
    found = _codes(lint(read_folder(tmp_path / "intents", "intents"), np.concatenate([rows, rows]), Limits()))
    assert len(found["duplicate"]) == len(REFUND)
    assert "near_duplicate" not in found


def test_a_thousand_intents_of_two_exemplars_take_seconds(tmp_path: Path) -> None:
    counts = {f"i{i:03d}": 2 for i in range(1000)}
    rows = clustered_rows(np.random.default_rng(0), np.repeat(np.arange(1000), 2), 384)
    revision = _revision(tmp_path, counts)
    begun = time.perf_counter()
    found = _codes(lint(revision, rows, Limits()))
    assert time.perf_counter() - begun < 60
    assert len(found["thin"]) == 1000


@pytest.mark.parametrize("counts", [{"a": 1}, {"a": 7}, {"a": 1, "b": 1}, {"a": 1, "b": 9}])
def test_few_exemplars_are_linted_as_far_as_they_go(tmp_path: Path, counts: dict[str, int]) -> None:
    found = lint(_revision(tmp_path, counts), _clusters(counts), Limits())
    assert [f.intent for f in found if f.code == "thin"] == [n for n, c in counts.items() if c < 5]


def test_no_intents_are_a_warning(tmp_path: Path) -> None:
    (finding,) = lint(_revision(tmp_path, {}), np.zeros((0, D), np.float32), Limits())
    assert (finding.code, finding.severity) == ("empty", Severity.WARNING)


# --- credentials and personal data


def _random(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    generator = random.Random(3)  # noqa: S311 - invented keys, the same ones each time
    return "".join(generator.choice(alphabet) for _ in range(length))


SECRETS = {
    "github": f"why does my token ghp_{_random(36)} not work",
    "openai": f"call the model with sk-proj-{_random(74)}T3BlbkFJ{_random(74)} please",
    "anthropic": f"use sk-ant-api03-{_random(93)}AA for it",
    "private key": f"-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA{_random(600)}\n-----END RSA PRIVATE KEY-----",
    "password in an address": "connect to postgres://bob:s3cr3tPw9x@db.internal.net:5432/app",
}
HARMLESS = [
    "track 8841902",
    "status of order 61-2290",
    "my order 2026 1123 0001 2345 is late",
    "serial number 4111111111111112",
    "the sequence 5 10 15 20 25 30 35 40, what comes next",
    "we meet on 2026-11-23 at 12:30",
    "does v1.2.3-rc.1 run left-pad@1.3.0",
    "id 123e4567-e89b-12d3-a456-426614174000",
    "commit 4050f91fcc6941428dd7f2a36aed3f2ed098d4b5",
    "isbn 978-3-16-148410-0",
    "transfer to DE89 3704 0044 0532 0130 01",
    "write to mira@example.com, jonas@mail.example.org or x@host.test",
    "clone git@github.com:acme/repo.git",
    "@jane said hi",
    "call 555-0142 or +1 202-555-0142",
    "parcel 1Z999AA10123456784",
    "my password is wrong, how do I reset it",
    "",
]
PERSONAL = {
    "my card 4111 1111 1111 1111 was charged twice": "a payment card number",
    "amex 3782-822463-10005": "a payment card number",
    "pay 5555555555554444.": "a payment card number",
    "send it to DE89 3704 0044 0532 0130 00 please": "a bank account number (IBAN)",
    "iban gb29nwbk60161331926819": "a bank account number (IBAN)",
    "write to Jane (jane.doe@gmail.com)": "an e-mail address",
    "mailto:jane.doe@gmail.com": "an e-mail address",
    "ring me at +49 30 901820": "a phone number",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_credentials_are_found_by_their_form(kind: str, cache: Path) -> None:
    (found,) = find_secrets(["where is my parcel", SECRETS[kind]], cache / "secret-rules")
    assert (found.text, found.code) == (1, "secret")


@pytest.mark.parametrize(("text", "what"), PERSONAL.items())
def test_personal_data_are_found_when_they_are_valid(text: str, what: str) -> None:
    assert list(find_personal([text])) == [Found(0, "personal_data", what)]


def test_numbers_that_are_no_personal_data_are_left_alone(cache: Path) -> None:
    assert [HARMLESS[f.text] for f in find_personal(HARMLESS)] == []
    assert [HARMLESS[f.text] for f in find_personal(HARMLESS, "US")] == []
    assert [HARMLESS[f.text] for f in find_secrets(HARMLESS, cache / "secret-rules")] == []


IDENTITIES = {
    "my social security number is 536-22-8726": "a US social security number",
    "NHS number 943 476 5919 on the form": "an NHS number",
    "NI AB123456C": "a UK national insurance number",
    "meine Steuer-ID ist 86095742719": "a German tax number",
    "codice fiscale RSSMRA85T10A562S": "an Italian fiscal code",
    "PESEL 44051401359": "a PESEL number",
}


@pytest.mark.parametrize(("text", "what"), IDENTITIES.items())
def test_identity_numbers_are_found_by_their_checksums(text: str, what: str) -> None:
    assert list(find_personal([text])) == [Found(0, "personal_data", what)]


def test_a_bare_row_of_digits_is_an_order_number_even_where_a_checksum_holds() -> None:
    assert not list(find_personal(["where is order 9434765919", "parcel 86095742719 is late"]))


def test_identity_numbers_are_passed_over_without_the_extra_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    assert not list(find_personal(IDENTITIES))
    monkeypatch.setitem(sys.modules, "pointsman.policy.detect", None)
    assert not list(find_personal(IDENTITIES))


def test_a_phone_number_in_a_country_s_own_form_takes_the_country() -> None:
    text = "call me at (415) 555-2671, order 4155552671"
    assert not list(find_personal([text]))
    assert [f.what for f in find_personal([text], "US")] == ["a phone number"]
    assert not list(find_personal(["order 4155552671"], "US"))


def test_what_should_not_stand_there_is_placed_and_never_repeated(tmp_path: Path, cache: Path) -> None:
    secret = SECRETS["github"]
    for name in ("a", "b"):
        write_intent(
            tmp_path / "intents", name, "cloud", [*REFUND[:5], secret], negatives=["ask jane.doe@gmail.com"]
        )
    revision = read_folder(tmp_path / "intents", "intents")
    texts = [item.text for item in texts_of(revision)]
    sensitive = [*find_secrets(texts, cache / "secret-rules"), *find_personal(texts)]
    rows = normalised(np.random.default_rng(0).normal(size=(6, D)))
    found = lint(revision, np.concatenate([rows, rows]), Limits(), sensitive)
    by_code = _codes(found)
    assert [f.severity for f in by_code["secret"]] == [Severity.ERROR] * 2
    for finding in (*by_code["secret"], *by_code["personal_data"]):
        line = (tmp_path / finding.file).read_text().splitlines()[finding.line - 1]
        assert "ghp_" in line or "jane.doe" in line
    said = "\n".join(map(str, found)) + lint_markdown(found, "")
    assert len(by_code["duplicate"]) == 6  # the secret is one of them, and is not quoted
    assert "ghp_" not in said
    assert "jane.doe" not in said


def test_without_the_libraries_it_says_that_nobody_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pointsman.settings import load

    monkeypatch.setitem(sys.modules, "kingfisher_sdk", None)
    assert commands._sensitive(["a"], load(paths={"cache": tmp_path}), "") is None
    counts = {"a": 8, "b": 8}
    found = lint(_revision(tmp_path, counts), _clusters(counts), Limits(harmful=0), None)
    assert [(f.code, f.severity) for f in found] == [("unchecked", Severity.WARNING)]


# --- the command

APP = typer.Typer()
APP.command()(commands.lint)
APP.command()(commands.diff)
_DRIVER = """
import typer
from pointsman.cli import intents
app = typer.Typer()
app.command()(intents.lint)
app.command()(intents.diff)
app()
"""


def _lint(*arguments: str, cache: Path, specialists: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "POINTSMAN_PATHS__CACHE": str(cache),
        "POINTSMAN_PATHS__SPECIALISTS": str(specialists),
    }
    return subprocess.run(
        [sys.executable, "-c", _DRIVER, "lint", *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def test_what_is_shipped_has_no_errors(cache: Path) -> None:
    result = _lint("--json", cache=cache, specialists=ROOT / "specialists")
    assert result.returncode == 0, result.stderr
    findings = json.loads(result.stdout)["findings"]
    for code in ("refused", "secret", "personal_data", "duplicate", "near_duplicate", "thin", "unchecked"):
        assert [f for f in findings if f["code"] == code] == []


def test_errors_exit_with_1_and_name_file_and_line_beside_what_could_be_linted(
    tmp_path: Path, cache: Path
) -> None:
    write_specialist(tmp_path / "specialists", "support")
    write_intent(tmp_path / "intents", "refund", "support", REFUND)
    write_intent(tmp_path / "intents", "weather", "nobody", [*WEATHER, REFUND[3].upper()])
    (tmp_path / "intents" / "broken.yaml").write_text("name: broken\ntarget: cloud\nexemplars: [a\n")
    result = _lint(str(tmp_path / "intents"), cache=cache, specialists=tmp_path / "specialists")
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("intents/broken.yaml:4: error: refused: not YAML") for line in lines)
    assert any("intents/weather.yaml" in line and "no such specialist" in line for line in lines)
    assert any("error: duplicate" in line and "refund (intents/refund.yaml:" in line for line in lines)
    assert lines[-1].startswith("2 intents with 21 exemplars: 3 errors, ")


def test_warnings_fail_a_strict_run_unless_they_are_ignored(tmp_path: Path, cache: Path) -> None:
    write_intent(tmp_path / "intents", "refund", "cloud", REFUND)
    write_intent(tmp_path / "intents", "weather", "cloud", WEATHER[:3])
    folder = str(tmp_path / "intents")
    strict = _lint(folder, "--strict", "--json", cache=cache, specialists=tmp_path / "specialists")
    assert strict.returncode == 1
    answer = json.loads(strict.stdout)
    assert (answer["intents"], answer["exemplars"]) == (2, 13)
    (finding,) = [f for f in answer["findings"] if f["severity"] == "warning"]
    assert finding["code"] == "thin"
    assert (finding["file"], finding["line"]) == ("intents/weather.yaml", 2)
    assert finding["advice"] == RULES["thin"].advice
    assert (
        _lint(
            folder, "--strict", "--ignore", "thin", cache=cache, specialists=tmp_path / "specialists"
        ).returncode
        == 0
    )
    assert (
        _lint(folder, "--strict", "--thin", "3", cache=cache, specialists=tmp_path / "specialists").returncode
        == 0
    )


def test_findings_of_what_was_edited_are_those_of_either_intent_and_all_errors() -> None:
    def finding(code: str, intent: str, other: str = "") -> Finding:
        return Finding(code, "a.yaml", 1, intent, "", other)

    found = [
        finding("misplaced", "a", "edited"), finding("broad", "edited"), finding("duplicate", "a", "b"),
        finding("unchecked", ""), finding("misplaced", "a", "b"), finding("thin", "a"),
    ]  # fmt: skip
    assert [f for f in found if f.concerns({"edited"})] == found[:4]


def test_since_tells_only_of_edited_intents(tmp_path: Path, cache: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        write_intent(folder, "refund", "cloud", REFUND)
        write_intent(folder, "short", "cloud", ["once", "upon a time"])
    write_intent(new, "weather", "cloud", WEATHER[:3])
    arguments = (str(new), "--since", str(old), "--strict", "--harmful", "0")
    result = _lint(*arguments, cache=cache, specialists=tmp_path / "specialists")
    assert result.returncode == 1, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()[:-1]] == ["new/weather.yaml"]
    assert result.stdout.splitlines()[-1].endswith(f"0 notes, of what was edited since {old}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["--ignore", "tin"], "no such code: tin"),
        (["--near", "2"], "near"),
    ],
)
def test_a_mistake_exits_with_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, ["lint", *arguments])
    assert result.exit_code == 2
    assert says in result.output


def test_a_report_with_a_thousand_findings_still_fits_a_comment() -> None:
    findings = [Finding("thin", f"intents/{i}.yaml", 1, "a", "x" * 5000) for i in range(1000)]
    text = lint_markdown(findings, "1000 intents")
    assert "… and 970 findings more" in text
    assert len(text) < 30_000
