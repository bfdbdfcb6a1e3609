"""The shipped encoder beside its alternatives: latency, throughput, and how far its rows are from fp32.

All variants take turns in one run (A B C A B C ...), so a busy moment of the machine hits each of them.
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import onnxruntime
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

import report
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.blend import blend
from pointsman.embedding.build import DEFAULT_MODEL, GRAPH, TOKENIZER, default_graph
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.graph import fold_weights, fuse, quantise
from pointsman.embedding.onnx_encoder import MAX_TOKENS, SLOWER_FUSIONS, OnnxEncoder
from pointsman.sections import default_threads
from pointsman.settings import load

ABOUT = f"""\
The row of sentence-transformers needs torch (a CPU build) and sentence-transformers; its weights are the official
ones of {DEFAULT_MODEL}.
"""
PROMPT = "I was charged twice for the same order and want my money back"
TEXTS = 200
BATCH = 16
_SINGLES = 10
"""Times the short prompt runs in one turn, after two runs that do not count."""
_INTENTS = Path(__file__).resolve().parents[1] / "intents"
FP32 = "ONNX fp32"
SHIPPED = "ONNX int8 dynamic, per channel, fused"
UNFUSED = "ONNX int8 dynamic, per channel, operators as exported and as ONNX Runtime fuses them by itself"

Encode = Callable[[Sequence[str]], Rows]


@dataclass(slots=True)
class Variant:
    """One encoder and what was measured of it."""

    name: str
    encoder: "Encoder | PaddedGraph"
    encode_batch: Encode  # as one padded batch, texts in the order given
    single_ms: list[float] = field(default_factory=list)
    alone_s: float = 0.0
    batched_s: float = 0.0
    texts: int = 0


class PaddedGraph:
    """What the package does not do: several texts in one run, padded to the longest."""

    def __init__(
        self, model: Path, tokenizer: Path, threads: int, disabled: Sequence[str] = SLOWER_FUSIONS
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the package has it
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return one unit row a text, (n, d)."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = np.asarray([encoding.ids for encoding in encodings], np.int64)  # (n, t)
        mask = np.asarray([encoding.attention_mask for encoding in encodings], np.int64)
        marks = np.asarray([encoding.special_tokens_mask for encoding in encodings], np.int64)  # and padding
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        tokens = self._session.run(None, feeds)[0]  # (n, t, d); a second output is for texts beyond the limit
        sums = (tokens * (1 - marks)[:, :, None]).sum(axis=1)
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def main() -> None:
    arguments = _parse()
    settings = load()
    store = ArtifactStore(settings.paths.models, Path.cwd())
    texts = _texts()
    with TemporaryDirectory() as scratch, threadpool_limits(limits=arguments.threads):
        variants = _onnx_variants(store, Path(scratch), arguments.threads)
        absent = _add_sentence_transformers(variants, arguments.threads)
        _take_turns(variants, texts, arguments.rounds)
        rows = _rows(variants, texts, absent)
    results = report.table(_HEADERS, rows)
    print(results)
    if arguments.out:
        versions = report.versions(
            "onnxruntime", "onnx", "tokenizers", "numpy", "sentence-transformers", "torch"
        )
        body = f"Versions: {versions}\n\n{results}\n\n{_legend(arguments.threads, arguments.rounds)}"
        command = f"python benchmarks/encoder.py --threads {arguments.threads} --rounds {arguments.rounds}"
        report.write(arguments.out, f"Encoder variants of {DEFAULT_MODEL}", body, command)


_HEADERS = [
    "",
    "p50 ms",
    "p99 ms",
    "p50 / shipped",
    "texts/s alone",
    f"texts/s by {BATCH}",
    "cosine to fp32: mean",
    "least",
    f"cosine in a batch of {BATCH} to alone: mean",
    "least",
]


def _legend(threads: int, rounds: int) -> str:
    return f"""\
{threads} thread{"s" if threads != 1 else ""}, {rounds} rounds. The bold row is what the service runs.

- p50, p99: one short prompt ({len(PROMPT.split())} words), {rounds * _SINGLES} runs, tokenising included.
- texts/s: {TEXTS // BATCH * BATCH} exemplars of `intents/`, one at a time, and in padded batches of {BATCH} sorted by length.
- cosine to fp32: {TEXTS} exemplars of `intents/`, each embedded alone, against {FP32} alone. The rows of \
sentence-transformers are of the last layer and with the marks of begin and end in their mean; the others blend it with \
the fourth, without marks.
- cosine in a batch to alone: a text's row from a batch of {BATCH} against its row alone. Dynamic \
quantisation scales activations over the whole batch, so below 1 a prompt's row depends on its neighbours; \
this is why the service embeds one text at a time."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    threads = default_threads()
    parser.add_argument("--threads", type=int, default=threads, help="threads of a variant (%(default)s)")
    parser.add_argument("--rounds", type=int, default=96, help="turns of each variant (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.rounds < 1:
        parser.error("--threads and --rounds start at 1")
    return arguments


def _texts() -> list[str]:
    """Return exemplars of all shipped intents, mixed with a fixed seed."""
    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_INTENTS.glob("*.yaml"))]
    exemplars = [text for document in documents for text in document["exemplars"]]
    order = np.random.default_rng(0).permutation(len(exemplars))[:TEXTS]
    return [exemplars[i] for i in order]


# --- variants -----------------------------------------------------------------------------------


def _onnx_variants(store: ArtifactStore, scratch: Path, threads: int) -> list[Variant]:
    published, tokenizer = store.fetch(GRAPH), store.fetch(TOKENIZER)
    steps = ("folded", "fused", "fp32", "weights_only", "blended", "per_tensor", "exported")
    folded, fused, fp32, weights_only, blended, per_tensor, exported = (
        scratch / f"{step}.onnx" for step in steps
    )
    fold_weights(published, folded)
    fuse(folded, fused)
    for source, target in ((folded, fp32), (published, weights_only), (fused, blended)):
        blend(source, target)
    quantise(blended, per_tensor, per_channel=False)
    quantise(fp32, exported)
    graphs = {
        FP32: fp32,
        "ONNX int8 weights only, as published": weights_only,
        "ONNX int8 dynamic, per tensor, fused": per_tensor,
        SHIPPED: default_graph(store),
    }
    variants = [
        Variant(name, OnnxEncoder(path, tokenizer, threads), PaddedGraph(path, tokenizer, threads).encode)
        for name, path in graphs.items()
    ]
    plain = PaddedGraph(exported, tokenizer, threads, disabled=())
    return [*variants[:-1], Variant(UNFUSED, plain, plain.encode), variants[-1]]


def _add_sentence_transformers(variants: list[Variant], threads: int) -> str | None:
    """Add the reference as the first variant; return why not, where it cannot be had."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "sentence_transformers")):
        return "not installed"
    from pointsman.embedding.sentence_encoder import SentenceEncoder
    from pointsman.embedding.weights import default_weights

    store = ArtifactStore(load().paths.models, Path())
    encoder = SentenceEncoder(str(default_weights(store)), threads)
    variants.insert(0, Variant(_SENTENCE_TRANSFORMERS, encoder, encoder.encode))
    return None


_SENTENCE_TRANSFORMERS = "sentence-transformers, torch fp32"


# --- measurement --------------------------------------------------------------------------------


def _take_turns(variants: Sequence[Variant], texts: Sequence[str], rounds: int) -> None:
    batches = _batches(texts)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for turn in progress.track(range(rounds), description="rounds"):
            for variant in variants:
                _take_turn(variant, batches[turn % len(batches)])


def _take_turn(variant: Variant, batch: Sequence[str]) -> None:
    for run in range(_SINGLES + 2):
        start = perf_counter()
        variant.encoder.encode([PROMPT])
        if run >= 2:
            variant.single_ms.append(1e3 * (perf_counter() - start))
    start = perf_counter()
    for text in batch:
        variant.encoder.encode([text])
    variant.alone_s += perf_counter() - start
    start = perf_counter()
    variant.encode_batch(batch)
    variant.batched_s += perf_counter() - start
    variant.texts += len(batch)


def _batches(texts: Sequence[str]) -> list[list[str]]:
    """Return full batches of texts of like length."""
    ordered = sorted(texts, key=len)
    return [ordered[i : i + BATCH] for i in range(0, len(ordered) - BATCH + 1, BATCH)]


def _rows(variants: Sequence[Variant], texts: Sequence[str], absent: str | None) -> list[list[str]]:
    named = {variant.name: variant for variant in variants}
    shipped_ms = report.percentile(named[SHIPPED].single_ms, 50)
    reference = _alone(named[FP32], texts)
    rows = []
    if absent:
        rows.append([_SENTENCE_TRANSFORMERS, absent, *[report.NOTHING] * (len(_HEADERS) - 2)])
    for variant in variants:
        p50, p99 = (report.percentile(variant.single_ms, percent) for percent in (50, 99))
        fidelity = _cosines(_alone(variant, texts), reference)
        batched = [text for batch in _batches(texts) for text in batch]
        inside = np.concatenate([variant.encode_batch(batch) for batch in _batches(texts)])
        stability = _cosines(inside, _alone(variant, batched))
        label = f"**{variant.name} (shipped)**" if variant.name == SHIPPED else variant.name
        rows.append(
            [
                label,
                f"{p50:.2f}",
                f"{p99:.2f}",
                f"{p50 / shipped_ms:.2f}",
                f"{variant.texts / variant.alone_s:.0f}",
                f"{variant.texts / variant.batched_s:.0f}",
                f"{fidelity.mean():.4f}",
                f"{fidelity.min():.4f}",
                f"{stability.mean():.4f}",
                f"{stability.min():.4f}",
            ]
        )
    return rows


def _alone(variant: Variant, texts: Sequence[str]) -> Rows:
    return np.concatenate([variant.encoder.encode([text]) for text in texts])


def _cosines(a: Rows, b: Rows) -> Rows:
    return np.asarray((a * b).sum(axis=1), np.float32)


if __name__ == "__main__":
    main()
