"""Examples to the weights of a LoRA adapter over a frozen base.

LoRA: Hu et al., 'LoRA: Low-Rank Adaptation of Large Language Models', 2021. The loss is the cross-entropy of
answer tokens only, the end of the answer included. What all prompts begin with (system prompt and template)
is computed once a batch and shared by its rows: equal gradients for a fifth fewer tokens. Weights are kept and
stepped in fp32 and multiplied in the precision of the base.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from pointsman.errors import ConfigError
from pointsman.training.base import Base, Tokens, quiet

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_WARM_UP = 0.05
_GRADIENT_NORM = 1.0
_LEAST_RATE = 0.02
"""Of the learning rate, at the very end."""
_BATCHES_A_BUCKET = 12
"""Batches whose rows are sorted by length among themselves: little padding, yet mixed lengths over time."""
_ROWS_JUDGED = 16
_SMOOTHING = 0.95
_SAVE_EVERY_S = 60.0
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `minutes` ends it early, with the learning rate run down as if it were the plan."""

    rank: int = 16
    alpha: float = 32.0
    epochs: int = 3
    batch: int = 8
    learning_rate: float = 1e-3
    seed: int = 0
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """How far a training is: optimiser steps done, in all; smoothed loss; seconds left."""

    done: int
    total: int
    loss: float
    left_s: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A look at the held-out examples after `step` steps.

    loss: mean over answer tokens
    right: share of examples whose every token is the likeliest one: the greedy answer is exactly right
    """

    step: int
    train_loss: float
    loss: float
    right: float


@dataclass(frozen=True, slots=True)
class Trained:
    """The best weights by name, as PEFT names them (fp32, CPU), and the way there."""

    weights: dict[str, Any]
    judged: tuple[Judged, ...]
    steps: int
    seconds: float
    complete: bool


Watch = Callable[[Step], None]


def add_adapter(base: Base, recipe: Recipe) -> Any:
    """Return the base as a `PeftModel` with a fresh adapter, in the base's precision."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), quiet():
        torch.manual_seed(recipe.seed)
        model = get_peft_model(
            base.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT divides by it, whatever its type
                target_modules=list(TARGETS),
                task_type="CAUSAL_LM",
            ),
            autocast_adapter_dtype=False,
        )
    if base.precision != "fp32":
        for parameter in trainable(model).values():
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def trainable(model: Any) -> dict[str, Any]:
    """Return the adapter's parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


def load_weights(model: Any, weights: dict[str, Any]) -> None:
    """Put an adapter's weights into a `PeftModel`."""
    import torch

    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(weights[name])


def common_prefix(rows: Sequence[Tokens]) -> tuple[int, ...]:
    """Return the tokens that all prompts begin with; every prompt keeps at least one of its own."""
    if len(rows) < 2:
        return ()
    first, last = min(row.prompt for row in rows), max(row.prompt for row in rows)
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = tuple(token for token, _ in pairs)
    return shared[: min(len(row.prompt) for row in rows) - 1]


def batches(lengths: Sequence[int], size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Yield row numbers, `size` at a time: every row once, rows of like length together, in random order."""
    order = generator.permutation(len(lengths))
    parts: list[list[int]] = []
    for start in range(0, len(order), size * _BATCHES_A_BUCKET):
        bucket = sorted(order[start : start + size * _BATCHES_A_BUCKET], key=lambda i: lengths[i])
        parts += [[int(i) for i in bucket[at : at + size]] for at in range(0, len(bucket), size)]
    for number in generator.permutation(len(parts)):
        yield parts[number]


def answer_logits(base: Base, model: Any, rows: Sequence[Tokens], prefix: tuple[int, ...]) -> tuple[Any, Any]:
    """Return logits (t, vocabulary) that predict the t answer tokens of all rows, and those tokens (t,)."""
    import torch
    from transformers import DynamicCache

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = [(*row.prompt[len(prefix) :], *row.answer[:-1]) for row in rows]
    longest = max(map(len, own))
    pad = base.tokenizer.eos_token_id  # after the end of a row nothing looks at it
    inputs = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in own], device=base.device)
    targets = torch.full(inputs.shape, _IGNORED, device=base.device)
    for i, row in enumerate(rows):
        start = len(row.prompt) - len(prefix) - 1
        targets[i, start : start + len(row.answer)] = torch.tensor(row.answer, device=base.device)
    cache = None
    if prefix:
        cache = DynamicCache()
        shared = torch.tensor([prefix], device=base.device)
        inner.model(input_ids=shared, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(rows))
    hidden = inner.model(
        input_ids=inputs, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    chosen = targets != _IGNORED
    return inner.lm_head(hidden[chosen]), targets[chosen]


def train(
    base: Base,
    model: Any,
    seen: Sequence[Tokens],
    held: Sequence[Tokens],
    recipe: Recipe,
    checkpoint: Path,
    fingerprint: str,
    watch: Watch,
    *,
    resume: bool = False,
    stop_after: int | None = None,
) -> Trained:
    """Train a fresh adapter of `model`; keep `checkpoint` fresh enough to go on from.

    Equal data, recipe and threads give equal weights on one machine, interrupted or not (without `minutes`).
    `fingerprint` is what a checkpoint must have been made from. `stop_after` steps it pauses as Ctrl-C does.

    Raises:
        ConfigError: the checkpoint is of other data or another recipe.
        KeyboardInterrupt: Ctrl-C; the checkpoint is up to date.

    """
    run = _Training(base, model, seen, held, recipe, checkpoint, fingerprint)
    if resume:
        run.restore()
    return run.run(watch, stop_after)


class _Training:
    def __init__(
        self,
        base: Base,
        model: Any,
        seen: Sequence[Tokens],
        held: Sequence[Tokens],
        recipe: Recipe,
        checkpoint: Path,
        fingerprint: str,
    ) -> None:
        import torch

        self._base = base
        self._model = model
        self._seen = seen
        self._held = held
        self._recipe = recipe
        self._checkpoint = checkpoint
        self._fingerprint = fingerprint
        self._prefix = common_prefix([*seen, *held])
        self._working = trainable(model)
        self._master = {
            name: parameter.detach().float().clone().requires_grad_(requires_grad=True)
            for name, parameter in self._working.items()
        }
        self._optimiser = torch.optim.AdamW(
            self._master.values(), lr=recipe.learning_rate, weight_decay=0.0, fused=True
        )
        self._a_pass = -(-len(seen) // recipe.batch)
        self._total = recipe.epochs * self._a_pass
        self._step = 0
        self._seconds = 0.0  # of earlier sittings
        self._loss = float("nan")
        self._judged: list[Judged] = []
        self._best: dict[str, Any] = {}

    def run(self, watch: Watch, stop_after: int | None) -> Trained:
        self._model.train()
        began, before = perf_counter(), self._seconds
        saved = began
        try:
            if self._is_due():  # an earlier sitting ended within that look
                self._judge()
            for rows in self._rows_to_come():
                if self._progress() >= 1:
                    break
                self._learn(rows)
                now = perf_counter()
                self._seconds = before + now - began
                watch(Step(self._step, self._total, self._loss, self._left_s()))
                if self._is_due():
                    self._judge()
                if now - saved > _SAVE_EVERY_S:
                    self.save()
                    saved = now
                if self._step == stop_after:
                    self.save()
                    return self._trained(complete=False)
        except KeyboardInterrupt:
            self.save()
            raise
        self._judge()
        self._seconds = before + perf_counter() - began
        self.save()
        return self._trained(complete=True)

    def save(self) -> None:
        """Write all that is needed to go on, in one piece."""
        import torch

        state = {
            "fingerprint": self._fingerprint,
            "recipe": asdict(self._recipe),
            "step": self._step,
            "seconds": self._seconds,
            "loss": self._loss,
            "judged": [asdict(judged) for judged in self._judged],
            "weights": {name: weight.detach() for name, weight in self._master.items()},
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
        }
        scratch = self._checkpoint.with_suffix(".part")
        torch.save(state, scratch)
        scratch.replace(self._checkpoint)

    def restore(self) -> None:
        """Go on from the checkpoint."""
        import torch

        state = torch.load(self._checkpoint, map_location=self._base.device, weights_only=True)
        if state["fingerprint"] != self._fingerprint:
            raise ConfigError(
                f"--resume: {self._checkpoint} was made from other data, another base or other settings"
            )
        self._step = state["step"]
        self._seconds = state["seconds"]
        self._loss = state["loss"]
        self._judged = [Judged(**judged) for judged in state["judged"]]
        self._best = state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for name, master in self._master.items():
                master.copy_(state["weights"][name])
        load_weights(self._model, self._master)

    def _rows_to_come(self) -> Iterator[list[Tokens]]:
        lengths = [len(row) for row in self._seen]
        for epoch in range(self._step // self._a_pass, self._recipe.epochs):
            generator = np.random.default_rng([self._recipe.seed, epoch])
            for number, chosen in enumerate(batches(lengths, self._recipe.batch, generator)):
                if epoch * self._a_pass + number >= self._step:
                    yield [self._seen[i] for i in chosen]

    def _learn(self, rows: list[Tokens]) -> None:
        import torch

        logits, targets = answer_logits(self._base, self._model, rows, self._prefix)
        loss: Any = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        for name, master in self._master.items():
            master.grad = self._working[name].grad.float()
            self._working[name].grad = None
        torch.nn.utils.clip_grad_norm_(self._master.values(), _GRADIENT_NORM)
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.learning_rate * self._rate()
        self._optimiser.step()
        load_weights(self._model, self._master)
        self._step += 1
        value = loss.item()
        self._loss = value if self._step == 1 else _SMOOTHING * self._loss + (1 - _SMOOTHING) * value

    def _rate(self) -> float:
        """Return the share of the learning rate: a linear warm-up, then half a cosine."""
        done = self._progress()
        warm = min(1.0, (self._step + 1) / max(1.0, _WARM_UP * self._total))
        return float(warm * (_LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + np.cos(np.pi * min(1.0, done)))))

    def _progress(self) -> float:
        steps = self._step / self._total
        minutes = self._recipe.minutes
        return steps if minutes is None else max(steps, self._seconds / 60 / minutes)

    def _left_s(self) -> float:
        left = self._seconds / self._step * (self._total - self._step)
        minutes = self._recipe.minutes
        return left if minutes is None else min(left, max(0.0, 60 * minutes - self._seconds))

    def _is_due(self) -> bool:
        """Whether this step is one to look at the held-out examples after, the last one aside."""
        every = max(1, min(self._a_pass, self._total // 4))
        return 0 < self._step < self._total and self._step % every == 0

    def _judge(self) -> None:
        """Look at the held-out examples, and keep the weights if they are the best so far."""
        if self._judged and self._judged[-1].step == self._step:
            return  # before a sitting ended
        loss, right = judge(self._base, self._model, self._held, self._prefix)
        judged = Judged(self._step, self._loss, loss, right)
        best = max(((j.right, -j.loss) for j in self._judged), default=(-1.0, 0.0))
        if (right, -loss) > best or not self._held:
            self._best = {name: weight.detach().clone() for name, weight in self._master.items()}
        self._judged.append(judged)

    def _trained(self, *, complete: bool) -> Trained:
        weights = self._best or {name: weight.detach().clone() for name, weight in self._master.items()}
        weights = {name: weight.cpu() for name, weight in weights.items()}
        return Trained(weights, tuple(self._judged), self._step, self._seconds, complete)


def judge(base: Base, model: Any, rows: Sequence[Tokens], prefix: tuple[int, ...]) -> tuple[float, float]:
    """Return (mean loss over answer tokens, share of rows whose every token is the likeliest one)."""
    import torch

    if not rows:
        return float("nan"), 0.0
    model.eval()
    losses, tokens, right = 0.0, 0, 0
    ordered = sorted(rows, key=len)
    with torch.no_grad():
        for start in range(0, len(ordered), _ROWS_JUDGED):
            part = ordered[start : start + _ROWS_JUDGED]
            logits, targets = answer_logits(base, model, part, prefix)
            losses += float(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum"))
            tokens += len(targets)
            hits = (logits.argmax(dim=1) == targets).split([len(row.answer) for row in part])
            right += sum(bool(row.all()) for row in hits)
    model.train()
    return losses / tokens, right / len(rows)
