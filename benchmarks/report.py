"""Measured figures to a Markdown file that says how they came about. Knows no benchmark."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

NOTHING = "-"
"""What a cell without a figure shows."""


def machine() -> str:
    """Return processor, usable cores, memory, system and Python; no host name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [_processor(), f"{cores} core{'s' if cores != 1 else ''}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
        parts.append(f"{memory:.0f} GiB")
    parts.append(f"{platform.system()} {platform.machine()}")
    parts.append(f"Python {platform.python_version()}")
    return ", ".join(parts)


def versions(*names: str) -> str:
    """Return 'name version' of each distribution, or that it is not installed."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, 0 to 100, interpolated; NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: first column to the left, the others to the right.

    Raises:
        ValueError: a row that is not as long as the headers.

    """
    lines = [_line(headers), "|---|" + "---:|" * (len(headers) - 1)]
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"a row of {len(row)} cells under {len(headers)} headers: {list(row)!r}")
        lines.append(_line(row))
    return "\n".join(lines)


def write(path: Path, title: str, body: str, command: str) -> None:
    """Write one result file: title, command, date, machine, then the body."""
    head = [
        f"# {title}",
        "",
        f"- Command: `{command}`",
        f"- Date: {datetime.now(UTC):%Y-%m-%d}",
        f"- Machine: {machine()}",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(head) + f"\n\n{body.strip()}\n", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    facts = _cpuinfo()
    name = facts.get("model name") or platform.processor() or platform.machine()
    # int8 figures depend on it: without VNNI the products take several instructions.
    flags = facts.get("flags", "").split()
    vnni = {"avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI"}
    found = [label for flag, label in vnni.items() if flag in flags]
    return f"{name} ({', '.join(found)})" if found else name


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first core; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
