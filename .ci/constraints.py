"""Resolve constraints.txt anew: every extra, without the CUDA packages of torch. Needs `uv` on the path."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "constraints.txt"
CUDA = re.compile(r"^(nvidia|cuda|triton)")
EXTRAS = (
    "standard",
    "encoder",
    "train",
    "ctransformers",
    "http",
    "policy",
    "postgres",
    "review",
    "telemetry",
    "dev",
)


def main() -> int:
    """Return the exit status."""
    head = "".join(line for line in TARGET.read_text().splitlines(keepends=True) if line.startswith("#"))
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"]
    extras = [part for extra in EXTRAS for part in ("--extra", extra)]
    result = subprocess.run(
        [*command, *extras, str(ROOT / "pyproject.toml")], check=True, text=True, stdout=subprocess.PIPE
    )
    lines = [line for line in result.stdout.splitlines(keepends=True) if not CUDA.match(line)]
    TARGET.write_text(head + "".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
