"""The policy file: YAML to values."""

from pathlib import Path
from typing import Annotated, Literal, Self

import regex
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pointsman.catalog.file_model import FileModel, Text, refusal
from pointsman.catalog.files import read_document, validate
from pointsman.values.catalog import IDENTIFIER
from pointsman.values.kinds import NER, PRESIDIO
from pointsman.values.policy import SECRET, Action, Pattern, Policy, WordList

ActionName = Literal["allow", "redact", "stay_local", "refuse"]
KindName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _regex(text: str) -> str:
    try:
        compiled = regex.compile(text)
    except regex.error as error:
        message = f"is no regular expression: {error}"
        raise PydanticCustomError("refused", "{message}", {"message": message}) from None
    if compiled.match(""):
        raise PydanticCustomError("refused", "matches the empty text, which every message holds")
    return text


class PatternEntry(FileModel):
    """A kind of the company's own, by a regular expression."""

    name: Annotated[KindName, Field(description="Of the kind; not one that is known already.")]
    regex: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_regex)]
    action: ActionName


class WordsEntry(FileModel):
    """A kind of the company's own, by words and phrases, found in any case as whole words."""

    name: Annotated[KindName, Field(description="Of the kind; not one that is known already.")]
    words: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    action: ActionName


class CallerEntry(FileModel):
    """What differs for one caller."""

    caller: Annotated[str, Field(pattern=IDENTIFIER, description="Name, as callers.yaml has it.")]
    actions: Annotated[dict[KindName, ActionName], Field(min_length=1)]


class PolicyFile(FileModel):
    """What is to be done about what."""

    actions: Annotated[
        dict[KindName, ActionName],
        Field(description="By kind. A kind that is not named here is not looked for."),
    ] = Field(default_factory=dict)
    patterns: Annotated[list[PatternEntry], Field(max_length=256)] = Field(default_factory=list)
    words: Annotated[list[WordsEntry], Field(max_length=64)] = Field(default_factory=list)
    callers: Annotated[list[CallerEntry], Field(max_length=1000)] = Field(default_factory=list)
    phone_regions: Annotated[
        list[Annotated[str, Field(pattern="^[A-Z]{2}$")]],
        Field(max_length=16, description="Countries whose national form of phone numbers counts too."),
    ] = Field(default_factory=list)
    ner_model: Annotated[
        str, Field(max_length=512, description="Name or folder of a spaCy model, for person, location, …")
    ] = ""

    @model_validator(mode="after")
    def _kinds_are_known(self) -> Self:
        known = {SECRET, *PRESIDIO, *NER}
        for kind in (kind for kind in self.actions if kind not in known):
            raise refusal(("actions", kind), f"unknown kind; known: {', '.join(sorted(known))}", kind)
        own: set[str] = set()
        for field in ("patterns", "words"):
            for i, entry in enumerate(getattr(self, field)):
                if entry.name in known | own:
                    raise refusal((field, i, "name"), "another kind has this name", entry.name)
                own.add(entry.name)
        for i, caller in enumerate(self.callers):
            for kind in caller.actions:
                if kind not in known | own:
                    raise refusal(("callers", i, "actions", kind), "unknown kind", kind)
        if not self.ner_model and (names := sorted(self._asked() & NER.keys())):
            raise refusal(("ner_model",), f"must name a spaCy model, which finds {', '.join(names)}", "")
        return self

    def _asked(self) -> set[str]:
        return {*self.actions, *(kind for caller in self.callers for kind in caller.actions)}

    def to_value(self) -> Policy:
        """Return what the file states."""
        entries: list[PatternEntry | WordsEntry] = [*self.patterns, *self.words]
        own = {entry.name: Action(entry.action) for entry in entries}
        return Policy(
            actions={kind: Action(name) for kind, name in self.actions.items()} | own,
            patterns=tuple(Pattern(entry.name, entry.regex) for entry in self.patterns),
            words=tuple(WordList(entry.name, tuple(entry.words)) for entry in self.words),
            callers={
                entry.caller: {kind: Action(name) for kind, name in entry.actions.items()}
                for entry in self.callers
            },
            phone_regions=tuple(self.phone_regions),
            ner_model=self.ner_model,
        )


def read_policy(path: Path) -> Policy:
    """Read the file.

    Raises:
        CatalogError: every problem with its line; unreadable.

    """
    document = read_document(path, path.name, "actions")
    return validate(document.data, PolicyFile, path.name, document).to_value()
