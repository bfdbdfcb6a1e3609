"""Intents, specialists and rules in files as a store of catalogs: what is good serves, what is not is named.

A file that breaks keeps serving its last good content; a name belongs to the file that serves it; a
specialist that intents, rules or settings still name outlives its file. So no edit takes away what already works.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.artifacts.whole_file import signature_of
from pointsman.catalog.files import Loaded, M, dump, read, validate
from pointsman.catalog.rollouts import Rollouts
from pointsman.catalog.rules_source import RulesSource
from pointsman.catalog.schema import IntentFile, SpecialistFile
from pointsman.catalog.targets import Targets, users_of
from pointsman.catalog.write import guard_writes, replace_file
from pointsman.catalog.yaml_document import YamlError, parse
from pointsman.errors import CatalogError, UnknownNameError
from pointsman.values.catalog import Catalog, Intent, Mid, Problem, Specialist

_SUFFIXES = {".yaml", ".yml"}


@dataclass(slots=True)
class _Entry:
    """A file at its last good content. `signature` tells whether the file changed since it was read."""

    signature: tuple[int, ...]
    loaded: Loaded | None
    problems: tuple[Problem, ...] = ()
    served: Loaded | None = None  # what served last; differs from `loaded` once its target is unknown


class FileStore:
    """Catalogs from two folders and one file. Not thread-safe: one owner calls it."""

    def __init__(
        self,
        intents_dir: Path,
        specialists_dir: Path,
        rules_file: Path | None = None,
        mid: Mid | None = None,
        general: str | None = None,
    ) -> None:
        """Read nothing yet. `mid` and `general` are what the settings name: files that they need are needed."""
        self.intents_dir = intents_dir
        self.specialists_dir = specialists_dir
        self.rollouts = Rollouts(specialists_dir)
        self._rules = RulesSource(rules_file)
        self._mid = mid
        self._general = general
        self._entries: dict[Path, _Entry] = {}
        self._holders: dict[tuple[str, str], Path] = {}

    @property
    def folders(self) -> list[Path]:
        """The folders whose YAML is read."""
        return [self.intents_dir, self.specialists_dir, self.rollouts.folder]

    @property
    def files(self) -> list[Path]:
        """The single files that are read; they need not exist."""
        return [self._rules.path] if self._rules.path else []

    def load(self) -> Catalog:
        """Return the catalog of what is good in all files, with the problems of what is not.

        Reads only files that changed. A missing folder is an empty one.
        """
        problems: list[Problem] = []
        served = {path for (kind, _), path in self._holders.items() if kind == "specialist"}
        specialists = self._named(self._scan(self.specialists_dir, SpecialistFile), "specialist", problems)
        gone = self._gone(served)
        intents = self._named(self._scan(self.intents_dir, IntentFile), "intent", problems)
        names = {s.value.name for s in specialists.values()}
        targets = Targets(names | set(gone), self._mid)

        kept = self._with_targets(intents, targets, problems)
        rules = self._rules.load(targets, problems)
        users = users_of((_intent(loaded) for loaded in kept.values()), rules, self._mid, self._general)
        for name in sorted(set(users) & set(gone) - names):
            path, specialist = gone[name]
            specialists[path] = specialist
            self._holders["specialist", name] = path
        for path, loaded in specialists.items():
            if not path.exists():
                name = loaded.value.name
                message = f"file is gone, but still the target of {', '.join(users.get(name, ()))}; it keeps serving"
                problems.append(Problem(self._shown(path), 0, "name", name, message))
        for path in set(self._entries) - set(specialists):
            if not path.exists():
                del self._entries[path]
        live = {loaded.value.name for loaded in specialists.values()}
        rollouts = self.rollouts.load(live, problems)
        return Catalog(
            intents=tuple(sorted((_intent(i) for i in kept.values()), key=lambda i: i.name)),
            specialists=tuple(sorted((_specialist(s) for s in specialists.values()), key=lambda s: s.name)),
            problems=tuple(problems),
            rules=rules,
            rollouts=rollouts,
        )

    def put_intent(self, intent: Intent) -> None:
        """Write an intent to the file that holds its name, or to a new one.

        Raises:
            CatalogError: not a valid intent, or the file of that name holds something else.
            PreconditionError: the folder cannot be written.

        """
        fields = IntentFile.from_value(intent)
        validate(fields, IntentFile, "request")
        known = {name for kind, name in self._holders if kind == "specialist"}
        if message := Targets(known, self._mid).refusal(intent.target):
            raise CatalogError([Problem("request", 0, "target", intent.target, message)])
        self._write(self.intents_dir, "intent", intent.name, dump(fields, "intent"))

    def check_specialist(self, specialist: Specialist) -> dict[str, Any]:
        """Return the fields of a specialist's file.

        Raises:
            CatalogError: not a valid manifest.

        """
        fields = SpecialistFile.from_value(specialist)
        validate(fields, SpecialistFile, "request")
        return fields

    def put_specialist(self, specialist: Specialist) -> None:
        """Write a specialist to the file that holds its name, or to a new one.

        Raises:
            CatalogError, PreconditionError: as `put_intent`.

        """
        fields = self.check_specialist(specialist)
        self._write(self.specialists_dir, "specialist", specialist.name, dump(fields, "specialist"))

    def delete(self, kind: str, name: str) -> None:
        """Delete the file that holds an intent or a specialist.

        Raises:
            UnknownNameError: no file holds that name.
            PreconditionError: the folder cannot be written.

        """
        holder = self._holders.get((kind, name))
        if holder is None:
            raise UnknownNameError(kind, name, sorted(n for k, n in self._holders if k == kind))
        guard_writes(lambda: holder.unlink(missing_ok=True), holder.parent)

    def model_problem(self, name: str, message: str) -> Problem:
        """Return a problem with the model files of a specialist, at its place in the manifest."""
        path = self._holders.get(("specialist", name))
        entry = self._entries.get(path) if path else None
        if path is None or entry is None or entry.loaded is None:
            return Problem("specialists", 0, "base", name, message)
        adapter = _specialist(entry.loaded).adapter
        file = adapter.artifact.uri.rpartition("/")[2].rpartition(":")[2] if adapter else None
        field = "adapter" if file and file in message else "base"
        return entry.loaded.problem(self._shown(path), field, name, message)

    def _with_targets(
        self, intents: Mapping[Path, Loaded], targets: Targets, problems: list[Problem]
    ) -> dict[Path, Loaded]:
        """Return the intents whose targets can be had; of the others the last good content, if that can."""
        kept: dict[Path, Loaded] = {}
        for path, stated in intents.items():
            entry = self._entries[path]
            loaded = stated
            if message := targets.refusal(_target(stated)):
                problems.append(stated.problem(self._shown(path), "target", _target(stated), message))
                last = entry.served
                if last is None or last.value.name != stated.value.name or targets.refusal(_target(last)):
                    continue
                loaded = last
            kept[path] = entry.served = loaded
        return kept

    def _scan(self, folder: Path, model: type[M]) -> dict[Path, _Entry]:
        for path in _yaml_files(folder):
            try:
                signature = signature_of(path)
            except OSError:  # deleted between the listing and now
                continue
            before = self._entries.get(path)
            if before and before.signature == signature:
                continue
            try:
                loaded = read(path, model, self._shown(path))
                self._entries[path] = _Entry(signature, loaded, served=before.served if before else None)
            except CatalogError as error:
                last_good = before.loaded if before else None
                self._entries[path] = _Entry(
                    signature, last_good, error.problems, before.served if before else None
                )
        return {p: e for p, e in sorted(self._entries.items()) if p.parent == folder and p.exists()}

    def _gone(self, served: set[Path]) -> dict[str, tuple[Path, Loaded]]:
        return {
            entry.loaded.value.name: (path, entry.loaded)
            for path, entry in self._entries.items()
            if entry.loaded and path in served and not path.exists()
        }

    def _named(
        self, entries: Mapping[Path, _Entry], kind: str, problems: list[Problem]
    ) -> dict[Path, Loaded]:
        """Give each name to one file: to the one that serves it, else to the first by file name."""
        for entry in entries.values():
            problems += entry.problems
        holders = {name: path for (k, name), path in self._holders.items() if k == kind and path in entries}
        result: dict[Path, Loaded] = {}
        taken: dict[str, Path] = {}
        for path, entry in sorted(
            entries.items(), key=lambda pair: (not _holds(holders, pair[0], pair[1]), pair[0])
        ):
            if entry.loaded is None:
                continue
            name = entry.loaded.value.name
            if name in taken:
                message = f"this {kind} already stands in {self._shown(taken[name])}"
                problems.append(entry.loaded.problem(self._shown(path), "name", name, message))
            else:
                taken[name] = path
                result[path] = entry.loaded
        self._holders = {key: path for key, path in self._holders.items() if key[0] != kind}
        self._holders |= {(kind, name): path for name, path in taken.items()}
        return result

    def _write(self, folder: Path, kind: str, name: str, text: str) -> None:
        path = self._holders.get((kind, name), folder / f"{name}.yaml")
        entry = self._entries.get(path)
        if path.exists() and (entry is None or entry.loaded is None or entry.loaded.value.name != name):
            message = f"{self._shown(path)} exists and holds something else; mend or remove it first"
            raise CatalogError([Problem("request", 0, "name", name, message)])
        _refuse_unreadable(text, name)
        guard_writes(lambda: replace_file(path, text), folder)

    def _shown(self, path: Path) -> str:
        return os.fsencode(f"{path.parent.name}/{path.name}").decode("utf-8", "backslashreplace")


def _yaml_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.suffix in _SUFFIXES and not p.name.startswith(".")]


def _holds(holders: Mapping[str, Path], path: Path, entry: _Entry) -> bool:
    return entry.loaded is not None and holders.get(entry.loaded.value.name) == path


def _refuse_unreadable(text: str, name: str) -> None:
    """Write nothing that could not be read again: a file may be 1 MiB, a message more."""
    try:
        parse(text.encode())
    except YamlError as error:
        raise CatalogError([Problem("request", 0, "name", name, error.message)]) from None


def _target(loaded: Loaded) -> str:
    return _intent(loaded).target


def _intent(loaded: Loaded) -> Intent:
    assert isinstance(loaded.value, Intent)  # noqa: S101 - narrows the union
    return loaded.value


def _specialist(loaded: Loaded) -> Specialist:
    assert isinstance(loaded.value, Specialist)  # noqa: S101 - narrows the union
    return loaded.value
