"""Who comes in, for what, and how often. Limits are those of this process (library `limits`, in memory)."""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from limits import RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from pointsman.errors import (
    DeadlineError,
    ForbiddenError,
    PointsmanError,
    QuotaError,
    UnauthenticatedError,
)
from pointsman.values.caller import Caller, Role, Shown
from pointsman.values.decision import Routed
from pointsman.values.events import Done, Event, Token

_DAY_S = 86_400
_CONCURRENT_RETRY_S = 1.0
_LEAST_RETRY_S = 0.1

let_in: ContextVar[Caller | None] = ContextVar("let_in", default=None)
"""The caller of the call that is being answered; None where nobody is known."""


class _PerMinute(RateLimitItemPerMinute):
    """Counted under the same key whatever the limit is: what was used stays used when it changes."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        return "/".join(("minute", *map(str, identifiers)))


class _PerDay(RateLimitItemPerDay):
    """The same; of a key that names the day, which the library would begin at the first use."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        return "/".join(("day", *map(str, identifiers)))


class Doors:
    """Knows callers, or lets everybody in while there are none."""

    def __init__(
        self, callers: Sequence[Caller] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Let these in; None lets everybody in. clock: Unix seconds, which say what day it is."""
        self._clock = clock
        self._callers = None if callers is None else tuple(callers)
        self._storage = MemoryStorage()
        self._rates = MovingWindowRateLimiter(self._storage)
        self._budgets = FixedWindowRateLimiter(self._storage)
        self._inside: Counter[str] = Counter()

    @property
    def watched(self) -> bool:
        """Whether callers must be known."""
        return self._callers is not None

    def replace(self, callers: Sequence[Caller]) -> None:
        """Let these in from now on. Calls that are being answered end as they began; what was used stays used."""
        self._callers = tuple(callers)

    def who(self, shown: Shown) -> Caller | None:
        """Return who shows this; None where everybody comes in.

        Every token is compared, each in constant time: how long it takes tells nothing of which was near.

        Raises:
            UnauthenticatedError: nothing was shown, or what nobody here has.

        """
        if self._callers is None:
            return None
        found = None
        digest = hashlib.sha256(shown.token.encode()).hexdigest()
        for caller in self._callers:
            for token in caller.tokens:
                if hmac.compare_digest(token, digest) and shown.token:
                    found = caller
        if found is None and not shown.token:  # a token that is wrong is not made good by a certificate
            found = next((c for c in self._callers if set(c.certificates) & set(shown.certificates)), None)
        if found is None:
            raise UnauthenticatedError(
                "no caller has this token or certificate"
                if shown.token or shown.certificates
                else "a bearer token or a client certificate is needed"
            )
        return found

    def name(self, known: Caller | None, given: str) -> str:
        """Return the name of a caller: who is known is not asked for one, and a stranger has none."""
        return known.name if known else "" if self.watched else given

    def may_read_metrics(self, authorization: str, certificates: tuple[str, ...] = ()) -> bool:
        """Whether an Authorization header, or else a certificate, is an operator's; anyone's where all come in."""
        try:
            caller = self.who(Shown(bearer(authorization), certificates))
        except UnauthenticatedError:
            return False
        return caller is None or Role.OPERATOR in caller.roles

    @contextmanager
    def enter(self, caller: Caller | None, role: Role) -> Generator[None, None, None]:
        """Count a call while it is being answered.

        Raises:
            ForbiddenError: the caller has not this role.
            QuotaError: a limit of theirs is reached; says which, and when to come again.

        """
        if caller is None:
            yield
            return
        if role not in caller.roles:
            raise ForbiddenError(f"caller {caller.name!r} is no {role}")
        if role is Role.CALLER:
            self._ensure_within(caller)
        self._inside[caller.name] += 1
        entered = let_in.set(caller)
        try:
            yield
        finally:
            let_in.reset(entered)
            self._inside[caller.name] -= 1

    async def counted(
        self, events: AsyncGenerator[Event, None], prompt_tokens: int
    ) -> AsyncGenerator[Event, None]:
        """Yield events; their tokens count for the caller, read or not.

        Of an answer that is given up once its route is known, or that fails once it has begun, each piece counts
        as one, and the prompt as `prompt_tokens`, an estimate: nobody tells its tokens. What is refused costs
        nothing.
        """
        prompt = pieces = 0
        try:
            async for event in events:
                if isinstance(event, Routed):
                    prompt = prompt_tokens
                elif isinstance(event, Token):
                    pieces += 1
                elif isinstance(event, Done):
                    prompt, pieces = event.usage.prompt_tokens, event.usage.completion_tokens
                yield event
        except Exception:
            prompt = prompt if pieces else 0
            raise
        finally:
            self._spent(prompt + pieces)

    def tokens_left(self, caller: Caller) -> int:
        """Return the tokens that a caller who has a budget may still have today, by UTC."""
        return self._budgets.get_window_stats(
            _PerDay(caller.tokens_per_day or 0), *self._today(caller)
        ).remaining

    def _today(self, caller: Caller) -> tuple[str, str]:
        return caller.name, str(int(self._clock() // _DAY_S))

    def _spent(self, tokens: int) -> None:
        caller = let_in.get()
        if caller is not None and caller.tokens_per_day and tokens > 0:
            self._budgets.hit(_PerDay(caller.tokens_per_day), *self._today(caller), cost=tokens)

    def _ensure_within(self, caller: Caller) -> None:
        most = caller.concurrent_requests
        if most is not None and self._inside[caller.name] >= most:
            what = f"{most} calls of caller {caller.name!r} are being answered, which is the limit"
            raise QuotaError(what, _CONCURRENT_RETRY_S)
        if caller.tokens_per_day is not None and self.tokens_left(caller) <= 0:
            what = f"the {caller.tokens_per_day} tokens a day of caller {caller.name!r} are used up"
            raise QuotaError(what, _DAY_S - self._clock() % _DAY_S)
        if caller.requests_per_minute is not None:
            rate = _PerMinute(caller.requests_per_minute)
            if not self._rates.hit(rate, caller.name):
                what = f"caller {caller.name!r} may ask {caller.requests_per_minute} times a minute"
                reset = self._rates.get_window_stats(rate, caller.name).reset_time
                raise QuotaError(what, _until(reset))


def kept_out(error: BaseException) -> bool:
    """Whether an error that a call ended with kept it from the router, so that nobody has noted the request.

    Of an answer that was not read, or not there, in time somebody has.
    """
    return isinstance(error, PointsmanError) and not error.noted and not isinstance(error, DeadlineError)


def bearer(authorization: str) -> str:
    """Return the token of an Authorization header; empty where it holds none."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _until(moment: float) -> float:
    return max(_LEAST_RETRY_S, moment - time.time())
