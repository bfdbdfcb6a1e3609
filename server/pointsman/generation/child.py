"""The process that holds one engine, seen from inside: what all engines' processes do alike.

It reads one JSON line from stdin (the engine's specification), answers with one JSON line on stdout
(`{"port": …}` or `{"error": …}`), serves the OpenAI protocol on loopback, and ends when stdin does: an
engine never outlives its server. A crash in native code ends this process, not the server.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pointsman.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Child:
    """A listening engine; `server` is kept alive."""

    server: object
    port: int


def run_child(start: Callable[[dict[str, Any]], Child]) -> None:
    """Start an engine as stdin specifies, and serve until stdin ends."""
    specification = json.loads(sys.stdin.readline())
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever native code prints goes to stderr
    try:
        child = start(specification)
    except (RuntimeError, ValueError, OSError, ArtifactError) as error:
        reply.write(json.dumps({"error": str(error)}) + "\n")
        reply.flush()
        sys.exit(1)
    reply.write(json.dumps({"port": child.port}) + "\n")
    reply.flush()
    sys.stdin.read()
    os._exit(0)  # nothing to save; an engine's own shutdown waits for streams that nobody reads any more
