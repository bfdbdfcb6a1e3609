"""The sections of the settings: each setting with its kind, default and description. Reads no environment."""

import os
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pointsman.values.catalog import Mid


def default_threads() -> int:
    """Return the threads that an encoder or an engine may use: the cores this process has, minus one."""
    return max(1, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 1)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Tls(_Section):
    """Certificates of the gRPC listener, in PEM; files that are replaced are taken up by new connections."""

    certificate: Path = Field(description="certificate chain of the server")
    key: Path = Field(description="private key of its first certificate, not encrypted")
    client_ca: Path | None = Field(
        None,
        description="client certificates must be signed by one of these (mTLS); none are asked for without it",
    )


class Server(_Section):
    """The gRPC listener."""

    address: str = Field("127.0.0.1:50051", description="host:port of the gRPC service; port 0 picks one")
    tls: Tls | None = Field(None, description="certificates; plain text without them")
    insecure: bool = Field(
        False, description="listen beyond this machine although TLS or known callers are missing"
    )
    http_address: str = Field(
        "", description="host:port of chat completions over HTTP (extra `http`); empty turns it off"
    )
    metrics_address: str = Field("127.0.0.1:9464", description="host:port of /metrics; empty turns it off")
    grace_s: Seconds = Field(20.0, description="how long streams may finish after SIGTERM")
    stall_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        30.0, description="longest time that a caller may leave a piece of its answer unread"
    )
    idle_s: Annotated[float, Field(gt=0, le=86400)] = Field(
        600.0, description="longest time that a gRPC connection stays open without a call"
    )
    max_streams: Annotated[int, Field(ge=1, lt=1 << 31)] = Field(
        1024, description="most calls at once on one gRPC connection; a client keeps more waiting by itself"
    )
    max_message_bytes: Count = Field(4 << 20, description="largest gRPC message accepted")
    max_prompt_bytes: Count = Field(256 << 10, description="largest conversation accepted, UTF-8")
    max_messages: Count = Field(256, description="most messages in a conversation")


class Paths(_Section):
    """Folders."""

    intents: Path = Field(Path("intents"), description="watched for intent YAML")
    specialists: Path = Field(Path("specialists"), description="watched for specialist YAML")
    rules: Path = Field(Path("rules.yaml"), description="rules in order, watched; need not exist")
    models: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("pointsman") / "models",
        description="fetched model files, by sha256",
    )
    cache: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("pointsman"),
        description="embeddings of exemplars, by encoder hash",
    )
    calibration: Path = Field(
        Path("calibration.json"), description="written by `pointsman calibrate`, watched; need not exist"
    )
    difficulty: Path = Field(
        Path("difficulty.npz"), description="written by `pointsman difficulty fit`, watched; need not exist"
    )
    cascade: Path = Field(
        Path("cascade.json"), description="written by `pointsman cascade fit`, watched; need not exist"
    )
    callers: Path = Field(
        Path("callers.yaml"),
        description="who may come in, watched; without it, everybody who reaches the address",
    )
    policy: Path = Field(
        Path("policy.yaml"),
        description="what may leave for the cloud, watched; without it, everything (extra `policy`)",
    )
    prices: Path = Field(
        Path("prices.yaml"), description="what models of the cloud charge, watched; need not exist"
    )
    bundle: Path | None = Field(
        None, description="a bundle to serve in place of intents/, specialists/ and the files above; watched"
    )


class Encoder(_Section):
    """Text to vectors."""

    model: str = Field(
        "all-MiniLM-L6-v2",
        description="the embedded default, or any sentence-transformers model by name or path (extra `encoder`)",
    )
    backend: Literal["auto", "onnx", "sentence-transformers"] = Field(
        "auto", description="auto: onnx for the embedded default, sentence-transformers for all others"
    )
    threads: Count = Field(default_factory=default_threads, description="threads of one embedding")
    queue_limit: Count = Field(512, description="prompts that may wait for the encoder")


class Routing(_Section):
    """From similarity to a decision."""

    general_specialist: str = Field(
        "general", description="answers locally where no intent fits; empty: none"
    )
    on_no_cloud: Literal["general", "fail"] = Field(
        "general", description="a prompt for the cloud when none is configured: general specialist, or fail"
    )
    on_cloud_down: Literal["general", "fail"] = Field(
        "fail", description="a prompt for the cloud while it is down: general specialist, or UNAVAILABLE"
    )
    rejection: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="share of in-scope prompts that calibration lets go to the cloud"
    )
    out_of_scope: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of prompts expected to fit no intent; confidence allows for them"
    )
    stale_calibration: Literal["warn", "refuse"] = Field(
        "warn",
        description="a calibration of other exemplars, another encoder or other settings: serve and warn, or refuse",
    )
    mid: Annotated[str, Field(pattern=r"^(specialist:[a-z][a-z0-9_]{0,63}|cloud:\S+)?$")] = Field(
        "",
        description="who answers on the mid tier: `specialist:NAME`, or `cloud:MODEL`, another model of the "
        "cloud's endpoint; empty: nobody",
    )
    cloud_task_types: list[str] = Field(
        default_factory=lambda: ["reasoning", "world_knowledge", "long_document", "code_generation"],
        description="task types that requests may name to reach the cloud",
    )
    neighbors: Count = Field(5, description="exemplars shown in a decision")

    @property
    def mid_tier(self) -> Mid | None:
        """Who answers on the mid tier; None when nobody does."""
        kind, _, name = self.mid.partition(":")
        return {"specialist": Mid(specialist=name), "cloud": Mid(model=name)}.get(kind)


class Conversations(_Section):
    """How turns before the last one take part in routing."""

    hysteresis: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.5, description="log-odds by which leaving a topic must be likelier than staying"
    )
    turns: Count = Field(8, description="user turns that are read, the last ones")
    sessions: Count = Field(10_000, description="sessions remembered; the least recently used goes first")
    session_ttl_s: Seconds = Field(1800.0, description="how long a session is remembered")
    recent_turns: Count = Field(
        4096, description="turns whose embedding is kept, so that it is not made again"
    )


class Engine(_Section):
    """The local engines, one child process per base model."""

    threads: Count = Field(default_factory=default_threads, description="threads of one engine")
    slots: Count = Field(4, description="answers made at once by one engine (continuous batching)")
    spare_slots: Annotated[int, Field(ge=0)] = Field(
        2, description="most slots beside those, one for each adapter, that keep prompts of waiting adapters"
    )
    swap_mib: Annotated[int, Field(ge=0)] = Field(
        256,
        description="most memory for caches of prompts that had to leave their slot; 0 keeps none (Linux)",
    )
    queue_limit: Annotated[int, Field(ge=0)] = Field(64, description="answers that may wait for a slot")
    adapter_turn_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2.0,
        description="longest wait of a request for its adapter's turn, while others have theirs; with more than ten "
        "of them waiting, 0.2 s for each; an answer held to a grammar is waited for on top",
    )
    max_adapters: Count = Field(
        16, description="adapters that one engine holds; the least recently used one makes room"
    )
    start_timeout_s: Seconds = Field(60.0, description="how long an engine may take to load")
    stop_timeout_s: Seconds = Field(5.0, description="how long an engine may take to end before it is killed")
    idle_read_timeout_s: Seconds = Field(60.0, description="longest silence of an engine within an answer")
    restart_backoff_s: Seconds = Field(0.25, description="first wait before a restart; doubles")
    restart_backoff_max_s: Seconds = Field(30.0, description="longest wait before a restart")
    health_interval_s: Seconds = Field(5.0, description="time between liveness checks; 0 turns them off")
    llama_server: Path | None = Field(
        None, description="a native llama-server binary to use instead of the embedded engine"
    )


class Cloud(_Section):
    """Any OpenAI-compatible endpoint. Configured when `model` is set."""

    base_url: str = Field("https://api.openai.com/v1", description="endpoint, with its version path")
    model: str = Field("", description="model name; empty means that no cloud is configured")
    api_key: SecretStr = Field(SecretStr(""), description="key; better given by environment than by file")
    connect_timeout_s: Seconds = Field(5.0, description="longest wait for a connection")
    first_token_timeout_s: Seconds = Field(
        30.0, description="longest wait for the first token, and between tokens"
    )
    max_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        2, description="tries again, before the first token only"
    )
    concurrency: Count = Field(64, description="answers asked of the cloud at once")
    max_output_tokens: Count = Field(1024, description="limit where the request sets none")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the endpoint calls that limit; newer OpenAI models want the second"
    )


class Registration(_Section):
    """What RegisterSpecialist may fetch. Files that operators put into specialists/ are not limited by it."""

    folders: tuple[Path, ...] = Field(
        (), description="whose files it may name, besides those under paths.specialists"
    )
    hubs: tuple[Literal["hf", "pypi"], ...] = Field(
        ("hf", "pypi"), description="that it may name; empty for none"
    )


class Cascade(_Section):
    """When a local answer moves to the cloud after all."""

    enabled: bool = Field(
        True,
        description="judge local answers: by format, refusals and circles, and by a model where one is fitted",
    )
    commit_tokens: Count = Field(
        32, description="tokens of free text that a request which holds back waits for before it is shown any"
    )
    commit: Literal["answer", "field"] = Field(
        "answer", description="the same for stated formats: the whole answer, or field by field"
    )
    alert_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="share of a specialist's answers that fall short, above which it is reported"
    )
    alert_window: Count = Field(200, description="last answers of a specialist that the share is taken over")
    alert_least: Count = Field(50, description="answers under which no share is reported")


class Shadow(_Section):
    """Local answers that the cloud is asked for as well, in the background, to learn how good they are."""

    share: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="of local answers that may leave")
    per_minute: Count = Field(6, description="most that are asked in a minute")
    budget_per_day: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="most that they cost in a day of UTC, in the currency of prices.yaml"
    )
    free_text: Literal["similarity", "judge"] = Field(
        "similarity",
        description="how answers without a stated format are compared: by embedding, or by asking the cloud",
    )
    similar: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="cosine from which two free texts agree"
    )


def ledger_url() -> SecretStr:
    """Return where the ledger is kept unless a setting says otherwise."""
    return SecretStr(f"sqlite:///{platformdirs.user_data_path('pointsman') / 'ledger.db'}")


class Ledger(_Section):
    """A row for each request: what it cost, took and came to."""

    enabled: bool = Field(True, description="keep a ledger")
    url: SecretStr = Field(
        default_factory=ledger_url,
        description="`sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/NAME` (extra `postgres`)",
    )
    text: bool = Field(
        False,
        description="keep prompts and answers too, redacted by the policy; where there is none, of every kind it could "
        "name (extra `policy`)",
    )
    flush_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0,
        description="time between two writes; a killed process loses the rows of its last `flush_s` and of the write "
        "at work",
    )
    batch_rows: Count = Field(1000, description="rows of one write")
    queue_rows: Count = Field(
        20_000, description="rows that wait while the database is away; more are dropped"
    )
    queue_mib: Count = Field(64, description="memory of rows that wait; more are dropped")
    keep_days: Annotated[int, Field(ge=0)] = Field(90, description="age at which rows go; 0: never")
    keep_rows: Annotated[int, Field(ge=0)] = Field(
        5_000_000, description="rows that are kept, the last ones; 0: all"
    )
    keep_mib: Annotated[int, Field(ge=0)] = Field(
        0, description="size of an SQLite file from which the oldest rows go; 0: any"
    )


class Policy(_Section):
    """What may leave; it stands in the file that `paths.policy` names."""

    required: bool = Field(
        False,
        description="whether a start without the policy file is refused; without it everything may leave",
    )


class Audit(_Section):
    """The record of what was decided about each conversation, and of what left."""

    folder: Path | None = Field(
        None, description="of the audit log, one a process; none is written without it"
    )
    head: Path | None = Field(
        None,
        description="file that holds the last record's hash, best where who may edit the log may not; "
        "FOLDER.head beside it by default",
    )
    key: SecretStr = Field(
        SecretStr(""), description="of its hashes (HMAC), which then nobody can forge who lacks it"
    )


class Telemetry(_Section):
    """Traces and metrics for OpenTelemetry (extra `telemetry`)."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = Field(
        "", description="collector, OTLP over gRPC, as in http://127.0.0.1:4317; empty turns it off"
    )
    service: str = Field("pointsman", description="`service.name`")
    share: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="of traces that begin here; those of callers are kept as they say"
    )
    metrics_every_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        60.0, description="time between two exports of metrics"
    )


class Log(_Section):
    """One line a request."""

    format: Literal["auto", "pretty", "json"] = Field("auto", description="auto: pretty on a terminal")
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is shown"
    )
    prompts: bool = Field(False, description="log prompt text too, redacted by the policy")
