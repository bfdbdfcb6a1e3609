"""What an engine is made of."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is made of; equal specifications need no restart.

    adapters: files, in the order in which requests scale them
    context_tokens: of one slot
    slots: answers made at once
    spare_slots: more slots, which keep the caches of adapters that wait for their turn
    binary: a native llama-server, for the kind of that name
    """

    kind: str
    model: Path
    adapters: tuple[Path, ...]
    context_tokens: int
    slots: int
    threads: int
    binary: Path | None = None
    spare_slots: int = 0

    @property
    def takes_turns(self) -> bool:
        """Whether its answers can be interrupted and taken up again."""
        return self.kind in {"llama_cpp", "llama_server"}

    def as_json(self, **more: object) -> bytes:
        """Return the line that a child process is told."""
        return json.dumps({key: _plain(value) for key, value in asdict(self).items()} | more).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
