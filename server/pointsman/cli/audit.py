"""`pointsman audit verify | show`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pointsman.cli.options import Config
from pointsman.errors import ConfigError

audit = typer.Typer(help="The record of what was decided, and of what left.", no_args_is_help=True)

Folder = Annotated[
    Path | None, typer.Option("--folder", help="In place of audit.folder.", show_default=False)
]


@audit.command()
def verify(
    folder: Folder = None,
    first: Annotated[
        int, typer.Option("--from", min=1, help="Number of the first record that is still there.")
    ] = 1,
    head: Annotated[
        str, typer.Option(help="Hash that one of the records must have, as the log told it.")
    ] = "",
    head_file: Annotated[
        Path | None,
        typer.Option(help="Where the head stands, in place of audit.head.", show_default="beside the folder"),
    ] = None,
    config: Config = None,
) -> None:
    """Follow the chain of records; exit 1 and name the place where it breaks."""
    from pointsman.ledger.audit import verify as follow

    where = _where(folder, config)
    verdict = follow(where.folder, where.key, first, head, head_file or where.head)
    if verdict.problem:
        print(f"{verdict.problem}\n{verdict.records} records before it are sound")
        raise typer.Exit(1)
    print(f"{verdict.records} records, each follows from the one before; the last is {verdict.head.number}")
    print(f"head {verdict.head.hash}")


@audit.command()
def show(
    request_id: Annotated[
        str, typer.Argument(help="As the trailing metadata x-request-id of a call tells it.")
    ],
    folder: Folder = None,
    config: Config = None,
) -> None:
    """Print the records of one request, as JSON; exit 1 where there are none."""
    from pointsman.ledger.audit import records_of

    where = _where(folder, config).folder
    records = list(records_of(where, request_id))
    for record in records:
        print(json.dumps(record, indent=2))
    if not records:
        print(f"no records of request {request_id!r} in {where}")
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Log:
    """Where a log stands, and what verifies it. head: None where it stands beside the folder."""

    folder: Path
    key: str
    head: Path | None


def _where(folder: Path | None, config: Path | None) -> _Log:
    from pointsman.settings import load

    settings = load(config).audit
    if (where := folder or settings.folder) is None:
        raise ConfigError("no audit log is written; set audit.folder, or name one by --folder")
    head = None if folder and folder != settings.folder else settings.head
    return _Log(where, settings.key.get_secret_value(), head)
