"""The part of a specialist's manifest that says what its answers must look like."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pointsman.catalog.file_model import MAX_TEXT, FileModel, Text, refusal, without_empty
from pointsman.catalog.output_format import BadFormatError, format_of
from pointsman.values.catalog import FREE_TEXT, Output


class OutputEntry(FileModel):
    """What answers must look like. An answer that does not is repaired, or moves to the cloud."""

    format: Annotated[
        Literal["text", "json", "regex", "choice"],
        Field(description="text: anything; the others are checked before an answer counts."),
    ]
    schema_: Annotated[
        dict[str, Any], Field(alias="schema", description="json: the JSON Schema (draft 2020-12).")
    ] = Field(default_factory=dict)
    pattern: Annotated[
        str, Field(max_length=MAX_TEXT, description="regex: what the whole answer must match.")
    ] = ""
    choices: Annotated[list[Text], Field(max_length=1024, description="choice: the only answers.")] = Field(
        default_factory=list
    )
    grammar: Annotated[
        str,
        Field(
            max_length=8 * MAX_TEXT,
            description="GBNF of llama.cpp for constrained decoding; json and choice need none.",
        ),
    ] = ""
    constrained: Annotated[
        Literal["always", "repair", "never"],
        Field(description="When decoding is held to the format: repair asks again with it, once."),
    ] = "repair"

    @model_validator(mode="after")
    def _is_one_format(self) -> Self:
        needs = {"json": "schema", "regex": "pattern", "choice": "choices"}
        stated = {"schema": self.schema_, "pattern": self.pattern, "choices": self.choices}
        for kind, field in needs.items():
            if stated[field] and kind != self.format:
                message = f"belongs to format {kind}, and the format is {self.format}"
                raise refusal(("output", field), message, stated[field])
            if kind == self.format and kind != "json" and not stated[field]:
                raise refusal(("output", "format"), f"format {kind} needs {field!r}", self.format)
        try:
            format_of(self.to_value())
        except BadFormatError as error:
            raise refusal(("output", error.field, *error.path), str(error), error.value) from None
        return self

    def to_value(self) -> Output:
        """Return what the file states."""
        return Output(
            format=self.format,
            schema=json.dumps(self.schema_) if self.schema_ else "",
            pattern=self.pattern,
            choices=tuple(self.choices),
            grammar=self.grammar,
            constrained=self.constrained,
        )

    @classmethod
    def from_value(cls, output: Output) -> dict[str, Any] | None:
        """Return the fields of a file that states it; None where nothing is stated."""
        if output == FREE_TEXT:
            return None
        fields = {
            "format": output.format,
            "schema": _plain(output.schema),
            "pattern": output.pattern,
            "choices": list(output.choices),
            "grammar": output.grammar,
            "constrained": output.constrained,
        }
        return without_empty(fields)


def _plain(schema: str) -> Any:
    """Return a schema as plain data; text that is no JSON as it is, for the validation to refuse."""
    try:
        return json.loads(schema) if schema else None
    except ValueError:
        return schema
