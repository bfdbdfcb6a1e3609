"""That a file had its sha256, remembered beside it by how it looked then: hashing gigabytes at every start takes seconds.

Whatever writes a file changes how it looks. A disk that loses bits does not: `pointsman models pull` hashes all anew.
This is against damage, not against somebody who may write the folder.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from pointsman.artifacts.whole_file import signature_of, whole_file


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        OSError: it cannot be read.

    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remember(path: Path) -> None:
    """Note beside a file that it was verified as it looks now; nothing where the folder cannot be written."""
    with suppress(OSError), whole_file(_note(path)) as note:
        note.write(json.dumps(signature_of(path)).encode())


def remembered(path: Path) -> bool:
    """Return whether a file was verified, and looks as it did then."""
    try:
        return bool(json.loads(_note(path).read_bytes()) == list(signature_of(path)))
    except (OSError, ValueError):  # no note, or half of one
        return False


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")
