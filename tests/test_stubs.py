"""The check of the committed stubs: of every proto, fresh, and of nothing else."""

import runpy
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DIFFERING = runpy.run_path(str(ROOT / ".ci" / "stubs.py"))["differing"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the protos and of their stubs."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copytree(ROOT / "server" / "pointsman" / "v1", tmp_path / "server" / "pointsman" / "v1")
    return tmp_path


def test_the_stubs_here_are_those_of_the_protos(tree: Path) -> None:
    assert DIFFERING(tree) == []


def test_stubs_of_a_proto_that_was_deleted_are_named(tree: Path) -> None:
    for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
        (tree / "server" / "pointsman" / "v1" / f"billing{suffix}").write_text("# once made")
    assert DIFFERING(tree) == [
        f"no proto makes server/pointsman/v1/billing{suffix}; delete it"
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    ]


def test_a_stub_that_was_edited_or_is_missing_is_named(tree: Path) -> None:
    folder = tree / "server" / "pointsman" / "v1"
    with (folder / "router_pb2.py").open("a") as file:
        file.write("# edited\n")
    (folder / "catalog_pb2.pyi").unlink()
    assert DIFFERING(tree) == [
        "stale: server/pointsman/v1/catalog_pb2.pyi; run `make stubs`",
        "stale: server/pointsman/v1/router_pb2.py; run `make stubs`",
    ]
