"""Promises of the package as a whole."""

import subprocess
import sys
from pathlib import Path

import pytest

import pointsman

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_these() -> None:
    assert sorted(pointsman.__all__) == ["AsyncClient", "Client", "__version__"]
    for name in pointsman.__all__:
        assert getattr(pointsman, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = pointsman.nothing


def _imports(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_a_client_imports_nothing_that_serves() -> None:
    heavy = {"onnxruntime", "faiss", "xllamacpp", "openai", "torch", "numpy", "pydantic", "structlog"}
    assert not heavy & _imports("pointsman.client")


def test_serving_imports_no_torch_and_no_engine() -> None:
    loaded = _imports("pointsman.host.serve, pointsman.embedding.onnx_encoder")
    assert "onnxruntime" in loaded
    assert not {"torch", "transformers", "sentence_transformers", "xllamacpp", "ctransformers"} & loaded


def test_no_room_knows_a_room_after_it() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_setting_is_documented() -> None:
    from pointsman.settings import known_variables

    text = (ROOT / "docs" / "configuration.md").read_text()
    assert [name for name in known_variables() if name not in text] == []


def test_files_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "server").rglob("*.py")
        if "v1" not in path.parts and (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
