"""The audit log as the way of a request sees it: on a thread of its own, never in the way but where bytes leave."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from pointsman.errors import BackendDownError
from pointsman.ledger.audit import AuditLog
from pointsman.values.decision import Decision
from pointsman.values.policy import Screening
from pointsman.values.request import Message, Request, size_of

_log = structlog.get_logger()
_MOST_LISTED = 1000
"""Findings of a request that are listed one by one; those after them are counted by kind."""
_SAY_HEAD_EVERY_S = 600.0
"""So that the service's log knows of records that are cut off the end of this one."""


class Auditor:
    """Writes what happened; without a log, nothing."""

    def __init__(self, log: AuditLog | None) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._said = time.monotonic()

    async def leaving(
        self, request: Request, model: str, messages: Sequence[Message], found: Screening
    ) -> None:
        """Write down that messages leave, before they do.

        Raises:
            BackendDownError: that cannot be written, so they must not.

        """
        if self._log is None:
            return
        fields = {
            "caller": request.caller,
            "model": model,
            "bytes": size_of(messages),
            "redacted": _listed(found),
        }
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._append, "egress", request.request_id, fields)
        except OSError as error:
            _log.error("audit.failed", error=error.strerror, loses="the answer")
            raise BackendDownError("the audit log cannot be written, so nothing may leave") from None

    def ended(self, request: Request, decision: Decision | None, outcome: str, found: Screening) -> None:
        """Write down how a request ended, some time soon."""
        if self._log is None:
            return
        fields: dict[str, Any] = {"caller": request.caller, "outcome": outcome, "action": str(found.action)}
        fields["found"] = _listed(found)
        if decision is not None:
            fields |= {
                "tier": str(decision.tier),
                "specialist": decision.specialist,
                "model": decision.model,
                "reason": str(decision.reason),
                "catalog": decision.catalog_version,
            }
        future = self._thread.submit(self._append, "answer", request.request_id, fields)
        future.add_done_callback(_complain)

    def close(self) -> None:
        """Write what still waits, and let another process write."""
        self._thread.shutdown(wait=True)
        if self._log is not None:
            self._say_head()
            self._log.close()

    def _append(self, kind: str, request_id: str, fields: dict[str, Any]) -> None:
        assert self._log is not None  # noqa: S101 - see the callers
        self._log.append(kind, request_id, **fields)
        if time.monotonic() - self._said >= _SAY_HEAD_EVERY_S:
            self._say_head()

    def _say_head(self) -> None:
        assert self._log is not None  # noqa: S101 - see the callers
        self._said = time.monotonic()
        _log.info("audit.head", number=self._log.head.number, hash=self._log.head.hash)


def _listed(found: Screening) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = [
        {"message": f.message + 1, "kind": f.kind, "length": f.length, "action": str(f.action)}
        for f in found.findings[:_MOST_LISTED]
    ]
    rest = Counter((f.kind, str(f.action)) for f in found.findings[_MOST_LISTED:])
    more = [{"kind": kind, "count": count, "action": action} for (kind, action), count in rest.items()]
    return listed + more


def _complain(future: Any) -> None:
    if (error := future.exception()) is not None:
        _log.error("audit.failed", error=str(error), loses="a record of an answer")
