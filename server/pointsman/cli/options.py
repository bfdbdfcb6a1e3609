"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman.errors import ConfigError

Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; else $POINTSMAN_CONFIG, else pointsman.yaml if there is one."),
]


def write_text(path: Path, text: str, option: str) -> None:
    """Write what an option asks for.

    Raises:
        ConfigError: it cannot be written; names the option.

    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be written: {error.strerror}") from None
