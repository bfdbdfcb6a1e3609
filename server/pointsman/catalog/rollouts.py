"""Rollouts in files: `specialists/rollouts/NAME.yaml` is a new version of a specialist on its way into use.

Beside it, `previous/NAME.yaml` is the version before the live one, for going back by hand, and `rejected/NAME.yaml`
the last rollout that went back, with what it showed.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pointsman.artifacts.whole_file import signature_of
from pointsman.catalog.files import dump, read, read_document, validate
from pointsman.catalog.schema import SpecialistFile
from pointsman.catalog.write import guard_writes, replace_file
from pointsman.errors import CatalogError, PreconditionError
from pointsman.values.catalog import NEXT, Problem, Rollout, Specialist
from pointsman.values.rollout import Past, Stage, Tally

_FOLDER = "rollouts"
_PREVIOUS = "previous"
_REJECTED = "rejected"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TallyEntry(_Strict):
    answers: Annotated[int, Field(ge=0)]
    successes: Annotated[int, Field(ge=0)]

    def to_value(self) -> Tally:
        return Tally(self.answers, self.successes)


class _PastEntry(_Strict):
    stage: Stage
    candidate: _TallyEntry
    live: _TallyEntry
    agreed: Annotated[int, Field(ge=0)] = 0
    compared: Annotated[int, Field(ge=0)] = 0

    def to_value(self) -> Past:
        same = Tally(self.compared, self.agreed)
        return Past(self.stage, self.candidate.to_value(), self.live.to_value(), same)


class RolloutFile(_Strict):
    """One rollout; `pointsman specialists promote` writes it, and the server as it moves on."""

    stage: Stage = Stage.SHADOW
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    bound: Annotated[float, Field(ge=0, lt=1)] = 0.05
    answers: Annotated[int, Field(ge=1)] = 50
    agreement: Annotated[float, Field(ge=0, le=1)] = 0.7
    past: list[_PastEntry] = Field(default_factory=list)
    why: Annotated[str, Field(description="Why it was rolled back, in `rejected/`.")] = ""
    candidate: SpecialistFile

    def to_value(self) -> Rollout:
        """Return the rollout that the file states."""
        return Rollout(
            self.candidate.name,
            marked(self.candidate.to_value()),
            self.stage,
            self.share,
            self.bound,
            self.answers,
            self.agreement,
            tuple(past.to_value() for past in self.past),
        )

    @classmethod
    def from_value(cls, rollout: Rollout) -> dict[str, Any]:
        """Return the fields of a file that states the rollout."""
        return {
            "stage": str(rollout.stage),
            "share": rollout.share,
            "bound": rollout.bound,
            "answers": rollout.answers,
            "agreement": rollout.agreement,
            "past": [
                {
                    "stage": str(p.stage),
                    "candidate": _tally(p.candidate),
                    "live": _tally(p.live),
                    "compared": p.same.answers,
                    "agreed": p.same.successes,
                }
                for p in rollout.past
            ],
            "candidate": SpecialistFile.from_value(unmarked(rollout)),
        }


def _tally(tally: Tally) -> dict[str, int]:
    return {"answers": tally.answers, "successes": tally.successes}


def marked(candidate: Specialist) -> Specialist:
    """Return a version under the name by which engines tell it from the live one."""
    return replace(candidate, name=f"{candidate.name}{NEXT}")


def unmarked(rollout: Rollout) -> Specialist:
    """Return the candidate under its own name."""
    return replace(rollout.candidate, name=rollout.name)


@dataclass(slots=True)
class _Entry:
    signature: tuple[int, ...]
    rollout: Rollout | None
    problems: tuple[Problem, ...]


class Rollouts:
    """The rollouts of a specialists folder. A file that breaks ends its rollout: the live version answers."""

    def __init__(self, specialists_dir: Path) -> None:
        self.folder = specialists_dir / _FOLDER
        self._entries: dict[Path, _Entry] = {}

    def load(self, specialists: AbstractSet[str], problems: list[Problem]) -> tuple[Rollout, ...]:
        """Return what is on its way; adds what was refused to `problems`. Reads only files that changed."""
        paths = sorted(self.folder.glob("*.yaml")) if self.folder.is_dir() else []
        entries: dict[Path, _Entry] = {}
        for path in paths:
            try:
                signature = signature_of(path)
            except OSError:  # gone between the listing and now
                continue
            before = self._entries.get(path)
            entries[path] = before if before and before.signature == signature else _read(path, signature)
        self._entries = entries
        found = []
        for path, entry in entries.items():
            problems += entry.problems
            if entry.rollout is None:
                continue
            name = entry.rollout.name
            if name in specialists:
                found.append(entry.rollout)
            else:
                message = "no such specialist is live; register it first"
                problems.append(Problem(_shown(path), 0, "candidate.name", name, message))
        return tuple(found)

    def read(self, name: str) -> Rollout | None:
        """Return the rollout of a specialist; None when there is none.

        Raises:
            CatalogError: its file cannot be used.

        """
        path = self._path(name)
        if not path.exists():
            return None
        entry = _read(path, ())
        if entry.problems:
            raise CatalogError(entry.problems)
        return entry.rollout

    def put(self, rollout: Rollout) -> None:
        """Write a rollout, or its next stage.

        Raises:
            PreconditionError: the folder cannot be written.

        """
        text = dump(RolloutFile.from_value(rollout), "rollout").replace("../docs", "../../docs", 1)
        guard_writes(lambda: replace_file(self._path(rollout.name), text), self.folder)

    def end(self, name: str) -> None:
        """Remove a rollout; the candidate answers nothing from now on."""
        guard_writes(lambda: self._path(name).unlink(missing_ok=True), self.folder)

    def reject(self, rollout: Rollout, why: str) -> None:
        """Remove a rollout, and keep what it showed."""
        fields = {"why": why} | RolloutFile.from_value(rollout)
        text = dump(fields, "rollout").replace("../docs", "../../../docs", 1)
        path = self.folder / _REJECTED / f"{rollout.name}.yaml"
        guard_writes(lambda: replace_file(path, text), self.folder)
        self.end(rollout.name)

    def keep(self, live: Specialist) -> None:
        """Remember the version that is about to be replaced."""
        text = dump(SpecialistFile.from_value(live), "specialist").replace("../docs", "../../../docs", 1)
        guard_writes(lambda: replace_file(self._kept(live.name), text), self.folder)

    def previous(self, name: str) -> Specialist:
        """Return the version before the live one.

        Raises:
            PreconditionError: none is kept.
            CatalogError: its file cannot be used.

        """
        path = self._kept(name)
        if not path.exists():
            raise PreconditionError(f"specialist {name!r} has no rollout to end and no version to go back to")
        value = read(path, SpecialistFile, _shown(path)).value
        assert isinstance(value, Specialist)  # noqa: S101 - narrows the union
        return value

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def _kept(self, name: str) -> Path:
        return self.folder / _PREVIOUS / f"{name}.yaml"


def _read(path: Path, signature: tuple[int, ...]) -> _Entry:
    file = _shown(path)
    try:
        document = read_document(path, file, "candidate")
        rollout = validate(document.data, RolloutFile, file, document).to_value()
    except CatalogError as error:
        return _Entry(signature, None, error.problems)
    if rollout.name != path.stem:
        message = f"the file must bear the specialist's name: {rollout.name}.yaml"
        problem = Problem(file, document.line(("candidate", "name")), "candidate.name", rollout.name, message)
        return _Entry(signature, None, (problem,))
    return _Entry(signature, rollout, ())


def _shown(path: Path) -> str:
    return "/".join(path.parts[-3:])
