"""Labelled texts of other tools to files of intents/. Knows no file format but its own."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.catalog.file_model import MAX_TEXT
from pointsman.catalog.files import dump, shown, validate
from pointsman.catalog.schema import IntentFile, normalise
from pointsman.catalog.store import FileStore
from pointsman.catalog.yaml_document import YamlError, parse
from pointsman.errors import CatalogError
from pointsman.review.foreign import Example, Read, raise_all
from pointsman.review.revisions import read_folder
from pointsman.values.catalog import CLOUD, MID, Intent, Mid, Problem

_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Imported:
    """Intents, by name, ready to be written, and what was left out on the way."""

    intents: tuple[Intent, ...]
    notes: tuple[str, ...]


def to_intents(
    read: Read, target: str, *, skip: Collection[str] = (), max_exemplars: int | None = None
) -> Imported:
    """Make an intent of every label.

    skip: labels to leave out, those of out-of-scope texts; texts without a label are left out anyway
    max_exemplars: of an intent with more texts, as many are taken, evenly over the file

    Raises:
        CatalogError: two labels that become one name, a label without a name in it, nothing to import.

    """
    by_label: dict[str, list[Example]] = defaultdict(list)
    left: Counter[str] = Counter()
    for example in read.examples:
        fault = _fault(example, skip)
        if fault:
            left[fault] += 1
        elif example.label is not None:
            by_label[example.label].append(example)
    unused = set(skip) - {example.label for example in read.examples}
    notes = [
        *read.notes,
        *(f"left out: {what} ({count})" for what, count in sorted(left.items())),
        *(f"no text is labelled {label!r}, which --skip names" for label in sorted(unused)),
    ]
    if not by_label:
        raise CatalogError([Problem("import", 0, "", "", "; ".join(["nothing to import", *notes]))])
    names = _names(by_label)
    intents, repeated, over = [], 0, 0
    for label, examples in by_label.items():
        distinct: dict[str, str] = {}
        for example in examples:
            distinct.setdefault(normalise(example.text), example.text)
        texts = _evenly(tuple(distinct.values()), max_exemplars)
        repeated += len(examples) - len(distinct)
        over += len(distinct) - len(texts)
        intents.append(Intent(names[label], target, texts))
    if repeated:
        notes.append(f"left out: texts that their intent already has ({repeated})")
    if over:
        notes.append(f"left out: texts over --max-exemplars {max_exemplars} ({over})")
    notes += _shared(intents)
    renamed = [f"{label!r} → {name}" for label, name in sorted(names.items()) if label != name]
    if renamed:
        notes.append(f"labels that are no names of intents: {', '.join(renamed)}")
    return Imported(tuple(sorted(intents, key=lambda intent: intent.name)), tuple(notes))


def _evenly(texts: tuple[str, ...], most: int | None) -> tuple[str, ...]:
    """Return at most that many texts, spread over all of them: neighbours in a file are often alike."""
    if most is None or len(texts) <= most:
        return texts
    return tuple(texts[k * len(texts) // most] for k in range(most))


def _fault(example: Example, skip: Collection[str]) -> str:
    """Return why an example cannot be taken; empty when it can."""
    if example.label is None:
        return "texts without a label"
    if example.label in skip:
        return f"texts labelled {example.label!r}"
    if not example.text.strip():
        return "blank texts"
    if len(example.text) > MAX_TEXT:
        return f"texts of more than {MAX_TEXT} characters"
    try:
        example.text.encode()
    except UnicodeEncodeError:
        return "texts with half of a surrogate pair"
    return ""


def _names(by_label: dict[str, list[Example]]) -> dict[str, str]:
    """Return the intent's name for each label."""
    names: dict[str, str] = {}
    holders: dict[str, str] = {}
    problems: list[Problem] = []
    for label, examples in by_label.items():
        name = intent_name(label)
        file, line = examples[0].file, examples[0].line
        if not name:
            message = "holds no letter or digit to make a name of"
            problems.append(Problem(file, line, "label", shown(label), message))
        elif holders.setdefault(name, label) != label:
            message = f"becomes the name {name!r}, and so does {holders[name]!r}; rename one of them"
            problems.append(Problem(file, line, "label", shown(label), message))
        names[label] = name
    raise_all(problems)
    return names


def intent_name(label: str) -> str:
    """Return a label as a name of an intent: `BookRestaurant`, `faq/opening-hours`, `Réclamation`.

    They become `book_restaurant`, `faq_opening_hours`, `reclamation`. Empty when nothing is left of it.
    """
    ascii_only = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ascii_only)
    name = re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")
    if name and not name[0].isalpha():
        name = f"intent_{name}"
    return name[:_LONGEST_NAME].rstrip("_")


def _shared(intents: Sequence[Intent]) -> Iterator[str]:
    holders: dict[str, set[str]] = defaultdict(set)
    for intent in intents:
        for text in intent.exemplars:
            holders[normalise(text)].add(intent.name)
    shared = sum(len(names) > 1 for names in holders.values())
    if shared:
        yield f"texts that stand in more than one intent, named by `pointsman lint` ({shared})"


def write_intents(
    intents: Sequence[Intent],
    folder: Path,
    specialists: Path,
    *,
    force: bool,
    dry_run: bool,
    mid: Mid | None = None,
) -> tuple[str, ...]:
    """Write a file for each intent; returns the files. Nothing is written unless all can be.

    Raises:
        CatalogError: not valid, an unknown target, or (without `force`) an intent that is there already.
        PreconditionError: the folder cannot be written.

    """
    store = FileStore(folder, specialists, mid=mid)
    targets = {specialist.name for specialist in store.load().specialists} | {CLOUD}
    if mid:
        targets.add(MID)
    there = read_folder(folder, str(folder)).sources if folder.is_dir() else {}
    files: list[str] = []
    problems: list[Problem] = []
    for intent in intents:
        held = there.get(intent.name)
        file = held.file if held else f"{folder.name}/{intent.name}.yaml"
        files.append(file)
        if held and not force:
            problems.append(Problem(file, 0, "name", intent.name, "is there already; --force replaces it"))
        elif not held and (folder / f"{intent.name}.yaml").exists():
            problems.append(Problem(file, 0, "", "", "is there, and holds something else; move it away"))
        problems += _wrong_intent(intent, file, targets)
    raise_all(problems)
    if not dry_run:
        for intent in intents:
            store.put_intent(intent)
    return tuple(files)


def _wrong_intent(intent: Intent, file: str, targets: Collection[str]) -> list[Problem]:
    """Return what would keep the file of an intent from being served."""
    if intent.target not in targets:
        message = f"no such specialist; known: {', '.join(sorted(targets))}"
        return [Problem(file, 0, "target", intent.target, message)]
    fields = IntentFile.from_value(intent)
    try:
        validate(fields, IntentFile, file)
        parse(dump(fields, "intent").encode())
    except CatalogError as error:
        return list(error.problems)
    except YamlError as error:
        return [Problem(file, 0, "", "", f"{error.message}; --max-exemplars makes it smaller")]
    return []
