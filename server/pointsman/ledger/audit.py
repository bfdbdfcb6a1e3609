"""What was decided about each conversation and what left of it: records, each of which holds the hash of the one before.

It holds kinds and lengths of what was found, and never text. A record of bytes that leave is written before they do.
The chain is that of B. Schneier and J. Kelsey, Secure Audit Logs to Support Computer Forensics (1999), without their
evolving keys: with a key (HMAC-SHA256) nobody who lacks it can write a chain that verifies, without one only who
knows the last hash can tell that all of it was written anew. The last hash stands in a file of its own too, outside of
the folder: records that are cut off the end are missed there.
"""

import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pointsman.errors import ConfigError

GENESIS = "0" * 64
_SUFFIX = ".jsonl"
_MONTHS = f"????-??{_SUFFIX}"
_TAIL_BYTES = 1 << 20
_CUT = "cut"
"""The kind of a record that stands for others, which the head knew of and the folder no longer held."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain: its number, from 1, and its hash."""

    number: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found. `problem` is empty when every record follows from the one before."""

    head: Head
    records: int
    problem: str = ""


class AuditLog:
    """Appends to the chain in a folder; one process at a time. Threads may share it."""

    def __init__(self, folder: Path, key: str = "", head_file: Path | None = None) -> None:
        """Go on from the last record; where the head tells of later ones, a record says that they are gone.

        head_file: where the head stands, too; beside the folder unless it is named

        Raises:
            ConfigError: folder or head cannot be written, or another process writes there.

        """
        self._folder = folder
        self._key = key.encode()
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._owned = _own(folder)
            self._month, self.head, self._torn = _last(folder)
        except OSError as error:
            raise ConfigError(f"audit.folder: {folder}: {error.strerror}") from None
        path = head_file or head_beside(folder)
        try:
            told = read_head(path)
            self._head_file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            os.close(self._owned)
            raise ConfigError(f"audit.head: {path}: {error.strerror}") from None
        if told is not None and told != self.head and told.number >= self.head.number:
            self.append(_CUT, "", last=told.number, hash_of_last=told.hash)
        else:
            self._tell_head()

    def append(self, kind: str, request_id: str, **fields: Any) -> Head:
        """Write a record; it outlives the process from here on, and the machine's fall a little later.

        Raises:
            OSError: it cannot be written.

        """
        with self._lock:
            now = time.time()
            record = {
                "number": self.head.number + 1,
                "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "request_id": request_id,
                **fields,
                **({"torn": True} if self._torn else {}),
                "previous": self.head.hash,
            }
            head = Head(self.head.number + 1, _hash(record, self._key))
            # A clock that is set back goes on with the month that was begun.
            month = max(self._month, f"{datetime.fromtimestamp(now, UTC):%Y-%m}")
            _write(self._folder / f"{month}{_SUFFIX}", _line(record | {"hash": head.hash}), torn=self._torn)
            self._month, self.head, self._torn = month, head, False
            self._tell_head()
            return head

    def close(self) -> None:
        """Let another process write."""
        os.close(self._head_file)
        os.close(self._owned)

    def _tell_head(self) -> None:
        line = (
            f"{self.head.number:020} {self.head.hash}\n".encode()
        )  # always as long: it is written in its place
        os.pwrite(self._head_file, line, 0)


def head_beside(folder: Path) -> Path:
    """Return where the head of a log stands, unless settings name another place."""
    return folder.with_name(f"{folder.name}.head")


def read_head(path: Path) -> Head | None:
    """Return what the file of the head tells; None where there is no such file, or nothing in it yet.

    Raises:
        OSError: it cannot be read.

    """
    try:
        number, _, hash_ = path.read_text(errors="replace").strip().partition(" ")
    except FileNotFoundError:
        return None
    return Head(int(number), hash_) if number.isdecimal() else None


def verify(
    folder: Path, key: str = "", first: int = 1, head: str = "", head_file: Path | None = None
) -> Verdict:
    """Follow the chain from record `first`, which older records that were put away make greater than 1.

    head: the hash that some record must have, where somebody wrote it down: what came up to it is still there
    head_file: as the writer was told; it must be there unless `head` is given

    Raises:
        ConfigError: the folder or the head cannot be read.

    """
    path = head_file or head_beside(folder)
    try:
        told = read_head(path)  # before the records: one that is written meanwhile is none too many
    except OSError as error:
        raise ConfigError(f"audit.head: {path}: {error.strerror}") from None
    verdict = _followed(folder, key, first, head, told)
    if verdict.problem:
        return verdict
    return replace(verdict, problem=_missing(verdict, told, path, named=bool(head)))


def _missing(verdict: Verdict, told: Head | None, path: Path, *, named: bool) -> str:
    """Return what is missing of records that are sound; `named`: whether a hash of one of them was."""
    if told is not None and told.number > verdict.head.number:
        gone = f"records {verdict.head.number + 1} to {told.number} are gone"
        return f"{gone}: the last one's hash was {told.hash}"
    if not verdict.records:
        return "there are no records: none were written, or all were taken away"
    if told is None and not named:
        why = "no such file, or nothing in it: whether records are cut off the end, only it or --head tells"
        return f"{path}: {why}"
    return ""


def _followed(folder: Path, key: str, first: int, head: str, told: Head | None) -> Verdict:
    at, count, expected = Head(), 0, first
    torn, seen = "", not head
    for place, line in _lines(folder):
        record = _parsed(line)
        if record is None:
            if torn:
                return Verdict(at, count, f"{torn}: is no record")
            torn = place
            continue
        if torn and not record.get("torn"):
            return Verdict(at, count, f"{torn}: is no record")
        torn = ""
        before = at if count or first == 1 else None
        problem = _problem(record, expected, before, key.encode()) or _unlike(record, line, told)
        if problem:
            return Verdict(at, count, f"{place}: {problem}")
        at, count, expected = Head(expected, str(record["hash"])), count + 1, expected + 1
        seen = seen or at.hash == head
    if torn:
        return Verdict(at, count, f"{torn}: is no record (the process may have been killed as it wrote)")
    if not seen:
        return Verdict(
            at, count, f"none of the records, the last of which is {at.number}, has the hash {head}"
        )
    return Verdict(at, count)


def records_of(folder: Path, request_id: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a request.

    Raises:
        ConfigError: the folder cannot be read.

    """
    for _, line in _lines(folder):
        record = _parsed(line)
        if record is not None and record.get("request_id") == request_id:
            yield record


def _problem(record: dict[str, Any], expected: int, before: Head | None, key: bytes) -> str:
    number = record.get("number")
    if number != expected:
        return f"expected record {expected}, found {number}: records are missing, or were put in"
    if before is not None and record.get("previous") != before.hash:
        return f"record {number} does not follow from the one before"
    stated = {name: value for name, value in record.items() if name != "hash"}
    if str(record.get("hash")) != _hash(stated, key):
        return f"record {number} was changed" + (", or the key is another" if key else "")
    if record.get("kind") == _CUT and before is not None:  # who knows of it begins behind it
        return (
            f"record {number} says that records up to {record.get('last')} were gone when the log was opened"
        )
    return ""


def _unlike(record: dict[str, Any], line: bytes, told: Head | None) -> str:
    number = record["number"]
    if line.rstrip(b"\n") != _line(record).rstrip(b"\n"):  # a name twice, spaces
        return f"record {number} is not written as it was"
    if told is not None and told.number == number and told.hash != record["hash"]:
        return f"record {number} is not the one that was written: its hash was {told.hash}"
    return ""


def _hash(record: dict[str, Any], key: bytes) -> str:
    body = _line(record)
    return hmac.new(key, body, hashlib.sha256).hexdigest() if key else hashlib.sha256(body).hexdigest()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, line: bytes, *, torn: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        data = b"\n" + line if torn else line
        written = os.write(file, data)
        if written != len(data):  # the disk is full: what stands there is no record
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError(28, os.strerror(28), str(path))
    finally:
        os.close(file)


def _own(folder: Path) -> int:
    import fcntl

    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        message = f"audit.folder: another process writes to {folder}; give each a folder of its own"
        raise ConfigError(message) from None
    return file


def _last(folder: Path) -> "tuple[str, Head, bool]":
    """Return the last month, the last record, and whether a line after it was begun and not ended."""
    files = sorted(folder.glob(_MONTHS))
    torn = False
    for path in reversed(files):
        for tail in _tails(path):
            torn = torn or bool(tail and not tail.endswith(b"\n"))
            for line in reversed(tail.splitlines()):
                record = _parsed(line)
                if record is not None and isinstance(record.get("number"), int):
                    return files[-1].stem, Head(record["number"], str(record.get("hash"))), torn
    return (files[-1].stem if files else ""), Head(), torn


def _tails(path: Path) -> Iterator[bytes]:
    """Yield ever longer ends of a file, all of it at last: a record may be long."""
    size, wanted = path.stat().st_size, _TAIL_BYTES
    while True:
        with path.open("rb") as file:
            file.seek(max(0, size - wanted))
            yield file.read()
        if wanted >= size:
            return
        wanted *= 16


def _lines(folder: Path) -> Iterator["tuple[str, bytes]"]:
    """Yield each line with its place."""
    if not folder.is_dir():
        raise ConfigError(f"audit.folder: {folder}: no such folder")
    try:
        for path in sorted(folder.glob(_MONTHS)):
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    yield f"{path.name}:{number}", line
    except OSError as error:
        raise ConfigError(f"audit.folder: {error.filename}: {error.strerror}") from None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
