"""Pointsman sends every prompt down the right track.

The rooms, in the order of the data. A room knows the rooms before it, never the ones after it:

 0. `errors`, `settings`, `values`, `artifacts`, `catalog`: what every room may stand on
 1. `service`: protobuf, and chat completions over HTTP, to values and back
 2. `policy`: constraints of the caller and rules of the operator
 3. `embedding`: text to unit rows
 4. `index`: vectors to neighbours and class scores
 5. `decision`: scores to a `Decision`
 6. `router`: the four above, composed over one immutable snapshot
 7. `review`: what a catalog makes of traffic past and proposed, and what it costs; not on the way of a request
 8. `generation`: tokens from a local engine or the cloud
 9. `ledger`: what a request cost, took and said
10. `training`: examples to an adapter; not on the way of a request
11. `host` and `cli`: compose the rooms into a process; `client` talks to one
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pointsman.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the clients when they are asked for: the server does not need them."""
    if name in {"AsyncClient", "Client"}:
        from pointsman import client

        return getattr(client, name)
    raise AttributeError(f"module 'pointsman' has no attribute {name!r}")
