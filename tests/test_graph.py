"""Rewritten ONNX graphs compute what they did before."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import GRAPH, default_graph
from pointsman.embedding.graph import fold_weights, fuse
from pointsman.settings import load

LENGTHS = (5, 17, 40)


@pytest.fixture(scope="module")
def store() -> ArtifactStore:
    return ArtifactStore(load().paths.models, Path())


@pytest.fixture(scope="module")
def folded(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default in fp32, attention and GELU as torch's exporter wrote them."""
    path = tmp_path_factory.mktemp("graph") / "folded.onnx"
    fold_weights(store.fetch(GRAPH), path)
    return path


def _operators(graph: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(graph).graph.node)


def _tokens(graph: Path, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def test_a_fused_graph_embeds_as_before_short_long_and_padded(folded, tmp_path) -> None:
    fuse(folded, tmp_path / "fused.onnx")
    ids = np.random.default_rng(0).integers(1000, 30_000, (len(LENGTHS), max(LENGTHS)))
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    before, after = (_tokens(graph, ids, mask) for graph in (folded, tmp_path / "fused.onnx"))
    np.testing.assert_allclose(after[mask == 1], before[mask == 1], atol=1e-4)
    alone = _tokens(tmp_path / "fused.onnx", ids[:1, : LENGTHS[0]], mask[:1, : LENGTHS[0]])
    np.testing.assert_allclose(after[:1, : LENGTHS[0]], alone, atol=1e-4)


def test_each_layer_of_the_default_has_one_attention_in_int8_and_one_gelu(folded, store) -> None:
    layers = _operators(folded)["Softmax"]
    served = _operators(default_graph(store))
    assert layers == served["QAttention"] == served["Gelu"] == 6
    assert not served.keys() & {"Softmax", "Erf", "MatMul"}


def _scale_differently(graph: onnx.GraphProto) -> None:
    """Let the first layer's scores be a third of what they are."""
    transposed = {node.output[0] for node in graph.node if node.op_type == "Transpose"}
    scaling = next(node for node in graph.node if node.op_type == "Mul" and node.input[0] in transposed)
    root = next(constant for constant in graph.initializer if constant.name == scaling.input[1])
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(root) / np.float32(3), "third"))
    scaling.input[1] = "third"


def _key_by_other_rows(graph: onnx.GraphProto) -> None:
    """Let the second layer's keys be of the first one's rows."""
    first, second = (_product(graph, f"layer.{i}.attention.self.key.bias") for i in (0, 1))
    second.input[0] = first.input[0]


def _product(graph: onnx.GraphProto, bias: str) -> onnx.NodeProto:
    """Return the node whose output a bias is added to."""
    added = next(node for node in graph.node if any(name.endswith(bias) for name in node.input))
    return next(node for node in graph.node if node.output[0] in added.input)


@pytest.mark.parametrize(("change", "left"), [(_scale_differently, 0), (_key_by_other_rows, 1)])
def test_what_only_resembles_attention_still_computes_what_it_did(folded, tmp_path, change, left) -> None:
    model = onnx.load(folded)
    change(model.graph)
    onnx.save(model, tmp_path / "changed.onnx")
    fuse(tmp_path / "changed.onnx", tmp_path / "fused.onnx")
    assert _operators(tmp_path / "fused.onnx")["Softmax"] == left
    ids = np.random.default_rng(1).integers(1000, 30_000, (1, 12))
    graphs = (folded, tmp_path / "changed.onnx", tmp_path / "fused.onnx")
    original, before, after = (_tokens(graph, ids, np.ones_like(ids)) for graph in graphs)
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert np.abs(before - original).max() > 0.01


def test_a_graph_without_attention_is_written_as_it_is(tmp_path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Softmax", ["y"], ["z"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "plain.onnx")
    fuse(tmp_path / "plain.onnx", tmp_path / "fused.onnx")
    assert _operators(tmp_path / "fused.onnx") == {"MatMul": 1, "Softmax": 1}
