"""Options that many commands share."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pointsman.errors import ConfigError, InvalidRequestError

Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; else $POINTSMAN_CONFIG, else pointsman.yaml if there is one."),
]


def read_prompt(text: str) -> str:
    """Return the prompt of a command line; `-` reads standard input.

    Raises:
        InvalidRequestError: its bytes are not UTF-8; says which and where.

    """
    given = sys.stdin.buffer.read() if text == "-" else os.fsencode(text)
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is 0x{given[error.start]:02x}"
        raise InvalidRequestError("messages", f"the prompt is not UTF-8: {where}") from None


def write_text(path: Path, text: str, option: str) -> None:
    """Write what an option asks for.

    Raises:
        ConfigError: it cannot be written; names the option.

    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be written: {error.strerror}") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, whole or not at all.

    Raises:
        ConfigError: it cannot be written.

    """
    from pointsman.artifacts.whole_file import whole_file

    try:
        with whole_file(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
