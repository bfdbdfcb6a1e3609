"""The ledger's tables. A change here needs a migration beside it; a test compares the two."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

requests = Table(
    "requests",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("method", String(16), nullable=False),
    Column("outcome", String(16), nullable=False),
    *(
        Column(name, String(size), nullable=False)
        for name, size in {
            "caller": 128,
            "session_id": 128,
            "tier": 8,
            "specialist": 64,
            "routed_to": 64,
            "model": 256,
            "intent": 64,
            "reason": 32,
            "rule": 64,
        }.items()
    ),
    *(
        Column(name, Double)
        for name in ("similarity", "score", "threshold", "confidence", "difficulty", "answer_confidence")
    ),
    *(Column(name, Integer) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")),
    *(Column(name, Double) for name in ("route_ms", "queue_ms", "ttft_ms", "total_ms")),
    Column("retries", Integer),
    Column("cost", Double),
    Column("currency", String(3), nullable=False),
    Column("catalog_version", String(128), nullable=False),
    Column("confidence_alone", Double),
    Column("scorer", String(16), nullable=False, server_default=""),
    Column("hardness_by", String(16), nullable=False, server_default=""),
    Column("asked", Text, nullable=False, server_default=""),
    Column("uncounted", Integer),
    Column("prompt", Text),
    Column("answer", Text),
    Index("requests_time", "time"),
    Index("requests_request_id", "request_id"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("caller", String(128), nullable=False),
    Column("accepted", Boolean),
    Column("intent", String(64), nullable=False),
    Column("answer", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Index("feedback_request_id", "request_id"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("caller", String(128), nullable=False),
    Column("specialist", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("method", String(16), nullable=False),
    Column("score", Double, nullable=False),
    Column("agrees", Boolean, nullable=False),
    Column("cost", Double, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("answers_hash", String(64), nullable=False),
    Column("cut", Boolean, nullable=False),
    Column("logprobs", Text, nullable=False),
    Column("answer", Text),
    Index("comparisons_time", "time"),
    Index("comparisons_request_id", "request_id"),
)
