"""A caller that does not read its answer holds nothing for long."""

import asyncio
import json

import grpc
import pytest

from harness import Cloud, Site, running, until
from pointsman.v1 import router_pb2, router_pb2_grpc

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
                await until(cloud.closed_early.is_set)  # its place is free, though it has read nothing yet
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
