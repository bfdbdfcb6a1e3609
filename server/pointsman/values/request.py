"""What a caller asks, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pointsman.values.policy import NOTHING_FOUND, Screening

BYTES_PER_TOKEN = 4
"""A usual estimate for English; text in other scripts has more tokens than it says. The encoder is not asked:
it reads the start of the last message only, and rules come before it."""


class Role(StrEnum):
    """Who said a message; the values are those of the chat-completions API."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Tier(StrEnum):
    """Where an answer is made: `micro`, `mid` and `full` in the words of others."""

    LOCAL = "local"
    MID = "mid"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Constraints:
    """Rules of the caller, which override similarity.

    output_tokens: length of the answer that is needed; 0 when unknown
    """

    specialist: str | None = None
    tier: Tier | None = None
    task_type: str | None = None
    local_only: bool = False
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling of one answer; None means the specialist's default."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


def size_of(messages: Sequence[Message]) -> int:
    """Return the bytes of messages in UTF-8."""
    return sum(len(message.content.encode("utf-8", "surrogatepass")) for message in messages)


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request: at least one message, the last one from the user and not empty.

    session_id: of the caller's choice; empty when the messages alone are the conversation
    caller: who asks; empty when nobody said
    budget_s: seconds that the caller will wait; None without a deadline
    hold_back: whether tokens wait until the local answer is sure enough
    hold_all: then, whether all of them do: for callers that cannot take back what they were told
    traceparent: of the trace that the caller began, as W3C writes it; empty without one
    screening: what the policy says of it, once it was asked
    """

    messages: tuple[Message, ...]
    constraints: Constraints = Constraints()
    sampling: Sampling = Sampling()
    request_id: str = ""
    session_id: str = ""
    caller: str = ""
    budget_s: float | None = None
    hold_back: bool = False
    hold_all: bool = False
    traceparent: str = ""
    screening: Screening = NOTHING_FOUND

    @property
    def tokens(self) -> int:
        """About how many the whole conversation has: its size in UTF-8, divided by 4."""
        return -(-size_of(self.messages) // BYTES_PER_TOKEN)

    @property
    def prompt(self) -> str:
        """The text that is routed: the last turn, which is the user's."""
        return self.messages[-1].content
