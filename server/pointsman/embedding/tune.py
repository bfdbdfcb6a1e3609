"""Contrastive fine-tuning of an encoder on exemplars: one intent's together, different intents' apart.

The loss is sentence-transformers' `MultipleNegativesRankingLoss` (InfoNCE: van den Oord, Li and Vinyals,
'Representation Learning with Contrastive Predictive Coding', 2018) over batches of distinct intents with two
exemplars each: an exemplar must be nearer to its mate than to every other text of the batch. Each text is
embedded once a pass. Knows no index and no thresholds.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import DEFAULT_MODEL
from pointsman.embedding.encoder import Rows
from pointsman.embedding.weights import default_weights
from pointsman.errors import ConfigError

_CHUNK = 25
"""Texts of like length that run together: in one batch of 100, a third of the work is padding."""
_MOST_TOKENS = 64
"""Read of an exemplar while tuning: 300 texts of 256 tokens would take tens of gigabytes."""
LEAST_TO_HOLD_OUT = 5
"""Exemplars of an intent from which one is kept out."""
_NO_LABELS: Any = None
"""The loss takes labels, as all of its kind, and uses none."""
_GRADIENT_NORM = 1.0
_WARM_UP = 0.1
_WEIGHT_DECAY = 0.01
AS_GOOD = 1.02
"""Times the lowest held-out loss. It is flat at its end, where the steps are small; on validation prompts of CLINC150, 10
exemplars an intent, a tuning on all in 6 passes, the best of 8, was 0.3 points of joint accuracy behind one in 8."""
_SCALES = (5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0)
"""Inverse temperatures at which held-out exemplars are looked at."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune. Chosen on the validation split of CLINC150, 10 exemplars an intent, seeds 0 to 2.

    epochs: most passes over the exemplars
    patience: passes without a lower held-out loss after which it stops
    intents_a_batch: with two exemplars each
    scale: inverse temperature of the loss
    tuned_share: of the result; the rest are the weights it started from (Wortsman et al., 'Robust fine-tuning
      of zero-shot models', 2022): what the exemplars do not speak of is remembered, so that out-of-scope
      prompts are told apart better
    """

    epochs: int = 8
    patience: int = 3
    intents_a_batch: int = 150
    learning_rate: float = 1.5e-4
    scale: float = 20.0
    tuned_share: float = 0.75
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts with the number of their intent, (n,)."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> "Lessons":
        """Return those that are chosen, (n,)."""
        return Lessons(
            tuple(text for text, wanted in zip(self.texts, chosen, strict=True) if wanted),
            self.labels[chosen],
        )

    def and_also(self, others: "Lessons") -> "Lessons":
        """Return these and others."""
        return Lessons((*self.texts, *others.texts), np.concatenate([self.labels, others.labels]))

    def named(self, words: Sequence[str]) -> "Lessons":
        """Return these, and the name of each intent (C,) as one more text of it."""
        return self.and_also(Lessons(tuple(words), np.arange(len(words))))


@dataclass(frozen=True, slots=True)
class Step:
    """How far a tuning is: steps done, in all.

    left_s: of this tuning, as if no pass were saved by an early stop
    final: whether nothing is kept out of it; else another one on all exemplars may follow
    """

    epoch: int
    epochs: int
    done: int
    total: int
    loss: float
    left_s: float
    final: bool


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass: mean loss over its batches, and the loss on held-out exemplars after it; NaN without such."""

    number: int
    loss: float
    held_out_loss: float


Watch = Callable[[Step], None]


def load_trainable(model: str, store: ArtifactStore, threads: int) -> Any:
    """Return a `SentenceTransformer` on the CPU; the embedded default without a hub.

    Raises:
        ConfigError: the extra is not installed, or there is no such model.
        ArtifactError: the weights of the embedded default cannot be fetched.

    """
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        message = "encoder tune needs torch and sentence-transformers; pip install 'pointsman[encoder]'"
        raise ConfigError(message) from None
    torch.set_num_threads(threads)
    is_default = model in {DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"}
    try:
        return SentenceTransformer(str(default_weights(store)) if is_default else model, device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.model {model!r} cannot be loaded: {error}") from error


def fine_tune(
    model: Any, seen: Lessons, held: Lessons | None, recipe: Recipe, watch: Watch
) -> tuple[Epoch, ...]:
    """Tune a `SentenceTransformer` in place on `seen`; it ends with the weights of its best pass, mixed.

    The best pass has the lowest loss on `held`, which takes no other part; without it, it is the last. Equal inputs,
    recipe and threads give equal weights on one machine. Needs two intents with two exemplars each in `seen`.
    """
    import torch

    length = model.max_seq_length
    model.max_seq_length = min(length or _MOST_TOKENS, _MOST_TOKENS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            return _Tuning(model, seen, held, recipe).run(watch)
    finally:
        model.max_seq_length = length


def passes_for_all(epochs: Sequence[Epoch]) -> int:
    """Return how many passes to make with nothing held out: up to the last that was as good as the best one."""
    best = min(epoch.held_out_loss for epoch in epochs)
    return max(epoch.number for epoch in epochs if epoch.held_out_loss <= AS_GOOD * best)


class _Tuning:
    def __init__(self, model: Any, seen: Lessons, held: Lessons | None, recipe: Recipe) -> None:
        import torch
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        self._model = model
        self._seen = seen
        self._held = held
        self._recipe = recipe
        self._generator = np.random.default_rng(recipe.seed)
        # Each exemplar against its mate, the mates of the others, and the others themselves.
        self._loss: Any = MultipleNegativesRankingLoss(
            model, scale=recipe.scale, directions=("query_to_doc", "query_to_query")
        )
        self._steps = recipe.epochs * len(list(batches(seen.labels, recipe.intents_a_batch, self._generator)))
        # A fine-tuning sees a few hundred words: the rows of all others would only drift.
        self._parameters = [p for name, p in model.named_parameters() if _is_trained(name, p)]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        warm = max(1, round(_WARM_UP * self._steps))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer,
            lambda step: min((step + 1) / warm, (self._steps - step) / max(1, self._steps - warm)),
        )

    def run(self, watch: Watch) -> tuple[Epoch, ...]:
        started = perf_counter()
        history: list[Epoch] = []
        start = weights = self._weights()
        best = np.inf
        for number in range(1, self._recipe.epochs + 1):
            loss = self._run_epoch(number, started, watch)
            history.append(Epoch(number, loss, self._held_out_loss()))
            if self._held is None:
                weights = self._weights()
            elif history[-1].held_out_loss < best:
                best, weights = history[-1].held_out_loss, self._weights()
            elif number - min(history, key=lambda epoch: epoch.held_out_loss).number >= self._recipe.patience:
                break
        share = self._recipe.tuned_share
        self._model.load_state_dict(
            {
                name: start[name].lerp(tensor, share) if tensor.is_floating_point() else tensor
                for name, tensor in weights.items()
            }
        )
        self._model.eval()
        return tuple(history)

    def _run_epoch(self, number: int, started: float, watch: Watch) -> float:
        import torch

        self._model.train()
        losses: list[float] = []
        chosen = list(batches(self._seen.labels, self._recipe.intents_a_batch, self._generator))
        for pairs in chosen:
            rows = _embed(self._model, [self._seen.texts[i] for i in pairs.ravel()])
            first, second = rows[0::2], rows[1::2]
            forth = self._loss.compute_loss_from_embeddings([first, second], _NO_LABELS)
            back = self._loss.compute_loss_from_embeddings([second, first], _NO_LABELS)
            loss = 0.5 * (forth + back)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, _GRADIENT_NORM)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._schedule.step()
            losses.append(loss.item())
            done = (number - 1) * len(chosen) + len(losses)
            left_s = (perf_counter() - started) / done * (self._steps - done)
            mean = float(np.mean(losses))
            watch(Step(number, self._recipe.epochs, done, self._steps, mean, left_s, self._held is None))
        return float(np.mean(losses))

    def _held_out_loss(self) -> float:
        """Return the mean cross-entropy of held-out exemplars against the means of all intents.

        At the scale that suits them best: a tuning grows surer than it is right, calibration takes that back
        later, and a pass is not worse for it (Guo et al., 'On calibration of modern neural networks', 2017).
        """
        if self._held is None:
            return nan
        labels = self._seen.labels
        rows = embed(self._model, [*self._seen.texts, *self._held.texts])
        means = np.zeros((labels.max() + 1, rows.shape[1]))
        np.add.at(means, labels, rows[: len(labels)])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        cosines = rows[len(labels) :].astype(np.float64) @ means.T  # (k, C)
        return min(_cross_entropy(scale * cosines, self._held.labels) for scale in _SCALES)

    def _weights(self) -> dict[str, Any]:
        return {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}


def hold_out(lessons: Lessons, share: float, seed: int, words: Sequence[str] = ()) -> NDArray[np.bool_]:
    """Return which exemplars to keep out, (n,): a share of every intent of five or more, and at least one.

    A text that stands twice, or is the name of an intent (`words`), is not kept out: the other one would be seen.
    """
    generator = np.random.default_rng(seed)
    counts = Counter(_folded(text) for text in (*lessons.texts, *words))
    held = np.zeros(len(lessons.texts), np.bool_)
    for label in np.unique(lessons.labels):
        own = np.flatnonzero(lessons.labels == label)
        if len(own) >= LEAST_TO_HOLD_OUT:
            held[generator.permutation(own)[: max(1, round(share * len(own)))]] = True
    return held & np.array([counts[_folded(text)] == 1 for text in lessons.texts], np.bool_)


def _cross_entropy(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean over rows of logits (k, C) with labels (k,)."""
    top = logits.max(axis=1)
    own = logits[np.arange(len(logits)), labels]
    return float((top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - own).mean())


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def batches(
    labels: NDArray[np.int64], size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield pairs of row numbers, (b, 2): one pair an intent, b ≤ size, each row at most once."""
    by_intent = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    for turn in range(max(len(rows) // 2 for rows in by_intent)):
        pairs = [rows[2 * turn : 2 * turn + 2] for rows in by_intent if len(rows) >= 2 * turn + 2]
        shuffled = np.stack([pairs[i] for i in generator.permutation(len(pairs))])
        # As even as they can be: a pair alone in its batch has nothing to stand apart from.
        for batch in np.array_split(shuffled, -(-len(shuffled) // size)):
            if len(batch) > 1:
                yield batch


def embed(model: Any, texts: Sequence[str]) -> Rows:
    """Return unit rows (n, d) of a `SentenceTransformer`, without gradients or dropout."""
    import torch

    model.eval()
    with torch.no_grad():
        rows = _embed(model, texts)
    return np.asarray(torch.nn.functional.normalize(rows).numpy(), np.float32)


def _embed(model: Any, texts: Sequence[str]) -> Any:
    """Return a tensor of rows (n, d), embedded by length and put back in order."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    rows = [model(model.preprocess([texts[i] for i in part]))["sentence_embedding"] for part in parts]
    return torch.cat(rows)[torch.from_numpy(np.argsort(order))]


def _is_trained(name: str, parameter: Any) -> bool:
    if "word_embeddings" in name:
        parameter.requires_grad_(requires_grad=False)
    return bool(parameter.requires_grad)
