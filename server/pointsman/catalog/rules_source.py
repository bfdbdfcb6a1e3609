"""The rules file at its last good content. Knows of specialists only which can be had."""

import os
from dataclasses import dataclass
from pathlib import Path

from pointsman.artifacts.whole_file import signature_of
from pointsman.catalog.files import read_document, shown, validate
from pointsman.catalog.schema import RulesFile
from pointsman.catalog.targets import Targets
from pointsman.catalog.yaml_document import Document
from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem, Rule


@dataclass(slots=True)
class _Stated:
    """What the file states, and where."""

    rules: tuple[Rule, ...]
    document: Document


class RulesSource:
    """Rules from one file that need not exist. A file that breaks keeps serving its last good content."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._signature: tuple[int, ...] | None = None
        self._stated: _Stated | None = None
        self._problems: tuple[Problem, ...] = ()
        self._served: tuple[Rule, ...] = ()

    def load(self, targets: Targets, problems: list[Problem]) -> tuple[Rule, ...]:
        """Return the rules that serve; adds what was refused to `problems`. Reads only a file that changed."""
        if self.path is None or not self._look(self.path):
            self._signature, self._stated, self._problems, self._served = None, None, (), ()
            return ()
        problems += self._problems
        refused = self._unmet(self._stated, targets) if self._stated else []
        problems += refused
        if self._stated and not refused:
            self._served = self._stated.rules
        # A specialist may have gone from under rules that were good once.
        return tuple(rule for rule in self._served if not targets.refusal_of_rule(rule))

    def _look(self, path: Path) -> bool:
        """Read the file if it changed; returns whether there is one."""
        try:
            signature = signature_of(path)
        except OSError:
            return False
        if signature != self._signature:
            self._signature = signature
            try:
                document = read_document(path, self._shown, "rules")
                rules = validate(document.data, RulesFile, self._shown, document).to_value()
                self._stated, self._problems = _Stated(rules, document), ()
            except CatalogError as error:
                self._problems = error.problems
        return True

    def _unmet(self, stated: _Stated, targets: Targets) -> list[Problem]:
        return [
            Problem(
                self._shown,
                stated.document.line(("rules", i, "to")),
                f"rules.{i}.to",
                shown(rule.to),
                message,
            )
            for i, rule in enumerate(stated.rules)
            if (message := targets.refusal_of_rule(rule))
        ]

    @property
    def _shown(self) -> str:
        assert self.path is not None  # noqa: S101 - asked only where there is a file
        folder = f"{self.path.parent.name}/" if self.path.parent.name else ""
        return os.fsencode(f"{folder}{self.path.name}").decode("utf-8", "backslashreplace")
