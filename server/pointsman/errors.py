"""Every error that leaves a room, as one tree.

PointsmanError
├── ConfigError          the operator's: settings that cannot be used; raised at start only
├── InvalidRequestError  the caller's: bad input
├── UnauthenticatedError the caller's: nobody that is known here
├── ForbiddenError       the caller's: known, and not for this
├── PolicyError          the caller's: what the conversation holds may not go where it would
├── UnknownNameError     the caller's: no such specialist or intent
├── UnknownRequestError  the caller's: no such request of theirs in the ledger
├── CatalogError         the author's: files of intents/ or specialists/ that were refused
├── PreconditionError    the caller's or operator's: the state of the service forbids the change
├── ArtifactError        the author's or the network's: a model file that cannot be had or used
├── NoRouteError         the operator's: nothing configured can answer
├── OverloadedError      nobody's: a bounded queue is full; expected under load
│   ├── QuotaError       the caller's: a limit of their own is reached
│   └── DeadlineError    nobody's: an answer could not be made in the time that the caller has left
└── BackendDownError     a backend's: an engine or the cloud failed; expected now and then
"""

from collections.abc import Sequence

from pointsman.values.catalog import Problem
from pointsman.values.policy import NOTHING_FOUND, Screening


class PointsmanError(Exception):
    """Base of all errors that Pointsman raises on purpose. `noted` once the ledger has a line of it.

    public: what callers are told where that is less than the whole
    logged: what the log is told, where the whole may quote a prompt
    said: what a backend of others said of it, which may quote a prompt: for logs that hold prompts
    retries: times that the cloud was asked again before it failed for good; None where it was not asked
    """

    noted = False
    retries: int | None = None
    public = ""
    logged = ""
    said = ""


class ConfigError(PointsmanError):
    """Settings that cannot be used. The operator's fault; ends the start, never a running server."""


class InvalidRequestError(PointsmanError):
    """Bad input. Expected; the caller's fault. `field` names the offending field of the request."""

    def __init__(self, field: str, message: str, *, logged: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.logged = logged


class UnauthenticatedError(PointsmanError):
    """No token or certificate, or one that nobody here has. The caller's fault."""


class ForbiddenError(PointsmanError):
    """A known caller who has not the role that a call needs. The caller's fault."""


class PolicyError(PointsmanError):
    """What a conversation holds forbids the answer. Expected; the caller's fault. Names kinds, never text."""

    def __init__(self, message: str, found: Screening = NOTHING_FOUND) -> None:
        super().__init__(message)
        self.found = found


class UnknownNameError(PointsmanError):
    """A name that is not registered. Expected; the caller's fault."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        listed = ", ".join(known) if known else "none are registered"
        super().__init__(f"unknown {kind} {name!r}; known: {listed}")
        self.kind = kind
        self.name = name


class UnknownRequestError(PointsmanError):
    """A request that the ledger does not have, or that is another caller's. Expected; the caller's fault."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"the ledger has no request {request_id!r} of this caller")


class CatalogError(PointsmanError):
    """Files or messages that do not make an intent or a specialist. The author's fault; names each place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class PreconditionError(PointsmanError):
    """A change that the state of the service forbids: still in use, or a read-only folder."""


class ArtifactError(PointsmanError):
    """A model file that cannot be fetched, is not the promised one, or cannot be used.

    The author's fault (wrong sha256, garbage), or the network's or the disk's.
    """


class NoRouteError(PointsmanError):
    """No route can exist as configured. The operator's fault; says what to configure."""


class OverloadedError(PointsmanError):
    """A bounded queue is full. Expected under load; nobody's fault. Try again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaError(OverloadedError):
    """A limit of the caller's own is reached. Expected; the caller's to wait, or the operator's to raise."""


class DeadlineError(OverloadedError):
    """An answer that could not be made before the caller's deadline. Expected under load; nobody's fault."""


class BackendDownError(PointsmanError):
    """An engine or the cloud failed. Expected now and then; the backend's fault.

    `permanent` is true when trying again cannot help (a refused key, an unknown model).
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, permanent: bool = False, public: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.permanent = permanent
        self.public = public


def for_callers(error: BaseException) -> str:
    """Return what callers are told of an error: nothing of the operator's files."""
    return getattr(error, "public", "") or str(error)


def for_log(error: BaseException) -> str:
    """Return what the log is told of an error, where it holds no prompts: nothing that a backend may quote of one."""
    return getattr(error, "logged", "") or str(error)


def unwrap(error: BaseException) -> BaseException:
    """Return the telling error inside exception groups: a TaskGroup wraps what its tasks raise.

    That is the first one raised on purpose, or else the first.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [unwrap(member) for member in error.exceptions]
    return next((member for member in inner if isinstance(member, PointsmanError)), inner[0])
