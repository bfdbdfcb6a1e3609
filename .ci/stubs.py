"""Regenerate the stubs of proto/ under server/; with --check, fail where the committed ones differ."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTOS = sorted((ROOT / "proto").rglob("*.proto"))


def generate(target: Path) -> None:
    """Run protoc; proto paths are package paths, so imports need no rewriting."""
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), *outputs]
    subprocess.run([*command, *map(str, PROTOS)], check=True)


def main() -> int:
    """Return the exit status."""
    if "--check" not in sys.argv:
        generate(ROOT / "server")
        return 0
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        fresh = sorted(Path(name).rglob("*_pb2*"))
        committed = [ROOT / "server" / path.relative_to(name) for path in fresh]
        stale = [
            old
            for new, old in zip(fresh, committed, strict=True)
            if not old.is_file() or not filecmp.cmp(new, old, shallow=False)
        ]
    for path in stale:
        print(f"stale: {path.relative_to(ROOT)}; run `make stubs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
