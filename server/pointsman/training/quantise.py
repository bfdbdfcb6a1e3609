"""A model to a smaller one, by llama.cpp's `llama-quantize`: no Python package offers its K-quants."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from pointsman.errors import ArtifactError, ConfigError
from pointsman.generation.gguf_check import check_base, open_gguf
from pointsman.settings import child_environment

_TOOL = "llama-quantize"
_KIND = re.compile(r"^[A-Z0-9_]+$")
_LINES_SHOWN = 3


def find_tool(binary: Path | None, llama_server: Path | None) -> Path:
    """Return `llama-quantize`: the one named, the one on the path, or the one beside `llama-server`.

    Raises:
        ConfigError: there is none.

    """
    if binary is not None:
        if not os.access(binary, os.X_OK):
            raise ConfigError(f"--binary {binary}: no such program")
        return binary
    if found := shutil.which(_TOOL):
        return Path(found)
    if llama_server and os.access(beside := llama_server.with_name(_TOOL), os.X_OK):
        return beside
    raise ConfigError(
        f"{_TOOL} is neither on the path nor beside engine.llama_server; it comes with every build of llama.cpp "
        "(docs/train-a-specialist.md), and --binary names it"
    )


def quantise(tool: Path, source: Path, out: Path, kind: str) -> None:
    """Write `out`, whole or not at all.

    Raises:
        ConfigError: no such type.
        ArtifactError: not a model, or the tool failed; says what it said.

    """
    if not _KIND.match(kind):
        raise ConfigError(f"--type: must be one of llama.cpp's, such as Q4_K_M (got {kind})")
    check_base(source)
    scratch = out.with_name(f".{out.name}.part")
    try:
        result = subprocess.run(
            [str(tool), str(source), str(scratch), kind],
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode:
            said = " | ".join(result.stdout.strip().splitlines()[-_LINES_SHOWN:])
            raise ArtifactError(f"{tool.name} ended with status {result.returncode}: {said}")
        open_gguf(scratch)
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
