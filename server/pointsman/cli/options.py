"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(help="Settings file; else $POINTSMAN_CONFIG, else pointsman.yaml if there is one."),
]
