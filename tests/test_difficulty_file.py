"""A difficulty file: what was saved is what is served, and nothing else is."""

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import unit_rows
from outcome_builders import HASH, D, outcomes_of
from pointsman.decision.difficulty import ALL_CLOUD, Difficulty, QualityPromise, fit
from pointsman.decision.difficulty_file import load, save
from pointsman.decision.outcomes import make_outcomes
from pointsman.errors import ArtifactError


@pytest.fixture(scope="module")
def fitted() -> Difficulty:
    return fit(outcomes_of(900, 1), outcomes_of(500, 2), QualityPromise(0.9, 0.9), HASH, 0.25)


@pytest.fixture
def file(fitted, tmp_path) -> Path:
    save(fitted, tmp_path / "difficulty.npz", datetime(2026, 1, 2, tzinfo=UTC))
    return tmp_path / "difficulty.npz"


def test_a_file_says_the_same_as_what_was_saved(fitted, file):
    saved = load(file, HASH)
    queries = outcomes_of(100, 6)
    np.testing.assert_allclose(saved.difficulty.score(queries), fitted.score(queries), atol=1e-12)
    for name in ("threshold", "promise", "alpha", "encoder_hash", "cut", "topics"):
        assert getattr(saved.difficulty, name) == getattr(fitted, name)
    assert saved.difficulty.training.topics == fitted.training.topics
    assert saved.fitted == "2026-01-02T00:00:00+00:00"


def test_a_file_that_was_read_can_be_appended_to(fitted, file):
    new = outcomes_of(100, 8)
    grown = load(file).difficulty.append(new)
    np.testing.assert_allclose(grown.score(new), fitted.append(new).score(new), atol=1e-9)


@pytest.mark.parametrize("labels", [0, 1, 250])
def test_one_that_is_off_can_be_saved_too(labels, tmp_path):
    save(fit(outcomes_of(labels, 1), outcomes_of(labels, 2)), tmp_path / "off.npz")
    found = load(tmp_path / "off.npz").difficulty
    assert not found.on
    assert found.threshold == ALL_CLOUD
    assert len(found.training) == labels


def test_the_same_labels_make_the_same_bytes(fitted, file):
    before = file.read_bytes()
    save(fitted, file, datetime(2026, 1, 2, tzinfo=UTC))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_file_holds_no_prompt(tmp_path):
    rows = unit_rows(np.random.default_rng(0), 2, D)
    labels = make_outcomes(rows, ["a very secret prompt", "another"], ["law", None], [1, 1], [1, 1])
    save(fit(labels, labels.take(np.zeros(0, np.int64))), tmp_path / "d.npz")
    with zipfile.ZipFile(tmp_path / "d.npz") as archive:
        assert all(b"secret" not in archive.read(name) for name in archive.namelist())


def test_a_file_of_another_encoder_is_refused(file):
    with pytest.raises(
        ArtifactError, match=r"difficulty\.npz: was fitted with the encoder abab.*fit it again"
    ):
        load(file, "cd" * 32)


@settings(max_examples=60)
@given(st.data())
def test_a_truncated_file_is_refused(fitted, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "d.npz"
    save(fitted, path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ArtifactError, match="not a difficulty file"):
        load(path)


@settings(max_examples=150)
@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(fitted, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "d.npz"
    save(fitted, path)
    content = bytearray(path.read_bytes())
    place = data.draw(
        st.integers(0, len(content) - 1) | st.integers(0, 400).map(lambda i: len(content) - 1 - i)
    )
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load(path).difficulty
    except ArtifactError:
        return
    np.testing.assert_array_equal(found.training.rows, fitted.training.rows)
    assert found.threshold == fitted.threshold


def rewritten(file: Path, **changes) -> None:
    with np.load(file) as content:
        members = {name: content[name] for name in content.files}
    np.savez(file, **(members | {name: change(members.get(name)) for name, change in changes.items()}))


def header_with(**fields):
    def change(old):
        return np.frombuffer(json.dumps(json.loads(old.tobytes()) | fields).encode(), np.uint8)

    return change


def test_a_threshold_that_was_moved_by_hand_is_refused(file):
    rewritten(file, header=header_with(threshold=0.9))
    with pytest.raises(ArtifactError, match="changed after the fit"):
        load(file)


def test_a_label_that_was_changed_by_hand_is_refused(file):
    rewritten(file, training_local=lambda old: 1 - old)
    with pytest.raises(ArtifactError, match="changed after the fit"):
        load(file)


def test_a_newer_format_is_refused_by_its_number(file):
    rewritten(file, header=header_with(format=2))
    with pytest.raises(ArtifactError, match="format 2; this version reads format 1"):
        load(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": header_with(training=899)}, "training_rows is float32"),
        ({"header": header_with(topics=[])}, "a topic that is not listed"),
        ({"header": header_with(target=2)}, "the target must be"),
        ({"header": header_with(surprise=1)}, "surprise"),
        ({"training_rows": lambda old: np.full_like(old, np.nan)}, "not finite"),
        ({"moments": lambda old: old[1:]}, "moments is float64"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_even_with_its_sum_renewed(file, changes, message):
    from pointsman.decision.difficulty_file import _digest

    rewritten(file, **changes)
    with np.load(file) as content:
        members = {name: content[name] for name in content.files}
    text = members.pop("header").tobytes()
    members.pop("sha256")
    rewritten(file, sha256=lambda _: np.frombuffer(_digest(text, members), np.uint8))
    with pytest.raises(ArtifactError, match=f"does not hold what its format says: .*{message}"):
        load(file)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip at all", b"\x93NUMPY"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match="not a difficulty file"):
        load(tmp_path / "d.npz")


def test_pickled_content_is_never_loaded(tmp_path):
    np.savez(tmp_path / "d.npz", header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ArtifactError, match="not a difficulty file"):
        load(tmp_path / "d.npz")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(ArtifactError, match="cannot be read"):
            load(path)


def test_a_place_that_cannot_be_written_is_named(fitted, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArtifactError, match=r"taken/d\.npz: cannot be written"):
        save(fitted, tmp_path / "taken" / "d.npz")
