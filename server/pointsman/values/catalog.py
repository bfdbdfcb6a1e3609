"""What a catalog is, as values: intents, specialists, and what was refused."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

CLOUD = "cloud"
"""The one target that is not a specialist."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that was refused. `line` is 1-based, 0 when it is not on one line."""

    file: str
    line: int
    field: str
    value: str
    message: str

    def __str__(self) -> str:
        """`file:line: field: message (got value)`, the way compilers say it."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        subject = f" {self.field}:" if self.field else ""
        got = f" (got {self.value})" if self.value else ""
        return f"{place}:{subject} {self.message}{got}"


@dataclass(frozen=True, slots=True)
class Intent:
    """A topic, by example. `threshold` None means calibrated from the exemplars."""

    name: str
    target: str
    exemplars: tuple[str, ...]
    description: str = ""
    negatives: tuple[str, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model file by address and content."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter over a base model."""

    artifact: Artifact
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FewShot:
    """A worked example, shown before the conversation."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Specialist:
    """A local model with its prompt. `engine` is `llama_cpp` or `ctransformers`."""

    name: str
    base: Artifact
    description: str = ""
    adapter: Adapter | None = None
    system_prompt: str = ""
    few_shot: tuple[FewShot, ...] = ()
    context_tokens: int = 2048
    max_output_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    engine: str = "llama_cpp"
    task_types: tuple[str, ...] = ()

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Its model files."""
        return (self.base, self.adapter.artifact) if self.adapter else (self.base,)


class EngineState(StrEnum):
    """What an engine is doing."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class SpecialistStatus:
    """How a specialist is doing; `error` is empty when it is well."""

    specialist: Specialist
    state: EngineState
    error: str = ""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is served, at one moment. Names are unique; targets exist."""

    intents: tuple[Intent, ...] = ()
    specialists: tuple[Specialist, ...] = ()
    problems: tuple[Problem, ...] = ()
    loaded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def specialist(self, name: str) -> Specialist | None:
        """Return the specialist of that name, or None."""
        return next((s for s in self.specialists if s.name == name), None)

    def digest(self, encoder_hash: str) -> str:
        """Return 12 hex digits over encoder, intents and specialists; settings are not in it."""
        content = {
            "encoder": encoder_hash,
            "intents": [asdict(intent) for intent in self.intents],
            "specialists": [asdict(specialist) for specialist in self.specialists],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
