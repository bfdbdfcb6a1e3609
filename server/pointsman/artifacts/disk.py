"""What a disk refuses, as an error that names the folder and the reason."""

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pointsman.errors import ArtifactError

_SPARE_BYTES = 1 << 30
"""What is left free of a disk, or a twentieth of a small one: others write there too."""


def full(*folders: Path) -> str:
    """Return the sentence that one of these folders has no room, with what each has."""
    rooms = [
        f"{folder} ({shutil.disk_usage(folder).free >> 20} MiB free)" for folder in folders if folder.exists()
    ]
    return f"no space left on the disk of {' or '.join(rooms)}"


def ensure_room(what: str, folder: Path, size_bytes: int) -> None:
    """Refuse to write so much that a disk has nothing to spare.

    Raises:
        ArtifactError: names both sizes.

    """
    usage = shutil.disk_usage(folder)
    if size_bytes > usage.free - min(_SPARE_BYTES, usage.total // 20):
        raise ArtifactError(f"{what}: its {size_bytes >> 20} MiB would fill the disk: {full(folder)}")


@contextmanager
def writing(what: str, folder: Path) -> Generator[None, None, None]:
    """Run a block that writes model files under a folder.

    Raises:
        ArtifactError: the disk is full, or the folder cannot be written; says what was written, where and why.

    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            reason = full(folder)
        else:
            where = "" if error.filename is None else f": {error.filename}"
            reason = f"{error.strerror or error}{where}"
        raise ArtifactError(f"{what}: {reason}") from error
