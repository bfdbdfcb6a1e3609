"""ONNX graphs to faster ones that compute the same: weights folded, operators fused, multiplications in int8.

A prompt is a dozen tokens, so an encoding is short: of 2.1 ms a quarter went to reshaping small tensors around
attention and GELU (benchmarks/encoder.py). ONNX Runtime has one operator for either.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.artifacts.disk import full
from pointsman.errors import ArtifactError

_DOMAIN, _MASK = "com.microsoft", "mask"
_MERGING = {"Reshape", "Transpose"}
_SPLITTING = _MERGING | {"Mul"}
"""What stands between rows and heads; the product is by a constant that scales scores."""


def fold_weights(source: Path, target: Path) -> None:
    """Rewrite a graph so that each `Mul(Cast(int8 constant), scale constant)` is one fp32 constant."""
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


def fuse(source: Path, target: Path) -> None:
    """Rewrite a BERT-shaped graph so that each attention, and each GELU, is one operator of ONNX Runtime.

    What is written in a way that neither ONNX Runtime's optimizer nor `_fuse_attention` knows stays as it is. Whether
    the graph computes what it did is for the caller to see: what is added to scores is taken for the mask of padding.
    """
    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    model = onnx.load(source)
    _fuse_attention(model)
    options = FusionOptions("bert")
    options.enable_shape_inference = False  # needs sympy
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False  # slower on a CPU
    options.enable_bias_gelu = False  # in int8, the product before it adds the bias
    optimize_by_fusion(model, "bert", optimization_options=options).save_model_to_file(str(target))


def _fuse_attention(model: Any) -> None:
    """Fuse attention as torch's exporters write it; ONNX Runtime's optimizer knows older ways only.

    That is: q · k plus a mask, Softmax without its NaNs, times v. Each of the three is the product of the same rows and
    a weight, plus a bias, split into heads.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = _Graph(model.graph)
    for number, softmax in enumerate(node for node in model.graph.node if node.op_type == "Softmax"):
        try:
            found, last = graph.attention_around(softmax)
        except (KeyError, IndexError, StopIteration, TypeError, ValueError):  # written in another way
            continue
        names = f"attention_{number}_weight", f"attention_{number}_bias"
        model.graph.initializer.extend(map(numpy_helper.from_array, (found.weight, found.bias), names))
        inputs, outputs = [found.rows, *names, _MASK], list(last.output)
        attention = helper.make_node(
            "Attention", inputs, outputs, domain=_DOMAIN, num_heads=found.heads, scale=found.scale
        )
        last.CopyFrom(attention)
    if any(node.op_type == "Attention" for node in model.graph.node):
        model.graph.node.insert(
            0, helper.make_node("Cast", ["attention_mask"], [_MASK], to=TensorProto.INT32)
        )
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))


@dataclass(frozen=True, slots=True)
class _Projection:
    """Of rows by that name: weight (d, d) and bias (d,), split into heads, times a scale.

    Of an attention, (d, 3d) and (3d,): those for q, k and v side by side.
    """

    rows: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    heads: int
    scale: float


class _Graph:
    """A graph by what its nodes make and read."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output}
        self._readers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def attention_around(self, softmax: Any) -> tuple[_Projection, Any]:
        """Return the projections of the attention that a Softmax belongs to, and the node that ends it.

        Raises:
            KeyError, IndexError, StopIteration, TypeError, ValueError: it is written in another way.

        """
        guarded = next(node for node in self._readers[softmax.output[0]] if node.op_type == "Where")
        mixed = self._readers[guarded.output[0]][0]
        masked = self._made[softmax.input[0]]
        scores = self._made[masked.input[0]]
        q, k, v = map(self._projection, (*scores.input, mixed.input[1]))
        last = mixed
        while following := [node for node in self._readers[last.output[0]] if node.op_type in _MERGING]:
            last = following[0]
        operators = [node.op_type for node in (scores, masked, mixed)]
        if operators != ["MatMul", "Add", "MatMul"] or not q.rows == k.rows == v.rows or v.scale != 1.0:
            raise ValueError(softmax.name)
        weight, bias = np.hstack([q.weight, k.weight, v.weight]), np.hstack([q.bias, k.bias, v.bias])
        return _Projection(q.rows, weight, bias, q.heads, q.scale * k.scale), last

    def _projection(self, name: str) -> _Projection:
        node = split = self._made[name]
        scale = 1.0
        while node.op_type in _SPLITTING:
            if node.op_type == "Mul":
                scale *= float(self._constants[node.input[1]])
            node, split = self._made[node.input[0]], node
        bias, product = sorted(node.input, key=lambda name: name not in self._constants)
        rows, weight = self._made[product].input
        size = self._constants[self._made[split.input[1]].input[-1]]
        heads = self._constants[bias].size // int(size[0])
        return _Projection(rows, self._constants[weight], self._constants[bias], heads, scale)


def quantise(source: Path, target: Path, *, per_channel: bool = True) -> None:
    """Rewrite an fp32 graph so that it multiplies in int8, with a scale for each channel or tensor.

    Raises:
        ArtifactError: it cannot be quantised, perhaps for want of room on a disk.

    """
    from google.protobuf.message import DecodeError
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises a preprocessing step that needs torch and gains nothing here.
    logging.getLogger().addFilter(_without_preprocessing_advice)
    try:
        # What ONNX Runtime's own operators return, shape inference does not know.
        known = {"DefaultTensorType": TensorProto.FLOAT}
        quantize_dynamic(
            source, target, weight_type=QuantType.QInt8, per_channel=per_channel, extra_options=known
        )
    except DecodeError as error:  # its scratch files are written without a look at whether they could be
        rooms = full(target.parent, Path(gettempdir()))
        raise ArtifactError(f"{source}: cannot be quantised: {error}; perhaps {rooms}") from error
    finally:
        logging.getLogger().removeFilter(_without_preprocessing_advice)


def _without_preprocessing_advice(record: object) -> bool:
    return "pre-processing before quantization" not in str(getattr(record, "msg", ""))
