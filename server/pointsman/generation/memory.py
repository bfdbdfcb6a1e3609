"""What a process holds in memory, as Linux counts it."""

from pathlib import Path

_KIB = 1024


def resident_bytes(pid: int | None) -> int | None:
    """Return the proportional resident size of a process and its children, in bytes; None where it cannot be read.

    Of pages that processes share, as two engines do with one base file, each is counted its part (Pss).
    """
    if pid is None:
        return None
    total = 0
    try:
        for number in [pid, *_children(pid)]:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="ascii").splitlines()
            total += next(int(line.split()[1]) * _KIB for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration, ValueError):  # gone, another system, or not ours to read
        return None
    return total


def _children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text(encoding="ascii").split()] if children.exists() else []
