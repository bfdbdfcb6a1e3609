"""What a catalog is, as values: intents, specialists, and what was refused."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

from pointsman.values.rollout import Past, Stage, Tally, Trial

CLOUD = "cloud"
MID = "mid"
"""The two targets that are not specialists: the cloud, and what `routing.mid` names."""
LOCAL = "local"
"""Where a rule leaves the choice of the specialist to similarity."""
_SPECIALIST = "specialist:"
NEXT = "@next"
"""Ends the name of a candidate, and no specialist's own: engines and the cascade tell it from the live version by it."""
IDENTIFIER = r"^[\w.:/=+-]{1,128}$"
"""What request ids and the names of callers are made of."""
TRACEPARENT = "traceparent"
CALLER = "x-pointsman-caller"
"""The metadata in which callers give their names, for rules that depend on them."""


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

    @property
    def words(self) -> str:
        """The name as a person would say it."""
        return " ".join(self.name.replace("_", " ").split())


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
class Output:
    """What the answers of a specialist must look like.

    format: `text`, `json`, `regex` or `choice`
    schema: JSON Schema as JSON text; empty: any JSON
    pattern: what a whole answer must match
    choices: the only answers there are
    grammar: GBNF for constrained decoding, where format alone gives none
    constrained: when decoding is constrained: `always`, for a `repair` of an answer that broke the format,
        or `never`
    """

    format: str = "text"
    schema: str = ""
    pattern: str = ""
    choices: tuple[str, ...] = ()
    grammar: str = ""
    constrained: str = "repair"


FREE_TEXT = Output()


@dataclass(frozen=True, slots=True)
class Specialist:
    """A local model with its prompt. `engine` is `llama_cpp` or `ctransformers`.

    output: what its answers must look like
    history_turns: user turns before the last one that it is shown; None: all that fit
    cascade: whether answers that look wrong may move to the cloud
    """

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
    output: Output = FREE_TEXT
    history_turns: int | None = None
    cascade: bool = True

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Its model files."""
        return (self.base, self.adapter.artifact) if self.adapter else (self.base,)

    @property
    def answers_hash(self) -> str:
        """sha256 over what its answers, and how sure it is of them, depend on: model files, prompt, examples."""
        adapter = [self.adapter.artifact.sha256, self.adapter.scale] if self.adapter else []
        shots = [[shot.user, shot.assistant] for shot in self.few_shot]
        content = [self.engine, self.base.sha256, adapter, self.system_prompt, shots]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Mid:
    """Who answers on the middle tier: a specialist, or a model of the cloud's endpoint. One of the two is set."""

    specialist: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of numbers without its ends; None leaves an end open."""

    over: int | None = None
    under: int | None = None

    def hold(self, number: float) -> bool:
        """Whether a number lies within."""
        return (self.over is None or number > self.over) and (self.under is None or number < self.under)


@dataclass(frozen=True, slots=True)
class Rule:
    """Where requests go that meet all conditions. A condition that is empty or None is none.

    to: `cloud`, `mid`, `local` or `specialist:NAME`
    tokens, output_tokens: of the conversation (an estimate), and of the answer that is needed
    budget_ms: time until the caller's deadline
    """

    name: str
    to: str
    task_types: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    tokens: Bounds | None = None
    output_tokens: Bounds | None = None
    budget_ms: Bounds | None = None

    @property
    def specialist(self) -> str | None:
        """The specialist that it names, if it names one."""
        return self.to.removeprefix(_SPECIALIST) if self.to.startswith(_SPECIALIST) else None


class EngineState(StrEnum):
    """What an engine is doing."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """How busy an engine is, and how a specialist fares in it. None is not known, or not yet.

    resident_bytes: of the engine's process; pages shared with other processes are counted in part
    busy_slots: answers being made; waiting: requests that have not been begun
    tokens_per_s: smoothed, of all answers together
    hit_rate: share of the prompt tokens of this adapter that were in a cache
    """

    engine: str
    resident_bytes: int | None
    slots: int
    busy_slots: int
    waiting: int
    tokens_per_s: float | None
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class SpecialistStatus:
    """How a specialist is doing; `error` is empty when it is well.

    loaded: whether its adapter is in the engine; one that is not is loaded when it is asked for
    trial: how a new version of it does; None where none is on its way
    """

    specialist: Specialist
    state: EngineState
    error: str = ""
    loaded: bool = True
    figures: EngineFigures | None = None
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A candidate beside the specialist `name`.

    candidate: the new version; its own name is `name` with a mark, so that engines tell the two apart
    share: of requests that are compared in shadow, and answered by the candidate as a canary
    bound: the drop in the share of successes from which the candidate goes
    answers: of the candidate that each stage needs
    agreement: least share of its answers in shadow that must say what callers got; 0: however they differ
    past: the stages before this one
    """

    name: str
    candidate: Specialist
    stage: Stage = Stage.SHADOW
    share: float = 0.1
    bound: float = 0.05
    answers: int = 50
    agreement: float = 0.7
    past: tuple[Past, ...] = field(default=())

    @property
    def baseline(self) -> Tally:
        """What the live version showed in the stages before this one."""
        return next((past.live for past in reversed(self.past) if past.live.answers), Tally())


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is served, at one moment. Names are unique; targets exist; rules are in order."""

    intents: tuple[Intent, ...] = ()
    specialists: tuple[Specialist, ...] = ()
    problems: tuple[Problem, ...] = ()
    rules: tuple[Rule, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    loaded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def specialist(self, name: str) -> Specialist | None:
        """Return the specialist of that name, or None."""
        return next((s for s in self.specialists if s.name == name), None)

    def rollout(self, name: str) -> Rollout | None:
        """Return what is on its way into the place of the specialist of that name, or None."""
        return next((r for r in self.rollouts if r.name == name), None)

    @property
    def with_candidates(self) -> "Catalog":
        """The same, with the candidates on their way as specialists, under their marked names."""
        candidates = tuple(rollout.candidate for rollout in self.rollouts)
        return replace(self, specialists=self.specialists + candidates)

    @property
    def exemplar_hash(self) -> str:
        """sha256 over everything that a calibration depends on, but the encoder."""
        content = [[i.name, i.target, i.exemplars, i.negatives, i.threshold] for i in self.intents]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def digest(self, encoder_hash: str) -> str:
        """Return 12 hex digits over encoder, intents, specialists and rules; settings are not in it."""
        content = {
            "encoder": encoder_hash,
            "intents": [asdict(intent) for intent in self.intents],
            "specialists": [asdict(specialist) for specialist in self.specialists],
            "rules": [asdict(rule) for rule in self.rules],
        }
        if self.rollouts:
            content["rollouts"] = [asdict(rollout) for rollout in self.rollouts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
