"""Chat completions over HTTP, asked by the client of OpenAI."""

import asyncio
import json
import re
import socket
import ssl
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import trustme
from pydantic import ValidationError

from harness import Cloud, Running, Site, running, until, write_prices
from pointsman.errors import ConfigError, InvalidRequestError
from pointsman.sections import Server, Tls
from pointsman.service.chat_reply import Reply, _logprobs
from pointsman.service.chat_request import asked_of
from pointsman.service.convert import Limits
from pointsman.service.doors import Doors
from pointsman.service.http import HttpServer
from pointsman.service.server import ensure_safe
from pointsman.values.catalog import Catalog
from pointsman.values.events import Escalation, Token
from test_doors import entry, write_callers

FAR = "Compare the foreign policies of Bismarck and Metternich in an essay."
REFUND = "please refund my order"
HTTP = {"http_address": "127.0.0.1:0"}


@dataclass
class Door:
    """A served site, a client of OpenAI, and a plain one."""

    site: Running
    client: openai.AsyncOpenAI
    plain: httpx2.AsyncClient

    async def ask(self, prompt: str = REFUND, **more: Any) -> Any:
        fields: dict[str, Any] = {
            "model": "auto",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 12,
        }
        return await self.client.chat.completions.create(**(fields | more))

    async def post(self, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.plain.post("/v1/chat/completions", content=content, headers=headers)


@asynccontextmanager
async def door(
    site: Site, *, key: str = "none", engines: bool = True, **sections: Any
) -> AsyncGenerator[Door, None]:
    settings = site.fill().settings(server=HTTP | sections.pop("server", {}), **sections)
    async with running(settings, engines=engines) as site_running:
        assert site_running.http is not None
        url = f"http://127.0.0.1:{site_running.http.port}"
        client = await asyncio.to_thread(openai.AsyncOpenAI, base_url=f"{url}/v1", api_key=key, max_retries=0)
        plain = await asyncio.to_thread(httpx2.AsyncClient, base_url=url)
        async with client, plain:
            yield Door(site_running, client, plain)


@pytest.mark.model
async def test_a_local_answer_comes_whole_and_in_pieces_with_its_decision(site: Site) -> None:
    async with door(site) as at:
        raw = await at.client.chat.completions.with_raw_response.create(
            model="auto",
            messages=[{"role": "user", "content": REFUND}],
            max_tokens=12,
            temperature=0,
            seed=1,
            logprobs=True,
        )
        whole = raw.parse()
        stream = await at.ask(stream=True, stream_options={"include_usage": True}, temperature=0, seed=1)
        pieces = [chunk async for chunk in stream]
    for headers in (raw.headers, stream.response.headers):
        assert headers["x-pointsman-specialist"] == "support"
        assert headers["x-pointsman-intent"] == "refund"
        assert headers["x-pointsman-tier"] == "local"
    assert whole.model == "support"
    assert whole.id == f"chatcmpl-{raw.headers['x-request-id']}"
    answer = whole.choices[0]
    assert answer.message.content
    assert answer.finish_reason in {"stop", "length"}
    assert whole.usage.completion_tokens <= 12
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert all(token.logprob <= 0 for token in answer.logprobs.content)
    assert whole.pointsman["decision"]["intent"] == "refund"
    assert "The nearest intent is 'refund'" in whole.pointsman["decision"]["explanation"]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in pieces if c.choices) == answer.message.content
    assert len(pieces) > 4
    assert pieces[-2].choices[0].finish_reason == answer.finish_reason
    assert pieces[-2].pointsman["decision"]["specialist"] == "support"
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert pieces[-1].pointsman["decision"]["specialist"] == "support"


async def test_the_cloud_answers_over_the_same_door_with_its_cost(site: Site) -> None:
    write_prices(site.root, "EUR", big_model=(2.0, 1.0, 10.0))
    with Cloud() as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            whole = await at.ask(FAR)
            pieces = [c async for c in await at.ask(FAR, stream=True)]
            await at.ask(REFUND, model="big-model")
            listed = await at.client.models.list()
            one = await at.client.models.retrieve("support")
            with pytest.raises(openai.NotFoundError) as unknown:
                await at.client.models.retrieve("gpt-unheard")
    assert (whole.choices[0].message.content, whole.model) == ("from the cloud", "big-model")
    assert whole.usage.prompt_tokens_details.cached_tokens == 400
    assert whole.pointsman["cost"] == {"currency": "EUR", "amount": pytest.approx(0.0066)}
    assert whole.pointsman["decision"]["reason"] == "low_similarity"
    assert "".join(c.choices[0].delta.content or "" for c in pieces if c.choices) == "from the cloud"
    assert pieces[-1].pointsman["cost"]["amount"] == pytest.approx(0.0066)
    assert [m.id for m in listed.data] == ["auto", "general", "support", "big-model"]
    assert (one.id, one.owned_by) == ("support", "pointsman")
    assert unknown.value.code == "model_not_found"
    assert len(cloud.requests) == 3


async def test_what_only_we_have_travels_in_the_body(site: Site) -> None:
    with Cloud() as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            with pytest.raises(openai.InternalServerError) as kept:  # nobody local is up
                await at.ask(
                    FAR,
                    extra_body={"pointsman": {"local_only": True}},
                    extra_headers={"x-request-id": "mine"},
                )
            named = await at.ask(
                REFUND, extra_body={"pointsman": {"task_type": "reasoning", "session_id": "s"}}
            )
            with pytest.raises(openai.BadRequestError, match="no field that is known"):
                await at.ask(FAR, extra_body={"pointsman": {"local": True}})
            with pytest.raises(openai.BadRequestError, match="contradicts"):
                await at.ask(FAR, model="big-model", extra_body={"pointsman": {"local_only": True}})
    assert kept.value.response.headers["x-request-id"] == "mine"
    assert named.pointsman["decision"]["reason"] == "task_type"
    assert len(cloud.requests) == 1


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"{", None, "the body is not JSON"),
        (b"[" * 100_000, None, "the body is not JSON"),
        (b"[]", None, "must be a JSON object"),
        ({}, "messages", "Field required"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
            "image_url",
        ),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages[0].content", "the prompt is empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role", "must be the user's"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 2}, "n", "1"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "json_object"),
        ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": "x" * 65}, "stop", "at most 64 characters"),
        ({"stop": ["x", "x" * 65]}, "stop.1", "at most 64 characters"),
        ({"stop": ["x"] * 17}, "stop", "at most 16 items"),
        ({"seed": 1 << 63}, "seed", "less than"),
        ({"store": True}, "store", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs", "0"),
        ({"temprature": 1}, "temprature", "no field that is known"),
        ({"pointsman": {"local": True}}, "pointsman.local", "no field that is known"),
        ({"model": "x" * 300}, "model", "at most 256 characters"),
        ({"pointsman": {"task_type": "x" * 300}}, "pointsman.task_type", "at most 256 characters"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.type",
            "json_schema",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}]},
            "messages.0.tool_calls",
            "not supported",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]},
            "messages.0.content",
            "at most 256 items",
        ),
        ({"local_only": True}, "local_only", "belongs under 'pointsman'"),
        ({"constraints": {"local_only": True}}, "constraints", "belongs under 'pointsman'"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None, "half of a surrogate pair"),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "pointsman": {"session_id": "\\ud800"}}',
            None,
            "surrogate",
        ),
    ],
)
async def test_a_bad_body_is_refused_with_its_field(
    site: Site, body: Any, param: str | None, message: str
) -> None:
    if isinstance(body, dict) and body and "messages" not in body:
        body = {"messages": [{"role": "user", "content": "x"}]} | body
    async with door(site, engines=False) as at:
        answer = await at.post(body)
        still = await at.plain.get("/v1/models")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert still.status_code == 200


PATTERNS = [
    b'{"messages": [%s]}',
    b'{"messages": [{"role": "user", "content": [%s]}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "stop": [%s]}',
    b'{"messages": [{"role": "user", "content": "x"}], "pointsman": [%s]}',
]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_large_body_of_tiny_values_is_refused_before_it_is_parsed(site: Site, pattern: bytes) -> None:
    async with door(site, engines=False) as at:
        answer = await at.post(pattern % b",".join([b"{}"] * ((4 << 20) // 3 - 40)))
    assert answer.status_code == 400
    assert "more values than a conversation of 262144 bytes has" in answer.text
    assert len(answer.content) < 1000


@pytest.mark.parametrize("pattern", PATTERNS)
def test_of_many_faults_few_are_counted(pattern: bytes) -> None:
    body = pattern % b",".join([b"{}"] * 100_000)
    with pytest.raises(InvalidRequestError) as caught:
        asked_of(body, Catalog(), (), Limits(1 << 20, 256), "id", "")
    found = caught.value.__context__
    assert found is None or (isinstance(found, ValidationError) and found.error_count() < 5)


@pytest.mark.parametrize(
    "messages",
    [
        "my IBAN",
        [{"role": "user", "content": ["my IBAN"]}],
        [{"role": "user", "content": {"text": "my IBAN"}}],
    ],
)
async def test_a_refusal_repeats_nothing_of_the_conversation(
    site: Site, messages: Any, log_lines: list[dict[str, Any]]
) -> None:
    async with door(site, engines=False) as at:
        answer = await at.post({"messages": messages})
    assert answer.status_code == 400
    assert "IBAN" not in answer.text
    assert "IBAN" not in json.dumps(log_lines, default=str)


async def test_a_deadline_ends_the_call_and_frees_what_it_held(site: Site) -> None:
    with Cloud("slow", words=("word ",) * 200) as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            with pytest.raises(openai.InternalServerError, match=r"not there within 0\.5 s") as late:
                await at.ask(FAR, extra_body={"pointsman": {"deadline_s": 0.5}})
            await until(cloud.closed_early.is_set)
    assert late.value.status_code == 504


async def test_fields_that_say_nothing_of_the_answer_are_taken(site: Site) -> None:
    with Cloud() as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            answer = await at.ask(
                messages=[
                    {"role": "developer", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": FAR}], "name": "ann"},
                    {"role": "assistant", "content": "Yes.", "refusal": None, "tool_calls": None},
                    {"role": "user", "content": FAR},
                ],
                n=1,
                user="ann",
                seed=7,
                temperature=0.5,
                top_p=0.9,
                max_completion_tokens=9,
                response_format={"type": "text"},
                stop=["END"],
                logprobs=False,
                metadata={"team": "shop"},
                store=False,
                tools=[],
                safety_identifier="a",
                parallel_tool_calls=False,
                service_tier="auto",
            )
    assert answer.choices[0].message.content == "from the cloud"
    (sent,) = cloud.requests
    assert (sent["seed"], sent["temperature"], sent["top_p"], sent["max_tokens"]) == (7, 0.5, 0.9, 9)
    assert sent["stop"] == ["END"]
    assert not {"user", "metadata", "store", "name"} & sent.keys()


def test_log_probabilities_are_json_and_those_of_what_stands() -> None:
    decision: Any = type("Decision", (), {})()
    reply = Reply("r", decision)
    for text in ("one ", "two ", "three"):
        reply.take(Token(text, float("-inf")))
    told = json.dumps(_logprobs(reply.tokens), allow_nan=False)
    assert "-9999.0" in told
    reply.take(Escalation(decision, 8, "", None))
    assert (reply.text, [token.text for token in reply.tokens]) == ("one two ", ["one ", "two "])
    reply.take(Escalation(decision, 2, "", None))
    assert (reply.text, reply.tokens) == ("on", [])


async def test_limits_and_unknown_names_are_said(site: Site) -> None:
    async with door(
        site, engines=False, server={"max_message_bytes": 4000, "max_prompt_bytes": 1000, "max_messages": 2}
    ) as at:
        with pytest.raises(openai.BadRequestError, match=r"over 4000 bytes \(server.max_message_bytes\)"):
            await at.ask("x" * 5000)
        with pytest.raises(openai.BadRequestError, match=r"the limit is 1000 \(server.max_prompt_bytes\)"):
            await at.ask("x" * 2000)
        with pytest.raises(openai.BadRequestError, match=r"3 messages; the limit is 2"):
            await at.ask(messages=[{"role": "user", "content": "x"}] * 3)
        with pytest.raises(
            openai.NotFoundError, match="unknown model 'gpt-unheard'; known: auto, general, support"
        ):
            await at.ask(model="gpt-unheard")
        assert (await at.plain.get("/nowhere")).status_code == 404
        assert (await at.plain.get("/v1/chat/completions")).status_code == 405


async def test_callers_are_known_by_their_key_and_kept_within_their_limits(site: Site) -> None:
    write_callers(
        site.root / "callers.yaml",
        entry("shop", "shop-token", requests_per_minute=2),
        entry("ops", "ops-token", "operator"),
    )
    with Cloud() as cloud:
        async with door(site, key="shop-token", engines=False, cloud=cloud.settings) as at:
            await at.ask(FAR)
            await at.ask(FAR)
            with pytest.raises(openai.RateLimitError, match="may ask 2 times a minute") as limited:
                await at.ask(FAR)
            assert int(limited.value.response.headers["retry-after"]) >= 1
            for key, error in (
                ("wrong", openai.AuthenticationError),
                ("ops-token", openai.PermissionDeniedError),
            ):
                with pytest.raises(error):
                    await at.client.with_options(api_key=key).models.list()
            missing = await at.plain.get("/v1/models")
            value = at.site.core.metrics.registry.get_sample_value
            assert value("pointsman_rpc_total", {"method": "chat.completions", "code": "OK"}) == 2
            assert (
                value("pointsman_rpc_total", {"method": "chat.completions", "code": "RESOURCE_EXHAUSTED"})
                == 1
            )
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert len(cloud.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "error"), [(500, openai.InternalServerError), (400, openai.BadRequestError)]
)
async def test_a_cloud_that_fails_is_an_error_of_that_kind(site: Site, behaviour: int, error: Any) -> None:
    with Cloud(behaviour) as cloud:
        async with door(site, engines=False, cloud=cloud.settings | {"max_retries": 0}) as at:
            for stream in (False, True):
                with pytest.raises(error):
                    await at.ask(FAR, stream=stream)


async def test_a_cloud_that_breaks_off_ends_the_stream_with_an_error(site: Site) -> None:
    with Cloud("half") as cloud:
        async with door(site, engines=False, cloud=cloud.settings | {"max_retries": 0}) as at:
            seen: list[Any] = []
            with pytest.raises(openai.APIError, match=r"broke off|ended|closed"):
                async for chunk in await at.ask(FAR, stream=True):
                    seen.append(chunk)
            with pytest.raises(openai.InternalServerError):
                await at.ask(FAR)
    assert seen


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_frees_what_it_held(site: Site, stream: bool) -> None:
    with Cloud("slow", words=("word ",) * 200) as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            asking = asyncio.create_task(at.ask(FAR, stream=stream))
            await until(lambda: len(cloud.requests) == 1)
            if stream:
                answer = await asking
                await anext(aiter(answer))
                await answer.close()
            else:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert at.site.http is not None
            await until(lambda: at.site.http is not None and at.site.http.in_flight == 0)
            await until(cloud.closed_early.is_set)
            value = at.site.core.metrics.registry.get_sample_value
            assert value("pointsman_rpc_total", {"method": "chat.completions", "code": "CANCELLED"}) == 1


async def test_a_server_that_drains_refuses_and_finishes(site: Site) -> None:
    with Cloud("slow", words=("word ",) * 20) as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            asking = asyncio.create_task(at.ask(FAR))
            await until(lambda: len(cloud.requests) == 1)
            assert at.site.http is not None
            draining = asyncio.create_task(at.site.http.drain(10.0))
            await asyncio.sleep(0.05)
            refused = await at.plain.get("/v1/models")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert (await asking).choices[0].message.content == ("word " * 20).strip()
            assert await draining == 0


async def test_a_stream_holds_back_what_could_be_taken_back(site: Site) -> None:
    """The caller of a stream cannot unsay anything: a request for one waits until nothing can be retracted."""
    async with door(site, engines=False) as at:
        seen: list[Any] = []
        original = at.site.core.answers._generator.generate

        def spy(request: Any) -> Any:
            seen.append(request)
            return original(request)

        at.site.core.answers._generator.generate = spy  # type: ignore[method-assign]
        for stream in (True, False):
            with pytest.raises(openai.APIError):
                await at.ask(stream=stream)
    assert [(r.hold_back, r.hold_all) for r in seen] == [(True, True), (False, True)]


# TLS, and where it may listen.


async def test_tls_is_that_of_the_server_and_a_new_certificate_is_taken_up(
    site: Site, tmp_path: Path
) -> None:
    ca = trustme.CA()
    files = Tls(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")

    def issue() -> None:
        cert = ca.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(str(files.key))
        cert.cert_chain_pems[0].write_to_path(str(files.certificate))

    await asyncio.to_thread(issue)
    ca_file = tmp_path / "ca.pem"
    await asyncio.to_thread(ca.cert_pem.write_to_path, str(ca_file))
    async with door(site, engines=False, server={"tls": files.model_dump()}) as at:
        http = at.site.http
        assert http is not None
        assert http.chain is not None

        def serial() -> int:
            import socket
            import ssl

            from cryptography import x509

            context = ssl.create_default_context(cafile=str(ca_file))
            with (
                socket.create_connection(("127.0.0.1", http.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
            ):
                return x509.load_der_x509_certificate(
                    secured.getpeercert(binary_form=True) or b""
                ).serial_number

        first = await asyncio.to_thread(serial)
        await asyncio.to_thread(files.key.write_text, "half of a pair")
        await asyncio.to_thread(http.chain.look)
        assert await asyncio.to_thread(serial) == first
        await asyncio.to_thread(issue)
        await asyncio.to_thread(http.chain.look)
        assert await asyncio.to_thread(serial) != first


async def test_client_certificates_are_asked_for_and_those_of_another_ca_are_taken_up(
    site: Site, tmp_path: Path, log_lines: list[dict[str, Any]]
) -> None:
    ours, first, second = trustme.CA(), trustme.CA(), trustme.CA()
    files = Tls(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem", client_ca=tmp_path / "ca.pem")

    def write() -> None:
        cert = ours.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(str(files.key))
        cert.cert_chain_pems[0].write_to_path(str(files.certificate))
        first.cert_pem.write_to_path(str(files.client_ca))

    def health(port: int, of: trustme.CA | None) -> int:
        context = ssl.create_default_context()
        ours.configure_trust(context)
        if of is not None:
            of.issue_cert("client.internal").configure_cert(context)
        with httpx2.Client(verify=context, trust_env=False) as client:
            try:
                return client.get(f"https://127.0.0.1:{port}/v1/models", timeout=10).status_code
            except httpx2.HTTPError:
                return 0

    await asyncio.to_thread(write)

    def resumed(port: int) -> bool:
        context = ssl.create_default_context()
        ours.configure_trust(context)
        first.issue_cert("client.internal").configure_cert(context)
        session = None
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secured,
            ):
                secured.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while secured.recv(4096):  # a ticket comes with what is read
                    pass
                session, reused = secured.session, secured.session_reused
        return bool(reused)

    async with door(site, engines=False, server={"tls": files.model_dump()}) as at:
        http = at.site.http
        assert http is not None
        assert http.chain is not None
        assert not await asyncio.to_thread(resumed, http.port)  # it would come in after its CA is gone

        async def answers() -> list[int]:
            return [await asyncio.to_thread(health, http.port, ca) for ca in (first, second, None)]

        assert await answers() == [200, 0, 0]
        assert files.client_ca is not None
        await asyncio.to_thread(files.client_ca.write_text, "no certificate")
        await asyncio.to_thread(http.chain.look)
        assert await answers() == [200, 0, 0]
        await asyncio.to_thread(second.cert_pem.write_to_path, str(files.client_ca))
        await asyncio.to_thread(http.chain.look)
        assert await answers() == [0, 200, 0]
    assert [line["event"] for line in log_lines if "tls" in line["event"]] == ["tls.refused", "tls.reloaded"]


async def test_a_caller_is_known_by_certificate_over_http_too(site: Site, tmp_path: Path) -> None:
    ca = trustme.CA()
    files = Tls(certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem", client_ca=tmp_path / "ca.pem")

    def write() -> None:
        cert = ca.issue_cert("127.0.0.1")
        cert.private_key_pem.write_to_path(str(files.key))
        cert.cert_chain_pems[0].write_to_path(str(files.certificate))
        ca.cert_pem.write_to_path(str(files.client_ca))

    def client(name: str, key: str = "none") -> openai.AsyncOpenAI:
        context = ssl.create_default_context()
        ca.configure_trust(context)
        ca.issue_cert(name).configure_cert(context)
        http = httpx2.AsyncClient(verify=context, trust_env=False)
        return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http)

    await asyncio.to_thread(write)
    write_callers(
        site.root / "callers.yaml",
        {"name": "shop", "certificates": ["shop.internal"], "requests_per_minute": 2},
        {"name": "ops", "certificates": ["ops.internal"], "roles": ["operator"]},
        entry("billing", "billing-token"),
    )
    rules = {"rules": [{"name": "shops", "when": {"caller": ["shop"]}, "to": "cloud"}]}
    (site.root / "rules.yaml").write_text(json.dumps(rules))
    with Cloud() as cloud:
        async with door(site, engines=False, cloud=cloud.settings, server={"tls": files.model_dump()}) as at:
            assert at.site.http is not None
            url = f"https://127.0.0.1:{at.site.http.port}/v1"
            bare: dict[str, Any] = {"extra_headers": {"Authorization": openai.Omit()}}
            asks: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": REFUND}]}
            shop, ops, nobody, billing, wrong = [
                await asyncio.to_thread(client, *who)
                for who in (
                    ("shop.internal",),
                    ("ops.internal",),
                    ("who.internal",),
                    ("shop.internal", "billing-token"),
                    ("shop.internal", "wrong"),
                )
            ]
            async with shop, ops, nobody, billing, wrong:
                answer = await shop.chat.completions.create(**asks, **bare)
                assert answer.pointsman["decision"]["rule"] == "shops"
                await shop.models.list(**bare)
                with pytest.raises(openai.RateLimitError, match="caller 'shop' may ask 2 times a minute"):
                    await shop.models.list(**bare)
                with pytest.raises(openai.PermissionDeniedError):
                    await ops.models.list(**bare)
                with pytest.raises(openai.AuthenticationError):
                    await nobody.models.list(**bare)
                await billing.models.list()  # its token says more than its certificate
                with pytest.raises(openai.AuthenticationError):
                    await wrong.models.list()


def test_it_listens_beyond_this_machine_only_with_tls_and_callers() -> None:
    with pytest.raises(
        ConfigError, match=r"server\.http_address: 0\.0\.0\.0:8080 is reached from other machines"
    ):
        ensure_safe(Server(http_address="0.0.0.0:8080"), Doors())
    ensure_safe(Server(http_address="0.0.0.0:8080", insecure=True), Doors())


async def test_an_address_that_is_taken_is_said(site: Site) -> None:
    async with door(site, engines=False) as at:
        assert at.site.http is not None
        taken = Server(http_address=f"127.0.0.1:{at.site.http.port}")
        with pytest.raises(ConfigError, match=re.escape(f"cannot listen on 127.0.0.1:{at.site.http.port}")):
            HttpServer(taken, at.site.core.answers, at.site.core.catalogs, lambda *_: None, Doors())


async def test_many_answers_at_once(site: Site) -> None:
    with Cloud() as cloud:
        async with door(site, engines=False, cloud=cloud.settings) as at:
            answers = await asyncio.gather(*(at.ask(FAR, stream=False) for _ in range(20)))
    assert {answer.choices[0].message.content for answer in answers} == {"from the cloud"}
    assert len({answer.id for answer in answers}) == 20
    assert threading.active_count() < 60
