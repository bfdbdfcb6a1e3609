"""What the models of all file formats stand on."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_TEXT = 8192


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_not_blank)]


class FileModel(BaseModel):
    """A file, or a part of one. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def refusal(path: tuple[str | int, ...], message: str, value: object) -> PydanticCustomError:
    """Return an error of the whole model that still names the field at fault."""
    return PydanticCustomError("refused", "{message}", {"message": message, "path": path, "value": value})


def without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields without those that state nothing."""
    return {key: value for key, value in fields.items() if value not in (None, "", [])}
