"""What the cloud says of a failure, and where it would send a conversation: neither reaches anybody."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest

from harness import Cloud, Site, collect, running
from pointsman.v1 import router_pb2

SECRET = "the merger with Ostrava"
FAR = f"Compare the foreign policies of Bismarck and Metternich in an essay, for {SECRET}."
WORDS = f"account org-4711 may not say '{SECRET}' to 10.1.2.3"
TO_CLOUD = router_pb2.Constraints(tier=router_pb2.TIER_CLOUD)


@contextmanager
def endpoint(status: int, **headers: str) -> Iterator[dict[str, Any]]:
    """Answer every request with a status and what it says of it; yields the settings of a cloud there."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            payload = json.dumps({"error": {"message": WORDS}}).encode()
            if status == 200:
                payload = b"data: " + payload + b"\n\n"
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if status == 200 else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield {"base_url": url, "model": "big-model", "api_key": "secret-key", "max_retries": 0}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


STATUSES = [200, 300, 307, 400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 503]


@pytest.mark.parametrize("status", STATUSES)
async def test_what_the_cloud_says_of_a_failure_is_told_to_nobody(
    site: Site, status: int, log_lines: list[dict[str, Any]]
) -> None:
    with endpoint(status) as cloud:
        async with running(site.fill().settings(cloud=cloud), engines=False) as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await collect(server.client.generate(FAR, TO_CLOUD))
    error = caught.value
    told = f"{error.details()} {error.trailing_metadata()!r} {log_lines!r}"
    for word in (SECRET, "org-4711", "10.1.2.3"):
        assert word not in told
    for setting in ("base_url", "api_key", "cloud.model"):
        assert setting not in f"{error.details()} {error.trailing_metadata()!r}"
    (failed,) = [line for line in log_lines if line["event"] == "generate.failed"]
    assert status == 200 or f"answered {status}" in failed["error"]


async def test_the_log_has_the_words_where_it_has_prompts_redacted(
    site: Site, log_lines: list[dict[str, Any]]
) -> None:
    policy = "words:\n  - {name: town, words: [Ostrava], action: redact}\n"
    (site.root / "policy.yaml").write_text(policy)
    with endpoint(400) as cloud:
        settings = site.fill().settings(cloud=cloud, log={"prompts": True, "level": "info"})
        async with running(settings, engines=False) as server:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await collect(server.client.generate(FAR, TO_CLOUD))
    assert "org-4711" not in (caught.value.details() or "")
    (failed,) = [line for line in log_lines if line["event"] == "generate.failed"]
    assert "account org-4711 may not say 'the merger with" in str(failed["error"])
    assert "Ostrava" not in str(log_lines)


async def test_the_answer_that_takes_over_says_only_that_the_cloud_failed(site: Site) -> None:
    with endpoint(503) as cloud:
        settings = site.fill().settings(cloud=cloud, routing={"on_cloud_down": "general"})
        async with running(settings, engines=False) as server:
            seen: list[Any] = []
            with pytest.raises(grpc.aio.AioRpcError):  # no engine runs here
                async for event in server.client.generate(FAR):
                    seen.append(event)
    explanation = seen[1].escalation.decision.explanation
    assert "The cloud is down (the cloud failed (503))" in explanation
    assert "org-4711" not in explanation


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_cloud_that_redirects_is_an_error_and_nothing_reaches_where_it_points(
    site: Site, status: int, log_lines: list[dict[str, Any]]
) -> None:
    with Cloud() as elsewhere:
        location = f"{elsewhere.settings['base_url']}/chat/completions"
        with endpoint(status, Location=location) as cloud:
            async with running(site.fill().settings(cloud=cloud), engines=False) as server:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await collect(server.client.generate(FAR, TO_CLOUD))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == f"the cloud failed ({status})"
    assert elsewhere.requests == []
    assert "check cloud.base_url" in str(log_lines)
