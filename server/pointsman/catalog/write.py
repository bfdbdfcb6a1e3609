"""Writing the files of a catalog."""

from collections.abc import Callable
from pathlib import Path

from pointsman.artifacts.whole_file import whole_file
from pointsman.errors import PreconditionError


def replace_file(path: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all."""
    with whole_file(path, mode=0o600) as file:
        file.write(text.encode())


def guard_writes(write: Callable[[], None], folder: Path) -> None:
    """Write into a folder.

    Raises:
        PreconditionError: it cannot be written.

    """
    try:
        write()
    except OSError as error:
        raise PreconditionError(f"{folder.name}/ cannot be written: {error.strerror}") from error
