"""`pointsman callers new | check`."""

import hashlib
import re
import secrets
import sys
from typing import Annotated

import typer

from pointsman.cli.options import Config
from pointsman.errors import ConfigError
from pointsman.values.caller import Role
from pointsman.values.catalog import IDENTIFIER

callers = typer.Typer(help="Who may come in.", no_args_is_help=True)
_PREFIX = "pm_"
_BYTES = 32


@callers.command()
def new(
    name: Annotated[str, typer.Argument(help="What rules, log and metrics call them.", show_default=False)],
    role: Annotated[
        list[Role] | None,
        typer.Option(help="caller: Route and Generate; operator: CatalogService and metrics."),
    ] = None,
) -> None:
    """Make a token: printed once, on standard output; its entry for callers.yaml goes to standard error."""
    if not re.fullmatch(IDENTIFIER, name):
        raise ConfigError(f"NAME: must match {IDENTIFIER} (got {name!r})")
    token = _PREFIX + secrets.token_urlsafe(_BYTES)
    roles = ", ".join(dict.fromkeys(role or [Role.CALLER]))
    digest = hashlib.sha256(token.encode()).hexdigest()
    print(f"  - name: {name}\n    roles: [{roles}]\n    tokens: [sha256:{digest}]", file=sys.stderr)
    print(token)


@callers.command()
def check(config: Config = None) -> None:
    """Validate the file of callers, and print who may come in; exit 1 and name every problem if there is one."""
    from pointsman.catalog.callers_file import read_callers
    from pointsman.settings import load

    path = load(config).paths.callers
    for caller in read_callers(path):
        known_by = [f"{len(caller.tokens)} tokens"] if caller.tokens else []
        known_by += [f"{len(caller.certificates)} certificate names"] if caller.certificates else []
        limits = {
            "a minute": caller.requests_per_minute,
            "at once": caller.concurrent_requests,
            "tokens a day": caller.tokens_per_day,
        }
        stated = [f"{limit:,} {what}" for what, limit in limits.items() if limit is not None]
        print(f"{caller.name}: {', '.join(sorted(caller.roles))}; {', '.join([*known_by, *stated])}")
