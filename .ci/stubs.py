"""Regenerate the stubs of proto/ under server/; with --check, fail where the ones there differ, or belong to no proto."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def generate(root: Path, target: Path) -> None:
    """Run protoc; proto paths are package paths, so imports need no rewriting."""
    protos = sorted((root / "proto").rglob("*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root / "proto"), *outputs]
    subprocess.run([*command, *map(str, protos)], check=True)


def stubs_in(folder: Path) -> set[Path]:
    """Return the stubs under a folder, by their paths within it."""
    return {path.relative_to(folder) for path in folder.rglob("*_pb2*.py*") if path.suffix in {".py", ".pyi"}}


def differing(root: Path) -> list[str]:
    """Return what is wrong with the stubs of a tree: stale, missing, or of a proto that is gone."""
    with tempfile.TemporaryDirectory() as name:
        fresh, there = Path(name), root / "server"
        generate(root, fresh)
        stale = [
            f"stale: server/{path}; run `make stubs`"
            for path in sorted(stubs_in(fresh))
            if not (there / path).is_file() or not filecmp.cmp(fresh / path, there / path, shallow=False)
        ]
        orphans = sorted(stubs_in(there) - stubs_in(fresh))
    return stale + [f"no proto makes server/{path}; delete it" for path in orphans]


def main() -> int:
    """Return the exit status."""
    if "--check" not in sys.argv:
        generate(ROOT, ROOT / "server")
        return 0
    wrong = differing(ROOT)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
