"""The ledger: a row for each request, off the path of all of them."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from harness import Cloud, Site, collect, running, write_prices
from pointsman.client import constraints
from pointsman.errors import BackendDownError, ConfigError, InvalidRequestError, UnknownRequestError
from pointsman.ledger.database import database, migrate
from pointsman.ledger.tables import feedback, metadata, requests
from pointsman.ledger.writer import LedgerWriter
from pointsman.sections import Ledger
from pointsman.values.ledger import Entry, Feedback
from postgres import Postgres

OTHER = "Compare the foreign policies of Bismarck and Metternich in an essay."


def settings(url: str, **more: Any) -> Ledger:
    return Ledger(url=url, **({"flush_s": 0.02} | more))  # type: ignore[arg-type]


def entry(i: int = 0, **more: Any) -> Entry:
    return Entry(time.time(), f"r{i}", "route", "ok", **more)


def rows(url: str) -> list[dict[str, Any]]:
    engine = database(url)
    with engine.connect() as connection:
        found = [
            dict(row._mapping) for row in connection.execute(sa.select(requests).order_by(requests.c.id))
        ]
    engine.dispose()
    return found


def wait_for(condition: Any, timeout_s: float = 20.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, "not in time"
        time.sleep(0.01)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_entries_become_rows(url: str) -> None:
    writer = LedgerWriter(settings(url))
    for i in range(2500):
        writer.note(entry(i, specialist="support", similarity=0.5, cost=0.25, currency="USD"))
    writer.close()
    found = rows(url)
    assert [row["request_id"] for row in found] == [f"r{i}" for i in range(2500)]
    assert (found[0]["specialist"], found[0]["similarity"], found[0]["cost"]) == ("support", 0.5, 0.25)
    assert (writer.written, writer.dropped) == (2500, 0)


def test_migrations_make_the_tables_that_the_code_knows(url: str) -> None:
    engine = database(url)
    migrate(engine)
    migrate(engine)  # once more changes nothing
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_ledger_of_an_earlier_version_gets_what_it_lacks(url: str) -> None:
    engine = database(url)
    migrate(engine)
    with engine.begin() as connection:
        for column in ("confidence_alone", "scorer", "hardness_by", "asked"):
            connection.execute(sa.text(f"ALTER TABLE requests DROP COLUMN {column}"))
        connection.execute(sa.text("DROP TABLE comparisons"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0002'"))
    engine.dispose()
    writer = LedgerWriter(settings(url))
    writer.note(entry(1))
    wait_for(lambda: writer.written == 1)
    writer.close()
    assert rows(url)[0]["asked"] == ""


def test_two_instances_share_one_database_from_their_start(url: str) -> None:
    writers = [LedgerWriter(settings(url)) for _ in range(3)]
    for i in range(300):
        writers[i % 3].note(entry(i))
    for writer in writers:
        writer.close()
    assert sorted(row["request_id"] for row in rows(url)) == sorted(f"r{i}" for i in range(300))


def test_a_locked_database_keeps_nobody_waiting_and_loses_nothing(tmp_path: Path, sqlite: str) -> None:
    writer = LedgerWriter(settings(sqlite))
    writer.note(entry(0))
    wait_for(lambda: writer.written == 1)
    holder = sqlite3.connect(tmp_path / "ledger.db")
    holder.execute("BEGIN EXCLUSIVE")
    begun = time.monotonic()
    for i in range(1, 100):
        writer.note(entry(i))
    assert time.monotonic() - begun < 1
    time.sleep(2.5)  # beyond the busy timeout
    assert writer.written == 1
    holder.rollback()
    holder.close()
    writer.close()
    assert len(rows(sqlite)) == 100


def test_a_database_that_is_away_drops_what_is_beyond_the_queue_and_says_so_once(
    tmp_path: Path, log_lines: list[dict[str, Any]]
) -> None:
    gone = tmp_path / "folder"
    gone.write_text("a file where the folder should be")
    writer = LedgerWriter(settings(f"sqlite:///{gone / 'ledger.db'}", queue_rows=10))
    for i in range(30):
        writer.note(entry(i))
        time.sleep(0.02)
    said = [line for line in log_lines if line["event"] == "ledger.failing"]
    assert len(said) == 1  # once a minute
    assert "FileExistsError" in said[0]["why"]
    assert (writer.waiting, writer.dropped, writer.written) == (10, 20, 0)
    gone.unlink()  # and it comes back
    wait_for(lambda: writer.written == 10)
    writer.close()


def test_a_server_that_ends_while_it_is_written_gets_what_waits_when_it_is_back(
    postgres_server: Postgres, postgres: str, log_lines: list[dict[str, Any]]
) -> None:
    writer = LedgerWriter(settings(postgres, queue_rows=10))
    writer.note(entry(0))
    wait_for(lambda: writer.written == 1)
    postgres_server.stop()
    try:
        begun = time.monotonic()
        for i in range(1, 31):
            writer.note(entry(i))
        assert time.monotonic() - begun < 1
        with pytest.raises(BackendDownError, match="the ledger cannot be reached"):
            writer.rate(Feedback("r0", ""))
        wait_for(lambda: any(line["event"] == "ledger.failing" for line in log_lines))
        time.sleep(0.5)
        assert (writer.waiting, writer.dropped, writer.written) == (10, 20, 1)
        assert len([line for line in log_lines if line["event"] == "ledger.failing"]) == 1  # a minute
    finally:
        postgres_server.start()
    wait_for(lambda: writer.written == 11)
    writer.close()
    assert [row["request_id"] for row in rows(postgres)] == [f"r{i}" for i in range(11)]


def test_a_database_that_hangs_holds_nobody_up_and_its_drops_are_said(
    sqlite: str, log_lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LedgerWriter(settings(sqlite, queue_rows=10))
    go_on = threading.Event()
    write = writer._insert
    monkeypatch.setattr(writer, "_insert", lambda batch: (go_on.wait(20), write(batch)))
    for i in range(30):
        writer.note(entry(i))
        time.sleep(0.001)
    (said,) = (line for line in log_lines if line["event"] == "ledger.failing")
    assert said["why"] == "the queue is full"
    assert writer.dropped == 20
    go_on.set()
    writer.close()
    assert writer.written == 10


@pytest.mark.parametrize(("query", "expected"), [("", 5), ("?connect_timeout=9", 9)])
def test_what_the_url_says_of_a_connection_comes_before_our_defaults(query: str, expected: int) -> None:
    engine, asked = database(f"postgresql://u@127.0.0.1:1/db{query}"), {}

    @sa.event.listens_for(engine, "do_connect")
    def see(_: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
        asked.update(parameters)

    with pytest.raises(sa.exc.OperationalError):
        engine.connect()
    assert int(asked["connect_timeout"]) == expected
    assert asked["tcp_user_timeout"] == 10_000


@pytest.mark.parametrize("by", ["deleted", "another"])
def test_a_file_that_goes_while_it_is_written_is_begun_anew_and_said(
    tmp_path: Path, log_lines: list[dict[str, Any]], by: str
) -> None:
    path = tmp_path / "ledger.db"
    writer = LedgerWriter(settings(f"sqlite:///{path}"))
    writer.note(entry(0))
    wait_for(lambda: writer.written == 1)
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    if by == "another":
        path.touch()
    wait_for(lambda: any(line["event"] == "ledger.failing" for line in log_lines))
    for i in range(1, 6):
        writer.note(entry(i))
    wait_for(lambda: writer.written == 6)
    writer.close()
    assert len(rows(f"sqlite:///{path}")) == 5
    (said,) = (line for line in log_lines if line["event"] == "ledger.failing")
    assert "its file was deleted or replaced" in said["why"]


def test_a_full_disk_drops_and_serves_on(sqlite: str, log_lines: list[dict[str, Any]]) -> None:
    writer = LedgerWriter(settings(sqlite, queue_rows=50))
    writer.note(entry(0))
    wait_for(lambda: writer.written == 1)
    with writer._engine.begin() as connection:  # the pages that it has are all it gets
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    for i in range(1, 400):
        writer.note(entry(i, model="m" * 200))
    wait_for(lambda: any("full" in str(line.get("why")) for line in log_lines))
    assert writer.dropped
    writer._waiting.clear()
    writer.close()


def test_a_row_that_no_driver_takes_holds_nothing_up(url: str) -> None:
    writer = LedgerWriter(settings(url))
    for i in range(3):
        writer.note(entry(i, session_id="\ud800" if i == 1 else ""))
    wait_for(lambda: writer.written == 2)
    writer.close()
    assert [row["request_id"] for row in rows(url)] == ["r0", "r2"]
    assert writer.dropped == 1


@pytest.mark.parametrize("poison", [{"prompt_tokens": 1 << 63}, {"retries": [1]}, {"model": None}])
def test_a_row_whose_values_no_database_takes_is_dropped_and_the_rest_written(
    url: str, poison: dict[str, Any], log_lines: list[dict[str, Any]]
) -> None:
    writer = LedgerWriter(settings(url))
    for i in range(5):
        writer.note(entry(i, **(poison if i == 1 else {})))
    wait_for(lambda: writer.written == 4)
    writer.close()
    assert [row["request_id"] for row in rows(url)] == ["r0", "r2", "r3", "r4"]
    assert (writer.dropped, writer.waiting_bytes) == (1, 0)
    (said,) = (line for line in log_lines if line["event"] == "ledger.failing")
    assert said["why"].startswith("a row that cannot be written: ")


def test_what_was_to_be_stored_is_not_in_the_log(
    sqlite: str, log_lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LedgerWriter(settings(sqlite))

    def fail(_: Any) -> None:
        raise RuntimeError("cannot store 'my card is 4111 1111 1111 1111'")

    monkeypatch.setattr(writer, "_insert", fail)
    writer.note(entry(0, prompt="my card is 4111 1111 1111 1111"))
    wait_for(lambda: any(line["event"] == "ledger.failing" for line in log_lines))
    writer._waiting.clear()
    writer.close()
    assert "4111" not in str(log_lines)
    assert next(line["why"] for line in log_lines if line["event"] == "ledger.failing") == "RuntimeError"


def test_texts_are_redacted_once_however_often_their_rows_are_tried(tmp_path: Path) -> None:
    read: list[str] = []

    def redact(texts: Any, _: str) -> Any:
        read.extend(texts)
        return tuple(text.upper() for text in texts)

    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    writer = LedgerWriter(settings(url), redact)
    wait_for(lambda: writer._ready)
    holder = sqlite3.connect(tmp_path / "ledger.db")
    holder.execute("BEGIN EXCLUSIVE")
    for i in range(20):
        writer.note(entry(i, prompt=f"prompt {i}"))
    time.sleep(5)  # two busy timeouts
    assert writer.waiting == 20
    holder.rollback()
    holder.close()
    writer.close()
    assert [row["prompt"] for row in rows(url)] == [f"PROMPT {i}" for i in range(20)]
    assert read == [f"prompt {i}" for i in range(20)]


def test_what_nobody_can_redact_is_dropped_and_holds_nothing_up(sqlite: str) -> None:
    def redact(texts: Any, _: str) -> Any:
        if "bad" in texts:
            raise RecursionError
        return texts

    writer = LedgerWriter(settings(sqlite), redact)
    for i in range(3):
        writer.note(entry(i, prompt="bad" if i == 0 else "fine"))
    writer.close()
    assert [row["request_id"] for row in rows(sqlite)] == ["r1", "r2"]
    assert (writer.dropped, writer.waiting_bytes) == (1, 0)


def test_texts_that_wait_while_the_database_is_away_are_bounded_in_bytes(tmp_path: Path) -> None:
    gone = tmp_path / "folder"
    gone.write_text("a file where the folder should be")
    writer = LedgerWriter(settings(f"sqlite:///{gone / 'ledger.db'}", queue_mib=2))
    for i in range(30):
        writer.note(entry(i, prompt="p" * 100_000, answer="é" * 100_000))
    assert (writer.waiting, writer.dropped) == (10, 20)
    assert writer.waiting_bytes < 2 << 20
    gone.unlink()
    wait_for(lambda: writer.written == 10)
    writer.close()
    assert writer.waiting_bytes == 0


def test_the_oldest_rows_go_where_the_file_is_larger_than_it_may_be(tmp_path: Path, sqlite: str) -> None:
    writer = LedgerWriter(settings(sqlite, keep_mib=2))
    for i in range(4000):
        writer.note(entry(i, prompt=f"{i} " + "p" * 1000))
    wait_for(lambda: writer.written == 4000)
    assert (tmp_path / "ledger.db").stat().st_size > 4 << 20
    writer._tidied = float("-inf")
    wait_for(lambda: (tmp_path / "ledger.db").stat().st_size <= 2 << 20)
    writer.close()
    kept = [row["request_id"] for row in rows(sqlite)]
    assert 1000 < len(kept) < 2000
    assert kept == [f"r{i}" for i in range(4000 - len(kept), 4000)]


def test_a_file_of_before_its_pages_could_be_given_back_is_rewritten_once(
    tmp_path: Path, sqlite: str
) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as old:
        old.execute("CREATE TABLE other (x)")
        old.execute("PRAGMA journal_mode=WAL")
    old.close()
    writer = LedgerWriter(settings(sqlite, keep_mib=1))
    for i in range(3000):
        writer.note(entry(i, prompt=f"{i} " + "p" * 1000))
    wait_for(lambda: writer.written == 3000)
    writer._tidied = float("-inf")
    wait_for(lambda: (tmp_path / "ledger.db").stat().st_size <= 1 << 20)
    writer.close()
    with sqlite3.connect(tmp_path / "ledger.db") as now:
        assert now.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    now.close()


def test_the_size_of_a_server_s_database_cannot_be_kept_to() -> None:
    with pytest.raises(ConfigError, match="of SQLite only"):
        LedgerWriter(settings("postgresql://u@127.0.0.1:1/db", keep_mib=1))


def test_old_rows_go_by_age_and_by_number(url: str) -> None:
    writer = LedgerWriter(settings(url, keep_days=10, keep_rows=5))
    old = time.time() - 11 * 86400
    for i in range(20):
        writer.note(Entry(old if i < 3 else time.time(), f"r{i}", "route", "ok"))
    wait_for(lambda: writer.written == 20)
    writer.rate(Feedback("r17", "", accepted=True))
    with writer._engine.begin() as connection:  # said of one that goes
        connection.execute(feedback.insert(), {"time": time.time() - 86400, **asdict(Feedback("r5", ""))})
        late = {"time": time.time() - 61, **asdict(Feedback("r6", ""))}  # after some of those that stay
        connection.execute(feedback.insert(), late)
    writer._tidied = float("-inf")
    wait_for(lambda: len(rows(url)) == 5)
    writer.close()
    assert [row["request_id"] for row in rows(url)] == [f"r{i}" for i in range(15, 20)]
    engine = database(url)
    with engine.connect() as connection:
        assert list(connection.scalars(sa.select(feedback.c.request_id))) == ["r17"]
    engine.dispose()


def test_a_killed_process_loses_only_what_came_after_its_last_write(sqlite: str) -> None:
    script = (
        "import time; from pointsman.ledger.writer import LedgerWriter; from pointsman.sections import Ledger\n"
        "from pointsman.values.ledger import Entry, Feedback\n"
        f"writer = LedgerWriter(Ledger(url={sqlite!r}, flush_s=0.2))\n"
        "i = 0\n"
        "while True:\n"
        "    writer.note(Entry(time.time(), f'r{i}', 'route', 'ok')); i += 1\n"
        "    print(i, time.time(), flush=True); time.sleep(0.001)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    time.sleep(4)
    os.kill(process.pid, signal.SIGKILL)
    said = [line.split() for line in process.stdout.read().splitlines()[:-1]]
    process.wait()
    process.stdout.close()
    found = rows(sqlite)
    assert [row["request_id"] for row in found] == [f"r{i}" for i in range(len(found))]  # no hole
    lost = [float(moment) for number, moment in said if int(number) > len(found)]
    assert found
    assert (
        not lost or max(lost) - min(lost) < 0.2 + 1.0
    )  # one flush, and what a busy machine needs to write it


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "ledger.url: Could not parse"),
        ("mysql://somewhere/db", "sqlite and postgresql are known (got 'mysql')"),
    ],
)
def test_a_wrong_url_is_a_clear_error(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        database(url)
    assert message in str(raised.value)


async def test_every_request_has_its_row(site: Site, sqlite: str) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {email: redact, iban: refuse}")
    write_prices(site.root, big_model=(2.0, 2.0, 8.0))
    with Cloud(429, "ok", 500) as cloud:
        chosen = site.settings(
            cloud=cloud.settings | {"max_retries": 1},
            ledger={"enabled": True, "url": sqlite, "flush_s": 0.02, "text": True},
        )
        async with running(chosen, engines=False) as server:
            await server.client.route("please refund my order")
            await collect(server.client.generate(f"{OTHER} For a@acme-corp.com."))
            with pytest.raises(grpc.aio.AioRpcError):
                await collect(server.client.generate(OTHER, constraints(tier="cloud")))
            with pytest.raises(grpc.aio.AioRpcError):
                await server.client.route("pay DE89 3704 0044 0532 0130 00")
    routed, answered, failed, refused = await asyncio.to_thread(rows, sqlite)
    assert (routed["method"], routed["outcome"], routed["tier"]) == ("route", "ok", "local")
    assert (routed["specialist"], routed["intent"]) == ("support", "refund")
    assert routed["similarity"] > 0.9
    assert (answered["outcome"], answered["tier"], answered["model"]) == ("ok", "cloud", "big-model")
    assert (answered["retries"], answered["prompt_tokens"], answered["cached_tokens"]) == (1, 1000, 400)
    assert answered["cost"] == pytest.approx((1000 * 2 + 500 * 8) / 1e6)
    assert answered["ttft_ms"] <= answered["total_ms"]
    assert answered["prompt"] == f"{OTHER} For [EMAIL_1]."
    assert answered["answer"] == "from the cloud"
    assert (failed["outcome"], failed["reason"]) == ("failed", "explicit_tier")
    assert (refused["outcome"], refused["tier"], refused["prompt"]) == ("refused", "", "pay [IBAN_1]")


def test_feedback_is_kept_for_a_request_of_the_same_caller_written_or_not(url: str) -> None:
    writer = LedgerWriter(settings(url))
    writer.note(entry(1, caller="shop"))
    wait_for(lambda: writer.written == 1)
    writer.rate(Feedback("r1", "shop", accepted=True))
    writer.rate(Feedback("r1", "shop", accepted=False, intent="refund", answer="Sorry."))
    for stranger in (Feedback("r1", "crm", accepted=True), Feedback("r2", "shop", accepted=True)):
        with pytest.raises(UnknownRequestError):
            writer.rate(stranger)
    writer.close()
    engine = database(url)
    with engine.connect() as connection:
        kept = [tuple(row) for row in connection.execute(sa.select(feedback).order_by(feedback.c.id))]
    engine.dispose()
    assert [row[2:] for row in kept] == [
        ("r1", "shop", True, "", "", ""),
        ("r1", "shop", False, "refund", "Sorry.", ""),
    ]


def test_feedback_that_no_database_takes_is_the_caller_s_fault(postgres: str) -> None:
    writer = LedgerWriter(settings(postgres))
    writer.note(entry(1))
    with pytest.raises(InvalidRequestError, match="cannot keep"):
        writer.rate(Feedback("r1", "", comment="\0"))
    writer.close()


async def _code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


async def test_callers_say_what_an_answer_was_worth(site: Site, sqlite: str) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {email: redact}")
    chosen = site.settings(ledger={"enabled": True, "url": sqlite, "flush_s": 0.02, "text": True})
    async with running(chosen, engines=False) as server:
        client = server.client
        await client.route("please refund my order", request_id="order-1")
        await asyncio.sleep(0.1)  # the note follows the reply
        await client.feedback("order-1", accepted=False, intent="weather", answer="Ask a@acme-corp.com")
        assert await _code(client.feedback("order-2", accepted=True)) is grpc.StatusCode.NOT_FOUND
        assert await _code(client.feedback("order-1", intent="nothing")) is grpc.StatusCode.NOT_FOUND
        assert await _code(client.feedback("order-1")) is grpc.StatusCode.INVALID_ARGUMENT
        assert await _code(client.feedback("", accepted=True)) is grpc.StatusCode.INVALID_ARGUMENT
        too_long = client.feedback("order-1", answer="a" * (1 << 20))
        assert await _code(too_long) is grpc.StatusCode.INVALID_ARGUMENT

    def kept() -> Any:
        with sqlite3.connect(site.root / "ledger.db") as ledger:
            return ledger.execute("SELECT accepted, intent, answer FROM feedback").fetchall()

    assert await asyncio.to_thread(kept) == [(0, "weather", "Ask [EMAIL_1]")]


async def test_what_is_text_in_feedback_is_kept_only_where_text_is(site: Site, sqlite: str) -> None:
    site.fill()
    async with running(
        site.settings(ledger={"enabled": True, "url": sqlite, "flush_s": 0.02}), engines=False
    ) as server:
        client = server.client
        await client.route("please refund my order", request_id="order-1")
        await asyncio.sleep(0.1)
        for text in ({"answer": "Ask a@acme-corp.com"}, {"comment": "no"}):
            code = await _code(client.feedback("order-1", accepted=False, **text))
            assert code is grpc.StatusCode.FAILED_PRECONDITION
        await client.feedback("order-1", accepted=False, intent="weather")


async def test_without_a_ledger_feedback_is_refused(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        code = await _code(server.client.feedback("order-1", accepted=True))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def test_a_row_that_no_database_takes_holds_nothing_up(postgres: str) -> None:
    writer = LedgerWriter(settings(postgres))
    for i in range(10):
        writer.note(entry(i, prompt="\0" if i == 4 else "fine"))
    writer.close()
    assert [row["request_id"] for row in rows(postgres)] == [f"r{i}" for i in range(10) if i != 4]
    assert (writer.written, writer.dropped) == (9, 1)
