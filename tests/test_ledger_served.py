"""The ledger of servers that are killed, locked out, or share a file: processes of their own, no engine."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from harness import Cloud, Site, collect, running
from pointsman import Client
from pointsman.ledger.writer import LedgerWriter
from test_ledger import rows, wait_for

FAR = "prove that there are infinitely many primes"
FLUSH_S = 0.5
BUSY_S = 3.0
"""What a busy machine may need for the write at work."""
SCRIPT = """
import asyncio, sys
from pathlib import Path
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # only the address is to be read
sys.path.insert(0, {tests!r})
from harness import Site, running

async def main():
    site = Site(Path({root!r}))
    ledger = {{"enabled": True, "url": {url!r}, "flush_s": {flush_s}}}
    async with running(site.settings(ledger=ledger), engines=False) as server:
        print(server.address, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@contextmanager
def served(site: Site, url: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Serve in a process of its own; yields its address. It ends when its standard input does."""
    tests = str(Path(__file__).parent)
    script = SCRIPT.format(tests=tests, root=str(site.root), url=url, flush_s=FLUSH_S)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "it did not start"
        yield address, process
        if process.poll() is None:
            process.stdin.close()
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()


@dataclass
class Asker:
    """A client that asks one question after the other, on a thread; `answered` has each id and when its reply came."""

    address: str
    name: str
    answered: list[tuple[str, float]] = field(default_factory=list)

    def ask(self, most: int | None = None) -> None:
        with Client(self.address, timeout_s=60) as client:
            while most is None or len(self.answered) < most:
                request_id = f"{self.name}-{len(self.answered)}"
                try:
                    client.route("please refund my order", request_id=request_id)
                except grpc.RpcError:  # it is gone
                    return
                self.answered.append((request_id, time.monotonic()))


def together(askers: list[Asker], most: int | None = None) -> list[threading.Thread]:
    threads = [threading.Thread(target=asker.ask, args=(most,)) for asker in askers]
    for thread in threads:
        thread.start()
    return threads


def test_a_server_killed_under_load_loses_the_rows_of_its_last_flush_and_of_the_write_at_work(
    site: Site, sqlite: str
) -> None:
    with served(site.fill(), sqlite) as (address, process):
        askers = [Asker(address, f"client{i}") for i in range(4)]
        threads = together(askers)
        wait_for(lambda: all(len(asker.answered) > 50 for asker in askers), 60)
        time.sleep(FLUSH_S + BUSY_S + 1)
        killed = time.monotonic()
        process.kill()
        process.wait(60)
        for thread in threads:
            thread.join(60)
    kept = {row["request_id"] for row in rows(sqlite)}
    for asker in askers:
        lost = [i for i, (request_id, _) in enumerate(asker.answered) if request_id not in kept]
        assert all(asker.answered[i][1] > killed - FLUSH_S - BUSY_S for i in lost)
        assert lost == list(
            range(len(asker.answered) - len(lost), len(asker.answered))
        )  # and no hole before them
    assert len(kept) > 100


def test_two_servers_on_one_file_lose_nothing(site: Site, sqlite: str) -> None:
    site.fill()
    with served(site, sqlite) as (one, _), served(site, sqlite) as (other, _):
        askers = [Asker((one, other)[i % 2], f"client{i}") for i in range(4)]
        for thread in together(askers, 60):
            thread.join(120)
    asked = sorted(request_id for asker in askers for request_id, _ in asker.answered)
    assert len(asked) == 240
    assert sorted(row["request_id"] for row in rows(sqlite)) == asked


@pytest.mark.parametrize("trouble", ["locked", "full", "gone"])
async def test_route_and_generate_answer_whatever_is_wrong_with_the_ledger(
    site: Site, sqlite: str, trouble: str
) -> None:
    path = site.root / "ledger.db"
    with Cloud() as cloud:
        ledger = {"enabled": True, "url": sqlite, "flush_s": 0.05, "queue_rows": 5}
        async with running(
            site.fill().settings(cloud=cloud.settings, ledger=ledger), engines=False
        ) as server:
            writer = server.core.answers._ledger
            assert writer is not None
            await server.client.route("please refund my order")
            await asyncio.to_thread(wait_for, lambda: writer.written == 1)
            holder = await asyncio.to_thread(break_it, trouble, path, writer)
            long = {"request_id": "r" * 128}
            for _ in range(8):
                assert (
                    await server.client.route("please refund my order", **long)
                ).decision.intent == "refund"
                assert (await collect(server.client.generate(FAR, **long)))[0] == "from the cloud"
            if trouble != "gone":  # a new file is begun
                await asyncio.to_thread(wait_for, lambda: writer.dropped > 0)
            await asyncio.to_thread(mend, trouble, writer, holder)
            await asyncio.to_thread(wait_for, lambda: writer.written + writer.dropped == 17)
            assert writer.waiting == 0


def break_it(trouble: str, path: Path, writer: LedgerWriter) -> sqlite3.Connection | None:
    if trouble == "gone":
        for file in path.parent.glob("ledger.db*"):
            file.unlink()
        return None
    if trouble == "locked":
        holder = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        return holder
    with writer._engine.begin() as connection:  # the pages that it has are all it gets
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    return None


def mend(trouble: str, writer: LedgerWriter, holder: sqlite3.Connection | None) -> None:
    if holder is not None:
        holder.execute("ROLLBACK")
        holder.close()
    if trouble == "full":
        with writer._engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=1073741823")
