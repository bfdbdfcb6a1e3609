"""What a specialist's answers must look like, to what checks them. Knows no model and no file.

An answer is checked whole, and while it is being written: `why_not` says what is wrong with a whole answer,
`why_not_yet` what can no longer become right. JSON Schemas are those of the library `jsonschema`, without
references to other documents; patterns run under a time limit (library `regex`), as a pattern may take
exponential time over an answer that does not match.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from pointsman.values.catalog import Output

_MATCH_S = 0.05
"""Longest time that a pattern may take over one answer."""
_SLOW = f"the pattern took longer than {_MATCH_S * 1e3:.0f} ms"
_MAX_CHARACTERS = 1 << 16
_SHOWN = 60


class BadFormatError(ValueError):
    """A stated format that cannot be used; the author's fault. `path` leads from `field` to the fault."""

    def __init__(self, field: str, message: str, value: object, path: Sequence[str | int] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.path = tuple(path)


class Format(Protocol):
    """A check of answers. Every method takes normalised text."""

    def why_not(self, text: str) -> str:
        """Return what is wrong with a whole answer; empty when nothing is."""

    def why_not_yet(self, text: str) -> str:
        """Return why an answer that begins like this can no longer become right; empty when it can."""

    def complete(self, text: str) -> int:
        """Return how many characters of the beginning are complete fields."""


@lru_cache(maxsize=256)
def format_of(output: Output) -> Format | None:
    """Return the check of a format; None for free text.

    Raises:
        BadFormatError: names the field and what is wrong with it.

    """
    _check_grammar(output)
    if output.format == "json":
        return _Json(output)
    if output.format == "regex":
        return _Pattern(output.pattern)
    if output.format == "choice":
        return _Choice(output.choices)
    return None


def can_constrain(output: Output) -> bool:
    """Whether decoding can be held to the format."""
    return output.constrained != "never" and (output.format in {"json", "choice"} or bool(output.grammar))


class _Json:
    def __init__(self, output: Output) -> None:
        self._schema: dict[str, Any] = json.loads(output.schema) if output.schema else {}
        self._validator = _validator(self._schema)
        self._fields: dict[str, Any] = {}
        properties = self._schema.get("properties")
        if isinstance(properties, dict):
            self._fields = {name: self._validator.evolve(schema=part) for name, part in properties.items()}
        self._closed = self._schema.get("additionalProperties") is False and (
            "patternProperties" not in self._schema
        )

    def why_not(self, text: str) -> str:
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            return f"not JSON: {error}"
        return self._fault(self._validator, value)

    def why_not_yet(self, text: str) -> str:
        from pydantic_core import from_json

        begun = text.lstrip()
        if not begun:
            return ""
        if self._schema.get("type") == "object" and begun[0] != "{":
            return "not a JSON object"
        try:
            from_json(text, allow_partial="trailing-strings")
        except ValueError as error:
            return f"not JSON: {error}"
        end = self.complete(text)
        if end and text[end - 1] in "}]" and text[end:].strip():
            return "goes on after its end"
        members = from_json(text[:end].removesuffix(","), allow_partial=True) if end else None
        return self._members_fault(members) if isinstance(members, dict) else ""

    def complete(self, text: str) -> int:
        """Count up to the last comma or bracket of the outermost level, strings skipped."""
        depth, end = 0, 0
        inside = escaped = False
        for i, character in enumerate(text):
            if inside:
                inside = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                inside = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
                end = i + 1 if depth == 0 else end
            elif character == "," and depth == 1:
                end = i + 1
        return end

    def _members_fault(self, members: dict[str, Any]) -> str:
        for name, value in members.items():
            if name in self._fields:
                fault = self._fault(self._fields[name], value)
                if fault:
                    return f"{name}: {fault}"
            elif self._closed:
                return f"{_short(repr(name))} is no field of the schema"
        return ""

    @staticmethod
    def _fault(validator: Any, value: object) -> str:
        try:
            error = next(iter(validator.iter_errors(value)), None)
        except RecursionError:
            return "nested too deeply"
        if error is None:
            return ""
        place = "/".join(str(part) for part in error.absolute_path)
        return f"{place}: {_short(error.message)}" if place else _short(error.message)


class _Pattern:
    def __init__(self, pattern: str) -> None:
        import regex

        try:
            self._pattern = regex.compile(pattern)
        except regex.error as error:
            raise BadFormatError("pattern", f"no regular expression: {error}", pattern) from None

    def why_not(self, text: str) -> str:
        return self._fault(text, partial=False)

    def why_not_yet(self, text: str) -> str:
        return self._fault(text, partial=True)

    def complete(self, text: str) -> int:
        return text.rfind("\n") + 1

    def _fault(self, text: str, *, partial: bool) -> str:
        if len(text) > _MAX_CHARACTERS:
            return f"longer than {_MAX_CHARACTERS} characters"
        try:
            match = self._pattern.fullmatch(text, partial=partial, timeout=_MATCH_S)
        except TimeoutError:
            return _SLOW
        return "" if match else "does not match the pattern"


class _Choice:
    def __init__(self, choices: tuple[str, ...]) -> None:
        self._choices = choices
        repeated = next((choice for choice in choices if choices.count(choice) > 1), None)
        if repeated is not None:
            raise BadFormatError("choices", "the same choice twice", repeated)
        padded = next((choice for choice in choices if choice != choice.strip()), None)
        if padded is not None:  # answers lose theirs
            raise BadFormatError("choices", "a choice with spaces around it", padded)

    def why_not(self, text: str) -> str:
        return "" if text in self._choices else f"{_short(repr(text))} is none of the choices"

    def why_not_yet(self, text: str) -> str:
        begun = any(choice.startswith(text) for choice in self._choices)
        return "" if begun else f"{_short(repr(text))} begins none of the choices"

    def complete(self, text: str) -> int:
        return len(text) if text in self._choices else 0


def _validator(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import extend
    from referencing import Registry

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadFormatError("schema", _short(error.message), error.instance, error.absolute_path) from None
    for path, reference in _references(schema, ()):
        if not isinstance(reference, str) or not _resolves(schema, reference):
            message = "refers to nothing within the schema; only #/… is followed"
            raise BadFormatError("schema", message, reference, path)
    timed: Any = extend
    return timed(Draft202012Validator, {"pattern": _check_pattern})(schema, registry=Registry())


def _check_pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[Any]:
    """Check the keyword `pattern` under the time limit."""
    import regex
    from jsonschema import ValidationError

    if not isinstance(instance, str):
        return
    try:
        found = regex.search(pattern, instance, timeout=_MATCH_S)
    except (TimeoutError, regex.error):
        yield ValidationError(_SLOW)
        return
    if not found:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _references(part: object, path: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], object]]:
    if isinstance(part, dict):
        own = [((*path, key), part[key]) for key in ("$ref", "$dynamicRef") if key in part]
        return own + [found for key, inner in part.items() for found in _references(inner, (*path, key))]
    if isinstance(part, list):
        return [found for i, inner in enumerate(part) for found in _references(inner, (*path, i))]
    return []


def _resolves(schema: dict[str, Any], reference: str) -> bool:
    if reference == "#":
        return True
    if not reference.startswith("#/"):
        return False
    part: Any = schema
    for name in reference[2:].split("/"):
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        elif isinstance(part, dict) and key in part:
            part = part[key]
        else:
            return False
    return isinstance(part, dict | bool)


def _check_grammar(output: Output) -> None:
    if output.grammar and not re.search(r"^\s*root\s*::=", output.grammar, re.MULTILINE):
        raise BadFormatError("grammar", "no GBNF: it defines no rule 'root ::= …'", output.grammar)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _kind(value: object) -> str:
    kinds = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
