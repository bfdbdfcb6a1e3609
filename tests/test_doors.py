"""Who comes in: tokens and certificates, roles, limits, files that change, and refusals to listen."""

import asyncio
import hashlib
import json
import socket
import sqlite3
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import trustme
import yaml
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from typer.testing import CliRunner

from harness import REFUND, Running, Site, running, until
from pointsman.artifacts.uri import Sources
from pointsman.catalog.callers_file import read_callers
from pointsman.cli.app import app
from pointsman.client import Access, AsyncClient
from pointsman.errors import (
    CatalogError,
    ConfigError,
    ForbiddenError,
    OverloadedError,
    QuotaError,
    UnauthenticatedError,
)
from pointsman.host.known_callers import KnownCallers
from pointsman.ledger.history import past_of
from pointsman.ledger.metrics import Metrics
from pointsman.ledger.report import Report, report_of
from pointsman.sections import Server, Tls
from pointsman.service.doors import Doors, let_in
from pointsman.service.server import ensure_safe
from pointsman.service.tls import Chain, credentials
from pointsman.v1 import catalog_pb2
from pointsman.values.caller import Caller, Role, Shown, names_in
from pointsman.values.catalog import CALLER
from pointsman.values.decision import Decision, Evidence, Reason, Routed, RouteTimings
from pointsman.values.events import Done, Event, FinishReason, GenerateTimings, Token, Usage
from pointsman.values.price import PriceList
from pointsman.values.request import Tier

ASKS, OPERATES = frozenset({Role.CALLER}), frozenset({Role.OPERATOR})


ROUTED = Routed(
    Decision(Tier.LOCAL, "general", Reason.NO_CLOUD, "There is no cloud.", Evidence(), "v1", "m.gguf"),
    RouteTimings(),
)


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_callers(path: Path, *entries: dict[str, Any]) -> Path:
    scratch = path.with_suffix(".new")
    scratch.write_text(yaml.safe_dump({"callers": list(entries)}))
    return scratch.replace(path)


def entry(name: str, token: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "tokens": [f"sha256:{hashed(token)}"], "roles": list(roles or ("caller",)), **more}


# Doors


def test_without_callers_everybody_comes_in_for_everything() -> None:
    doors = Doors()
    assert doors.who(Shown()) is None
    with doors.enter(None, Role.OPERATOR):
        assert let_in.get() is None
    assert doors.may_read_metrics("")


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        (Shown("old"), "billing"),
        (Shown("new"), "billing"),
        (Shown("", ("other", "billing.internal")), "billing"),
        (Shown("ops"), "ops"),
        (Shown("ops", ("billing.internal",)), "ops"),
        (Shown("wrong", ("billing.internal",)), None),
        (Shown("", ("unknown",)), None),
        (Shown(""), None),
        (Shown(hashed("old")), None),
    ],
)
def test_a_caller_is_who_has_the_token_or_the_certificate(shown: Shown, name: str | None) -> None:
    billing = Caller("billing", ASKS, (hashed("old"), hashed("new")), ("billing.internal",))
    doors = Doors([billing, Caller("ops", OPERATES, (hashed("ops"),)), Caller("bare", ASKS, (hashed(""),))])
    if name is None:
        with pytest.raises(UnauthenticatedError):
            doors.who(shown)
    else:
        found = doors.who(shown)
        assert found is not None
        assert found.name == name


def test_a_role_opens_its_own_door_only() -> None:
    doors = Doors([Caller("a", ASKS, (hashed("t"),)), Caller("o", OPERATES, (hashed("u"),))])
    with (
        pytest.raises(ForbiddenError, match="'a' is no operator"),
        doors.enter(doors.who(Shown("t")), Role.OPERATOR),
    ):
        pass
    with (
        pytest.raises(ForbiddenError, match="'o' is no caller"),
        doors.enter(doors.who(Shown("u")), Role.CALLER),
    ):
        pass
    assert not doors.may_read_metrics("Bearer t")
    assert not doors.may_read_metrics("Basic u")
    assert not doors.may_read_metrics("")
    assert doors.may_read_metrics("bearer u")


def test_calls_at_once_are_counted_and_given_back_whatever_happens() -> None:
    caller = Caller("a", ASKS, (hashed("t"),), concurrent_requests=2)
    doors = Doors([caller])
    with (
        doors.enter(caller, Role.CALLER),
        doors.enter(caller, Role.CALLER),
        pytest.raises(QuotaError, match="2 calls of caller 'a'"),
        doors.enter(caller, Role.CALLER),
    ):
        pass
    with pytest.raises(ValueError, match="boom"), doors.enter(caller, Role.CALLER):
        raise ValueError("boom")
    assert let_in.get() is None
    with doors.enter(caller, Role.CALLER), doors.enter(caller, Role.CALLER):
        pass


def test_calls_a_minute_are_counted_by_caller_and_say_when_to_come_again() -> None:
    a = Caller("a", ASKS, (hashed("t"),), requests_per_minute=3)
    b = Caller("b", ASKS, (hashed("u"),), requests_per_minute=1)
    doors = Doors([a, b])
    for _ in range(3):
        with doors.enter(a, Role.CALLER):
            pass
    with pytest.raises(QuotaError, match="3 times a minute") as caught, doors.enter(a, Role.CALLER):
        pass
    assert 50 < caught.value.retry_after_s <= 60
    with doors.enter(b, Role.CALLER):
        pass
    doors.replace([a, b])  # what was used stays used
    with pytest.raises(QuotaError), doors.enter(a, Role.CALLER):
        pass


async def spend(doors: Doors, caller: Caller, tokens: int) -> None:
    async def answer() -> AsyncGenerator[Event, None]:
        yield ROUTED
        yield Done(FinishReason.STOP, Usage(tokens, 0), GenerateTimings(RouteTimings()))

    with doors.enter(caller, Role.CALLER):
        async with aclosing(doors.counted(answer(), 0)) as events:
            async for _ in events:
                pass


async def test_tokens_a_day_are_those_that_were_spent() -> None:
    caller = Caller("a", ASKS, (hashed("t"),), tokens_per_day=100)
    doors = Doors([caller])

    async def answer(pieces: int, prompt_tokens: int) -> AsyncGenerator[Event, None]:
        yield ROUTED
        for _ in range(pieces):
            yield Token("x", None)
        yield Done(FinishReason.STOP, Usage(prompt_tokens, pieces), GenerateTimings(RouteTimings()))

    async def read(pieces: int, prompt_tokens: int, most: int) -> int:
        async with aclosing(doors.counted(answer(pieces, prompt_tokens), estimate)) as events:
            for _ in range(1 + most):
                await anext(events)
        return doors.tokens_left(caller)

    estimate = 7
    assert await read(3, 900, 4) == 100  # nobody's
    # Given up after five pieces: those and the estimate. Read to its end: what was told. No answer is cut.
    left = [(100, 900, 5, 88), (0, 60, 1, 28), (0, 0, 1, 28), (10, 60, 11, 0)]
    for pieces, prompt_tokens, most, remaining in left:
        with doors.enter(caller, Role.CALLER):
            assert await read(pieces, prompt_tokens, most) == remaining
    with pytest.raises(QuotaError, match="100 tokens a day") as caught, doors.enter(caller, Role.CALLER):
        pass
    assert 0 < caught.value.retry_after_s <= 86_400


async def test_a_day_of_tokens_is_that_of_utc_and_ends_at_midnight() -> None:
    caller = Caller("a", ASKS, (hashed("t"),), tokens_per_day=100)
    now = [20_000 * 86_400 - 90.0]  # a minute and a half before midnight
    doors = Doors([caller], clock=lambda: now[0])
    await spend(doors, caller, 100)
    with pytest.raises(QuotaError, match="100 tokens a day") as caught, doors.enter(caller, Role.CALLER):
        pass
    assert caught.value.retry_after_s == 90
    now[0] += 89
    with pytest.raises(QuotaError), doors.enter(caller, Role.CALLER):
        pass
    now[0] += 1
    await spend(doors, caller, 60)
    now[0] += 86_399  # the same day, to its end
    assert doors.tokens_left(caller) == 40
    now[0] += 1
    assert doors.tokens_left(caller) == 100


async def test_what_was_used_stays_used_when_a_limit_changes() -> None:
    def caller(tokens: int, calls: int) -> Caller:
        return Caller("a", ASKS, (hashed("t"),), tokens_per_day=tokens, requests_per_minute=calls)

    before = caller(100, 2)
    doors = Doors([before], clock=lambda: 1e9)
    await spend(doors, before, 80)
    await spend(doors, before, 10)
    for tokens, calls, left in ((95, 9, 5), (200, 9, 110), (90, 9, 0), (50, 9, 0)):
        after = caller(tokens, calls)
        doors.replace([after])
        assert doors.tokens_left(after) == left
    after = caller(200, 3)
    doors.replace([after])
    await spend(doors, after, 1)
    for calls in (3, 2, 1):
        with (
            pytest.raises(QuotaError, match=f"{calls} times a minute"),
            doors.enter(caller(200, calls), Role.CALLER),
        ):
            pass


async def test_what_is_refused_costs_no_tokens() -> None:
    caller = Caller("a", ASKS, (hashed("t"),), tokens_per_day=100)
    doors = Doors([caller])

    async def answer(*told: Event) -> AsyncGenerator[Event, None]:
        for event in told:
            yield event
        raise OverloadedError("the queue is full", 1)

    async def left_after(*told: Event) -> int:
        with doors.enter(caller, Role.CALLER), pytest.raises(OverloadedError):
            async with aclosing(doors.counted(answer(*told), 40)) as events:
                async for _ in events:
                    pass
        return doors.tokens_left(caller)

    assert await left_after() == 100  # by the policy, before there is a route
    assert await left_after(ROUTED) == 100
    assert await left_after(ROUTED, Token("x")) == 59


# The file


def test_the_file_states_callers(tmp_path: Path) -> None:
    more = {"certificates": ["x"], "requests_per_minute": 5, "concurrent_requests": 2, "tokens_per_day": 9}
    path = write_callers(tmp_path / "callers.yaml", entry("a", "t", "caller", "operator", **more))
    assert read_callers(path) == (Caller("a", frozenset(Role), (hashed("t"),), ("x",), 5, 2, 9),)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([{"name": "a"}], "callers.yaml:2: callers.0: needs 'tokens' or 'certificates'"),
        ([{"name": "a b", "certificates": ["x"]}], "callers.0.name"),
        ([{"name": "a", "certificates": ["x"], "roles": ["king"]}], "callers.0.roles.0"),
        ([{"name": "a", "certificates": ["x"], "roles": []}], "callers.0.roles"),
        ([{"name": "a", "certificates": ["x"], "requests_per_minute": 0}], "callers.0.requests_per_minute"),
        ([{"name": "a", "certificates": ["x"], "more": 1}], "callers.0.more"),
        ([entry("a", "t"), entry("b", "t")], "another caller has it"),
        ([entry("a", "t"), entry("a", "u")], "another caller has it"),
        ([{"name": "a", "tokens": ["pm_secret"]}], "expected 'sha256:' and 64 hexadecimal digits"),
    ],
)
def test_a_bad_entry_is_refused_by_its_place_and_no_token_is_repeated(
    tmp_path: Path, entries: list[dict[str, Any]], told: str
) -> None:
    path = write_callers(tmp_path / "callers.yaml", *entries)
    with pytest.raises(CatalogError) as caught:
        read_callers(path)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"paths\.callers"):
        KnownCallers(path)


def test_a_file_that_breaks_or_goes_leaves_the_doors_as_they_were(
    tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    path = tmp_path / "callers.yaml"
    known = KnownCallers(path)
    known.look()
    assert not known.doors.watched
    write_callers(path, entry("a", "t"))
    known.look()
    assert known.doors.who(Shown("t"))
    path.write_text("callers: [")
    known.look()
    assert known.doors.who(Shown("t"))
    path.unlink()
    known.look()
    known.look()
    assert known.doors.who(Shown("t"))
    with pytest.raises(UnauthenticatedError):
        known.doors.who(Shown())
    write_callers(path, entry("b", "u"))
    known.look()
    with pytest.raises(UnauthenticatedError):
        known.doors.who(Shown("t"))
    events = [line["event"] for line in log_lines]
    assert events == ["callers.loaded", "callers.refused", "callers.gone", "callers.loaded"]


def test_a_new_token_is_one_that_its_entry_knows(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["callers", "new", "billing", "--role", "caller", "--role", "operator"])
    assert ran.exit_code == 0, ran.output
    token = ran.stdout.strip()
    assert len(token) > 40
    assert token not in ran.stderr
    path = tmp_path / "callers.yaml"
    path.write_text(f"callers:\n{ran.stderr}")
    caller = Doors(read_callers(path)).who(Shown(token))
    assert caller is not None
    assert (caller.name, caller.roles) == ("billing", frozenset(Role))
    config = tmp_path / "pointsman.yaml"
    config.write_text(yaml.safe_dump({"paths": {"callers": str(path)}}))
    shown = CliRunner().invoke(app, ["callers", "check", "--config", str(config)])
    assert shown.stdout == "billing: caller, operator; 1 tokens\n"


# Listening


@pytest.mark.parametrize(
    ("address", "metrics", "tls", "known", "insecure", "wanting"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", False, False, False, ""),
        ("[::1]:1", "localhost:2", False, False, False, ""),
        ("0.0.0.0:1", "", False, False, False, "no TLS (server.tls) and no known callers"),
        ("0.0.0.0:1", "", True, False, False, "no known callers"),
        ("10.0.0.1:1", "", False, True, False, "no TLS"),
        ("somewhere:1", "", False, True, False, "no TLS"),
        ("[::]:1", "", True, True, False, ""),
        ("127.0.0.1:1", "0.0.0.0:2", False, False, False, "server.metrics_address"),
        ("127.0.0.1:1", "0.0.0.0:2", False, True, False, "no TLS"),
        ("127.0.0.1:1", "0.0.0.0:2", True, True, False, ""),
        ("0.0.0.0:1", "0.0.0.0:2", False, False, True, ""),
    ],
)
def test_nobody_listens_beyond_this_machine_unprotected_by_mistake(
    address: str, metrics: str, tls: bool, known: bool, insecure: bool, wanting: str
) -> None:
    files = Tls(certificate=Path("c"), key=Path("k")) if tls else None
    settings = Server(address=address, metrics_address=metrics, tls=files, insecure=insecure)
    doors = Doors([] if known else None)
    if not wanting:
        ensure_safe(settings, doors)
        return
    with pytest.raises(ConfigError, match="--insecure") as caught:
        ensure_safe(settings, doors)
    assert wanting in str(caught.value)


# Over the wire


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def client_of(server: Running, token: str, access: Access | None = None) -> AsyncClient:
    return AsyncClient(server.address, access=access or Access(token))


async def test_tokens_open_the_services_of_their_roles_and_rotate_under_a_running_server(site: Site) -> None:
    site.fill()
    path = site.root / "callers.yaml"
    write_callers(path, entry("billing", "t", requests_per_minute=3), entry("ops", "o", "operator"))
    async with running(site.settings(), engines=False, watch=True) as server:
        code, text = await code_of(server.client.route(REFUND[0]))
        assert (code, text) == (
            grpc.StatusCode.UNAUTHENTICATED, "a bearer token or a client certificate is needed",
        )  # fmt: skip
        async with client_of(server, "wrong") as client:
            code, text = await code_of(client.route(REFUND[0]))
            assert (code, text) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "no caller has this token or certificate",
            )
        async with client_of(server, "o") as client:
            assert (await client.list_intents()).intents
            assert (await code_of(client.route(REFUND[0])))[0] is grpc.StatusCode.PERMISSION_DENIED
        async with client_of(server, "t") as client:
            request = catalog_pb2.DeleteIntentRequest(name="refund")
            deleted = client.catalog.DeleteIntent(request, metadata=[("authorization", "Bearer t")])
            assert (await code_of(deleted))[0] is grpc.StatusCode.PERMISSION_DENIED
            for _ in range(3):
                assert (await client.route(REFUND[0])).decision.intent == "refund"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.route(REFUND[0])
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            status, retry = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
            assert any(detail.Unpack(retry) for detail in status.details)
            assert 0 < retry.retry_delay.ToMilliseconds() <= 60_000
        write_callers(path, entry("billing", "t2"), entry("ops", "o", "operator"))
        async with client_of(server, "t2") as client:

            async def known() -> bool:
                try:
                    return bool((await client.route(REFUND[0])).decision.intent)
                except grpc.aio.AioRpcError:
                    return False

            assert await until(known, 5.0) < 2.0
        async with client_of(server, "t") as client:
            assert (await code_of(client.route(REFUND[0])))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_what_is_refused_at_the_door_has_a_row_and_a_flood_has_few(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.ledger.recorder._ROW_EVERY_S", 1e9)
    site.fill()
    limited = [entry(name, name, requests_per_minute=1) for name in ("billing", "shop")]
    callers = *limited, entry("free", "f"), entry("ops", "o", "operator")
    write_callers(site.root / "callers.yaml", *callers)
    url = f"sqlite:///{site.root}/ledger.db"
    chosen = site.settings(
        ledger={"enabled": True, "url": url, "flush_s": 0.02}, server={"http_address": "127.0.0.1:0"}
    )
    async with running(chosen, engines=False) as server:
        async with client_of(server, "billing") as client:
            await client.route(REFUND[0])
            for i in range(3):
                await code_of(client.route(REFUND[0], request_id=f"r{i}"))
            await code_of(client.feedback("r0", accepted=True))
        for token in ("f", "o", "wrong"):
            async with client_of(server, token) as client:
                for _ in range(2):
                    await code_of(client.route(""))
        async with grpc.aio.insecure_channel(server.address) as channel:
            broken = channel.unary_unary("/pointsman.v1.RouterService/Generate")
            metadata = (("authorization", "Bearer f"),)
            assert (await code_of(broken(b"\xff", metadata=metadata)))[0] is grpc.StatusCode.INVALID_ARGUMENT
            assert (await code_of(broken(b"\xff")))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert server.http is not None
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.http.port}") as http:
            asked = {"model": "auto", "messages": [{"role": "user", "content": REFUND[0]}]}
            shop, claimed = {"authorization": "Bearer shop"}, {CALLER: "shop"}
            await http.get("/v1/models", headers=shop)
            for headers, code in ((shop, 429), (claimed, 401), ({"authorization": "Bearer o"}, 403)):
                found = await http.post("/v1/chat/completions", json=asked, headers=headers)
                assert found.status_code == code
        unkept = server.core.metrics.registry.get_sample_value
        assert unkept("pointsman_ledger_rows_total", {"what": "unkept"}) == 9

    def kept() -> list[tuple[str, ...]]:
        with sqlite3.connect(site.root / "ledger.db") as ledger:
            return ledger.execute("SELECT caller, method, outcome, asked FROM requests").fetchall()

    rows = [(*row, json.loads(asked).get("refused")) for *row, asked in await asyncio.to_thread(kept)]
    assert sorted(rows, key=str) == [
        ("", "route", "rejected", "Unauthenticated"),
        ("billing", "route", "ok", None),
        ("billing", "route", "quota", "Quota"),
        ("free", "route", "rejected", "InvalidRequest"),
        ("ops", "route", "rejected", "Forbidden"),
        ("shop", "generate", "quota", "Quota"),
    ]
    since = datetime.now(UTC) - timedelta(hours=1)
    assert [past.outcome for past in await asyncio.to_thread(past_of, url, since)] == ["ok"]
    report = await asyncio.to_thread(report_of, url, since, PriceList(), "big")
    assert (report.answers, report.throttled, report.outcomes) == (1, 1.0, {"quota": 1})


@pytest.mark.parametrize("caller", ["shop", "no name"])
async def test_where_everybody_comes_in_a_refused_call_has_the_name_it_gave_where_that_is_one(
    site: Site, caller: str
) -> None:
    site.fill()
    url = f"sqlite:///{site.root}/ledger.db"
    async with (
        running(
            site.settings(ledger={"enabled": True, "url": url, "flush_s": 0.02}), engines=False
        ) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        empty = channel.unary_stream("/pointsman.v1.RouterService/Generate")
        with pytest.raises(grpc.aio.AioRpcError):
            await empty(b"", metadata=((CALLER, caller),)).read()

    def report() -> Report:
        return report_of(url, datetime.now(UTC) - timedelta(hours=1), PriceList(), "big")

    with sqlite3.connect(site.root / "ledger.db") as ledger:
        row = ledger.execute("SELECT caller, outcome FROM requests").fetchone()
    assert row == ("shop" if caller == "shop" else "", "rejected")
    found = await asyncio.to_thread(report)
    assert (found.answers, found.outcomes) == (0, {"rejected": 1})


async def test_rules_see_the_caller_who_is_known_and_not_the_one_who_is_claimed(site: Site) -> None:
    site.fill()
    write_callers(site.root / "callers.yaml", entry("billing", "t"))
    rules = {"rules": [{"name": "vip", "when": {"caller": ["ceo"]}, "to": "specialist:support"}]}
    (site.root / "rules.yaml").write_text(yaml.safe_dump(rules))
    async with (
        running(site.settings(), engines=False) as server,
        AsyncClient(server.address, caller="ceo", access=Access("t")) as client,
    ):
        assert (await client.route("who painted the night watch")).decision.rule == ""
    (site.root / "callers.yaml").unlink()
    async with (
        running(site.settings(), engines=False) as server,
        AsyncClient(server.address, caller="ceo") as client,
    ):
        assert (await client.route("who painted the night watch")).decision.rule == "vip"


def written(ca: trustme.CA, folder: Path, name: str, *identities: str) -> tuple[Path, Path]:
    """Return the files of a certificate and its key."""
    made = ca.issue_cert(*identities)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return certificate, key


async def test_certificates_are_known_and_replaced_under_a_running_server(site: Site) -> None:
    site.fill()
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(site.root / "ca.pem")
    certificate, key = written(ca, site.root, "server", "127.0.0.1")
    ours, ours_key = written(ca, site.root, "billing", "billing.internal")
    foreign, foreign_key = written(other, site.root, "foreign", "billing.internal")
    write_callers(site.root / "callers.yaml", {"name": "billing", "certificates": ["billing.internal"]})
    tls = {"certificate": certificate, "key": key, "client_ca": site.root / "ca.pem"}
    settings = site.settings(server={"tls": tls})
    trusted, untrusted = ca.cert_pem.bytes(), other.cert_pem.bytes()
    own = {"certificate": ours.read_bytes(), "key": ours_key.read_bytes()}
    stolen = {"certificate": foreign.read_bytes(), "key": foreign_key.read_bytes()}
    access = Access(ca=trusted, **own)

    async def asks(with_access: Access) -> str:
        async with AsyncClient(server.address, timeout_s=5, access=with_access) as client:
            try:
                return (await client.route(REFUND[0])).decision.intent
            except grpc.aio.AioRpcError as error:
                return error.code().name

    async with running(settings, engines=False, access=access) as server:
        assert await asks(access) == "refund"
        assert await asks(Access(ca=trusted)) == "UNAVAILABLE"  # no certificate of its own
        assert await asks(Access(ca=trusted, **stolen)) == "UNAVAILABLE"
        assert await asks(Access()) == "UNAVAILABLE"  # plain text
        certificate.write_text("no certificate")
        assert await asks(access) == "refund"  # the one before it is shown
        written(other, site.root, "server", "127.0.0.1")
        assert await asks(Access(ca=untrusted, **own)) == "refund"
        assert await asks(access) == "UNAVAILABLE"
        other.cert_pem.write_to_path(site.root / "ca.pem")  # clients of another CA from now on
        assert await asks(Access(ca=untrusted, **stolen)) == "refund"
        assert await asks(Access(ca=untrusted, **own)) == "UNAVAILABLE"


@pytest.mark.parametrize("change", ["key", "certificate", "client_ca", "pair"])
def test_certificates_that_cannot_be_used_end_the_start_by_name(site: Site, change: str) -> None:
    site.fill()
    ca = trustme.CA()
    certificate, key = written(ca, site.root, "server", "127.0.0.1")
    _, another = written(ca, site.root, "another", "127.0.0.1")
    (site.root / "bad.pem").write_text("garbage")
    tls = {"certificate": certificate, "key": key}
    tls |= {"key": another} if change == "pair" else {change: site.root / "bad.pem"}
    with pytest.raises(ConfigError) as caught:
        credentials(Tls(**tls))
    assert f"server.tls.{'key' if change == 'pair' else change}" in str(caught.value)


async def test_metrics_are_for_operators_once_callers_are_known(site: Site) -> None:
    write_callers(site.root / "callers.yaml", entry("ops", "o", "operator"), entry("billing", "t"))
    async with running(site.fill().settings(), engines=False) as server:
        doors = (await asyncio.to_thread(KnownCallers, site.root / "callers.yaml")).doors
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        close, _ = await asyncio.to_thread(
            server.core.metrics.serve, f"127.0.0.1:{port}", doors.may_read_metrics
        )
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
                found = {
                    token: (
                        await http.get("/metrics", headers={"Authorization": f"Bearer {token}"})
                    ).status_code
                    for token in ("o", "t", "x")
                }
        finally:
            await asyncio.to_thread(close)
    assert found == {"o": 200, "t": 401, "x": 401}


async def test_metrics_know_an_operator_by_certificate_and_ask_nobody_for_one(site: Site) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(site.root / "ca.pem")
    certificate, key = await asyncio.to_thread(written, ca, site.root, "server", "127.0.0.1")
    write_callers(
        site.root / "callers.yaml",
        {"name": "ops", "certificates": ["ops.internal"], "roles": ["operator"]},
        {"name": "billing", "certificates": ["billing.internal"]},
        entry("both", "o", "operator"),
    )
    files = Tls(certificate=certificate, key=key, client_ca=site.root / "ca.pem")
    doors = (await asyncio.to_thread(KnownCallers, site.root / "callers.yaml")).doors
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def status(of: trustme.CA | None, name: str = "", token: str = "") -> int:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        if of is not None:
            of.issue_cert(name).configure_cert(context)
        with httpx2.Client(verify=context, trust_env=False) as client:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            try:
                return client.get(
                    f"https://127.0.0.1:{port}/metrics", headers=headers, timeout=20
                ).status_code
            except httpx2.HTTPError:
                return 0

    metrics = Metrics()
    close, context = await asyncio.to_thread(
        metrics.serve, f"127.0.0.1:{port}", doors.may_read_metrics, (certificate, key), files.client_ca
    )
    assert context is not None
    chain = await asyncio.to_thread(Chain, context, files)
    try:
        assert await asyncio.to_thread(status, ca, "ops.internal") == 200
        assert await asyncio.to_thread(status, ca, "billing.internal") == 401
        assert await asyncio.to_thread(status, ca, "billing.internal", "o") == 200
        assert await asyncio.to_thread(status, ca, "ops.internal", "wrong") == 401
        assert await asyncio.to_thread(status, None, "", "o") == 200
        assert await asyncio.to_thread(status, None) == 401
        assert await asyncio.to_thread(status, other, "ops.internal") == 0
        await asyncio.to_thread(other.cert_pem.write_to_path, str(files.client_ca))
        await asyncio.to_thread(chain.look)
        assert await asyncio.to_thread(status, other, "ops.internal") == 200
        assert await asyncio.to_thread(status, ca, "ops.internal") == 0
    finally:
        await asyncio.to_thread(close)


def test_the_names_of_a_certificate_are_its_alternative_names_or_else_its_common_name() -> None:
    common = ((("organizationName", "we"),), (("commonName", "old.internal"),))
    alternative = (
        ("DNS", "a.b"),
        ("URI", "spiffe://a/b"),
        ("IP Address", "0:0:0:0:0:0:0:1"),
        ("DirName", "x"),
    )
    assert names_in({"subject": common, "subjectAltName": alternative}) == ("a.b", "spiffe://a/b", "::1")
    assert names_in({"subject": common}) == ("old.internal",)
    assert names_in({}) == names_in(None) == ()


def test_no_thread_is_left_behind_by_limits() -> None:
    before = set(threading.enumerate())
    caller = Caller("a", ASKS, (hashed("t"),), requests_per_minute=3)
    doors = Doors([caller])
    with doors.enter(caller, Role.CALLER):
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


# What may be fetched


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("file:adapters/a.gguf", ""),
        ("file:../models/a.gguf", ""),
        ("file:{root}/models/deep/a.gguf", ""),
        ("file:../secret.gguf", "only files of specialists/"),
        ("file:/etc/passwd", "only files of specialists/"),
        ("file:adapters/../../secret.gguf", "only files of specialists/"),
        ("file:link.gguf", "only files of specialists/"),
        ("hf:org/repo/a.gguf", ""),
        ("hf:org/repo/../../a.gguf", "leaves its repository"),
        ("pypi:a==1/b/../../c", "not among registration.hubs"),
    ],
)
def test_files_may_be_fetched_from_where_the_settings_say(tmp_path: Path, uri: str, why: str) -> None:
    (tmp_path / "specialists").mkdir()
    (tmp_path / "specialists" / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    sources = Sources(tmp_path / "specialists", (tmp_path / "models",), ("hf",))
    found = sources.refusal(uri.format(root=tmp_path))
    assert (why in found) if why else found == ""


async def test_nobody_registers_a_file_of_the_machine(site: Site) -> None:
    (site.root / "secret.gguf").write_bytes(b"GGUF")
    specialist = catalog_pb2.Specialist(
        name="spy", base=catalog_pb2.Artifact(uri=f"file:{site.root}/secret.gguf", sha256="0" * 64)
    )
    async with running(site.fill().settings(), engines=False) as server:
        request = catalog_pb2.RegisterSpecialistRequest(specialist=specialist)
        code, text = await code_of(server.client.catalog.RegisterSpecialist(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "base.uri: only files of specialists/" in text


async def test_metrics_show_a_certificate_that_was_replaced(site: Site, tmp_path: Path) -> None:
    ca = trustme.CA()
    files = Tls(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")

    def issue() -> None:
        issued = ca.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(files.key))
        issued.cert_chain_pems[0].write_to_path(str(files.certificate))

    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    await asyncio.to_thread(issue)
    async with running(site.fill().settings(), engines=False) as server:
        pair = (files.certificate, files.key)
        close, context = await asyncio.to_thread(
            server.core.metrics.serve, f"127.0.0.1:{port}", lambda *_: True, pair
        )
        assert context is not None
        chain = await asyncio.to_thread(Chain, context, files)
        try:
            before = await asyncio.to_thread(shown, port)
            await asyncio.to_thread(issue)
            await asyncio.to_thread(chain.look)
            assert await asyncio.to_thread(shown, port) != before
        finally:
            await asyncio.to_thread(close)
