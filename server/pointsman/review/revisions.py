"""A folder of intents, or a git revision of one, to intents whose every text has a place. Knows no vectors.

Git is asked for names and contents only (`rev-parse`, `ls-tree`, `cat-file`): nothing is checked out, and no
hook, no filter and no attribute of the repository takes part.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pointsman.catalog.files import read
from pointsman.catalog.schema import IntentFile
from pointsman.catalog.yaml_document import MAX_BYTES, Document, too_large
from pointsman.errors import CatalogError
from pointsman.values.catalog import Catalog, Intent, Problem

_SUFFIXES = (".yaml", ".yml")
_GIT_TIMEOUT_S = 60.0
_REGULAR = "100"
"""How git's modes of plain files begin; a link is 120000, a submodule 160000."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an intent is stated."""

    file: str
    document: Document


@dataclass(frozen=True, slots=True)
class Revision:
    """What a folder states: intents by name, their places, and the problems of what was refused.

    Targets are not looked up: that takes the specialists, and is for `pointsman check`.
    """

    name: str
    intents: tuple[Intent, ...]
    sources: Mapping[str, Source]
    problems: tuple[Problem, ...] = ()

    @property
    def catalog(self) -> Catalog:
        """The intents, ready to be routed by."""
        return Catalog(self.intents)

    def place(self, intent: str, *path: str | int) -> tuple[str, int]:
        """Return file and 1-based line of a field of an intent, such as `("exemplars", 3)`."""
        source = self.sources[intent]
        return source.file, source.document.line(path)


def load_revision(text: str, folder: Path) -> Revision:
    """Return what `text` names: a folder, `REV:path`, or `REV`, which stands for `folder` at that revision.

    Raises:
        CatalogError: neither a folder nor a revision, or one with files that do not parse; names each.

    """
    revision = read_folder(Path(text), text) if text and Path(text).is_dir() else _read_git(text, folder)
    if revision.problems:
        raise CatalogError(revision.problems)
    return revision


def read_folder(folder: Path, name: str, label: str | None = None) -> Revision:
    """Read the files of a folder. `label` stands for the folder's name where problems and places are named.

    Raises:
        CatalogError: no such folder.

    """
    if not folder.is_dir():
        raise _refusal(str(folder), "no such folder")
    shown = folder.resolve().name if label is None else label
    intents: dict[str, Intent] = {}
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in _SUFFIXES or path.name.startswith("."):
            continue
        file = _printable(f"{shown}/{path.name}")
        try:
            loaded = read(path, IntentFile, file)
        except CatalogError as error:
            problems += error.problems
            continue
        intent = loaded.value
        assert isinstance(intent, Intent)  # noqa: S101 - narrows the union
        if intent.name in intents:
            message = f"this intent already stands in {sources[intent.name].file}"
            problems.append(loaded.problem(file, "name", intent.name, message))
            continue
        intents[intent.name] = intent
        sources[intent.name] = Source(file, loaded.document)
    ordered = tuple(intents[key] for key in sorted(intents))
    return Revision(name, ordered, sources, tuple(problems))


def _read_git(text: str, folder: Path) -> Revision:
    revision, _, path = text.partition(":")
    _git(text, "rev-parse", "--git-dir")
    if not revision or revision.startswith("-"):
        raise _refusal(text, "no such folder, and no name of a git revision")
    commit = _git(
        text,
        *("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"),
        otherwise="no such folder, and no such git revision (a shallow clone holds few: fetch it first)",
    ).decode()
    path = path.strip("/") if path else _below_top(text, folder)
    path = "" if path == "." else path
    listing = _git(
        text,
        *("ls-tree", "-z", "-l", "--full-tree", f"{commit.strip()}:{path}"),
        otherwise=f"the revision has no folder {path!r}; name another with REV:path",
    )
    with TemporaryDirectory(prefix="pointsman-") as scratch:
        problems = _fetch(text, listing, Path(scratch), f"{revision}:{path}")
        found = read_folder(Path(scratch), text, f"{revision}:{path}")
    return Revision(text, found.intents, found.sources, (*problems, *found.problems))


def _below_top(text: str, folder: Path) -> str:
    """Return the folder as git names it, from the top of the repository."""
    top = Path(os.fsdecode(_git(text, "rev-parse", "--show-toplevel")).strip())
    try:
        return folder.resolve().relative_to(top.resolve()).as_posix()
    except ValueError:
        message = f"{folder} is not in the git repository {top}; name a folder of it with REV:path"
        raise _refusal(text, message) from None


def _fetch(text: str, listing: bytes, scratch: Path, label: str) -> list[Problem]:
    """Write the YAML files of an `ls-tree -z -l` listing to a folder; returns what could not be taken."""
    problems: list[Problem] = []
    wanted: list[tuple[str, str]] = []
    for entry in listing.split(b"\0")[:-1]:
        about, _, raw_name = entry.partition(b"\t")
        mode, _, blob, size = about.decode().split()
        name = os.fsdecode(raw_name)
        if not name.endswith(_SUFFIXES) or name.startswith("."):
            continue
        file = _printable(f"{label}/{name}")
        if not mode.startswith(_REGULAR):
            problems.append(Problem(file, 0, "", "", "not a regular file; links are not followed in git"))
        elif int(size) > MAX_BYTES:
            problems.append(Problem(file, 0, "", "", too_large(int(size)).message))
        else:
            wanted.append((name, blob))
    asked = "".join(f"{blob}\n" for _, blob in wanted).encode()
    answer = _git(text, "cat-file", "--batch", stdin=asked)
    start = 0
    for name, blob in wanted:  # each is a line `blob type size`, the content, and a newline
        end = answer.index(b"\n", start)
        header = answer[start:end].decode().split()
        if header[1:2] != ["blob"]:
            raise _refusal(f"{label}/{name}", f"git has lost the content {blob} of this file")
        stop = end + 1 + int(header[2])
        (scratch / name).write_bytes(answer[end + 1 : stop])
        start = stop + 1
    return problems


def _git(text: str, *arguments: str, stdin: bytes = b"", otherwise: str = "") -> bytes:
    """Return what git answers; a complaint becomes an error, in git's words or `otherwise`."""
    executable = shutil.which("git")
    if executable is None:
        raise _refusal(text, "no such folder; a git revision takes the program git, which is not installed")
    try:
        done = subprocess.run(
            [executable, *arguments], input=stdin, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _refusal(text, f"git {arguments[0]} did not end within {_GIT_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise _refusal(text, f"git cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _refusal(text, otherwise or f"no such folder, and git says: {' '.join(said[:1])}")
    return done.stdout


def _refusal(where: str, message: str) -> CatalogError:
    return CatalogError([Problem(_printable(where), 0, "", "", message)])


def _printable(file: str) -> str:
    return os.fsencode(file).decode("utf-8", "backslashreplace")
