"""`pointsman feedback`."""

from typing import Annotated

import typer

from pointsman.client import DEFAULT_ADDRESS, Access, Client


def feedback(
    request_id: Annotated[
        str, typer.Argument(help="Id of the request, as x-request-id has it.", show_default=False)
    ],
    accepted: Annotated[
        bool | None,
        typer.Option("--accepted/--rejected", help="Whether the answer was good.", show_default=False),
    ] = None,
    intent: Annotated[str, typer.Option(help="The intent that would have been right.")] = "",
    answer: Annotated[
        str, typer.Option(help="The answer that would have been right; kept where ledger.text is on.")
    ] = "",
    comment: Annotated[str, typer.Option(help="Anything else; kept where ledger.text is on.")] = "",
    address: Annotated[str, typer.Option(help="host:port of a running server.")] = DEFAULT_ADDRESS,
) -> None:
    """Say what an answer was worth; the ledger keeps it, and `export` and `report` read it."""
    with Client(address, access=Access.from_environment()) as client:
        client.feedback(request_id, accepted=accepted, intent=intent, answer=answer, comment=comment)
    print(f"kept for {request_id}")
