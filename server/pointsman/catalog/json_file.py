"""A JSON file to the model that states its format, with every problem named."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem

_SHOWN = 80


class Strict(BaseModel):
    """No unknown field, no NaN, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


def read_json(path: Path, model: type[M]) -> M:
    """Read one file.

    Raises:
        CatalogError: unreadable, or not of that format; names every field.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error.strerror}")]) from None
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise CatalogError(
            [
                Problem(str(path), 0, ".".join(map(str, item["loc"])), _short(item["input"]), item["msg"])
                for item in error.errors(include_url=False)
            ]
        ) from None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
