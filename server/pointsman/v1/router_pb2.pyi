from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_LOCAL: _ClassVar[Tier]
    TIER_CLOUD: _ClassVar[Tier]
    TIER_MID: _ClassVar[Tier]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]

class DecisionReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_REASON_UNSPECIFIED: _ClassVar[DecisionReason]
    DECISION_REASON_INTENT_MATCH: _ClassVar[DecisionReason]
    DECISION_REASON_LOW_SIMILARITY: _ClassVar[DecisionReason]
    DECISION_REASON_EXPLICIT_SPECIALIST: _ClassVar[DecisionReason]
    DECISION_REASON_EXPLICIT_TIER: _ClassVar[DecisionReason]
    DECISION_REASON_TASK_TYPE: _ClassVar[DecisionReason]
    DECISION_REASON_LOCAL_ONLY: _ClassVar[DecisionReason]
    DECISION_REASON_NO_CLOUD: _ClassVar[DecisionReason]
    DECISION_REASON_CLOUD_DOWN: _ClassVar[DecisionReason]
    DECISION_REASON_LOW_CONFIDENCE: _ClassVar[DecisionReason]
    DECISION_REASON_RULE: _ClassVar[DecisionReason]
    DECISION_REASON_DIFFICULTY: _ClassVar[DecisionReason]
    DECISION_REASON_FOLLOW_UP: _ClassVar[DecisionReason]
    DECISION_REASON_ESCALATED: _ClassVar[DecisionReason]
    DECISION_REASON_REPAIRED: _ClassVar[DecisionReason]
    DECISION_REASON_DRAFT_STANDS: _ClassVar[DecisionReason]
    DECISION_REASON_POLICY: _ClassVar[DecisionReason]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CONTENT_FILTER: _ClassVar[FinishReason]
TIER_UNSPECIFIED: Tier
TIER_LOCAL: Tier
TIER_CLOUD: Tier
TIER_MID: Tier
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
DECISION_REASON_UNSPECIFIED: DecisionReason
DECISION_REASON_INTENT_MATCH: DecisionReason
DECISION_REASON_LOW_SIMILARITY: DecisionReason
DECISION_REASON_EXPLICIT_SPECIALIST: DecisionReason
DECISION_REASON_EXPLICIT_TIER: DecisionReason
DECISION_REASON_TASK_TYPE: DecisionReason
DECISION_REASON_LOCAL_ONLY: DecisionReason
DECISION_REASON_NO_CLOUD: DecisionReason
DECISION_REASON_CLOUD_DOWN: DecisionReason
DECISION_REASON_LOW_CONFIDENCE: DecisionReason
DECISION_REASON_RULE: DecisionReason
DECISION_REASON_DIFFICULTY: DecisionReason
DECISION_REASON_FOLLOW_UP: DecisionReason
DECISION_REASON_ESCALATED: DecisionReason
DECISION_REASON_REPAIRED: DecisionReason
DECISION_REASON_DRAFT_STANDS: DecisionReason
DECISION_REASON_POLICY: DecisionReason
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CONTENT_FILTER: FinishReason

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: Role
    content: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., content: _Optional[str] = ...) -> None: ...

class Constraints(_message.Message):
    __slots__ = ("specialist", "tier", "task_type", "local_only", "output_tokens")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    specialist: str
    tier: Tier
    task_type: str
    local_only: bool
    output_tokens: int
    def __init__(self, specialist: _Optional[str] = ..., tier: _Optional[_Union[Tier, str]] = ..., task_type: _Optional[str] = ..., local_only: _Optional[bool] = ..., output_tokens: _Optional[int] = ...) -> None: ...

class RouteRequest(_message.Message):
    __slots__ = ("messages", "constraints", "session_id")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    constraints: Constraints
    session_id: str
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., constraints: _Optional[_Union[Constraints, _Mapping]] = ..., session_id: _Optional[str] = ...) -> None: ...

class RouteResponse(_message.Message):
    __slots__ = ("decision", "timings")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    timings: RouteTimings
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., timings: _Optional[_Union[RouteTimings, _Mapping]] = ...) -> None: ...

class Neighbor(_message.Message):
    __slots__ = ("exemplar_id", "intent", "similarity", "text")
    EXEMPLAR_ID_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    exemplar_id: str
    intent: str
    similarity: float
    text: str
    def __init__(self, exemplar_id: _Optional[str] = ..., intent: _Optional[str] = ..., similarity: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class IntentScore(_message.Message):
    __slots__ = ("intent", "score")
    INTENT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    intent: str
    score: float
    def __init__(self, intent: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("tier", "specialist", "intent", "similarity", "confidence", "reason", "explanation", "neighbors", "catalog_version", "score", "threshold", "scores", "model", "required_confidence", "rule", "difficulty")
    TIER_FIELD_NUMBER: _ClassVar[int]
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    NEIGHBORS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    DIFFICULTY_FIELD_NUMBER: _ClassVar[int]
    tier: Tier
    specialist: str
    intent: str
    similarity: float
    confidence: float
    reason: DecisionReason
    explanation: str
    neighbors: _containers.RepeatedCompositeFieldContainer[Neighbor]
    catalog_version: str
    score: float
    threshold: float
    scores: _containers.RepeatedCompositeFieldContainer[IntentScore]
    model: str
    required_confidence: float
    rule: str
    difficulty: Difficulty
    def __init__(self, tier: _Optional[_Union[Tier, str]] = ..., specialist: _Optional[str] = ..., intent: _Optional[str] = ..., similarity: _Optional[float] = ..., confidence: _Optional[float] = ..., reason: _Optional[_Union[DecisionReason, str]] = ..., explanation: _Optional[str] = ..., neighbors: _Optional[_Iterable[_Union[Neighbor, _Mapping]]] = ..., catalog_version: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., scores: _Optional[_Iterable[_Union[IntentScore, _Mapping]]] = ..., model: _Optional[str] = ..., required_confidence: _Optional[float] = ..., rule: _Optional[str] = ..., difficulty: _Optional[_Union[Difficulty, _Mapping]] = ...) -> None: ...

class Difficulty(_message.Message):
    __slots__ = ("score", "threshold")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    score: float
    threshold: float
    def __init__(self, score: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class RouteTimings(_message.Message):
    __slots__ = ("queue_ms", "embed_ms", "search_ms", "total_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    EMBED_MS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    embed_ms: float
    search_ms: float
    total_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., embed_ms: _Optional[float] = ..., search_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "max_tokens", "seed", "stop", "logprobs")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    logprobs: bool
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., logprobs: _Optional[bool] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("messages", "constraints", "sampling", "session_id", "hold_back")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_BACK_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    constraints: Constraints
    sampling: Sampling
    session_id: str
    hold_back: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., constraints: _Optional[_Union[Constraints, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., session_id: _Optional[str] = ..., hold_back: _Optional[bool] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("decision", "token", "escalation", "done")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ESCALATION_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    token: Token
    escalation: Escalation
    done: Done
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., token: _Optional[_Union[Token, _Mapping]] = ..., escalation: _Optional[_Union[Escalation, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class Token(_message.Message):
    __slots__ = ("text", "logprob")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    text: str
    logprob: float
    def __init__(self, text: _Optional[str] = ..., logprob: _Optional[float] = ...) -> None: ...

class Escalation(_message.Message):
    __slots__ = ("decision", "retract_from", "explanation")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RETRACT_FROM_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    retract_from: int
    explanation: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., retract_from: _Optional[int] = ..., explanation: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "cached_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ...) -> None: ...

class GenerateTimings(_message.Message):
    __slots__ = ("route", "queue_ms", "ttft_ms", "total_ms")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    route: RouteTimings
    queue_ms: float
    ttft_ms: float
    total_ms: float
    def __init__(self, route: _Optional[_Union[RouteTimings, _Mapping]] = ..., queue_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("currency", "amount")
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    currency: str
    amount: float
    def __init__(self, currency: _Optional[str] = ..., amount: _Optional[float] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("finish_reason", "usage", "timings", "cost", "confidence", "low_confidence")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LOW_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    finish_reason: FinishReason
    usage: Usage
    timings: GenerateTimings
    cost: Cost
    confidence: float
    low_confidence: bool
    def __init__(self, finish_reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[GenerateTimings, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., confidence: _Optional[float] = ..., low_confidence: _Optional[bool] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("request_id", "accepted", "intent", "answer", "comment")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    INTENT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    accepted: bool
    intent: str
    answer: str
    comment: str
    def __init__(self, request_id: _Optional[str] = ..., accepted: _Optional[bool] = ..., intent: _Optional[str] = ..., answer: _Optional[str] = ..., comment: _Optional[str] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
