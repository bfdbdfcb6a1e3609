"""One hash-pinned file: what it holds is what is served, and nothing else is."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders import clustered_rows, make_specialist, normalised, unit_rows
from pointsman.artifacts.bundle_file import read_bundle_file, write_bundle_file
from pointsman.decision.calibrate import calibrate
from pointsman.errors import ArtifactError, PreconditionError
from pointsman.host.bundles import activate, open_bundle, previous, roll_back
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.router.bundle import EncoderId, encoder_of, matcher_of, members_of
from pointsman.router.leaning import fit_leaning
from pointsman.router.snapshot import Matcher, exemplars_of, scorer_of
from pointsman.settings import Settings
from pointsman.values.catalog import Bounds, Catalog, Intent, Rule

ENCODER = EncoderId("some-model", "e" * 64)


def make_matcher(
    classes: int = 4, each: int = 12, *, second_head: bool | None = None, named: bool = False
) -> Matcher:
    intents = tuple(
        Intent(
            f"intent_{c}",
            "support",
            tuple(f"prompt {c} {i}" for i in range(each)),
            negatives=("unlike 0",) if c == 0 else (),
        )
        for c in range(classes)
    )
    rules = (Rule("long", "cloud", tokens=Bounds(over=8000)),)
    catalog = Catalog(intents, (make_specialist(),), rules=rules)
    exemplars = exemplars_of(catalog)
    generator = np.random.default_rng(0)
    rows = clustered_rows(generator, exemplars.labels, 32, 1.5)
    calibration = replace(calibrate(rows, exemplars.labels, classes, 0.05), named=named)
    index = ExemplarIndex(
        rows,
        exemplars.labels,
        classes,
        unit_rows(generator, 1, 32),
        exemplars.negative_labels,
        names=unit_rows(generator, classes, 32) if named else None,
        second_head=calibration.second_head if second_head is None else second_head,
    )
    phrases = unit_rows(generator, 24, 32)
    leaning = fit_leaning(phrases[:12], phrases[12:], rows)
    return Matcher(
        catalog,
        index,
        calibration,
        exemplars.texts,
        exemplars.ids,
        5,
        leaning,
        scorer=scorer_of(catalog, ENCODER.hash, "0.1"),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "a.bundle"
    write_bundle_file(path, {"made": "today"}, members_of(make_matcher(), ENCODER))
    return path


# Contents


@pytest.mark.parametrize("named", [False, True], ids=["", "named"])
@pytest.mark.parametrize("second_head", [False, True])
def test_a_bundle_routes_exactly_as_what_it_was_made_of(tmp_path, second_head, named):
    matcher = make_matcher(second_head=second_head, named=named)
    write_bundle_file(tmp_path / "b", {}, members_of(matcher, ENCODER))
    again = matcher_of(read_bundle_file(tmp_path / "b").members, 5)
    for row in normalised(np.random.default_rng(1).normal(size=(50, 32))):
        assert again.match(row) == matcher.match(row)
    assert (again.texts, again.ids, again.calibration.named) == (matcher.texts, matcher.ids, named)
    np.testing.assert_array_equal(again.leaning.direction, matcher.leaning.direction)
    assert again.catalog.rules == matcher.catalog.rules
    assert again.catalog.exemplar_hash == matcher.catalog.exemplar_hash


def test_a_bundle_of_before_scores_as_it_did(monkeypatch):
    """With few intents the projection once counted as much as with many; such a bundle does not say how much."""
    monkeypatch.setattr("pointsman.index.transform._ENOUGH_AXES", 1)
    matcher = make_matcher()
    monkeypatch.undo()
    members = members_of(matcher, ENCODER)
    numbers = json.loads(members["calibration.json"])
    assert numbers.pop("share") == 0.5
    again = matcher_of(members | {"calibration.json": json.dumps(numbers).encode()}, 5)
    now = make_matcher()
    for row in unit_rows(np.random.default_rng(1), 50, 32):
        assert again.match(row) == matcher.match(row)
        assert now.match(row) != matcher.match(row)


def test_a_bundle_file_of_before_is_read(bundle):
    manifest = json.loads(member(bundle, "manifest.json"))
    assert manifest["format"] == 2
    rewrite(bundle, {"manifest.json": json.dumps(manifest | {"format": 1}).encode()})
    assert read_bundle_file(bundle).members.keys() == members_of(make_matcher(), ENCODER).keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 2.0),
        ("share", -0.1),
        ("share", float("nan")),
        ("margin", float("inf")),
        ("offsets", [0.5, float("nan"), 0.5, 0.5]),
        ("curve", {"intercept": 0.0, "margin": float("nan"), "gap": 1.0}),
    ],
)
def test_a_number_that_no_score_can_be_made_with_is_refused(field, value):
    members = members_of(make_matcher(), ENCODER)
    numbers = json.loads(members["calibration.json"]) | {field: value}
    with pytest.raises(ArtifactError, match=rf"calibration\.json.*{field}"):
        matcher_of(members | {"calibration.json": json.dumps(numbers).encode()}, 5)


def test_a_bundle_says_which_encoder_it_needs(bundle):
    assert encoder_of(read_bundle_file(bundle).members) == ENCODER


def test_a_bundle_of_an_encoder_that_is_not_there_is_refused(bundle):
    with pytest.raises(ArtifactError, match=r"made with encoder some-model \(e{12}\), but .* is configured"):
        open_bundle(bundle, Settings(), "f" * 64)
    assert open_bundle(bundle, Settings(), ENCODER.hash).encoder == ENCODER


def test_the_same_content_is_the_same_bytes(tmp_path):
    members = members_of(make_matcher(), ENCODER)
    versions = [write_bundle_file(tmp_path / name, {}, members) for name in "ab"]
    assert versions[0] == versions[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_exemplar_is_another_version(tmp_path):
    versions = {
        write_bundle_file(tmp_path / "a", {}, members_of(make_matcher(each=n), ENCODER)) for n in (11, 12)
    }
    assert len(versions) == 2


# Tampering


def rewrite(path: Path, changes: dict[str, bytes | None]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name: content for name, content in changes.items() if content is not None}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if changes.get(name, b"") is not None:
                archive.writestr(name, content)


def member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def test_a_changed_member_is_named(bundle):
    content = member(bundle, "catalog.json").replace(b"prompt 1 1", b"prompt 9 9", 1)
    rewrite(bundle, {"catalog.json": content})
    with pytest.raises(ArtifactError, match=r"a\.bundle: tampered with: catalog\.json"):
        read_bundle_file(bundle)


def test_a_manifest_that_was_made_to_fit_gives_itself_away_by_its_version(bundle):
    manifest = json.loads(member(bundle, "manifest.json"))
    manifest["members"]["catalog.json"] = manifest["members"]["encoder.json"]
    rewrite(
        bundle,
        {"manifest.json": json.dumps(manifest).encode(), "catalog.json": member(bundle, "encoder.json")},
    )
    with pytest.raises(ArtifactError, match="do not make version"):
        read_bundle_file(bundle)


def test_an_added_member_is_refused(bundle):
    rewrite(bundle, {"surprise.bin": b"x"})
    with pytest.raises(ArtifactError, match=r"surprise\.bin is not in the manifest"):
        read_bundle_file(bundle)


def test_a_missing_member_is_named(bundle):
    rewrite(bundle, {"index.npy": None})
    with pytest.raises(ArtifactError, match=r"index\.npy is missing"):
        read_bundle_file(bundle)


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1, -30])
def test_a_truncated_bundle_is_refused(bundle, keep):
    bundle.write_bytes(bundle.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"a\.bundle"):
        read_bundle_file(bundle)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"PK\x03\x04"])
def test_what_is_no_bundle_is_refused(tmp_path, content):
    path = tmp_path / "no.bundle"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"no\.bundle"):
        read_bundle_file(path)


def test_a_zip_that_is_no_bundle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        read_bundle_file(tmp_path / "x.zip")


@pytest.mark.parametrize(
    "manifest", [b"[]", b"{", b'{"format": 3}', b'{"format": 1}', b'{"format": 2, "members": 3}']
)
def test_a_manifest_of_another_kind_is_refused(bundle, manifest):
    rewrite(bundle, {"manifest.json": manifest})
    with pytest.raises(ArtifactError, match=r"a\.bundle"):
        read_bundle_file(bundle)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_bundle_file(tmp_path / "none")


# Members that do not fit each other, under hashes that do


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("exemplars.npy", np.zeros((3, 32), np.float32), "expected float32 of 48×any, found float32 of 3×32"),
        ("index.npy", np.zeros((48, 7), np.float32), "index.npy: expected"),
        ("transform/mean.npy", np.zeros(32, np.float64), "found float64"),
        ("transform/mean.npy", np.full(32, np.nan, np.float32), "not finite"),
    ],
)
def test_an_array_that_does_not_fit_is_named(name, content, message):
    members = members_of(make_matcher(), ENCODER)
    buffer = io.BytesIO()
    np.save(buffer, content)
    with pytest.raises(ArtifactError, match=message.replace(".", r"\.")):
        matcher_of(members | {name: buffer.getvalue()}, 5)


@pytest.mark.parametrize("name", ["catalog.json", "calibration.json", "index.npy", "encoder.json"])
def test_a_member_that_is_missing_or_garbage_is_named(name):
    members = members_of(make_matcher(), ENCODER)
    read = encoder_of if name == "encoder.json" else lambda found: matcher_of(found, 5)
    with pytest.raises(ArtifactError, match=f"{name}: is missing"):
        read({key: value for key, value in members.items() if key != name})
    with pytest.raises(ArtifactError, match=name):
        read(members | {name: b"\x00garbage"})


def test_an_array_of_objects_is_never_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members = members_of(make_matcher(), ENCODER)
    with pytest.raises(ArtifactError, match=r"exemplars\.npy: not an array"):
        matcher_of(members | {"exemplars.npy": buffer.getvalue()}, 5)


# Into use, and back


def test_activating_keeps_the_bundle_before_and_rolling_back_exchanges_them(tmp_path):
    active = tmp_path / "served" / "active.bundle"
    made = {}
    for name, each in (("one", 11), ("two", 12)):
        made[name] = write_bundle_file(tmp_path / name, {}, members_of(make_matcher(each=each), ENCODER))
        activate(tmp_path / name, active)
    assert read_bundle_file(active).version == made["two"]
    assert read_bundle_file(previous(active)).version == made["one"]
    roll_back(active)
    assert read_bundle_file(active).version == made["one"]
    roll_back(active)
    assert read_bundle_file(active).version == made["two"]
    assert sorted(path.name for path in active.parent.iterdir()) == [
        "active.bundle",
        "active.bundle.previous",
    ]


def test_without_a_previous_bundle_there_is_nothing_to_roll_back_to(tmp_path):
    activate_from = tmp_path / "one"
    write_bundle_file(activate_from, {}, members_of(make_matcher(), ENCODER))
    activate(activate_from, tmp_path / "active")
    with pytest.raises(PreconditionError, match="no previous bundle"):
        roll_back(tmp_path / "active")
