"""What is waited for on the way to an answer, against the time that its caller has left."""

import asyncio
from dataclasses import dataclass
from typing import Any

from pointsman.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Deadline:
    """A caller's deadline. at: by the loop's clock; None without one."""

    at: float | None = None

    @classmethod
    def within(cls, budget_s: float | None) -> "Deadline":
        """Return the deadline of somebody who has so much time left."""
        return cls(None if budget_s is None else asyncio.get_running_loop().time() + budget_s)

    def left_s(self) -> float:
        """Return the time left; infinite without a deadline."""
        return float("inf") if self.at is None else self.at - asyncio.get_running_loop().time()

    def ensure(self, needed_s: float | None, what: str) -> None:
        """Refuse what would take longer; None is what is not known.

        Raises:
            DeadlineError: says what it is, and when to come back.

        """
        left_s = max(0.0, self.left_s())
        if needed_s is not None and needed_s > left_s:
            raise DeadlineError(
                f"{what}, which takes {needed_s:.1f} s; {left_s:.1f} s are left", retry_after_s=needed_s
            )

    async def wait(self, awaited: asyncio.Future[Any], needed_s: float | None, what: str) -> None:
        """Wait for what goes on whoever leaves; for half of the time left where it takes longer than expected.

        The other half is for whoever answers instead.

        Raises:
            DeadlineError: it cannot be waited for, or was not done by then.

        """
        if self.at is None:
            await asyncio.shield(awaited)
            return
        self.ensure(needed_s, what)
        patience_s = max(self.left_s() / 2, needed_s or 0.0)
        done, _ = await asyncio.wait([awaited], timeout=patience_s)
        if not done:
            raise DeadlineError(f"{what}, and did not end in {patience_s:.1f} s", retry_after_s=patience_s)
        awaited.result()


NO_DEADLINE = Deadline()
