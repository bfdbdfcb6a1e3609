import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EngineState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENGINE_STATE_UNSPECIFIED: _ClassVar[EngineState]
    ENGINE_STATE_STARTING: _ClassVar[EngineState]
    ENGINE_STATE_READY: _ClassVar[EngineState]
    ENGINE_STATE_DOWN: _ClassVar[EngineState]

class RolloutStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STAGE_UNSPECIFIED: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_SHADOW: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_CANARY: _ClassVar[RolloutStage]
    ROLLOUT_STAGE_ALL: _ClassVar[RolloutStage]
ENGINE_STATE_UNSPECIFIED: EngineState
ENGINE_STATE_STARTING: EngineState
ENGINE_STATE_READY: EngineState
ENGINE_STATE_DOWN: EngineState
ROLLOUT_STAGE_UNSPECIFIED: RolloutStage
ROLLOUT_STAGE_SHADOW: RolloutStage
ROLLOUT_STAGE_CANARY: RolloutStage
ROLLOUT_STAGE_ALL: RolloutStage

class Intent(_message.Message):
    __slots__ = ("name", "description", "target", "exemplars", "negatives", "threshold")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EXEMPLARS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    target: str
    exemplars: _containers.RepeatedScalarFieldContainer[str]
    negatives: _containers.RepeatedScalarFieldContainer[str]
    threshold: float
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., target: _Optional[str] = ..., exemplars: _Optional[_Iterable[str]] = ..., negatives: _Optional[_Iterable[str]] = ..., threshold: _Optional[float] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("file", "line", "field", "value", "message")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    field: str
    value: str
    message: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class CatalogHealth(_message.Message):
    __slots__ = ("version", "loaded_at", "problems", "intents", "exemplars", "specialists")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOADED_AT_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    EXEMPLARS_FIELD_NUMBER: _ClassVar[int]
    SPECIALISTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    loaded_at: _timestamp_pb2.Timestamp
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    intents: int
    exemplars: int
    specialists: int
    def __init__(self, version: _Optional[str] = ..., loaded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., intents: _Optional[int] = ..., exemplars: _Optional[int] = ..., specialists: _Optional[int] = ...) -> None: ...

class ListIntentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIntentsResponse(_message.Message):
    __slots__ = ("intents", "health")
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    intents: _containers.RepeatedCompositeFieldContainer[Intent]
    health: CatalogHealth
    def __init__(self, intents: _Optional[_Iterable[_Union[Intent, _Mapping]]] = ..., health: _Optional[_Union[CatalogHealth, _Mapping]] = ...) -> None: ...

class PutIntentRequest(_message.Message):
    __slots__ = ("intent",)
    INTENT_FIELD_NUMBER: _ClassVar[int]
    intent: Intent
    def __init__(self, intent: _Optional[_Union[Intent, _Mapping]] = ...) -> None: ...

class PutIntentResponse(_message.Message):
    __slots__ = ("catalog_version",)
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    catalog_version: str
    def __init__(self, catalog_version: _Optional[str] = ...) -> None: ...

class DeleteIntentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteIntentResponse(_message.Message):
    __slots__ = ("catalog_version",)
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    catalog_version: str
    def __init__(self, catalog_version: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("uri", "sha256")
    URI_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    uri: str
    sha256: str
    def __init__(self, uri: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("artifact", "scale")
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    artifact: Artifact
    scale: float
    def __init__(self, artifact: _Optional[_Union[Artifact, _Mapping]] = ..., scale: _Optional[float] = ...) -> None: ...

class FewShotExample(_message.Message):
    __slots__ = ("user", "assistant")
    USER_FIELD_NUMBER: _ClassVar[int]
    ASSISTANT_FIELD_NUMBER: _ClassVar[int]
    user: str
    assistant: str
    def __init__(self, user: _Optional[str] = ..., assistant: _Optional[str] = ...) -> None: ...

class SamplingDefaults(_message.Message):
    __slots__ = ("temperature", "top_p")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("format", "json_schema", "pattern", "choices", "grammar", "constrained")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    JSON_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINED_FIELD_NUMBER: _ClassVar[int]
    format: str
    json_schema: str
    pattern: str
    choices: _containers.RepeatedScalarFieldContainer[str]
    grammar: str
    constrained: str
    def __init__(self, format: _Optional[str] = ..., json_schema: _Optional[str] = ..., pattern: _Optional[str] = ..., choices: _Optional[_Iterable[str]] = ..., grammar: _Optional[str] = ..., constrained: _Optional[str] = ...) -> None: ...

class Specialist(_message.Message):
    __slots__ = ("name", "description", "base", "adapter", "system_prompt", "few_shot", "context_tokens", "max_output_tokens", "sampling", "stop", "engine", "task_types", "output", "history_turns", "cascade")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    FEW_SHOT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_TURNS_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    base: Artifact
    adapter: Adapter
    system_prompt: str
    few_shot: _containers.RepeatedCompositeFieldContainer[FewShotExample]
    context_tokens: int
    max_output_tokens: int
    sampling: SamplingDefaults
    stop: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    task_types: _containers.RepeatedScalarFieldContainer[str]
    output: Output
    history_turns: int
    cascade: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., base: _Optional[_Union[Artifact, _Mapping]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., system_prompt: _Optional[str] = ..., few_shot: _Optional[_Iterable[_Union[FewShotExample, _Mapping]]] = ..., context_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., sampling: _Optional[_Union[SamplingDefaults, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ..., task_types: _Optional[_Iterable[str]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., history_turns: _Optional[int] = ..., cascade: _Optional[bool] = ...) -> None: ...

class SpecialistStatus(_message.Message):
    __slots__ = ("specialist", "engine_state", "intents", "error", "loaded", "figures", "trial")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_STATE_FIELD_NUMBER: _ClassVar[int]
    INTENTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    specialist: Specialist
    engine_state: EngineState
    intents: _containers.RepeatedScalarFieldContainer[str]
    error: str
    loaded: bool
    figures: EngineFigures
    trial: Trial
    def __init__(self, specialist: _Optional[_Union[Specialist, _Mapping]] = ..., engine_state: _Optional[_Union[EngineState, str]] = ..., intents: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., loaded: _Optional[bool] = ..., figures: _Optional[_Union[EngineFigures, _Mapping]] = ..., trial: _Optional[_Union[Trial, _Mapping]] = ...) -> None: ...

class Tally(_message.Message):
    __slots__ = ("answers", "successes")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    SUCCESSES_FIELD_NUMBER: _ClassVar[int]
    answers: int
    successes: int
    def __init__(self, answers: _Optional[int] = ..., successes: _Optional[int] = ...) -> None: ...

class Trial(_message.Message):
    __slots__ = ("stage", "candidate", "live", "same")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SAME_FIELD_NUMBER: _ClassVar[int]
    stage: RolloutStage
    candidate: Tally
    live: Tally
    same: Tally
    def __init__(self, stage: _Optional[_Union[RolloutStage, str]] = ..., candidate: _Optional[_Union[Tally, _Mapping]] = ..., live: _Optional[_Union[Tally, _Mapping]] = ..., same: _Optional[_Union[Tally, _Mapping]] = ...) -> None: ...

class EngineFigures(_message.Message):
    __slots__ = ("engine", "resident_bytes", "slots", "busy_slots", "waiting", "tokens_per_s", "hit_rate")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    BUSY_SLOTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    engine: str
    resident_bytes: int
    slots: int
    busy_slots: int
    waiting: int
    tokens_per_s: float
    hit_rate: float
    def __init__(self, engine: _Optional[str] = ..., resident_bytes: _Optional[int] = ..., slots: _Optional[int] = ..., busy_slots: _Optional[int] = ..., waiting: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., hit_rate: _Optional[float] = ...) -> None: ...

class ListSpecialistsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSpecialistsResponse(_message.Message):
    __slots__ = ("specialists", "health")
    SPECIALISTS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    specialists: _containers.RepeatedCompositeFieldContainer[SpecialistStatus]
    health: CatalogHealth
    def __init__(self, specialists: _Optional[_Iterable[_Union[SpecialistStatus, _Mapping]]] = ..., health: _Optional[_Union[CatalogHealth, _Mapping]] = ...) -> None: ...

class RegisterSpecialistRequest(_message.Message):
    __slots__ = ("specialist",)
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    specialist: Specialist
    def __init__(self, specialist: _Optional[_Union[Specialist, _Mapping]] = ...) -> None: ...

class RegisterSpecialistResponse(_message.Message):
    __slots__ = ("catalog_version",)
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    catalog_version: str
    def __init__(self, catalog_version: _Optional[str] = ...) -> None: ...

class RemoveSpecialistRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveSpecialistResponse(_message.Message):
    __slots__ = ("catalog_version",)
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    catalog_version: str
    def __init__(self, catalog_version: _Optional[str] = ...) -> None: ...
