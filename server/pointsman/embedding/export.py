"""A tuned `SentenceTransformer` to the artefact that is served: an int8 ONNX graph and its tokenizer.

The graph holds the whole model, pooling too, and gives one row a text: (1, 1, d), of which `OnnxEncoder` takes
the mean, which is itself. The exporter is torch's own, over TorchScript: the newer one needs onnxscript.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import structlog

from pointsman.artifacts.disk import writing
from pointsman.embedding.card import GRAPH_FILE, TOKENIZER_FILE
from pointsman.embedding.centre import centred
from pointsman.embedding.encoder import Rows
from pointsman.embedding.graph import fuse, quantise
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.tune import embed
from pointsman.errors import ArtifactError

_log = structlog.get_logger()
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OPSET = 17
LEAST_COSINE = 0.99
"""Mean cosine to torch under which int8 is not worth its speed; the embedded default has 0.995."""
_LEAST_EXACT = 0.9999
_CHECKED = 200
"""Texts compared at most."""
_CHARACTERS = 200
"""Of each: within 256 tokens the graph reads all that the model reads; beyond, `long_text` has its own rule."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. cosine: mean of the graph's rows to torch's; quantised: int8, else fp32."""

    cosine: float
    quantised: bool


def export(model: Any, folder: Path, texts: Sequence[str], graph: str = GRAPH_FILE) -> Exported:
    """Write a graph and `tokenizer.json`, and compare their rows of some texts with the model's own.

    Where int8 is further than 0.99 from torch, the fp32 graph is written.

    Raises:
        ArtifactError: a model that cannot be exported, or whose graph embeds differently; a disk without room.

    """
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        raise ArtifactError("the model has no fast tokenizer; the onnx backend cannot serve it")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    texts = [text[:_CHARACTERS] for text in texts[:_CHECKED]]
    reference = embed(model, texts)
    with writing(str(folder / graph), folder), TemporaryDirectory(dir=folder) as name:
        exact, fused, small = (Path(name) / f"{step}.onnx" for step in ("exact", "fused", "small"))
        _export_graph(_centred(model, texts, reference), exact)
        cosine = _cosine(exact, folder, texts, reference)
        if not cosine >= _LEAST_EXACT:  # NaN is not
            raise ArtifactError(f"the exported graph is not the model: mean cosine to torch {cosine:.4f}")
        if _fused(exact, fused, folder, texts, reference):
            exact = fused
        quantise(exact, small)
        small_cosine = _cosine(small, folder, texts, reference)
        quantised = small_cosine >= LEAST_COSINE
        (small if quantised else exact).replace(folder / graph)
    return Exported(small_cosine if quantised else cosine, quantised)


def _centred(model: Any, texts: Sequence[str], reference: Rows) -> Any:
    """Return the model centred, if it still is the model: centring only makes int8 more exact."""
    try:
        moved = centred(model, texts)
        cosine = float(np.mean((embed(moved, texts) * reference).sum(axis=1)))
    except (RuntimeError, ValueError, TypeError) as error:  # torch's, for a shape of model it did not expect
        _log.warning("encoder.not_centred", error=f"{type(error).__name__}: {error}")
        return model
    if cosine >= _LEAST_EXACT:
        return moved
    _log.warning("encoder.not_centred", error=f"mean cosine to the model {cosine:.4f}")
    return model


def _fused(exact: Path, fused: Path, folder: Path, texts: Sequence[str], reference: Rows) -> bool:
    """Write the graph with its operators fused, and return whether it still is the model: fusing only saves time."""
    try:
        fuse(exact, fused)
        return _cosine(fused, folder, texts, reference) >= _LEAST_EXACT
    except OSError:  # a full disk is the caller's to tell
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's, of many kinds, for a shape of model it did not expect
        _log.warning("encoder.not_fused", error=f"{type(error).__name__}: {error}")
        return False


def _cosine(graph: Path, folder: Path, texts: Sequence[str], reference: Rows) -> float:
    rows = OnnxEncoder(graph, folder / TOKENIZER_FILE, 1).encode(texts)
    return float(np.mean((rows * reference).sum(axis=1)))


def _export_graph(model: Any, target: Path) -> None:
    import torch

    class Pooled(torch.nn.Module):
        """The graph's inputs to the model's, and its row to the shape of tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            features = dict(zip(_INPUTS, inputs, strict=True))
            return self.model(features)["sentence_embedding"].unsqueeze(1)

    example = torch.tensor([[1, 2, 3, 4]])
    model.eval()
    with warnings.catch_warnings(), torch.no_grad():
        # That TorchScript is the older way, and that shapes seen while tracing are remembered: the
        # comparison with the model, over texts of all lengths, would show it.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                Pooled().eval(),
                (example, torch.ones_like(example), torch.zeros_like(example)),
                str(target),
                input_names=list(_INPUTS),
                output_names=["rows"],
                dynamic_axes={name: {0: "texts", 1: "tokens"} for name in _INPUTS} | {"rows": {0: "texts"}},
                opset_version=_OPSET,
                dynamo=False,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArtifactError(f"the model cannot be exported to ONNX: {error}") from error
