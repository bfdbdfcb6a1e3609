"""Writing files that others read at any moment."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from pointsman.errors import PreconditionError


def replace_file(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=".", suffix=".tmp", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise


def guard_writes(write: Callable[[], None], folder: Path) -> None:
    """Write into a folder.

    Raises:
        PreconditionError: it cannot be written.

    """
    try:
        write()
    except OSError as error:
        raise PreconditionError(f"{folder.name}/ cannot be written: {error.strerror}") from error
