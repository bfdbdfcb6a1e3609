"""A caller that does not read its answer, or does not say what it wants, holds nothing for long."""

import asyncio
import json
import socket
import ssl
from pathlib import Path

import grpc
import pytest
import trustme

from harness import Cloud, Site, running, until
from pointsman.ledger import metrics
from pointsman.service import guard, http_protocol
from pointsman.v1 import router_pb2, router_pb2_grpc
from test_ledger import rows

FAR = "Compare the foreign policies of Bismarck and Metternich in an essay."
LONG = ("word " * 20_000,) * 200


@pytest.mark.timeout(60)
async def test_a_grpc_caller_that_does_not_read(site: Site) -> None:
    with Cloud(words=LONG) as cloud:
        settings = site.fill().settings(cloud=cloud.settings, server={"stall_s": 0.5})
        async with running(settings, engines=False) as server:
            async with grpc.aio.insecure_channel(
                server.address, options=[("grpc.max_receive_message_length", -1)]
            ) as channel:
                message = router_pb2.GenerateRequest(
                    messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content=FAR)]
                )
                call = router_pb2_grpc.RouterServiceStub(channel).Generate(message)
                assert (await call.read()).WhichOneof("event") == "decision"
                await until(
                    cloud.closed_early.is_set, 40
                )  # its place is free, though it has read nothing yet
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    while True:
                        await call.read()
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "not read for 0.5 s (server.stall_s)" in (raised.value.details() or "")


@pytest.mark.timeout(60)
async def test_an_http_caller_that_does_not_read(site: Site) -> None:
    with Cloud(words=LONG) as cloud:
        settings = site.fill().settings(
            cloud=cloud.settings, server={"stall_s": 0.5, "http_address": "127.0.0.1:0"}
        )
        async with running(settings, engines=False) as server:
            assert server.http is not None
            reader, writer = await asyncio.open_connection("127.0.0.1", server.http.port, limit=1024)
            body = json.dumps({"stream": True, "messages": [{"role": "user", "content": FAR}]}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await until(lambda: server.http is not None and server.http.in_flight == 0)
            writer.transport.abort()


# Who says nothing.

GET = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"


async def closes(port: int, *, said: bytes = b"") -> bytes:
    """Return what a server says to a peer that stops in the middle, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.transport.abort()


@pytest.mark.timeout(60)
async def test_a_mute_grpc_connection_is_closed(site: Site) -> None:
    async with running(site.fill().settings(server={"idle_s": 0.5}), engines=False) as server:
        port = int(server.address.rpartition(":")[2])
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
        await asyncio.gather(*(closes(port, said=said) for said in (b"", preface[:9], preface)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        "pointsman.v1.RouterService/Route",
        "pointsman.v1.RouterService/Generate",
        "pointsman.v1.CatalogService/ListIntents",
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_grpc_call_whose_message_never_comes_ends(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, ends: bool
) -> None:
    monkeypatch.setattr(guard, "MESSAGE_S", 0.3)
    many = method.endswith("Info")
    url = f"sqlite:///{site.root}/ledger.db"
    settings = site.fill().settings(server={"idle_s": 0.4}, ledger={"enabled": True, "url": url})
    async with (
        running(settings, engines=False) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.stream_stream(f"/{method}")()
        if ends:
            await call.done_writing()
        async with asyncio.timeout(20):
            code = await call.code()
        # The caller may know before the server has left the handler.
        await until(lambda: server.server._guard.in_flight == 0, 5)
    if ends:
        assert code is (grpc.StatusCode.OK if many else grpc.StatusCode.INVALID_ARGUMENT)
    else:
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    refused = [json.loads(row["asked"])["refused"] for row in await asyncio.to_thread(rows, url)]
    assert refused == (["InvalidRequest" if ends else "Deadline"] if "RouterService" in method else [])


@pytest.mark.timeout(60)
async def test_one_connection_makes_no_more_calls_at_once_than_it_may(site: Site) -> None:
    with Cloud("hang") as cloud:
        settings = site.fill().settings(cloud=cloud.settings, server={"max_streams": 2})
        message = router_pb2.GenerateRequest(
            messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content=FAR)]
        )
        async with (
            running(settings, engines=False) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = router_pb2_grpc.RouterServiceStub(channel)
            calls = [stub.Generate(message) for _ in range(3)]
            reads = {asyncio.ensure_future(call.read()): call for call in calls}
            await until(lambda: sum(read.done() for read in reads) == 2, 30)
            await asyncio.wait(reads, timeout=0.3)
            (waiting,) = [read for read in reads if not read.done()]
            next(call for read, call in reads.items() if read is not waiting).cancel()
            assert (await waiting).WhichOneof("event") == "decision"
            for call in calls:
                call.cancel()


@pytest.mark.timeout(60)
async def test_a_connection_that_was_closed_for_want_of_calls_is_opened_again(site: Site) -> None:
    message = router_pb2.RouteRequest(messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content="hi")])
    async with (
        running(site.fill().settings(server={"idle_s": 0.3}), engines=False) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = router_pb2_grpc.RouterServiceStub(channel)
        await stub.Route(message)
        await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
        await stub.Route(message)


@pytest.mark.timeout(60)
async def test_http_requests_that_do_not_come_in_are_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.3)
    settings = site.fill().settings(server={"http_address": "127.0.0.1:0"})
    async with running(settings, engines=False) as server:
        assert server.http is not None
        port = server.http.port
        assert await closes(port) == b""
        assert await closes(port, said=GET) == b""
        whole = await closes(port, said=GET + b"\r\n" + GET)  # a whole one, and half of another
        assert whole.startswith(b"HTTP/1.1 200")
        assert whole.count(b"HTTP/1.1") == 1


@pytest.mark.timeout(60)
async def test_a_mute_peer_keeps_nobody_from_the_metrics(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MUTE_S", 1.0)
    issued = trustme.CA().issue_cert("127.0.0.1")
    pair = (tmp_path / "cert.pem", tmp_path / "key.pem")

    def write() -> None:
        issued.cert_chain_pems[0].write_to_path(str(pair[0]))
        issued.private_key_pem.write_to_path(str(pair[1]))

    await asyncio.to_thread(write)
    async with running(site.fill().settings(), engines=False) as server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        close, _ = await asyncio.to_thread(
            server.core.metrics.serve, f"127.0.0.1:{port}", lambda *_: True, pair
        )
        try:
            mute = asyncio.create_task(closes(port))
            await asyncio.sleep(0.1)
            shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=10)
            assert shown.startswith("-----BEGIN")
            assert not mute.done()
            assert await mute == b""
        finally:
            await asyncio.to_thread(close)
