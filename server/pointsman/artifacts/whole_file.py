"""Files that others read at any moment: replaced whole, or not at all; and whether they changed since."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO


@contextmanager
def whole_file(path: Path, mode: int = 0o644) -> Generator[IO[bytes], None, None]:
    """Yield a file that takes the place of `path` at the end of the block; one that raises leaves it as it was.

    Raises:
        OSError: the folder cannot be written.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        scratch = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            scratch.chmod(mode)
            scratch.replace(path)
        except BaseException:  # Ctrl-C, too, leaves nothing half-written behind
            scratch.unlink(missing_ok=True)
            raise


def signature_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does, whether written in place or replaced, without reading it.

    Raises:
        OSError: there is no such file.

    """
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
